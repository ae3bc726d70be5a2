import Foundation
import Synchronization
import Testing

@testable import DatastoreGatewayService

@Suite struct ReaderPools {
  /// Nothing of a reader is asked for here.
  private struct NoReader: Sendable {}

  private final class Running: Sendable {
    private let counts = Mutex((now: 0, most: 0))

    var now: Int { self.counts.withLock { $0.now } }
    var most: Int { self.counts.withLock { $0.most } }

    func changed(by step: Int) {
      self.counts.withLock {
        $0.now += step
        $0.most = max($0.most, $0.now)
      }
    }
  }

  @Test(.timeLimit(.minutes(1)))
  func scansLeaveAThreadForShortReads() async throws {
    let pool = ReaderPool(Array(repeating: NoReader(), count: 3), limit: 100)
    let gate = DispatchSemaphore(value: 0)
    let running = Running()
    try await withThrowingTaskGroup(of: Void.self) { group in
      for _ in 0..<8 {
        group.addTask {
          try await pool.scan { _, _ in
            running.changed(by: 1)
            gate.wait()
            running.changed(by: -1)
          }
        }
      }
      while pool.openReads < 8 || running.now < 2 { await Task.yield() }
      // All scans that may run stand still.
      for _ in 0..<10 { #expect(try await pool.read { _ in true }) }
      for _ in 0..<8 { gate.signal() }
      try await group.waitForAll()
    }
    #expect(running.most == 2)
    #expect(pool.openReads == 0)
  }

  @Test(.timeLimit(.minutes(1)))
  func aScanThatNobodyWaitsForIsToldSo() async throws {
    let pool = ReaderPool([NoReader()], limit: 100)
    let running = Running()
    let scan = Task {
      try await pool.scan { _, isCancelled in
        running.changed(by: 1)
        while !isCancelled() { Thread.sleep(forTimeInterval: 0.001) }
        return true
      }
    }
    let next = Task { try await pool.scan { _, isCancelled in isCancelled() } }
    while running.now == 0 { await Task.yield() }
    scan.cancel()
    #expect(try await scan.value)
    #expect(try await !next.value)
  }
}
