import BuildProtos
import DequeModule
import Domain
import DomainMapping
import NIOCore
import RPC
import SchedulerCore

/// The builds' records in the datastore: an entity of kind `Build` for each, named for the build.
///
/// Writes are gathered: while commits are under way, what comes next goes out together. Each
/// mutation carries the version that it builds on, so a record that another has changed is left as
/// it is, and only that one write is told so. Each commit also holds only while the session is there
/// that this scheduler had when it made the writes: what a scheduler writes that others have given up
/// comes to nothing.
///
/// `@unchecked Sendable`: ``writes`` and ``commitsUnderWay`` are touched on the loop only.
final class BuildStore: @unchecked Sendable {
  /// A record that was read.
  enum Reading: Sendable {
    case found(StoredBuild)
    case missing
    case unreadable(String)
  }

  /// One page of a list.
  struct Page: Sendable {
    var builds: [BuildRecord]
    /// Where the next one begins; empty behind the last.
    var cursor: [UInt8]
  }

  private struct Write {
    /// As whom it was made: what waits when others give that one up comes to nothing, though this
    /// scheduler may be another one by then.
    var session: ReplicaID?
    var mutation: DatastoreV1.Mutation
    var bytes: Int
    var completion: @Sendable (WriteResult) -> Void
  }

  static let kind = "Build"
  /// Of a build that is active: its partition, which its next owner looks for, and in its lower bits when it
  /// was submitted. So what comes together stands together in the index, and few of its pages change.
  static let activeProperty = "activeAt"
  private static let activeTimeBits: Int64 = 48
  /// What earlier versions wrote instead: the partition alone, and before that only that it is active.
  private static let earlierPartitionProperty = "activeIn"
  private static let earlierActiveProperty = "active"
  /// When a build was submitted that is not finished.
  private static let unfinishedProperty = "unfinishedSince"
  /// A record may take what one unindexed value of an entity may (Datastore's limit is 1,048,487
  /// bytes), with room for the entity's other properties.
  static let maximumRecordBytes = 1_000_000
  /// A new build may take half of that: attempts and their steps come on top.
  static let maximumNewRecordBytes = 500_000

  private static let timeout = Duration.seconds(10)
  /// In one commit; Google's own limit is 500 mutations and 10 MiB, a message here has 4 MiB.
  private static let maximumMutations = 400
  private static let maximumCommitBytes = 2 << 20
  /// One commit is being written to the disk while the next is on its way. With more of them each
  /// carried less, and cost as much.
  private static let maximumCommits = 2
  /// Records in one page of a scan: a page must stay below a message's size.
  private static let scanPage: Int32 = 500

  /// Whose writes these are. To be set, on the loop, before the first one.
  var session: ReplicaID?
  /// Called on the loop when a commit met no session.
  var fenced: @Sendable (ReplicaID) -> Void = { _ in }

  private let client: DatastoreV1.DatastoreClient
  private let loop: any EventLoop
  private let executor: any TaskExecutor
  private let project: String
  private let partition: DatastoreV1.PartitionId
  private let replicas: ReplicaStore
  private var writes = Deque<Write>()
  private var commitsUnderWay = 0
  private var isFlushPlanned = false

  init(
    client: DatastoreV1.DatastoreClient, replicas: ReplicaStore, loop: any EventLoop,
    configuration: Configuration
  ) {
    self.client = client
    self.replicas = replicas
    self.loop = loop
    self.executor = loop.callExecutor
    self.project = configuration.datastoreProject
    self.partition = DatastoreV1.PartitionId(
      projectID: configuration.datastoreProject, namespaceID: configuration.datastoreNamespace)
  }

  // MARK: Writing, on the loop

