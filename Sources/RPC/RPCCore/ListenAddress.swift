#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// Where a server listens or a client connects: `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`.
public enum ListenAddress: Sendable, Hashable {
  /// A name or an address of IPv4 or IPv6, without brackets.
  case tcp(host: String, port: Int)
  /// A unix socket's file.
  case unix(path: String)

  /// Why a text is no address.
  public struct ParseError: Error, Sendable, Hashable, CustomStringConvertible {
    /// What was given.
    public let text: String
    /// What is wrong with it.
    public let reason: String
    /// How one is written, of the kind that this one begins like.
    public let expected: String

    init(text: String, reason: String, expected: String = "HOST:PORT or unix:PATH") {
      self.text = text
      self.reason = reason
      self.expected = expected
    }

    /// What was given, what is wrong with it and how one is written, in a sentence.
    public var description: String {
      "\"\(self.text)\" is no address: \(self.reason); expected \(self.expected)"
    }
  }

  /// The longest path of a unix socket: `sun_path` on Linux holds 107 bytes and a zero.
  public static let maximumPathBytes = 107

  /// Reads `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`.
  ///
  /// - Throws: ``ParseError``, which says what is wrong with the text.
  public init(_ text: String) throws(ParseError) {
    if text.hasPrefix("unix:") {
      let expected = "unix:PATH or unix:///PATH"
      var path = text.dropFirst("unix:".count)
      if path.hasPrefix("//") {
        path = path.dropFirst(2)
        let host = path.prefix { $0 != "/" }
        guard host.isEmpty else {
          throw ParseError(
            text: text, reason: "a socket's file is on no other host (\(host))", expected: expected)
        }
      }
      self = .unix(path: String(path))
      if let mistake = self.mistake() {
        throw ParseError(text: text, reason: mistake, expected: expected)
      }
      return
    }
    if text.hasPrefix("unix-abstract:") {
      throw ParseError(
        text: text, reason: "unix-abstract: is not supported, only sockets that have a file")
    }
    if let scheme = text.firstRange(of: "://") {
      throw ParseError(text: text, reason: "\(text[..<scheme.upperBound]) does not belong to it")
    }
    guard !text.hasSuffix("]"), let colon = text.lastIndex(of: ":") else {
      throw ParseError(text: text, reason: "there is no port")
    }
    var host = text[..<colon]
    let portText = text[text.index(after: colon)...]
    guard portText.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let port = Int(portText),
      port <= 65_535
    else {
      throw ParseError(text: text, reason: "the port \"\(portText)\" is no number up to 65535")
    }
    if host.hasPrefix("["), host.hasSuffix("]") {
      host = host.dropFirst().dropLast()
      guard host.contains(":") else {
        throw ParseError(
          text: text, reason: "\"\(host)\" in square brackets is no address of IPv6")
      }
    } else if host.contains(":") {
      throw ParseError(text: text, reason: "an IPv6 address stands in square brackets")
    }
    self = .tcp(host: String(host), port: port)
    if let mistake = self.mistake() { throw ParseError(text: text, reason: mistake) }
  }

  /// Why nobody can listen there, or connect to it; nil: it looks right.
  ///
  /// - Parameter port: The smallest that is one.
  package func mistake(portsFrom port: Int = 0) -> String? {
    switch self {
    case .tcp(let host, _) where host.isEmpty: "the host is empty"
    case .tcp(let host, _)
    where !host.utf8.allSatisfy({ $0 > 0x20 && $0 != UInt8(ascii: "/") && $0 != 0x7f }):
      "the host \"\(host)\" holds a space, a slash or a control character"
    case .tcp(let host, _) where host.contains(":") && !Self.isIPv6(host):
      "\"\(host)\" is no address of IPv6"
    case .tcp(_, let number) where !(port...65_535).contains(number):
      "the port \(number) is no number from \(port) to 65535"
    case .unix(let path) where path.isEmpty: "the path is empty"
    case .unix(let path) where path.utf8.count > Self.maximumPathBytes:
      "the path has \(path.utf8.count) bytes, more than \(Self.maximumPathBytes)"
    case .unix(let path) where path.utf8.contains(0): "the path holds a zero"
    case .unix(let path) where path.utf8.last == UInt8(ascii: "/"):
      "the path \"\(path)\" is a folder's"
    case .tcp, .unix: nil
    }
  }

  /// Four numbers as everybody reads them: none begins with a zero, which some take for octal.
  static func isIPv4(_ host: String) -> Bool {
    var address = in_addr()
    return inet_pton(AF_INET, host, &address) == 1
  }

  /// With a zone behind it or without (RFC 4007, section 11).
  static func isIPv6(_ host: String) -> Bool {
    let parts = host.split(separator: "%", maxSplits: 1, omittingEmptySubsequences: false)
    guard parts.last?.isEmpty == false else { return false }
    var address = in6_addr()
    return inet_pton(AF_INET6, String(parts[0]), &address) == 1
  }
}

extension ListenAddress: CustomStringConvertible {
  /// The text that ``init(_:)`` reads.
  public var description: String {
    switch self {
    case .tcp(let host, let port): host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    case .unix(let path): "unix:\(path)"
    }
  }
}
