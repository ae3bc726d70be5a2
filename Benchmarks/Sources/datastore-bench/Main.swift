import ArgumentParser
import BuildProtos
import ClosedLoop
import NIOCore
import NIOPosix
import RPC

/// Callers of google.datastore.v1.Datastore in a closed loop, as scripts/bench-datastore runs them
/// against the gateway and against others: one line of JSON at its end.
@main
struct DatastoreBench: AsyncParsableCommand {
  enum Load: String, ExpressibleByArgument, CaseIterable {
    /// Writes every entity once, in batches, and ends.
    case fill
    /// Writes one entity, of those there are, with another text, which has no index.
    case upsert
    /// The same, with another number, which has one.
    case reindex
    /// Writes `--batch` entities that were not there before.
    case batch
    /// Reads one entity by its key.
    case lookup
    /// Twenty entities by an equality.
    case equality
    /// Twenty entities by an inequality, in its order.
    case range
  }

  static let configuration = CommandConfiguration(
    commandName: "datastore-bench", abstract: "Calls a Datastore in a closed loop.")

  @Argument(help: "HOST:PORT.")
  var target: String

  @Argument(help: "What to call.")
  var load: Load

  @Argument(help: "Callers at the same time.")
  var concurrency: Int

  @Argument(help: "Seconds that are measured, after one that is not.")
  var seconds: Double

  @Option(help: "Entities there are.")
  var entities: Int64 = 10_000

  @Option(help: "Entities in a commit of the load batch.")
  var batch: Int64 = 100

  @Option(help: "Bytes of the property that has no index.")
  var bytes = 80

  func run() async throws {
    let loop = MultiThreadedEventLoopGroup(numberOfThreads: 1).next()
    let channel = try RPCChannel(to: self.target, group: loop)
    let callers = Callers(
      client: DatastoreV1.DatastoreClient(channel), entities: self.entities,
      text: String(repeating: "x", count: self.bytes))
    try await callers.ready()
    let measured = Measured(seconds: self.seconds)
    let load = self.load
    let batch = load == .fill ? 500 : self.batch
    await withTaskGroup(of: Void.self) { tasks in
      for _ in 0..<self.concurrency {
        // On the channel's own loop, where a call does not leave its thread.
        tasks.addTask(executorPreference: loop.callExecutor) {
          do {
            if load == .fill { return try await callers.fill(batch) }
            while ContinuousClock.now < measured.end {
              let began = ContinuousClock.now
              try await callers.call(load, batch)
              measured.record(from: began, to: .now)
            }
          } catch {
            measured.fail(error)
          }
        }
      }
    }
    print(
      measured.json(
        load: load.rawValue, concurrency: self.concurrency,
        bytes: callers.entity(1).encoded().count))
    await channel.close()
  }
}

/// What the callers share. `@unchecked Sendable`: all of them run on one event loop.
private final class Callers: @unchecked Sendable {
  private let client: DatastoreV1.DatastoreClient
  private let entities: Int64
  private let text: String
  /// The last id that a batch has taken.
  private var last: Int64 = 0
  private let options = CallOptions(timeout: .seconds(60))

  /// Entities that have the same value of `shelf`.
  private static let shelfSize: Int64 = 20
  /// Values of `number` are as far apart as ids are, and in another order.
  private static let stride: Int64 = 7_919

  init(client: DatastoreV1.DatastoreClient, entities: Int64, text: String) {
    self.client = client
    self.entities = entities
    self.text = text
  }

  func ready() async throws {
    _ = try await self.client.lookup(
      DatastoreV1.LookupRequest(projectID: "bench", keys: [self.key(1)]),
      options: CallOptions(timeout: .seconds(30), waitForReady: true))
  }

  func call(_ load: DatastoreBench.Load, _ batch: Int64) async throws {
    switch load {
    case .upsert, .reindex:
      // What is there already would not be written.
      var entity = self.entity(.random(in: 1...self.entities))
      entity.properties["text"]?.valueType = .stringValue(self.otherText())
      if load == .reindex {
        entity.properties["number"]?.valueType = .integerValue(.random(in: 0..<self.entities))
      }
      try await self.write([entity])
    case .fill, .batch:
      let first = self.entities + self.last + 1
      self.last += batch
      try await self.write((first..<(first + batch)).map(self.entity))
    case .lookup:
      let answer = try await self.client.lookup(
        DatastoreV1.LookupRequest(
          projectID: "bench", keys: [self.key(.random(in: 1...self.entities))]),
        options: self.options)
      if answer.found.count != 1 { throw WrongAnswer(found: answer.found.count, wanted: 1) }
    case .equality:
      let shelf = Int64.random(in: 0..<(self.entities / Self.shelfSize))
      try await self.query("SELECT * FROM Item WHERE shelf = \(shelf) LIMIT 20")
    case .range:
      let least = Int64.random(in: 0..<(self.entities - Self.shelfSize))
      try await self.query("SELECT * FROM Item WHERE number >= \(least) ORDER BY number LIMIT 20")
    }
  }

  /// This caller's share of all entities.
  func fill(_ batch: Int64) async throws {
    while self.last < self.entities {
      let first = self.last + 1
      self.last = min(self.last + batch, self.entities)
      try await self.write((first...self.last).map(self.entity))
    }
  }

  func entity(_ id: Int64) -> DatastoreV1.Entity {
    DatastoreV1.Entity(
      key: self.key(id),
      properties: [
        "number": DatastoreV1.Value(valueType: .integerValue(id * Self.stride % self.entities)),
        "shelf": DatastoreV1.Value(valueType: .integerValue(id % (self.entities / Self.shelfSize))),
        "text": DatastoreV1.Value(valueType: .stringValue(self.text), excludeFromIndexes: true),
      ])
  }

  private func key(_ id: Int64) -> DatastoreV1.Key {
    DatastoreV1.Key(
      partitionID: DatastoreV1.PartitionId(projectID: "bench"),
      path: [DatastoreV1.Key.PathElement(kind: "Item", idType: .id(id))])
  }

  /// As long as the others, unless they are short.
  private func otherText() -> String {
    let start = "\(UInt64.random(in: 0 ... .max))"
    return start + self.text.dropFirst(start.utf8.count)
  }

  private func write(_ entities: [DatastoreV1.Entity]) async throws {
    _ = try await self.client.commit(
      DatastoreV1.CommitRequest(
        projectID: "bench", mode: .nonTransactional,
        mutations: entities.map { DatastoreV1.Mutation(operation: .upsert($0)) }),
      options: self.options)
  }

  private func query(_ text: String) async throws {
    let answer = try await self.client.runQuery(
      DatastoreV1.RunQueryRequest(
        projectID: "bench",
        queryType: .gqlQuery(DatastoreV1.GqlQuery(queryString: text, allowLiterals: true))),
      options: self.options)
    let found = answer.batch?.entityResults.count ?? 0
    if found != Self.shelfSize { throw WrongAnswer(found: found, wanted: Int(Self.shelfSize)) }
  }
}

private struct WrongAnswer: Error {
  var found: Int
  var wanted: Int
}