  /// Writes a record if the stored version is still `base`; nil: if there is none. `completion` is
  /// called on the loop.
  func write(
    _ record: BuildRecord, base: Int64?, then completion: @escaping @Sendable (WriteResult) -> Void
  ) {
    self.loop.assertInEventLoop()
    let bytes = Self.encode(record)
    let limit = base == nil ? Self.maximumNewRecordBytes : Self.maximumRecordBytes
    guard bytes.count <= limit else {
      completion(
        .refused(
          "the record of build \(record.id) takes \(bytes.count) bytes, more than \(limit): "
            + (base == nil
              ? "its pipeline has too many jobs or too much text"
              : "its jobs were tried too often, or their runners told too much")))
      return
    }
    var entity = DatastoreV1.Entity(
      key: self.key(record.id),
      properties: [
        "record": DatastoreV1.Value(valueType: .blobValue(bytes), excludeFromIndexes: true),
        "project": DatastoreV1.Value(valueType: .stringValue(record.project.rawValue)),
        "created": DatastoreV1.Value(
          valueType: .timestampValue(GoogleProtobuf.Timestamp(record.createdAt))),
      ])
    // What nobody looks for has no row in an index: most records are of builds that are over.
    if record.state != .finished {
      entity.properties[Self.unfinishedProperty] = DatastoreV1.Value(
        valueType: .timestampValue(GoogleProtobuf.Timestamp(record.createdAt)))
    }
    if record.isActive {
      let place =
        Self.activeRange(of: Partition(of: record.project)).lowerBound
        + min(max(record.createdAt.microseconds / 1_000, 0), (1 << Self.activeTimeBits) - 1)
      entity.properties[Self.activeProperty] = DatastoreV1.Value(valueType: .integerValue(place))
    }
    self.writes.append(
      Write(
        session: self.session,
        mutation: DatastoreV1.Mutation(
          operation: .upsert(entity), conflictDetectionStrategy: .baseVersion(base ?? 0),
          conflictResolutionStrategy: .serverValue),
        bytes: bytes.count + 512, completion: completion))
    self.planFlush()
  }

  /// A long-lived build gathers attempts; their details are given up before the record is.
  private static func encode(_ record: BuildRecord) -> [UInt8] {
    let bytes = SchedulerV1.BuildRecord(record).encoded()
    guard bytes.count > self.maximumRecordBytes else { return bytes }
    var shorter = record
    for job in shorter.jobs.indices {
      // The last attempt is what people look at.
      for attempt in shorter.jobs[job].attempts.indices.dropLast()
      where !shorter.jobs[job].attempts[attempt].isHeld {
        shorter.jobs[job].attempts[attempt].steps = []
        shorter.jobs[job].attempts[attempt].artifacts = []
        shorter.jobs[job].attempts[attempt].message = ""
        shorter.jobs[job].attempts[attempt].usage = nil
      }
    }
    let fewer = SchedulerV1.BuildRecord(shorter).encoded()
    guard fewer.count > self.maximumRecordBytes else { return fewer }
    for job in shorter.jobs.indices {
      for attempt in shorter.jobs[job].attempts.indices {
        shorter.jobs[job].attempts[attempt].steps = []
      }
    }
    return SchedulerV1.BuildRecord(shorter).encoded()
  }

  /// At the end of this turn of the loop: what the turn writes goes out together.
  private func planFlush() {
    guard !self.isFlushPlanned, self.commitsUnderWay < Self.maximumCommits else { return }
    self.isFlushPlanned = true
    self.loop.execute {
      self.isFlushPlanned = false
      self.flush()
    }
  }

  private func flush() {
    while self.commitsUnderWay < Self.maximumCommits, !self.writes.isEmpty {
      var batch: [Write] = []
      var bytes = 0
      let session = self.writes.first?.session
      while let next = self.writes.first, next.session == session,
        batch.count < Self.maximumMutations,
        batch.isEmpty || bytes + next.bytes <= Self.maximumCommitBytes
      {
        batch.append(next)
        bytes += next.bytes
        self.writes.removeFirst()
      }
      self.commit(batch, as: session)
    }
  }

  private func commit(_ batch: [Write], as session: ReplicaID?) {
    self.commitsUnderWay += 1
    // Unstructured: each commit ends by its timeout, and its results are due whoever waits.
    Task.immediate(executorPreference: self.executor) {
      let results = await self.results(of: batch, as: session)
      self.loop.assertInEventLoop()
      self.commitsUnderWay -= 1
      for (write, result) in zip(batch, results) { write.completion(result) }
      if !self.writes.isEmpty { self.planFlush() }
    }
  }

