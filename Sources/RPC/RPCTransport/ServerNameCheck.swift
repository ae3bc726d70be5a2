import NIOCore
import NIOSSL
import NIOTLS

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// Whom a client wants to talk to, and a server's certificate has to name: RFC 9525.
enum ServerIdentity: Hashable, Sendable {
  case name(String)
  /// In network order.
  case address([UInt8], text: String)

  init(_ host: String) {
    if let bytes = addressBytes(host) {
      self = .address(bytes, text: host)
    } else {
      self = .name(host.hasSuffix(".") ? String(host.dropLast()) : host)
    }
  }

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
    let presented = presented.hasSuffix(".") ? presented.dropLast() : presented[...]
    if presented.lowercased() == name.lowercased() { return true }
    guard presented.hasPrefix("*."), let dot = name.firstIndex(of: "."), dot != name.startIndex
    else { return false }
    let parent = presented.dropFirst(2)
    // Of a top-level domain nobody has every name.
    return parent.contains(".")
      && parent.lowercased() == name[name.index(after: dot)...].lowercased()
  }
}

/// An address as it is written, in network order; nil if it is none.
func addressBytes(_ text: String) -> [UInt8]? {
  for (family, count) in [(AF_INET, 4), (AF_INET6, 16)] {
    var bytes = [UInt8](repeating: 0, count: count)
    if inet_pton(family, text, &bytes) == 1 { return bytes }
  }
  return nil
}

/// Stands between TLS and the connection until the server has shown a certificate of its own name. Nothing of what
/// another one says gets through.
///
/// NIOSSL takes a certificate for the very address, too, whatever the name; whoever answers names wrongly would
/// need one for his own address only.
final class ServerNameCheck: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer

  private let identity: ServerIdentity
  private var isRefused = false

  init(_ identity: ServerIdentity) {
    self.identity = identity
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    guard case .handshakeCompleted? = event as? TLSUserEvent else {
      return context.fireUserInboundEventTriggered(event)
    }
    let handler = try? context.pipeline.syncOperations.handler(type: NIOSSLClientHandler.self)
    let certificate = handler?.peerCertificate.flatMap { PeerIdentity($0) }
    guard let certificate, self.identity.isNamed(by: certificate) else {
      self.isRefused = true
      return context.fireErrorCaught(WrongServer(wanted: self.identity, certificate: certificate))
    }
    context.fireUserInboundEventTriggered(event)
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    if !self.isRefused { context.fireChannelRead(data) }
  }
}

/// A server that is another's.
struct WrongServer: Error, CustomStringConvertible {
  let wanted: ServerIdentity
  let certificate: PeerIdentity?

  var description: String {
    let wanted =
      switch self.wanted {
      case .name(let name): "\"\(name)\""
      case .address(_, let text): text
      }
    guard let certificate = self.certificate else {
      return "the server showed no certificate for \(wanted)"
    }
    let names = certificate.dnsNames + certificate.addresses
    let shown = names.prefix(5).map { "\"\($0.prefix(100))\"" }.joined(separator: ", ")
    return "the server's certificate is not for \(wanted), but for "
      + (names.isEmpty ? "no name" : shown)
      + (names.count > 5 ? " and \(names.count - 5) more" : "")
  }
}
