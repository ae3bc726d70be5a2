import Glibc
import RPC
import Testing

@testable import ServiceRuntime

/// A client's connection to a port of this machine, with blocking calls of its own: what the tests
/// send is not always HTTP.
final class RawConnection: Sendable {
  private let descriptor: Int32

  init(to address: ListenAddress) throws {
    guard case .tcp(_, let port) = address else { throw ConnectionFailure() }
    self.descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var name = sockaddr_in()
    name.sin_family = sa_family_t(AF_INET)
    name.sin_port = in_port_t(port).bigEndian
    name.sin_addr.s_addr = inet_addr("127.0.0.1")
    let result = withUnsafePointer(to: &name) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(self.descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
    guard result == 0 else { throw ConnectionFailure() }
    // A server that never answers must fail the test, not hold it.
    var limit = timeval(tv_sec: 20, tv_usec: 0)
    setsockopt(
      self.descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
  }

  deinit { close(self.descriptor) }

  struct ConnectionFailure: Error {}

  func send(_ bytes: [UInt8]) {
    _ = bytes.withUnsafeBytes {
      Glibc.send(self.descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
    }
  }

  func send(_ text: String) { self.send(Array(text.utf8)) }

  /// Everything until the other side closes.
  func readAll() async -> String? {
    // Not on a thread of the pool: the server's own tasks need one.
    await withCheckedContinuation { continuation in
      SystemThread.start { continuation.resume(returning: self.readToEnd()) }
    }
  }

  /// `nil` if the server neither answers nor closes.
  private func readToEnd() -> String? {
    var all: [UInt8] = []
    var bytes = [UInt8](repeating: 0, count: 65_536)
    while true {
      let count = recv(self.descriptor, &bytes, bytes.count, 0)
      if count < 0, errno == EAGAIN { return nil }
      if count <= 0 { return String(decoding: all, as: UTF8.self) }
      all += bytes.prefix(count)
    }
  }

  /// Sends a request and gives the whole answer.
  static func get(_ path: String, from address: ListenAddress) async throws -> String {
    let connection = try RawConnection(to: address)
    connection.send("GET \(path) HTTP/1.1\r\nhost: x\r\n\r\n")
    return try #require(await connection.readAll(), "the server neither answers nor closes")
  }
}
