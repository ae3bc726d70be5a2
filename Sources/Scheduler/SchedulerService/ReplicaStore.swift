import BuildProtos
import Domain
import RPC
import SchedulerCore

/// The schedulers' sessions and the table of partitions in the datastore: an entity of kind
/// `Scheduler` for each session, and one of kind `SchedulerPartitions`.
struct ReplicaStore: Sendable {
  /// What became of a write.
  enum WriteEnd: Sendable {
    case done(version: Int64)
    /// What it was built on is no more; nothing was written.
    case conflict
    /// There is no session of the writer's; nothing was written.
    case fenced
    /// Nobody knows; why.
    case unknown(String)
  }

  static let sessionKind = "Scheduler"
  static let tableKind = "SchedulerPartitions"

  private static let tableName = "table"

  private let client: DatastoreV1.DatastoreClient
  /// Of each call: below the time after which others lose patience, so that there is a second try.
  private let timeout: Duration
  private let project: String
  private let partition: DatastoreV1.PartitionId

  init(
    client: DatastoreV1.DatastoreClient, configuration: Configuration,
    timeout: Duration = .seconds(1)
  ) {
    self.client = client
    self.timeout = timeout
    self.project = configuration.datastoreProject
    self.partition = DatastoreV1.PartitionId(
      projectID: configuration.datastoreProject, namespaceID: configuration.datastoreNamespace)
  }

  // MARK: Writing

  /// A part of a commit that fails it as NOT_FOUND if a session is not there, and changes nothing
  /// if it is.
  func assertion(_ session: ReplicaID) -> DatastoreV1.Mutation {
    DatastoreV1.Mutation(
      operation: .update(DatastoreV1.Entity(key: self.key(session))),
      propertyMask: DatastoreV1.PropertyMask(paths: ["__key__"]))
  }

  /// Stores a session that is new, on condition that the table is as it is now: whoever removes a
  /// session changes the table, so a copy of this that comes late, when the session has been removed,
  /// does not bring it back.
  func join(_ replica: Membership.Replica) async -> WriteEnd {
    do {
      let (table, version) = try await self.lookUpTable()
      return await self.join(replica, over: table, version)
    } catch {
      return .unknown("\(error)")
    }
  }

  /// Stored again as it is, the table keeps its version.
  func join(
    _ replica: Membership.Replica, over table: PartitionTable, _ version: Int64
  ) async -> WriteEnd {
    await self.write([
      DatastoreV1.Mutation(operation: .upsert(self.entity(replica))),
      self.put(table, over: version),
    ])
  }

  private func put(_ table: PartitionTable, over version: Int64) -> DatastoreV1.Mutation {
    DatastoreV1.Mutation(
      operation: .upsert(self.entity(table)), conflictDetectionStrategy: .baseVersion(version),
      conflictResolutionStrategy: .fail)
  }

  func renew(_ replica: Membership.Replica) async -> WriteEnd {
    await self.write([DatastoreV1.Mutation(operation: .update(self.entity(replica)))])
  }

  func leave(_ session: ReplicaID) async -> WriteEnd {
    await self.write([DatastoreV1.Mutation(operation: .delete(self.key(session)))])
  }

  func change(_ change: Membership.Change, as session: ReplicaID) async -> WriteEnd {
    let removals = change.removed.map { sighting in
      DatastoreV1.Mutation(
        operation: .delete(self.key(sighting.replica.id)),
        conflictDetectionStrategy: .baseVersion(sighting.version),
        conflictResolutionStrategy: .fail)
    }
    // A deletion alone would not mind if it were not there.
    let succession = change.successor.map { successor in
      [
        DatastoreV1.Mutation(operation: .delete(self.key(session))),
        DatastoreV1.Mutation(operation: .upsert(self.entity(successor))),
      ]
    }
    return await self.write(
      [self.assertion(session)] + (succession ?? []) + removals
        + [self.put(change.table, over: change.base)])
  }

  /// The version is that of the last mutation's entity.
  private func write(_ mutations: [DatastoreV1.Mutation]) async -> WriteEnd {
    do {
      let response = try await self.client.commit(
        .together(mutations, in: self.project), options: CallOptions(timeout: self.timeout))
      guard let version = response.mutationResults.last?.version else {
        return .unknown("a commit was answered without results")
      }
      return .done(version: version)
    } catch let error as RPCError {
      switch error.code {
      case .notFound: return .fenced
      case .failedPrecondition, .aborted, .alreadyExists: return .conflict
      case .invalidArgument where error.meansOlderStore: return .conflict
      default: return .unknown(error.message)
      }
    } catch {
      return .unknown("\(error)")
    }
  }

  // MARK: Reading

