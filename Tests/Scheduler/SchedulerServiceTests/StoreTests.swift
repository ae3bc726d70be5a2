import BuildProtos
import Domain
import NIOCore
import NIOPosix
import RPC
import SchedulerCore
import ServiceRuntime
import Testing

@testable import SchedulerService

/// A build that has all there is to have.
func richRecord(_ id: BuildID = "b") -> BuildRecord {
  let pipeline = Pipeline(
    name: "all", environment: ["A": "1"],
    concurrency: Pipeline.Concurrency(group: "g-${{ env.A }}", cancelInProgress: true),
    jobs: [
      Pipeline.Job(
        key: "a", needs: [], pool: "big", failFast: false, maximumParallel: 2,
        environment: ["B": "2"], timeout: .seconds(90),
        retry: Pipeline.Retry(limit: 2, outcomes: [.failed, .outOfMemory]),
        condition: "always()",
        steps: [
          Pipeline.Step(
            id: "s", name: "make", action: .run("make"), environment: ["C": "3"],
            condition: "success()", continueOnError: true, timeout: .milliseconds(1_500),
            workingDirectory: "src", shell: "sh -e"),
          Pipeline.Step(action: .uses("artifacts"), inputs: ["path": "x"]),
        ]), Pipeline.Job(key: "b", needs: ["a"], steps: [Pipeline.Step(action: .run("true"))]),
    ],
    notifications: [
      Pipeline.Notification(uses: "webhook", inputs: ["url": "u"], onSuccess: false)
    ])
  var job = JobRecord(
    Pipeline.Leg(
      id: "a (x)", name: "A x", plan: 0,
      matrix: Pipeline.Combination([.init(name: "v", value: "x")]), labels: ["gpu"],
      resources: Resources(cpuMillis: 500, memory: .mebibytes(64))))
  job.state = .finished
  job.outcome = .failed
  job.message = "no"
  job.earlierAttempts = 1
  for number in 1...2 {
    var attempt = AttemptRecord(
      id: AttemptID("\(id)/a (x)/\(number)"), number: Int32(number), executor: "e", address: "h:1",
      lease: LeaseID("l\(number)"), token: FencingToken(Int64(number)),
      startedAt: Timestamp(microseconds: 5))
    attempt.outcome = .failed
    attempt.message = "exit code 1"
    attempt.finishedAt = Timestamp(microseconds: 1_000_007)
    attempt.usage = Usage(
      cpuTime: .microseconds(3), peakMemory: ByteCount(4), wallTime: .microseconds(5))
    var step = StepRecord(index: 0, id: "s", name: "make", state: .finished)
    step.outcome = .failed
    step.exitCode = 1
    step.signal = 0
    step.startedAt = Timestamp(microseconds: 6)
    step.finishedAt = Timestamp(microseconds: 7)
    step.usage = attempt.usage
    step.logStart = 1
    step.logEnd = 99
    attempt.steps = [step]
    attempt.artifacts = [
      Artifact(name: "x", path: "out/x", digest: Digest(hash: "00", size: 3), mode: 0o755)
    ]
    attempt.isHeld = number == 2
    job.attempts.append(attempt)
  }
  var record = BuildRecord(
    id: id, project: "p/q", name: "all", createdAt: Timestamp(microseconds: 1_234_567),
    source: .git(url: "u", revision: "main"), priority: -3, annotations: ["branch": "main"],
    environment: ["A": "0"], pipeline: pipeline,
    jobs: [
      job,
      JobRecord(
        Pipeline.Leg(
          id: "b", name: "b", plan: 1, matrix: Pipeline.Combination([]), labels: [],
          resources: Resources(cpuMillis: 1_000, memory: .gibibytes(1)))),
    ], owner: "me")
  record.state = .running
  record.startedAt = Timestamp(microseconds: 1_234_568)
  record.revision = 2_048
  record.round = 1
  var notification = NotificationRecord(id: "b-0-1", plan: 0)
  notification.state = .dead
  notification.attempts = 3
  notification.message = "410"
  record.notifications = [notification]
  record.isShortened = true
  return record
}

@Test func aRecordComesBackAsItWasStored() throws {
  let record = richRecord()
  #expect(record.group == "g-1")
  let bytes = SchedulerV1.BuildRecord(record).encoded()
  #expect(try BuildRecord(SchedulerV1.BuildRecord(decoding: bytes)) == record)
}

/// What can be wrong with a record.
enum Damage: CaseIterable, Sendable {
  case newerFormat, noBuild, noPipeline, noPlans, strayPlan, strayNotification, unknownState

  func spoil(_ record: inout SchedulerV1.BuildRecord) {
    switch self {
    case .newerFormat: record.format = 2
    case .noBuild: record.build = nil
    case .noPipeline: record.pipeline = nil
    case .noPlans: record.plans = []
    case .strayPlan: record.plans = [7, 7]
    case .strayNotification: record.notificationPlans = [1]
    case .unknownState: record.build?.state = .unrecognized(99)
    }
  }
}