  private func results(of batch: [Write], as session: ReplicaID?) async -> [WriteResult] {
    guard let session else { return batch.map { _ in .unknown("this scheduler has no session") } }
    do {
      let response = try await self.client.commit(
        .together(
          [self.replicas.assertion(session)] + batch.map(\.mutation), in: self.project),
        options: CallOptions(timeout: Self.timeout))
      let results = response.mutationResults.dropFirst()
      guard results.count == batch.count else {
        let why = "\(batch.count) writes were answered by \(results.count) results"
        return batch.map { _ in .unknown(why) }
      }
      return results.map { result in
        result.conflictDetected ? .conflict : .committed(version: result.version)
      }
    } catch let error as RPCError where error.code == .invalidArgument {
      guard batch.count > 1 else {
        return [error.meansOlderStore ? .conflict : .refused(error.message)]
      }
      // One of them is to blame, and the others must not suffer for it.
      var results: [WriteResult] = []
      for write in batch { results += await self.results(of: [write], as: session) }
      return results
    } catch let error as RPCError where error.code == .notFound {
      self.fenced(session)
      return batch.map { _ in .unknown("others have given this scheduler up") }
    } catch {
      let why = (error as? RPCError)?.message ?? "\(error)"
      return batch.map { _ in .unknown(why) }
    }
  }

  // MARK: Reading, from anywhere

  func load(_ build: BuildID) async throws -> Reading {
    let response: DatastoreV1.LookupResponse
    do {
      response = try await self.client.lookup(
        DatastoreV1.LookupRequest(projectID: self.project, keys: [self.key(build)]),
        options: CallOptions(timeout: Self.timeout))
    } catch let error as RPCError where error.code == .invalidArgument {
      // What the store refuses as a key is the name of no build.
      return .missing
    }
    guard response.deferred.isEmpty else {
      throw RPCError(.unavailable, "the datastore put off the lookup of build \(build)")
    }
    return response.found.first.map { Self.reading($0) } ?? .missing
  }

  /// Gives every record of an active build of a partition to `body`, page by page; some of them twice.
  func scanActive(
    of partition: Partition, _ body: ([(id: BuildID, reading: Reading)]) async -> Void
  ) async throws {
    let range = Self.activeRange(of: partition)
    try await self.scan(
      [
        Self.condition(Self.activeProperty, .greaterThanOrEqual, .integerValue(range.lowerBound)),
        Self.condition(Self.activeProperty, .lessThan, .integerValue(range.upperBound)),
      ], body)
    let number = DatastoreV1.Value.ValueType.integerValue(Int64(partition.number))
    try await self.scan([Self.condition(Self.earlierPartitionProperty, .equal, number)], body)
  }

  /// Gives every record of an active build to `body`, page by page; some of them twice.
  func scanActive(_ body: ([(id: BuildID, reading: Reading)]) async -> Void) async throws {
    try await self.scan(
      [Self.condition(Self.activeProperty, .greaterThanOrEqual, .integerValue(0))], body)
    try await self.scan(
      [Self.condition(Self.earlierActiveProperty, .equal, .booleanValue(true))], body)
  }

  private static func activeRange(of partition: Partition) -> Range<Int64> {
    let number = Int64(partition.number)
    return number << self.activeTimeBits..<(number + 1) << self.activeTimeBits
  }

  private struct ScannedPage: Sendable {
    var builds: [(id: BuildID, reading: Reading)]
    /// Empty behind the last.
    var cursor: [UInt8]
  }

  /// The next page is on its way while `body` has one.
  private func scan(
    _ conditions: [DatastoreV1.Filter],
    _ body: ([(id: BuildID, reading: Reading)]) async -> Void
  ) async throws {
    var page = try await self.page(conditions, cursor: [])
    while !page.cursor.isEmpty {
      let cursor = page.cursor
      async let next = self.page(conditions, cursor: cursor)
      await body(page.builds)
      page = try await next
    }
    await body(page.builds)
  }

  private func page(
    _ conditions: [DatastoreV1.Filter], cursor: [UInt8]
  ) async throws -> ScannedPage {
    let batch = try await self.run(
      conditions, order: [], limit: Self.scanPage, cursor: cursor)
    let isLast = batch.moreResults == .noMoreResults || batch.entityResults.isEmpty
    // Elsewhere than on the loop, which has enough to do with what is read.
    let builds = await withTaskExecutorPreference(globalConcurrentExecutor) {
      batch.entityResults.map { (Self.id(of: $0), Self.reading($0)) }
    }
    return ScannedPage(builds: builds, cursor: isLast ? [] : batch.endCursor)
  }