  /// The table and the version of its entity; 0 where there is none.
  func lookUpTable() async throws -> (table: PartitionTable, version: Int64) {
    let response = try await self.client.lookup(
      DatastoreV1.LookupRequest(projectID: self.project, keys: [self.tableKey]),
      options: CallOptions(timeout: self.timeout))
    guard response.deferred.isEmpty else {
      throw RPCError(.unavailable, "the datastore put off the lookup of the partitions")
    }
    guard let found = response.found.first, let entity = found.entity else {
      return (PartitionTable(), 0)
    }
    return (try Self.table(entity), found.version)
  }

  func look() async throws -> Membership.View {
    // The table first: see ``Membership/View``.
    let (table, version) = try await self.lookUpTable()
    let sessions = try await self.client.runQuery(
      DatastoreV1.RunQueryRequest(
        projectID: self.project, partitionID: self.partition,
        queryType: .query(
          DatastoreV1.Query(kind: [DatastoreV1.KindExpression(name: Self.sessionKind)]))),
      options: CallOptions(timeout: self.timeout))
    return Membership.View(
      table: table, version: version,
      replicas: (sessions.batch?.entityResults ?? []).compactMap { result in
        result.entity.flatMap { Self.replica($0) }.map {
          Membership.Sighting(replica: $0, version: result.version)
        }
      })
  }

  // MARK: Entities

  private var tableKey: DatastoreV1.Key { self.key(Self.tableKind, Self.tableName) }

  private func key(_ session: ReplicaID) -> DatastoreV1.Key {
    self.key(Self.sessionKind, session.rawValue)
  }

  private func key(_ kind: String, _ name: String) -> DatastoreV1.Key {
    DatastoreV1.Key(
      partitionID: self.partition,
      path: [DatastoreV1.Key.PathElement(kind: kind, idType: .name(name))])
  }

  private func entity(_ replica: Membership.Replica) -> DatastoreV1.Entity {
    DatastoreV1.Entity(
      key: self.key(replica.id),
      properties: [
        "address": Self.plain(.stringValue(replica.address)),
        "beat": Self.plain(.integerValue(replica.beat)),
        "leaving": Self.plain(.booleanValue(replica.isLeaving)),
      ])
  }

  /// Nil for what is no session.
  private static func replica(_ entity: DatastoreV1.Entity) -> Membership.Replica? {
    guard case .name(let name)? = entity.key?.path.last?.idType,
      case .stringValue(let address)? = entity.properties["address"]?.valueType,
      case .integerValue(let beat)? = entity.properties["beat"]?.valueType
    else { return nil }
    var replica = Membership.Replica(id: ReplicaID(name), address: address)
    replica.beat = beat
    replica.isLeaving = entity.properties["leaving"]?.valueType == .booleanValue(true)
    return replica
  }

  private func entity(_ table: PartitionTable) -> DatastoreV1.Entity {
    func list(_ values: [DatastoreV1.Value.ValueType]) -> DatastoreV1.Value {
      DatastoreV1.Value(
        valueType: .arrayValue(DatastoreV1.ArrayValue(values: values.map { Self.plain($0) })))
    }
    return DatastoreV1.Entity(
      key: self.tableKey,
      properties: [
        "owners": list(
          Partition.all.map { .stringValue(table[$0].owner?.rawValue ?? "") }),
        "epochs": list(Partition.all.map { .integerValue(table[$0].epoch) }),
      ])
  }

  private static func table(_ entity: DatastoreV1.Entity) throws(UnreadableRecord) -> PartitionTable
  {
    guard case .arrayValue(let owners)? = entity.properties["owners"]?.valueType,
      case .arrayValue(let epochs)? = entity.properties["epochs"]?.valueType,
      owners.values.count == Partition.count, epochs.values.count == Partition.count
    else {
      throw UnreadableRecord(description: "the table of partitions has not \(Partition.count) rows")
    }
    var table = PartitionTable()
    for partition in Partition.all {
      guard case .stringValue(let owner)? = owners.values[partition.number].valueType,
        case .integerValue(let epoch)? = epochs.values[partition.number].valueType
      else {
        throw UnreadableRecord(description: "the table's row of partition \(partition) is damaged")
      }
      table[partition] = PartitionTable.Place(
        owner: owner.isEmpty ? nil : ReplicaID(owner), epoch: epoch)
    }
    return table
  }

  private static func plain(_ value: DatastoreV1.Value.ValueType) -> DatastoreV1.Value {
    DatastoreV1.Value(valueType: value, excludeFromIndexes: true)
  }
}

extension DatastoreV1.CommitRequest {
  /// All of these or none.
  static func together(_ mutations: [DatastoreV1.Mutation], in project: String) -> Self {
    Self(
      projectID: project, mode: .transactional,
      transactionSelector: .singleUseTransaction(DatastoreV1.TransactionOptions()),
      mutations: mutations)
  }
}
