import NIOCore
import NIOSSL
import RPCHTTP2

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// Whom a client wants to talk to, and a server's certificate has to name: RFC 9525.
///
/// NIOSSL takes a certificate for the very address, too, whatever the name: whoever answers names wrongly would
/// need one for his own address only.
enum ServerIdentity: Hashable, Sendable {
  /// In lower case, and without the root's dot.
  case name(String)
  /// In network order.
  case address([UInt8], text: String)

  /// - Throws: The name is none that a certificate could have.
  init(_ host: String) throws(TLSError) {
    var text = host[...]
    if text.hasPrefix("["), text.hasSuffix("]") { text = text.dropFirst().dropLast() }
    // A zone is this machine's own affair: RFC 6874, section 1.
    if let bytes = addressBytes(String(text.prefix { $0 != "%" })) {
      self = .address(bytes, text: String(text))
    } else if let name = dnsName(host) {
      self = .name(name)
    } else {
      throw TLSError("no certificate is for \"\(printable(host))\"; expected \(Self.expected)")
    }
  }

  static let expected =
    "an address, or a name of ASCII letters, digits, \"-\", \"_\" and \".\" (A-labels, RFC 5890, of one that "
    + "has others)"

  /// What the client says before the handshake; an address is no server name (RFC 6066, section 3).
  var serverNameIndication: String? {
    switch self {
    case .name(let name): name
    case .address: nil
    }
  }

  /// Whether a certificate is for it. Names are looked for among names and addresses among addresses; a
  /// certificate without alternative names is for nobody (RFC 9525, section 2).
  func isNamed(by certificate: PeerIdentity) -> Bool {
    switch self {
    case .name(let name): certificate.dnsNames.contains { Self.matches($0, name) }
    case .address(let bytes, _): certificate.addresses.contains { addressBytes($0) == bytes }
    }
  }

  /// RFC 9525, section 6.3: a wildcard is the whole first label, and stands for one.
  private static func matches(_ presented: String, _ name: String) -> Bool {
    let isWild = presented.hasPrefix("*.")
    guard let pattern = dnsName(isWild ? String(presented.dropFirst(2)) : presented) else {
      return false
    }
    guard isWild else { return pattern == name }
    // Of a top-level domain nobody has every name.
    guard let dot = name.firstIndex(of: "."), dot != name.startIndex, pattern.contains(".") else {
      return false
    }
    return pattern == name[name.index(after: dot)...]
  }
}

/// A name as DNS has it, in lower case and without the root's dot; nil if it is none. Nothing but ASCII: Unicode
/// takes some characters for others.
private func dnsName(_ text: String) -> String? {
  var bytes = Array(text.utf8)
  if bytes.last == UInt8(ascii: ".") { bytes.removeLast() }
  // RFC 1035, section 2.3.4.
  let labels = bytes.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
  guard bytes.count <= 253, labels.allSatisfy({ (1...63).contains($0.count) }) else { return nil }
  for index in bytes.indices {
    switch bytes[index] {
    case UInt8(ascii: "A")...UInt8(ascii: "Z"): bytes[index] |= 0x20
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "0")...UInt8(ascii: "9"),
      UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."):
      break
    default: return nil
    }
  }
  return String(decoding: bytes, as: UTF8.self)
}

/// An address as it is written, in network order; nil if it is none.
func addressBytes(_ text: String) -> [UInt8]? {
  for (family, count) in [(AF_INET, 4), (AF_INET6, 16)] {
    var bytes = [UInt8](repeating: 0, count: count)
    if inet_pton(family, text, &bytes) == 1 { return bytes }
  }
  return nil
}

/// Stands below TLS until the server is known for who it is. Once it is shut nothing goes out, not even with the end
/// of the handshake, which TLS would still send behind a refusal.
final class HandshakeGate: ChannelOutboundHandler, RemovableChannelHandler {
  typealias OutboundIn = ByteBuffer

  var isShut = false

  func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
    if self.isShut {
      promise?.fail(ChannelError.ioOnClosedChannel)
    } else {
      context.write(data, promise: promise)
    }
  }
}

/// A server that is another's.
struct WrongServer: Error, CustomStringConvertible {
  let wanted: ServerIdentity
  let certificate: PeerIdentity

  var description: String {
    let wanted =
      switch self.wanted {
      case .name(let name): "\"\(name)\""
      case .address(_, let text): text
      }
    let names = self.certificate.dnsNames + self.certificate.addresses
    let shown = names.prefix(5).map { name in
      "\"\(printable(String(decoding: name.utf8.prefix(100), as: UTF8.self)))\""
    }.joined(separator: ", ")
    return "the server's certificate is not for \(wanted), but for "
      + (names.isEmpty ? "no name" : shown)
      + (names.count > 5 ? " and \(names.count - 5) more" : "")
  }
}
