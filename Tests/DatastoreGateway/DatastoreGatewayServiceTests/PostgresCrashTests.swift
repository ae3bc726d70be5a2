import BuildProtos
import DatastoreGatewayCore
import DatastoreGatewayTesting
import Domain
import RPC
import ServiceRuntime
import Synchronization
import Testing

@testable import DatastoreGatewayService

/// What became of commits, as their callers were told.
private final class CrashLog: Sendable {
  struct Outcomes {
    var answered: [Int64] = []
    var refused: [Int64] = []
    var unknown: [Int64] = []
  }

  private struct State {
    var outcomes = Outcomes()
    /// Who waits until so many commits are answered.
    var waiters: [(count: Int, continuation: CheckedContinuation<Void, Never>)] = []
  }

  private let state = Mutex(State())
  private let over = Atomic(false)

  var told: Outcomes { self.state.withLock { $0.outcomes } }
  var isOver: Bool { self.over.load(ordering: .relaxed) }

  func end() { self.over.store(true, ordering: .relaxed) }

  func note(_ number: Int64, _ list: any WritableKeyPath<Outcomes, [Int64]> & Sendable) {
    let due = self.state.withLock { state in
      state.outcomes[keyPath: list].append(number)
      let count = state.outcomes.answered.count
      defer { state.waiters.removeAll { $0.count <= count } }
      return state.waiters.filter { $0.count <= count }.map(\.continuation)
    }
    for waiter in due { waiter.resume() }
  }

  /// Returns when so many more commits are answered.
  func wait(for count: Int) async {
    await withCheckedContinuation { continuation in
      self.state.withLock {
        $0.waiters.append(($0.outcomes.answered.count + count, continuation))
      }
    }
  }
}

@Suite(
  .enabled(if: PostgresServer.isInstalled, Comment(rawValue: PostgresServer.whyNot)),
  .serialized)
struct PostgresCrashes {
  @Test func noAnsweredCommitIsLostWhenTheServerIsKilled() async throws {
    let server = try PostgresServer()
    let database = try TestDatabase(on: server)
    let stores = [try database.open(), try database.open()]
    let log = CrashLog()
    try await withThrowingTaskGroup(of: Void.self) { group in
      for writer in 0..<8 as Range<Int64> {
        group.addTask {
          var id = writer * 1_000_000
          while !log.isOver {
            id += 1
            let number = id
            do {
              // Two entities of two kinds: both or none.
              _ = try await stores[Int(writer) % 2].commit(
                CommitSamples.put(
                  entity(key("A", number), ["n": integer(number)]),
                  entity(key("B", number), ["n": integer(-number)])))
              log.note(number, \.answered)
            } catch let error as StoreFailure where error.kind == .outcomeUnknown {
              log.note(number, \.unknown)
            } catch is StoreFailure {
              log.note(number, \.refused)
            }
          }
        }
      }
      for _ in 0..<5 {
        await log.wait(for: 60)
        server.kill()
        try server.start()
      }
      // It goes on by itself.
      await log.wait(for: 60)
      log.end()
      try await group.waitForAll()
    }
    let told = log.told
    let reader = try database.open()
    /// For each commit, how many of its two entities are there.
    func counts(_ numbers: [Int64]) async throws -> [Int] {
      var counts: [Int] = []
      while counts.count < numbers.count {
        let some = numbers[counts.count...].prefix(200)
        let addresses = try some.flatMap { number in
          try ["A", "B"].map { try CommitSamples.address(key($0, number)) }
        }
        let found = try await reader.lookup(addresses).entities
        for number in some.indices {
          let place = (number - some.startIndex) * 2
          counts.append(found[place...(place + 1)].count { $0 != nil })
        }
      }
      return counts
    }
    #expect(try await counts(told.answered).allSatisfy { $0 == 2 }, "an answered commit is lost")
    #expect(try await counts(told.refused).allSatisfy { $0 == 0 }, "a refused commit is there")
    #expect(try await counts(told.unknown).allSatisfy { $0 != 1 }, "a commit is there in part")
    print(
      "PostgreSQL was killed 5 times: \(told.answered.count) commits answered, "
        + "\(told.refused.count) refused, \(told.unknown.count) unknown")
    #expect(try database.faults() == [])
  }

  @Test func aServerThatStaysAwayIsToldAndItsReturnNoticed() async throws {
    let server = try PostgresServer()
    let database = try TestDatabase(on: server)
    var configuration = PostgresStore.Configuration(try database.address)
    configuration.patience = .milliseconds(200)
    let store = try PostgresStore(
      configuration, metrics: Metrics(MetricsRegistry()), logger: quietLogger)
    _ = try await store.commit(CommitSamples.put(entity(key("K", 1))))
    server.kill()
    let error = await #expect(throws: StoreFailure.self) {
      _ = try await store.commit(CommitSamples.put(entity(key("K", 2))))
    }
    #expect(error?.kind == .unreachable)
    #expect(store.trouble?.kind == .unreachable)
    await #expect(throws: StoreFailure.self) {
      _ = try await store.lookup([CommitSamples.address(key("K", 1))])
    }
    try server.start()
    while store.trouble != nil {
      await store.probe()
      try await Task.sleep(for: .milliseconds(10))
    }
    #expect(try await store.lookup([CommitSamples.address(key("K", 1))]).entities[0] != nil)
    #expect(try await store.lookup([CommitSamples.address(key("K", 2))]).entities[0] == nil)
  }
}