  /// Newest first.
  ///
  /// - Parameters:
  ///   - project: Nil: all of them.
  ///   - unfinished: Only builds that are not finished.
  func list(
    project: ProjectID?, unfinished: Bool, limit: Int32, cursor: [UInt8]
  ) async throws -> Page {
    var conditions: [DatastoreV1.Filter] = []
    if let project {
      conditions.append(Self.condition("project", .equal, .stringValue(project.rawValue)))
    }
    // Only what is not finished has a place in this order.
    let order = DatastoreV1.PropertyOrder(
      property: DatastoreV1.PropertyReference(
        name: unfinished ? Self.unfinishedProperty : "created"), direction: .descending)
    let batch = try await self.run(
      conditions, order: [order], limit: limit, cursor: cursor)
    let builds = batch.entityResults.compactMap { result -> BuildRecord? in
      guard case .found(let stored) = Self.reading(result) else { return nil }
      return stored.record
    }
    let isLast = batch.moreResults == .noMoreResults || batch.entityResults.isEmpty
    return Page(builds: builds, cursor: isLast ? [] : batch.endCursor)
  }

  private static func condition(
    _ property: String, _ op: DatastoreV1.PropertyFilter.Operator,
    _ value: DatastoreV1.Value.ValueType
  ) -> DatastoreV1.Filter {
    DatastoreV1.Filter(
      filterType: .propertyFilter(
        DatastoreV1.PropertyFilter(
          property: DatastoreV1.PropertyReference(name: property), op: op,
          value: DatastoreV1.Value(valueType: value))))
  }

  private func run(
    _ conditions: [DatastoreV1.Filter], order: [DatastoreV1.PropertyOrder], limit: Int32,
    cursor: [UInt8]
  ) async throws -> DatastoreV1.QueryResultBatch {
    var query = DatastoreV1.Query(
      kind: [DatastoreV1.KindExpression(name: Self.kind)], order: order, startCursor: cursor,
      limit: GoogleProtobuf.Int32Value(value: limit))
    if conditions.count == 1 {
      query.filter = conditions[0]
    } else if conditions.count > 1 {
      query.filter = DatastoreV1.Filter(
        filterType: .compositeFilter(DatastoreV1.CompositeFilter(op: .and, filters: conditions)))
    }
    let response = try await self.client.runQuery(
      DatastoreV1.RunQueryRequest(
        projectID: self.project, partitionID: self.partition, queryType: .query(query)),
      options: CallOptions(timeout: Self.timeout))
    guard let batch = response.batch else {
      throw RPCError(.internalError, "the datastore answered a query without a batch")
    }
    return batch
  }

  // MARK: Entities

  private func key(_ build: BuildID) -> DatastoreV1.Key {
    DatastoreV1.Key(
      partitionID: self.partition,
      path: [DatastoreV1.Key.PathElement(kind: Self.kind, idType: .name(build.rawValue))])
  }

  private static func id(of result: DatastoreV1.EntityResult) -> BuildID {
    guard case .name(let name)? = result.entity?.key?.path.last?.idType else { return "" }
    return BuildID(name)
  }

  private static func reading(_ result: DatastoreV1.EntityResult) -> Reading {
    guard case .blobValue(let bytes)? = result.entity?.properties["record"]?.valueType else {
      return .unreadable("its entity has no record")
    }
    do {
      let message = try SchedulerV1.BuildRecord(decoding: bytes)
      let record = try BuildRecord(message)
      let isOutdated =
        record.isActive && result.entity?.properties[Self.activeProperty] == nil
      return .found(
        StoredBuild(record: record, version: result.version, isOutdated: isOutdated))
    } catch {
      return .unreadable("\(error)")
    }
  }
}

extension RPCError {
  /// Whether a write was refused because what is stored has a smaller version than it builds on, as in a store that
  /// was put back to an earlier state: Google's Datastore and our gateway say so in these words.
  var meansOlderStore: Bool {
    self.code == .invalidArgument && self.message.contains("greater than the stored version")
  }
}
