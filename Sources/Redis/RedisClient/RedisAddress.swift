/// Where a Redis listens: `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`.
package enum RedisAddress: Hashable, Sendable, CustomStringConvertible {
  case tcp(host: String, port: Int)
  case unix(path: String)

  /// Why a text is no address.
  package struct ParseError: Error, Hashable, Sendable, CustomStringConvertible {
    package let text: String
    package let reason: String

    package var description: String {
      "\"\(self.text)\" is no address of a Redis: \(self.reason); expected HOST:PORT or unix:PATH"
    }
  }

  package init(_ text: String) throws(ParseError) {
    if text.hasPrefix("unix:") {
      let path = text.dropFirst("unix:".count)
      guard !path.isEmpty else { throw ParseError(text: text, reason: "the path is empty") }
      // `sun_path` on Linux holds 107 bytes and a zero.
      guard path.utf8.count <= 107 else {
        throw ParseError(text: text, reason: "the path has \(path.utf8.count) bytes, more than 107")
      }
      self = .unix(path: String(path))
      return
    }
    guard let colon = text.lastIndex(of: ":") else {
      throw ParseError(text: text, reason: "there is no port")
    }
    var host = text[..<colon]
    let digits = text[text.index(after: colon)...]
    guard let port = UInt16(digits), port > 0 else {
      throw ParseError(text: text, reason: "the port \"\(digits)\" is no number from 1 to 65535")
    }
    if host.hasPrefix("["), host.hasSuffix("]") {
      host = host.dropFirst().dropLast()
    } else if host.contains(":") {
      throw ParseError(text: text, reason: "an IPv6 address stands in square brackets")
    }
    guard !host.isEmpty else { throw ParseError(text: text, reason: "the host is empty") }
    self = .tcp(host: String(host), port: Int(port))
  }

  package var description: String {
    switch self {
    case .tcp(let host, let port): host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    case .unix(let path): "unix:\(path)"
    }
  }
}
