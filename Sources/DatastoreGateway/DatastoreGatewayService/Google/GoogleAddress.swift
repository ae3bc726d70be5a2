import RPC

/// Which Datastore of Google's, and where it is served:
/// `datastore://PROJECT[/DATABASE][?for=PROJECT[/DATABASE]&endpoint=HOST:PORT&tls=off&credentials=FILE
/// &ca=FILE]`.
package struct GoogleAddress: Sendable, Hashable {
  /// What requests name, and what they become.
  package let project: String
  /// Empty is the default database.
  package let database: String
  /// The project and the database that callers name instead, if they may.
  let callers: ScopeRewriting.Scope?
  let endpoint: String
  /// Without TLS there are no credentials either: an emulator asks for none.
  let isSecure: Bool
  /// Who the gateway is; `nil`: found as Google's libraries do it.
  let credentials: String?
  /// Whom the gateway trusts; `nil`: whom the system does.
  let authority: String?

  package struct ParseError: Error, Hashable, CustomStringConvertible {
    package let description: String
  }

  private static let scheme = "datastore://"
  private static let defaultEndpoint = "datastore.googleapis.com:443"

  private static let options: Set<Substring> = ["for", "endpoint", "tls", "credentials", "ca"]

  /// `PROJECT` or `PROJECT/DATABASE`; `nil` of anything else.
  private static func scope(_ text: Substring) -> ScopeRewriting.Scope? {
    let names = text.split(separator: "/", omittingEmptySubsequences: false)
    guard names.count <= 2, let project = names.first, !project.isEmpty else { return nil }
    return ScopeRewriting.Scope(
      project: String(project),
      database: names.count == 2 && names[1] != "(default)" ? String(names[1]) : "")
  }

  package static func isOne(_ text: String) -> Bool { text.hasPrefix(Self.scheme) }

  package init(_ text: String) throws(ParseError) {
    let rest = text.dropFirst(Self.scheme.count)
    let place = rest.prefix { $0 != "?" }
    guard let scope = Self.scope(place) else {
      throw ParseError(
        description: "expected datastore://PROJECT or datastore://PROJECT/DATABASE, not \(text)")
    }
    self.project = scope.project
    self.database = scope.database
    var options: [String: String] = [:]
    for option in rest.dropFirst(place.count + 1).split(separator: "&") {
      let pair = option.split(separator: "=", maxSplits: 1)
      guard pair.count == 2, Self.options.contains(pair[0]) else {
        throw ParseError(
          description:
            "\"\(option)\" is none of for=PROJECT[/DATABASE], endpoint=HOST:PORT, tls=off, "
            + "credentials=FILE, ca=FILE")
      }
      options[String(pair[0])] = String(pair[1])
    }
    if let tls = options["tls"], tls != "on" && tls != "off" {
      throw ParseError(description: "tls=\(tls) is neither tls=on nor tls=off")
    }
    self.callers = options["for"].flatMap { Self.scope($0[...]) }
    if let callers = options["for"], self.callers == nil {
      throw ParseError(description: "for=\(callers) is neither PROJECT nor PROJECT/DATABASE")
    }
    self.isSecure = options["tls"] != "off"
    self.endpoint = options["endpoint"] ?? Self.defaultEndpoint
    self.credentials = options["credentials"]
    self.authority = options["ca"]
    do throws(ListenAddress.ParseError) {
      _ = try ChannelTarget(self.endpoint)
    } catch {
      throw ParseError(description: "endpoint: \(error)")
    }
    if !self.isSecure && options["endpoint"] == nil {
      throw ParseError(description: "tls=off is for an endpoint of your own: name one")
    }
    if !self.isSecure, let option = ["credentials", "ca"].first(where: { options[$0] != nil }) {
      throw ParseError(description: "\(option) means nothing with tls=off")
    }
  }
}

extension GoogleAddress: CustomStringConvertible {
  package var description: String {
    "Google Cloud Datastore at \(self.endpoint), project \(self.project)"
      + (self.database.isEmpty ? "" : ", database \(self.database)")
  }
}
