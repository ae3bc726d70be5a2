import Glibc
import PluginKit
import Synchronization

@testable import CorePlugins

/// An HTTP server on loopback that answers every request with one file.
final class FileServer: Sendable {
  let port: UInt16
  private let listener: Int32
  private let heard = Mutex<[String]>([])

  init(_ path: String) throws {
    let file = open(path, O_RDONLY)
    guard file >= 0 else { throw failure("open", path) }
    defer { close(file) }
    var content = [UInt8](repeating: 0, count: 1 << 20)
    content.removeLast(content.count - max(0, read(file, &content, content.count)))

    self.listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = in_addr_t(INADDR_LOOPBACK).bigEndian
    var size = socklen_t(MemoryLayout<sockaddr_in>.size)
    let listener = self.listener
    let isBound = withUnsafeMutablePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
        bind(listener, address, size) == 0 && listen(listener, 8) == 0
          && getsockname(listener, address, &size) == 0
      }
    }
    guard isBound else { throw failure("listen on", "127.0.0.1") }
    self.port = UInt16(bigEndian: address.sin_port)
    let head = "HTTP/1.0 200 OK\r\nContent-Length: \(content.count)\r\n\r\n"
    let answer = Array(head.utf8) + content
    // The thread closes what it accepts from: a number that is closed may be another file's at once.
    Threads.start("file-server") { [weak self] in
      defer { close(listener) }
      while case let connection = accept(listener, nil, nil), connection >= 0 {
        var request = [UInt8](repeating: 0, count: 4_096)
        let count = max(0, recv(connection, &request, request.count, 0))
        let text = String(decoding: request[..<count], as: UTF8.self)
        self?.heard.withLock { $0.append(text) }
        _ = send(connection, answer, answer.count, Int32(MSG_NOSIGNAL))
        close(connection)
      }
    }
  }

  deinit {
    // Wakes `accept`.
    shutdown(self.listener, Int32(SHUT_RDWR))
  }

  var requests: [String] { self.heard.withLock { $0 } }
}
