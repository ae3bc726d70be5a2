import BuildProtos
import DatastoreGatewayCore
import Domain
import Logging
import RPC
import ServiceRuntime

/// Where a dump's entities go.
enum LoadTarget: Sendable {
  case entities(any EntityStore)
  case google(GoogleDatastore)

  func close() async {
    switch self {
    case .entities(let store): await store.drain()
    case .google(let google): await google.close()
    }
  }
}

/// Puts what a dump has into a store: each entity becomes what the dump says, and nothing else is
/// touched. To load a dump again changes nothing, so one that was interrupted is loaded again.
struct DumpLoad {
  private let target: LoadTarget
  private let policy = Policy()
  private let driver: Driver?

  /// Entities in one commit, and their bytes: a commit of so few bytes is tried again where Google
  /// does not answer, for requests are kept for that up to 256 KiB.
  private static let commitEntities = 500
  private static let commitBytes = 192 << 10
  /// Commits under way.
  private static let commits = 8

  init(_ target: LoadTarget) {
    self.target = target
    self.driver =
      if case .entities(let store) = target {
        Driver(
          store: store, policy: self.policy, slowQuery: .seconds(60),
          logger: Logger(label: "load") { _ in SwiftLogNoOpLogHandler() }, clock: { .now })
      } else { nil }
  }

  /// What goes into one commit, and what is reserved beside.
  private struct Batch: Sendable {
    var entities: [DatastoreV1.Entity] = []
    var keys: [DatastoreV1.Key] = []

    var isEmpty: Bool { self.entities.isEmpty && self.keys.isEmpty }
  }

  func run(_ reader: DumpReader, _ passed: () -> Void) async throws {
    guard case .header(let header) = try reader.next() else {
      preconditionFailure("The reader begins with the header")
    }
    if case .entities(let store) = self.target { try await store.skipIDs(below: header.nextID) }
    var scope: ScopeRewriting.Scope?
    try await withThrowingTaskGroup(of: Void.self) { group in
      var open = 0
      while true {
        let batch = try self.nextBatch(reader, &scope)
        if batch.isEmpty { break }
        if open == Self.commits {
          try await group.next()
          open -= 1
        }
        group.addTask { try await self.put(batch) }
        open += 1
        passed()
      }
      try await group.waitForAll()
    }
  }

  /// - Parameter scope: Of what came before; a store of Google's has one alone.
  private func nextBatch(
    _ reader: DumpReader, _ scope: inout ScopeRewriting.Scope?
  ) throws -> Batch {
    var batch = Batch()
    var bytes = 0
    while batch.entities.count + batch.keys.count < Self.commitEntities, bytes < Self.commitBytes,
      let record = try reader.next()
    {
      switch record {
      case .header, .end: break
      case .entity(_, let content):
        bytes += content.count
        var entity = try Self.decoded(content, as: DatastoreV1.Entity.self)
        if let rewriting = try self.rewriting(of: entity.key, &scope) { rewriting.rewrite(&entity) }
        batch.entities.append(entity)
      case .reservation(let content):
        bytes += content.count
        var key = try Self.decoded(content, as: DatastoreV1.Key.self)
        if let rewriting = try self.rewriting(of: key, &scope) { rewriting.rewrite(&key) }
        batch.keys.append(key)
      }
    }
    return batch
  }

  private static func decoded<Message: ProtobufMessage>(
    _ content: [UInt8], as type: Message.Type
  ) throws(DumpFailure) -> Message {
    do throws(MessageDecodingError) {
      return try Message(decoding: content)
    } catch {
      throw DumpFailure(description: "a record of the dump is no \(type): \(error)")
    }
  }

  /// How what belongs to a key gets the project of Google's store; `nil` for other stores.
  private func rewriting(
    of key: DatastoreV1.Key?, _ scope: inout ScopeRewriting.Scope?
  ) throws(DumpFailure) -> ScopeRewriting? {
    guard case .google(let google) = self.target else { return nil }
    let own = Self.scope(of: key)
    if let scope, scope != own {
      throw DumpFailure(
        description:
          "the dump has entities of project \(scope.project) and of \(own.project), or of several "
          + "databases; a store of Google's has one")
    }
    scope = own
    let address = google.configuration.address
    return ScopeRewriting(
      from: own, to: ScopeRewriting.Scope(project: address.project, database: address.database))
  }

  private static func scope(of key: DatastoreV1.Key?) -> ScopeRewriting.Scope {
    ScopeRewriting.Scope(
      project: key?.partitionID?.projectID ?? "", database: key?.partitionID?.databaseID ?? "")
  }

  private func put(_ batch: Batch) async throws {
    do {
      switch self.target {
      case .entities(let store): try await self.put(batch, into: store)
      case .google(let google): try await self.put(batch, into: google)
      }
    } catch {
      // The whole of the batch is not there, or not known to be.
      let first = batch.entities.first?.key ?? batch.keys.first ?? DatastoreV1.Key()
      let name = first.path.map { element in
        switch element.idType {
        case .id(let id): "\(element.kind):\(id)"
        case .name(let name): "\(element.kind):\(name)"
        case nil: element.kind
        }
      }.joined(separator: "/")
      throw DumpFailure(
        description:
          "what begins with \(name) cannot be loaded: \(error). What came before is there; load the "
          + "dump again when that is mended")
    }
  }

  private func put(_ batch: Batch, into store: any EntityStore) async throws {
    if let driver = self.driver, !batch.entities.isEmpty {
      var changes: [Mapping.Change] = []
      for entity in batch.entities {
        let scope = Self.scope(of: entity.key)
        changes.append(
          try Mapping.change(
            DatastoreV1.Mutation(operation: .upsert(entity)),
            in: EntityCodec.Scope(project: scope.project, database: scope.database),
            policy: self.policy))
      }
      _ = try await driver.commit(changes, dependencies: TransactionTable.Dependencies())
    }
    if batch.keys.isEmpty { return }
    var addresses: [EntityAddress] = []
    for key in batch.keys {
      let scope = Self.scope(of: key)
      addresses.append(
        try EntityCodec.key(
          key, in: EntityCodec.Scope(project: scope.project, database: scope.database)
        ).address)
    }
    try await store.reserve(addresses)
  }

  private func put(_ batch: Batch, into google: GoogleDatastore) async throws {
    let address = google.configuration.address
    if !batch.entities.isEmpty {
      _ = try await google.client.commit(
        DatastoreV1.CommitRequest(
          projectID: address.project, databaseID: address.database, mode: .nonTransactional,
          mutations: batch.entities.map { DatastoreV1.Mutation(operation: .upsert($0)) }),
        options: google.options)
    }
    if !batch.keys.isEmpty {
      _ = try await google.client.reserveIds(
        DatastoreV1.ReserveIdsRequest(
          projectID: address.project, databaseID: address.database, keys: batch.keys),
        options: google.options)
    }
  }
}
