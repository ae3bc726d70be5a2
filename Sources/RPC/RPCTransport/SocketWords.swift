import NIOCore
import NIOPosix
import NIOSSL
import RPCCore

/// A socket's error in words: without NIO's type names, and with what the system calls it.
func describe(_ error: any Error) -> String {
  switch error {
  case let error as NIOConnectionError:
    if let first = error.connectionErrors.first { return describe(first.error) }
    if error.dnsAError != nil || error.dnsAAAAError != nil {
      return "the host \"\(error.host)\" cannot be resolved"
    }
    return "no address answered"
  case let error as IOError:
    return systemMessage(error.errnoCode)
  case ChannelError.connectTimeout(let amount):
    return "no answer within \(Duration.nanoseconds(amount.nanoseconds))"
  case let error as DialError:
    return error.reason
  case let error as SocketAddressError.UnknownHost:
    return "the host \"\(error.host)\" cannot be resolved: \(error.errorDescription)"
  case is UnixDomainSocketPathWrongType:
    return "the file of that name is no socket"
  case NIOSSLError.handshakeFailed(let cause):
    return "the TLS handshake failed: \(reasons(cause))"
  case NIOSSLError.uncleanShutdown:
    return "the peer closed the connection without a word"
  case let error as BoringSSLError:
    return "TLS failed: \(reasons(error))"
  default:
    return "\(error)"
  }
}

/// An address as it is written: `127.0.0.1:4711`, `[::1]:4711`.
func peerText(_ address: SocketAddress?) -> String {
  guard let address, let host = address.ipAddress, let port = address.port else {
    return "unix socket"
  }
  return host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
}

/// What BoringSSL calls what it met, without the lines of its source: `WRONG_VERSION_NUMBER`.
private func reasons(_ error: BoringSSLError) -> String {
  let text = "\(error)"
  let names = text.matches(of: /OPENSSL_internal:([A-Z0-9_]+)/).map { String($0.output.1) }
  return names.isEmpty ? text : names.joined(separator: ", ")
}
