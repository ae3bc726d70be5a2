import NIOCore
import NIOPosix
import RPC
import Testing

@testable import ServiceRuntime

@Suite struct AdminServerTests {
  /// Serves on a free port while `body` runs.
  private func serving(
    timeLimit: TimeAmount = AdminServer.timeLimit,
    readiness: @escaping @Sendable () async -> Readiness = { .ready },
    _ body: (ListenAddress, MetricsRegistry) async throws -> Void
  ) async throws {
    let metrics = MetricsRegistry()
    let server = AdminServer(
      metrics: metrics, group: MultiThreadedEventLoopGroup.singleton.next(), timeLimit: timeLimit,
      readiness: readiness)
    let address = try await server.listen(on: ListenAddress("127.0.0.1:0"))
    defer { Task { await server.close() } }
    try await body(address, metrics)
  }

  @Test func metricsAreServedAsPrometheusReadsThem() async throws {
    try await self.serving { address, metrics in
      metrics.counter("x_total", help: "X.").increment()
      let answer = try await RawConnection.get("/metrics?x=1", from: address)
      #expect(answer.hasPrefix("HTTP/1.1 200 OK\r\n"))
      #expect(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"))
      #expect(answer.hasSuffix("\r\n\r\n# HELP x_total X.\n# TYPE x_total counter\nx_total 1\n"))
    }
  }

  @Test func aServiceThatIsNotReadySaysWhy() async throws {
    let readiness: @Sendable () async -> Readiness = { .notReady("Redis \"a:1\" is away") }
    try await self.serving(readiness: readiness) { address, _ in
      let answer = try await RawConnection.get("/readyz", from: address)
      #expect(answer.hasPrefix("HTTP/1.1 503 "))
      #expect(
        answer.hasSuffix(
          "{\"status\":\"not ready\",\"reason\":\"Redis \\\"a:1\\\" is away\"}\n"))
      #expect(try await RawConnection.get("/healthz", from: address).hasPrefix("HTTP/1.1 200 "))
    }
  }

  @Test func aReadyServiceSaysSo() async throws {
    try await self.serving { address, _ in
      let answer = try await RawConnection.get("/readyz", from: address)
      #expect(answer.hasPrefix("HTTP/1.1 200 "))
      #expect(answer.hasSuffix("{\"status\":\"ready\"}\n"))
    }
  }

  @Test(arguments: [
    ("GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 404 "),
    ("POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx", "HTTP/1.1 405 "),
    ("GET / HTTP/1.0\r\n\r\n", "HTTP/1.1 200 "),
    (
      "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9999\r\n\r\n"
        + String(repeating: "x", count: 9_999), "HTTP/1.1 413 "
    ),
    ("nonsense\r\n\r\n", "HTTP/1.1 400 "),
    ("GET /\u{0}\u{1} HTTP/1.1\r\n\r\n", "HTTP/1.1 400 "),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1 "),
  ])
  func whatIsNoGoodRequestIsAnsweredAndClosed(request: String, status: String) async throws {
    try await self.serving { address, _ in
      let connection = try RawConnection(to: address)
      connection.send(request)
      let answer = try #require(await connection.readAll())
      #expect(answer.hasPrefix(status) || (answer.isEmpty && status == "HTTP/1.1 "), "\(answer)")
      #expect(try await RawConnection.get("/healthz", from: address).hasPrefix("HTTP/1.1 200 "))
    }
  }

  @Test func bytesOfAnyKindDoNoHarm() async throws {
    try await self.serving { address, _ in
      var state: UInt64 = 42
      for _ in 0..<50 {
        let connection = try RawConnection(to: address)
        var bytes: [UInt8] = []
        for _ in 0..<512 {
          state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
          bytes.append(UInt8(truncatingIfNeeded: state >> 33))
        }
        connection.send(bytes + Array("\r\n\r\n".utf8))
        #expect(await connection.readAll() != nil)
      }
      #expect(try await RawConnection.get("/healthz", from: address).hasPrefix("HTTP/1.1 200 "))
    }
  }

  @Test func aHeaderWithoutEndIsCutOff() async throws {
    try await self.serving { address, _ in
      let connection = try RawConnection(to: address)
      connection.send("GET / HTTP/1.1\r\nx: ")
      for _ in 0..<64 { connection.send([UInt8](repeating: 0x61, count: 4_096)) }
      #expect(await connection.readAll() != nil)
      #expect(try await RawConnection.get("/healthz", from: address).hasPrefix("HTTP/1.1 200 "))
    }
  }

  @Test func aClientThatNeverEndsItsRequestIsClosed() async throws {
    try await self.serving(timeLimit: .milliseconds(50)) { address, _ in
      let connection = try RawConnection(to: address)
      connection.send("GET / HT")
      #expect(await connection.readAll() == "")
    }
  }

  @Test func oneConnectionTooManyIsClosedAndTheOthersGoOn() async throws {
    try await self.serving { address, _ in
      var open: [RawConnection] = []
      for _ in 0..<AdminServer.maximumConnections { open.append(try RawConnection(to: address)) }
      // The bound counts connections that are accepted, in their order.
      #expect(try await RawConnection.get("/healthz", from: address) == "")
      open[0].send("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
      #expect(try #require(await open[0].readAll()).hasPrefix("HTTP/1.1 200 "))
    }
  }

  @Test func theSecondRequestOnAConnectionIsNotLookedAt() async throws {
    try await self.serving { address, _ in
      let connection = try RawConnection(to: address)
      connection.send("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\n")
      let answer = try #require(await connection.readAll())
      #expect(answer.hasSuffix("ok\n"))
    }
  }

  @Test func aPortThatIsTakenIsToldInOneLine() async throws {
    try await self.serving { address, _ in
      let other = AdminServer(
        metrics: MetricsRegistry(), group: MultiThreadedEventLoopGroup.singleton
      ) { .ready }
      await #expect(throws: ListenFailure.self) { try await other.listen(on: address) }
    }
  }
}
