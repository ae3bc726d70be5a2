import Glibc

/// Small questions to local processes. All block, for no longer than a second.
package enum Probe {
  /// What `/readyz` says: nil when the service is ready, else why it is not.
  package static func readiness(_ admin: String) -> String? {
    guard let response = self.get(admin, "/readyz") else { return "does not answer yet" }
    let status = response.split(separator: " ").dropFirst().first
    if status == "200" { return nil }
    let body = response.split(separator: "\r\n\r\n", maxSplits: 1).dropFirst().first
    return body.map(String.init) ?? "answers \(status ?? "nothing")"
  }

  /// An HTTP response as text, headers and all; nil without one.
  package static func get(_ address: String, _ path: String) -> String? {
    guard let descriptor = self.connect(address) else { return nil }
    defer { close(descriptor) }
    return self.exchange(
      descriptor, "GET \(path) HTTP/1.1\r\nHost: \(address)\r\nConnection: close\r\n\r\n",
      until: nil)
  }

  /// Whether a Redis answers on its socket.
  package static func redisAnswers(_ path: String) -> Bool {
    let descriptor = socket(AF_UNIX, CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else { return false }
    defer { close(descriptor) }
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    let bytes = Array(path.utf8)
    withUnsafeMutableBytes(of: &address.sun_path) { target in
      for (index, byte) in bytes.prefix(target.count - 1).enumerated() { target[index] = byte }
    }
    let result = withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    guard result == 0 else { return false }
    self.setTimeout(descriptor)
    return self.exchange(descriptor, "PING\r\n", until: "+PONG\r\n") != nil
  }

  /// Whether nobody listens on a local TCP address.
  package static func isFree(_ address: String) -> Bool {
    guard var address = self.socketAddress(address) else { return false }
    let descriptor = socket(AF_INET, CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else { return false }
    defer { close(descriptor) }
    // As the services do: the rest of an earlier connection is no obstacle.
    var yes: CInt = 1
    setsockopt(
      descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<CInt>.size))
    let bound = withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
    return bound == 0 && listen(descriptor, 1) == 0
  }

  private static func connect(_ text: String) -> CInt? {
    guard var address = self.socketAddress(text) else { return nil }
    let descriptor = socket(AF_INET, CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else { return nil }
    self.setTimeout(descriptor)
    let result = withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
    if result == 0 { return descriptor }
    close(descriptor)
    return nil
  }

  private static func setTimeout(_ descriptor: CInt) {
    var timeout = timeval(tv_sec: 1, tv_usec: 0)
    for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
      setsockopt(
        descriptor, SOL_SOCKET, option, &timeout, socklen_t(MemoryLayout<timeval>.size))
    }
  }

  /// Of `127.0.0.1:PORT`, which is what a local stack has.
  private static func socketAddress(_ text: String) -> sockaddr_in? {
    let parts = text.split(separator: ":")
    guard parts.count == 2, let port = UInt16(parts[1]) else { return nil }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    guard inet_pton(AF_INET, String(parts[0]), &address.sin_addr) == 1 else { return nil }
    return address
  }

  /// Sends a request and reads to the end, or to `end`; at most 4 MiB.
  private static func exchange(
    _ descriptor: CInt, _ request: String, until end: String?
  ) -> String? {
    let bytes = Array(request.utf8)
    guard send(descriptor, bytes, bytes.count, CInt(MSG_NOSIGNAL)) == bytes.count else {
      return nil
    }
    var response: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 64 << 10)
    while response.count < 4 << 20 {
      let count = recv(descriptor, &buffer, buffer.count, 0)
      if count < 0 { return nil }
      if count == 0 { break }
      response += buffer[..<count]
      if let end, String(decoding: response, as: UTF8.self).hasSuffix(end) { break }
    }
    return response.isEmpty ? nil : String(decoding: response, as: UTF8.self)
  }
}
