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
    if text.hasPrefix("dns:") {
      var rest = text.dropFirst("dns:".count)
      if rest.hasPrefix("//") {
        rest = rest.dropFirst(2)
        guard let slash = rest.firstIndex(of: "/") else {
          throw ListenAddress.ParseError(text: text, reason: "dns:// is followed by a third slash")
        }
        guard slash == rest.startIndex else {
          throw ListenAddress.ParseError(
            text: text, reason: "a name server of its own (\(rest[..<slash])) cannot be asked")
        }
        rest = rest.dropFirst()
      }
      self.kind = try Self.name(String(rest), of: text)
    } else if text.hasPrefix("ipv4:") || text.hasPrefix("ipv6:") {
      var addresses: [ListenAddress] = []
      for part in text.dropFirst(5).split(separator: ",", omittingEmptySubsequences: false) {
        let address = try Self.address(String(part), of: text)
        guard case .tcp(let host, _) = address,
          text.hasPrefix("ipv4:") ? Self.isIPv4(host) : Self.isIPv6(host)
        else {
          throw ListenAddress.ParseError(
            text: text, reason: "\"\(part)\" is no address of \(text.prefix(4)) with a port")
        }
        addresses.append(address)
      }
      self.kind = .addresses(addresses)
    } else {
      let address = try ListenAddress(text)
      self.kind =
        if case .tcp(let host, let port) = address {
          .name(host: host, port: port)
        } else {
          .addresses([address])
        }
    }
    if let mistake = self.mistake { throw ListenAddress.ParseError(text: text, reason: mistake) }
  }

  /// Why nobody can connect to it; nil: it looks right.
  package var mistake: String? {
    switch self.kind {
    case .name(let host, let port): ListenAddress.tcp(host: host, port: port).mistake(portsFrom: 1)
    case .addresses(let addresses): addresses.lazy.compactMap { $0.mistake(portsFrom: 1) }.first
    }
  }

  private static func isIPv4(_ host: String) -> Bool {
    let parts = host.split(separator: ".", omittingEmptySubsequences: false)
    return parts.count == 4
      && parts.allSatisfy { part in
        part.utf8.allSatisfy { (0x30...0x39).contains($0) } && UInt8(part) != nil
      }
  }

  /// What cannot be a name; the system has the last word.
  private static func isIPv6(_ host: String) -> Bool { host.contains(":") }

  private static func name(
    _ rest: String, of text: String
  ) throws(ListenAddress.ParseError) -> Kind {
    guard case .tcp(let host, let port) = try Self.address(rest, of: text) else {
      throw ListenAddress.ParseError(text: text, reason: "dns: is followed by HOST:PORT")
    }
    return .name(host: host, port: port)
  }

  private static func address(
    _ part: String, of text: String
  ) throws(ListenAddress.ParseError) -> ListenAddress {
    do {
      return try ListenAddress(part)
    } catch {
      throw ListenAddress.ParseError(text: text, reason: error.reason)
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

  /// The host that a certificate must be for; nil: a unix socket has none.
  package var host: String? {
    switch self.kind {
    case .name(let host, _): host
    case .addresses(let addresses):
      if case .tcp(let host, _)? = addresses.first { host } else { nil }
    }
  }
}

extension ChannelTarget: CustomStringConvertible {
  /// The text that it was made from.
  public var description: String { self.text }
}
