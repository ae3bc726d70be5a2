import Glibc

/// Ports for a stack: a block from its base port on, and one of metrics and health 100 above.
enum Ports {
  /// Below those that the system hands out.
  private static let bases = stride(from: 15_000, to: 30_000, by: 250)
  /// The services, and 64 runners.
  private static let blockLength = 80
  private static let adminOffset = 100

  /// The base port of a block that nobody uses.
  static func freeBlock() throws -> Int {
    for base in self.bases.shuffled() {
      let ports = (base..<base + self.blockLength)
      if ports.allSatisfy({ self.isFree($0) && self.isFree($0 + self.adminOffset) }) {
        return base
      }
    }
    throw BenchmarkFailure("no block of free ports was found")
  }

  private static func isFree(_ port: Int) -> Bool {
    let descriptor = socket(AF_INET, CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else { return false }
    defer { close(descriptor) }
    // As the services do: the rest of an earlier connection is no obstacle.
    var yes: CInt = 1
    setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<CInt>.size))
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = UInt16(port).bigEndian
    address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
    return withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
      }
    }
  }
}
