/// What a channel is a way to: a name that means some addresses.
///
/// | text | meaning |
/// | --- | --- |
/// | `HOST:PORT`, `dns:HOST:PORT`, `dns:///HOST:PORT` | what the resolver of the system says |
/// | `ipv4:A:PORT,B:PORT`, `ipv6:[A]:PORT,[B]:PORT` | these addresses |
/// | `unix:PATH`, `unix:///PATH` | a unix socket |
///
/// See `doc/naming.md` of the gRPC project.
public struct ChannelTarget: Sendable, Hashable {
  package enum Kind: Sendable, Hashable {
    case name(host: String, port: Int)
    case addresses([ListenAddress])
  }

  package let kind: Kind
  private let text: String

  /// One address.
  public init(_ address: ListenAddress) {
    self.text = "\(address)"
    self.kind =
      switch address {
      case .tcp(let host, let port): .name(host: host, port: port)
      case .unix: .addresses([address])
      }
  }

  /// Reads a target, by the table above.
  ///
  /// - Throws: ``ListenAddress/ParseError``: the text is none; the error says why.
  public init(_ text: String) throws(ListenAddress.ParseError) {
    self.text = text
    let scheme = Self.schemes.first { text.hasPrefix($0.prefix) }
    let expected = scheme?.expected ?? "HOST:PORT or unix:PATH"
    var rest = text.dropFirst(scheme?.prefix.count ?? 0)
    switch scheme?.prefix {
    case "dns:":
      if rest.hasPrefix("//") {
        rest = rest.dropFirst(2)
        guard let slash = rest.firstIndex(of: "/") else {
          throw ListenAddress.ParseError(
            text: text, reason: "dns:// is followed by a third slash", expected: expected)
        }
        guard slash == rest.startIndex else {
          throw ListenAddress.ParseError(
            text: text, reason: "a name server of its own (\(rest[..<slash])) cannot be asked",
            expected: expected)
        }
        rest = rest.dropFirst()
      }
      guard case .tcp(let host, let port) = try Self.address(rest, of: text, expected) else {
        throw ListenAddress.ParseError(
          text: text, reason: "dns: is followed by HOST:PORT", expected: expected)
      }
      self.kind = .name(host: host, port: port)
    case "ipv4:", "ipv6:":
      var addresses: [ListenAddress] = []
      for part in rest.split(separator: ",", omittingEmptySubsequences: false) {
        let address = try Self.address(part, of: text, expected)
        guard case .tcp(let host, _) = address,
          scheme?.prefix == "ipv4:" ? ListenAddress.isIPv4(host) : ListenAddress.isIPv6(host)
        else {
          throw ListenAddress.ParseError(
            text: text, reason: "\"\(part)\" is no address of \(text.prefix(4)) with a port",
            expected: expected)
        }
        addresses.append(address)
      }
      self.kind = .addresses(addresses)
    default:
      let address = try ListenAddress(text)
      self.kind =
        if case .tcp(let host, let port) = address {
          .name(host: host, port: port)
        } else {
          .addresses([address])
        }
    }
    if let mistake = self.mistake {
      throw ListenAddress.ParseError(text: text, reason: mistake, expected: expected)
    }
  }

  /// What a text may begin with, beside what ``ListenAddress`` reads.
  private static let schemes = [
    (prefix: "dns:", expected: "dns:HOST:PORT or dns:///HOST:PORT"),
    (prefix: "ipv4:", expected: "ipv4:ADDRESS:PORT, or several with commas between"),
    (prefix: "ipv6:", expected: "ipv6:[ADDRESS]:PORT, or several with commas between"),
  ]

  /// Why nobody can connect to it; nil: it looks right.
  package var mistake: String? {
    switch self.kind {
    case .name(let host, let port): ListenAddress.tcp(host: host, port: port).mistake(portsFrom: 1)
    case .addresses(let addresses): addresses.lazy.compactMap { $0.mistake(portsFrom: 1) }.first
    }
  }

  private static func address(
    _ part: Substring, of text: String, _ expected: String
  ) throws(ListenAddress.ParseError) -> ListenAddress {
    do {
      return try ListenAddress(String(part))
    } catch {
      throw ListenAddress.ParseError(text: text, reason: error.reason, expected: expected)
    }
  }

  /// What `:authority` says, unless the channel's configuration does.
  package var authority: String {
    switch self.kind {
    case .name(let host, let port): ListenAddress.tcp(host: host, port: port).description
    case .addresses(let addresses):
      if case .tcp? = addresses.first { addresses[0].description } else { "localhost" }
    }
  }

  /// The host that a certificate must be for; nil: each address is its own.
  package var host: String? {
    if case .name(let host, _) = self.kind { host } else { nil }
  }
}

extension ChannelTarget: CustomStringConvertible {
  /// The text that it was made from.
  public var description: String { self.text }
}