@Test(arguments: Damage.allCases)
func aRecordThatIsNotUnderstoodIsRefused(_ damage: Damage) {
  var record = SchedulerV1.BuildRecord(richRecord())
  damage.spoil(&record)
  #expect(throws: UnreadableRecord.self) { try BuildRecord(record) }
}

/// However slow the machine is: what a call comes to is what a test is about.
private func patientStore(
  _ client: DatastoreV1.DatastoreClient, _ configuration: Configuration
) -> ReplicaStore {
  ReplicaStore(client: client, configuration: configuration, timeout: .seconds(40))
}

extension ReplicaStore {
  fileprivate func surelyJoin(_ replica: Membership.Replica) async throws {
    guard case .done = await self.join(replica) else {
      throw RPCError(.internalError, "\(replica.id) cannot join")
    }
  }
}

@Suite(.timeLimit(.minutes(1))) struct StoreTests {
  @Test func whatIsWrittenWithoutASessionComesToNothing() async throws {
    try await World.with { world in
      let client = world.gateway
      let configuration = try Configuration(SettingValues(Configuration.settings))
      let replicas = patientStore(client, configuration)
      let one = Membership.Replica(id: "one", address: "one:1")
      let two = Membership.Replica(id: "two", address: "two:1")
      for replica in [one, two] { try await replicas.surelyJoin(replica) }
      let loop = MultiThreadedEventLoopGroup.singleton.next()
      let store = BuildStore(
        client: client, replicas: replicas, loop: loop, configuration: configuration)
      let fenced = Arrivals<ReplicaID>()
      func write(_ id: BuildID) async -> WriteResult {
        await withCheckedContinuation { continuation in
          loop.execute {
            store.session = one.id
            store.fenced = { fenced.add($0) }
            store.write(richRecord(id), base: nil) { continuation.resume(returning: $0) }
          }
        }
      }
      guard case .committed = await write("before") else {
        throw RPCError(.internalError, "a write with a session does not hold")
      }
      // Seen, and then seen to have changed: it lives, and cannot be removed.
      var view = try await replicas.look()
      #expect(view.replicas.map(\.replica) == [one, two])
      // Sessions come and the table stays as it is, and its version too.
      let base = view.version
      #expect(!view.table.hasOwners && base > 0)
      var renewed = one
      renewed.beat = 1
      guard case .done = await replicas.renew(renewed) else {
        throw RPCError(.internalError, "a session cannot be renewed")
      }
      var table = PartitionTable()
      for partition in Partition.all { table.give(partition, to: two.id) }
      let stale = Membership.Change(
        table: table, base: base, removed: view.replicas.filter { $0.replica.id == one.id })
      guard case .conflict = await replicas.change(stale, as: two.id) else {
        throw RPCError(.internalError, "a session that was renewed is removed")
      }
      view = try await replicas.look()
      let change = Membership.Change(
        table: table, base: base, removed: view.replicas.filter { $0.replica.id == one.id })
      guard case .done(let version) = await replicas.change(change, as: two.id) else {
        throw RPCError(.internalError, "a silent session is not removed")
      }
      let end = try await replicas.look()
      #expect(end.table == table && end.version == version)
      #expect(end.replicas.map(\.replica) == [two])
      // A copy of its first message does not bring it back.
      let copy = await replicas.join(one, over: view.table, base)
      guard case .conflict = copy else {
        throw RPCError(.internalError, "a session that was removed is back: \(copy)")
      }
      #expect(try await replicas.look().replicas.map(\.replica) == [two])
      // A new build and a change alike.
      guard case .unknown = await write("after") else {
        throw RPCError(.internalError, "a write without a session holds")
      }
      #expect(try await fenced.next() == one.id)
      guard case .missing = try await store.load("after") else {
        throw RPCError(.internalError, "a write without a session is stored")
      }
      guard case .fenced = await replicas.renew(renewed) else {
        throw RPCError(.internalError, "a session that was removed is renewed")
      }
      guard case .fenced = await replicas.change(change, as: one.id) else {
        throw RPCError(.internalError, "who has no session changes owners")
      }
    }
  }

  /// Two lives of one scheduler, whose writes go out in one turn of the loop.
  @Test func whatWaitsWhenItsSessionEndsComesToNothing() async throws {
    try await World.with { world in
      let client = world.gateway
      let configuration = try Configuration(SettingValues(Configuration.settings))
      let replicas = patientStore(client, configuration)
      try await replicas.surelyJoin(Membership.Replica(id: "new", address: "here:1"))
      let loop = MultiThreadedEventLoopGroup.singleton.next()
      let store = BuildStore(
        client: client, replicas: replicas, loop: loop, configuration: configuration)
      let (fenced, results) = (Arrivals<ReplicaID>(), Arrivals<(String, WriteResult)>())
      loop.execute {
        store.fenced = { fenced.add($0) }
        for session in ["old", "new", "old"] as [ReplicaID] {
          store.session = session
          store.write(richRecord(BuildID("\(session)")), base: nil) {
            results.add(("\(session)", $0))
          }
        }
      }
      for _ in 0..<3 {
        switch try await results.next() {
        case ("new", .committed), ("old", .unknown): break
        case (let session, let result): Issue.record("\(session): \(result)")
        }
      }
      #expect(try await fenced.next() == "old")
      guard case .missing = try await store.load("old") else {
        throw RPCError(.internalError, "a write is stored whose session is over")
      }
    }
  }

  @Test func aSessionEndsWithTheChangeThatFollowsIt() async throws {
    try await World.with { world in
      let replicas = patientStore(
        world.gateway, try Configuration(SettingValues(Configuration.settings)))
      let old = Membership.Replica(id: "old", address: "here:1")
      let new = Membership.Replica(id: "new", address: "here:1")
      try await replicas.surelyJoin(old)
      var table = PartitionTable()
      for partition in Partition.all { table.give(partition, to: new.id) }
      let base = try await replicas.look().version
      var change = Membership.Change(table: table, base: base, removed: [])
      change.successor = new
      guard case .done = await replicas.change(change, as: old.id) else {
        throw RPCError(.internalError, "a session is not succeeded")
      }
      let view = try await replicas.look()
      #expect(view.table == table && view.replicas.map(\.replica) == [new])
      // Once more, as a message that comes late: it takes nothing from the new one.
      guard case .fenced = await replicas.change(change, as: old.id) else {
        throw RPCError(.internalError, "a session ends twice")
      }
    }
  }

  private func withStore(
    _ body: (
      BuildStore, @escaping @Sendable (BuildRecord, Int64?) async -> WriteResult,
      DatastoreV1.DatastoreClient
    ) async throws -> Void
  ) async throws {
    try await World.with { world in
      let loop = MultiThreadedEventLoopGroup.singleton.next()
      let channel = RPCChannel(to: world.folder.socket("gateway"), group: loop)
      let client = DatastoreV1.DatastoreClient(channel)
      let configuration = try Configuration(
        SettingValues(Configuration.settings, values: ["datastore-namespace": "n"]))
      let replicas = patientStore(client, configuration)
      let store = BuildStore(
        client: client, replicas: replicas, loop: loop, configuration: configuration)
      let session = Membership.Replica(id: "me", address: "here:1")
      try await replicas.surelyJoin(session)
      loop.execute { store.session = session.id }
      let write: @Sendable (BuildRecord, Int64?) async -> WriteResult = { record, base in
        await withCheckedContinuation { continuation in
          loop.execute {
            store.write(record, base: base) { continuation.resume(returning: $0) }
          }
        }
      }
      try await body(store, write, client)
      await channel.close()
    }
  }

  @Test func aWriteOnAnotherVersionIsAConflictAndItsNeighboursAreNot() async throws {
    try await self.withStore { store, write, _ in
      guard case .committed(let version) = await write(richRecord("b0"), nil) else {
        Issue.record("the first write was not committed")
        return
      }
      let results = await withTaskGroup(of: (String, WriteResult).self) { group in
        for number in 0..<50 {
          let id = "b\(number)"
          let record = richRecord(BuildID(id))
          group.addTask { (id, await write(record, nil)) }
        }
        return await group.reduce(into: [:]) { $0[$1.0] = $1.1 }
      }
      for (id, result) in results {
        switch result {
        case .committed: #expect(id != "b0")
        case .conflict: #expect(id == "b0")
        case .unknown, .refused: Issue.record("\(id): \(result)")
        }
      }
      var changed = richRecord("b0")
      changed.message = "another"
      guard case .committed(let next) = await write(changed, version) else {
        Issue.record("a write on the right version was not committed")
        return
      }
      #expect(next > version)
      guard case .found(let stored) = try await store.load("b0") else {
        Issue.record("b0 is not there")
        return
      }
      #expect(stored == StoredBuild(record: changed, version: next))
      // As in a store that was put back to an earlier state.
      guard case .conflict = await write(changed, next + 1_000_000) else {
        Issue.record("a write on a version to come is no conflict")
        return
      }
    }
  }

  @Test func aRecordThatIsTooLargeIsRefusedAndItsNeighboursAreNot() async throws {
    try await self.withStore { _, write, _ in
      var large = richRecord("large")
      large.message = String(repeating: "x", count: BuildStore.maximumNewRecordBytes)
      // A project that Datastore does not take as an indexed value: only its server can tell.
      var odd = richRecord("odd")
      odd.project = ProjectID(String(repeating: "p", count: 2_000))
      async let first = write(large, nil)
      async let second = write(odd, nil)
      async let third = write(richRecord("fine"), nil)
      guard case (.refused, .refused, .committed) = await (first, second, third) else {
        Issue.record("\(await (first, second, third))")
        return
      }
    }
  }

  @Test func whatIsActiveIsScannedPageByPage() async throws {
    try await self.withStore { store, write, _ in
      await withTaskGroup(of: Void.self) { group in
        for number in 0..<1_200 {
          var record = richRecord(BuildID("b\(number)"))
          if number.isMultiple(of: 12) {
            record.state = .finished
            record.outcome = .succeeded
            record.jobs[0].attempts[1].isHeld = false
          }
          let stored = record
          group.addTask { _ = await write(stored, nil) }
        }
      }
      var ids: Set<BuildID> = []
      try await store.scanActive { page in
        for (id, reading) in page {
          guard case .found = reading else {
            Issue.record("\(id): \(reading)")
            continue
          }
          #expect(ids.insert(id).inserted)
        }
      }
      #expect(ids.count == 1_100)
    }
  }

  /// Earlier versions wrote a build's partition in another property, and before that none at all.
  @Test func recordsOfEarlierVersionsAreFound() async throws {
    try await self.withStore { store, write, client in
      let record = richRecord("new")
      guard case .committed = await write(record, nil) else {
        Issue.record("the record was not committed")
        return
      }
      let path = [DatastoreV1.Key.PathElement(kind: BuildStore.kind, idType: .name("new"))]
      let partition = DatastoreV1.PartitionId(projectID: "millrace", namespaceID: "n")
      let answer = try await client.lookup(
        DatastoreV1.LookupRequest(
          projectID: "millrace", keys: [DatastoreV1.Key(partitionID: partition, path: path)]))
      var entity = try #require(answer.found.first?.entity)
      entity.properties[BuildStore.activeProperty] = nil
      entity.properties["active"] = DatastoreV1.Value(valueType: .booleanValue(true))
      entity.key?.path[0].idType = .name("oldest")
      var older = entity
      older.key?.path[0].idType = .name("older")
      let number = Partition(of: record.project).number
      older.properties["activeIn"] = DatastoreV1.Value(valueType: .integerValue(Int64(number)))
      _ = try await client.commit(
        DatastoreV1.CommitRequest(
          projectID: "millrace", mode: .nonTransactional,
          mutations: [entity, older].map { DatastoreV1.Mutation(operation: .upsert($0)) }))

      func found(_ page: [(id: BuildID, reading: BuildStore.Reading)]) -> [BuildID: Bool] {
        page.reduce(into: [:]) { found, next in
          if case .found(let stored) = next.reading { found[next.id] = stored.isOutdated }
        }
      }
      var ofPartition: [BuildID: Bool] = [:]
      try await store.scanActive(of: Partition(of: record.project)) { page in
        ofPartition.merge(found(page)) { $1 }
      }
      #expect(ofPartition == ["new": false, "older": true])
      var all: [BuildID: Bool] = [:]
      try await store.scanActive { page in all.merge(found(page)) { $1 } }
      #expect(all == ["new": false, "older": true, "oldest": true])
      let other = Partition((number + 1) % Partition.count)
      try await store.scanActive(of: other) { page in #expect(page.isEmpty) }
    }
  }

  @Test func buildsAreListedNewestFirst() async throws {
    try await self.withStore { store, write, _ in
      for number in 0..<6 {
        var record = richRecord(BuildID("b\(number)"))
        record.createdAt = Timestamp(microseconds: Int64(number) * 1_000_000)
        record.project = number < 4 ? "p/q" : "other"
        if number.isMultiple(of: 2) {
          record.state = .finished
          record.outcome = .succeeded
        }
        _ = await write(record, nil)
      }
      func list(_ project: ProjectID?, unfinished: Bool) async throws -> [BuildID] {
        var ids: [BuildID] = []
        var cursor: [UInt8] = []
        repeat {
          let page = try await store.list(
            project: project, unfinished: unfinished, limit: 2, cursor: cursor)
          ids += page.builds.map(\.id)
          cursor = page.cursor
        } while !cursor.isEmpty
        return ids
      }
      let cases: [(project: ProjectID?, unfinished: Bool, ids: [BuildID])] = [
        ("p/q", false, ["b3", "b2", "b1", "b0"]), ("p/q", true, ["b3", "b1"]),
        (nil, true, ["b5", "b3", "b1"]), (nil, false, ["b5", "b4", "b3", "b2", "b1", "b0"]),
      ]
      for (project, unfinished, ids) in cases {
        let listed = try await list(project, unfinished: unfinished)
        #expect(listed == ids)
      }
    }
  }
}
