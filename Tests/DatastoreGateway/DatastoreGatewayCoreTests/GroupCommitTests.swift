import DatastoreGatewayCore
import DatastoreGatewayTesting
import Domain
import Testing

private func limits(
  batchCommits: Int = 3, batchBytes: Int = 100, queuedCommits: Int = 5, queuedBytes: Int = 200
) -> GroupCommitMachine<Int>.Limits {
  var limits = GroupCommitMachine<Int>.Limits()
  limits.batchCommits = batchCommits
  limits.batchBytes = batchBytes
  limits.queuedCommits = queuedCommits
  limits.queuedBytes = queuedBytes
  return limits
}

@Suite struct GroupCommits {
  @Test func theFirstCommitWakesTheWriterAndOthersWait() {
    var machine = GroupCommitMachine<Int>(limits: limits())
    #expect(machine.commitQueued(1, bytes: 1) == .wakeWriter)
    #expect(machine.commitQueued(2, bytes: 1) == .none)
    #expect(machine.batchTaken() == [1, 2])
    #expect(machine.commitQueued(3, bytes: 1) == .none)
    machine.batchEnded(after: .milliseconds(1))
    #expect(machine.batchTaken() == [3])
    machine.batchEnded(after: .milliseconds(1))
    do {
      let isIdle = machine.isIdle
      #expect(!isIdle)
    }
    #expect(machine.batchTaken() == nil)
    do {
      let isIdle = machine.isIdle
      #expect(isIdle)
    }
    #expect(machine.commitQueued(4, bytes: 1) == .wakeWriter)
  }

  @Test func aBatchHasAtMostSoManyCommits() {
    var machine = GroupCommitMachine<Int>(limits: limits())
    for number in 0..<5 { _ = machine.commitQueued(number, bytes: 1) }
    #expect(machine.batchTaken() == [0, 1, 2])
    do {
      let queuedCommits = machine.queuedCommits
      #expect(queuedCommits == 2)
    }
    do {
      let queuedBytes = machine.queuedBytes
      #expect(queuedBytes == 2)
    }
    #expect(machine.batchTaken() == [3, 4])
  }

  @Test func aBatchHasAtMostSoManyBytesButAtLeastOneCommit() {
    var machine = GroupCommitMachine<Int>(limits: limits(queuedBytes: 1_000))
    _ = machine.commitQueued(0, bytes: 500)
    _ = machine.commitQueued(1, bytes: 60)
    _ = machine.commitQueued(2, bytes: 60)
    #expect(machine.batchTaken() == [0])
    #expect(machine.batchTaken() == [1])
    #expect(machine.batchTaken() == [2])
    do {
      let queuedBytes = machine.queuedBytes
      #expect(queuedBytes == 0)
    }
  }

  @Test func beyondTheQueueCallersAreRefusedWithADelay() {
    var machine = GroupCommitMachine<Int>(limits: limits(batchCommits: 2))
    for number in 0..<5 { _ = machine.commitQueued(number, bytes: 1) }
    machine.batchEnded(after: .milliseconds(100))
    #expect(
      machine.commitQueued(5, bytes: 1)
        == .refuse(
          .overloaded(
            what: "commits", limit: "5 commits", retryDelay: .milliseconds(300))))
    #expect(machine.batchTaken() == [0, 1])
    #expect(machine.commitQueued(5, bytes: 1) == .none)
  }

  @Test func bytesThatWaitAreBoundedButOneCommitAlwaysMay() {
    var machine = GroupCommitMachine<Int>(limits: limits())
    #expect(machine.commitQueued(0, bytes: 300) == .wakeWriter)
    guard case .refuse(.overloaded(_, let limit, _)) = machine.commitQueued(1, bytes: 1) else {
      Issue.record("more bytes wait than may")
      return
    }
    #expect(limit == "200 bytes")
  }

  @Test(
    arguments: [
      (Duration.zero, Duration.milliseconds(10)), (.seconds(100), .seconds(5)),
      (.milliseconds(20), .milliseconds(40)),
    ])
  func theDelayFollowsTheDiskWithinBounds(batch: Duration, delay: Duration) {
    var machine = GroupCommitMachine<Int>(limits: limits())
    for number in 0..<5 { _ = machine.commitQueued(number, bytes: 1) }
    machine.batchEnded(after: batch)
    #expect(
      machine.commitQueued(9, bytes: 1)
        == .refuse(.overloaded(what: "commits", limit: "5 commits", retryDelay: delay)))
  }

  @Test func whileDrainingWhatWaitsIsWrittenAndNothingIsTaken() {
    var machine = GroupCommitMachine<Int>(limits: limits())
    _ = machine.commitQueued(0, bytes: 1)
    machine.drainBegan()
    #expect(machine.commitQueued(1, bytes: 1) == .refuse(.draining))
    #expect(machine.batchTaken() == [0])
    #expect(machine.batchTaken() == nil)
  }

  @Test(arguments: 0..<10)
  func everyCommitIsTakenOnceAndInOrder(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    var machine = GroupCommitMachine<Int>(limits: limits())
    var accepted: [Int] = []
    var taken: [Int] = []
    var isAwake = false
    for number in 0..<2_000 {
      if Bool.random(using: &random) {
        switch machine.commitQueued(number, bytes: Int.random(in: 1...80, using: &random)) {
        case .none:
          #expect(isAwake)
          accepted.append(number)
        case .wakeWriter:
          #expect(!isAwake)
          isAwake = true
          accepted.append(number)
        case .refuse: break
        }
      } else if isAwake {
        if let batch = machine.batchTaken() {
          #expect(!batch.isEmpty && batch.count <= 3)
          taken += batch
        } else {
          isAwake = false
        }
      }
      do {
        let queuedCommits = machine.queuedCommits
        #expect(queuedCommits <= 5)
      }
      do {
        let queuedCommits = machine.queuedCommits
        #expect(queuedCommits == accepted.count - taken.count)
      }
    }
    while let batch = machine.batchTaken() { taken += batch }
    #expect(taken == accepted)
  }
}

@Suite struct Transactions {
  private let begin = Timestamp(microseconds: 1_000_000)

  private func table(_ change: (inout Policy) -> Void = { _ in }) -> TransactionTable {
    var policy = Policy()
    change(&policy)
    return TransactionTable(policy: policy, instance: 42)
  }

  @Test func aCommitDependsOnWhatWasReadFirst() throws {
    var table = self.table()
    let id = try table.begun(isReadOnly: false, at: self.begin)
    try table.read([(key(1).address, 5), (key(2).address, 0)], in: id, at: self.begin)
    try table.read([(key(1).address, 5)], in: id, at: self.begin)
    // What was read does not change under its eyes.
    #expect {
      try table.read([(key(1).address, 9)], in: id, at: self.begin)
    } throws: {
      if case .contention(let what) = $0 as? GatewayError {
        what.hasPrefix("entity")
      } else {
        false
      }
    }
    try table.queried(.collection(key(1).collection), version: 6, in: id, at: self.begin)
    try table.queried(.collection(key(1).collection), version: 8, in: id, at: self.begin)
    let ended = try table.ended(id, at: self.begin)
    #expect(ended.dependencies.entities == [key(1).address: 5, key(2).address: 0])
    #expect(ended.dependencies.collections == [key(1).collection: 6])
    #expect(!ended.isReadOnly)
    #expect(throws: GatewayError.unknownTransaction) { try table.ended(id, at: self.begin) }
  }

  @Test func oneWhoseCommitWasRefusedGoesOn() throws {
    var table = self.table()
    let id = try table.begun(isReadOnly: false, at: self.begin)
    try table.read([(key(1).address, 5)], in: id, at: self.begin)
    let ended = try table.ended(id, at: self.begin)
    table.putBack(id, ended, at: self.begin)
    let again = try table.ended(id, at: self.begin)
    #expect(again.dependencies == ended.dependencies)
    // It is as old as it was.
    table.putBack(id, again, at: self.begin + .seconds(200))
    #expect(throws: GatewayError.unknownTransaction) {
      try table.ended(id, at: self.begin + .seconds(271))
    }
  }

  @Test func oneThatIsOverCanBeRolledBackOnce() throws {
    var table = self.table()
    let id = try table.begun(isReadOnly: false, at: self.begin)
    try table.read([(key(1).address, 5)], in: id, at: self.begin)
    let ended = try table.ended(id, at: self.begin)
    table.putBack(id, ended, isOver: true, at: self.begin)
    #expect(throws: GatewayError.unknownTransaction) { try table.used(id, at: self.begin) }
    #expect(throws: GatewayError.unknownTransaction) { try table.ended(id, at: self.begin) }
    #expect(try table.rolledBack(id, at: self.begin).dependencies.isEmpty)
    #expect(throws: GatewayError.unknownTransaction) { try table.rolledBack(id, at: self.begin) }
  }

  @Test func oneMayBeRefusedOften() throws {
    var table = self.table { $0.maximumTransactions = 2 }
    let id = try table.begun(isReadOnly: false, at: self.begin)
    try table.read([(key(1).address, 5)], in: id, at: self.begin)
    for _ in 0..<3_000 {
      table.putBack(id, try table.ended(id, at: self.begin), at: self.begin)
    }
    let other = try table.begun(isReadOnly: false, at: self.begin + .seconds(200))
    #expect(table.count == 1)
    #expect(throws: GatewayError.unknownTransaction) {
      try table.ended(id, at: self.begin + .seconds(200))
    }
    _ = try table.ended(other, at: self.begin + .seconds(200))
  }

  @Test func refusedOnesMakeRoom() throws {
    var table = self.table { policy in
      policy.maximumTransactions = 3
      policy.maximumTransactionBytes = 800
    }
    func refused() throws -> TransactionTable.ID {
      let id = try table.begun(isReadOnly: false, at: self.begin)
      try table.read([(key(1).address, 5), (key(2).address, 5)], in: id, at: self.begin)
      table.putBack(id, try table.ended(id, at: self.begin), at: self.begin)
      return id
    }
    let kept = try table.begun(isReadOnly: false, at: self.begin)
    let first = try refused()
    let second = try refused()
    // For another one, that which was refused first; for what that reads, the next.
    let other = try table.begun(isReadOnly: false, at: self.begin)
    #expect(throws: GatewayError.unknownTransaction) { try table.used(first, at: self.begin) }
    _ = try table.used(second, at: self.begin)
    try table.read((3...6).map { (key($0).address, 5) }, in: other, at: self.begin)
    #expect(throws: GatewayError.unknownTransaction) { try table.used(second, at: self.begin) }
    _ = try table.used(kept, at: self.begin)
    #expect(table.count == 2)
  }

  @Test func oneThatOnlyReadsDoesNotEndForACommitThatWrites() throws {
    var table = self.table()
    let id = try table.begun(isReadOnly: true, reading: 7, at: self.begin)
    #expect(throws: GatewayError.self) { try table.checkWritable(id, at: self.begin) }
    #expect(try table.used(id, at: self.begin) == 7)
    try table.checkWritable(table.begun(isReadOnly: false, at: self.begin), at: self.begin)
  }

  /// A time that a caller names is nobody's to give back.
  @Test func onlyWhatIsHeldIsReleased() throws {
    var table = self.table()
    let held = try table.begun(isReadOnly: true, reading: 7, isHeld: true, at: self.begin)
    let named = try table.begun(isReadOnly: true, reading: 7, at: self.begin)
    #expect(try table.ended(named, at: self.begin).heldMoment == nil)
    #expect(try table.ended(held, at: self.begin).heldMoment == 7)
    _ = try table.begun(isReadOnly: true, reading: 8, at: self.begin)
    #expect(table.momentsForgotten(at: self.begin + .seconds(100)) == [])
  }

  @Test func anIdleTransactionIsForgotten() throws {
    var table = self.table()
    let id = try table.begun(isReadOnly: false, at: self.begin)
    _ = try table.used(id, at: self.begin + .seconds(60))
    _ = try table.used(id, at: self.begin + .seconds(120))
    #expect(throws: GatewayError.unknownTransaction) {
      _ = try table.used(id, at: self.begin + .seconds(181))
    }
  }

  @Test func noTransactionLivesForEver() throws {
    var table = self.table()
    let id = try table.begun(isReadOnly: false, at: self.begin)
    for second in stride(from: 0, through: 270, by: 30) {
      _ = try table.used(id, at: self.begin + .seconds(second))
    }
    #expect(throws: GatewayError.unknownTransaction) {
      _ = try table.used(id, at: self.begin + .seconds(271))
    }
  }

  @Test func thereIsALimitAndOldOnesMakeRoom() throws {
    var table = self.table { $0.maximumTransactions = 2 }
    let first = try table.begun(isReadOnly: true, at: self.begin)
    let second = try table.begun(isReadOnly: true, at: self.begin)
    #expect(first != second)
    #expect(throws: GatewayError.self) { try table.begun(isReadOnly: true, at: self.begin) }
    _ = try table.begun(isReadOnly: true, at: self.begin + .seconds(61))
    #expect(table.count == 1)
  }

  @Test func idleOnesMakeRoomBehindOneThatIsUsed() throws {
    var table = self.table { $0.maximumTransactions = 3 }
    let used = try table.begun(isReadOnly: false, at: self.begin)
    _ = try table.begun(isReadOnly: true, reading: 7, isHeld: true, at: self.begin)
    _ = try table.begun(isReadOnly: true, reading: 8, isHeld: true, at: self.begin)
    for second in [30, 59] { _ = try table.used(used, at: self.begin + .seconds(second)) }
    #expect(throws: GatewayError.self) {
      try table.begun(isReadOnly: false, at: self.begin + .seconds(59))
    }
    _ = try table.begun(isReadOnly: false, at: self.begin + .seconds(61))
    #expect(table.count == 2)
    // What they read at is not needed any more; that is told once.
    let later = self.begin + .seconds(62)
    #expect(table.momentsForgotten(at: later).sorted() == [7, 8])
    #expect(table.momentsForgotten(at: later) == [])
    #expect(try table.used(used, at: later) == nil)
  }

  @Test func whatAllHaveReadIsBoundedByItsBytes() throws {
    var table = self.table { $0.maximumTransactionBytes = 100_000 }
    let first = try table.begun(isReadOnly: false, at: self.begin)
    let second = try table.begun(isReadOnly: false, at: self.begin)
    func keys(_ ids: ClosedRange<Int64>) -> [(EntityAddress, Int64)] {
      ids.map { (key($0).address, 1) }
    }
    try table.read(keys(1...400), in: first, at: self.begin)
    // Read again, they take no more.
    for _ in 0..<10 { try table.read(keys(1...400), in: first, at: self.begin) }
    #expect(throws: GatewayError.self) {
      try table.read(keys(1...400), in: second, at: self.begin)
    }
    _ = try table.ended(second, at: self.begin)
    _ = try table.ended(first, at: self.begin)
    let third = try table.begun(isReadOnly: false, at: self.begin)
    try table.read(keys(1...400), in: third, at: self.begin)
  }

  @Test func readsAreBounded() throws {
    var table = self.table { $0.maximumTransactionReads = 2 }
    let id = try table.begun(isReadOnly: false, at: self.begin)
    #expect(throws: GatewayError.self) {
      try table.read((1...3).map { (key($0).address, 1) }, in: id, at: self.begin)
    }
  }

  @Test func queriesAreBounded() throws {
    var table = self.table { policy in
      policy.maximumTransactionBytes = 10_000
      policy.maximumTransactionPrefixes = 2
    }
    let first = try table.begun(isReadOnly: false, at: self.begin)
    for number in [1, 2, 2, 1] as [UInt8] {
      try table.queried(.prefix([number]), version: 1, in: first, at: self.begin)
    }
    #expect(throws: GatewayError.self) {
      try table.queried(.prefix([3]), version: 1, in: first, at: self.begin)
    }
    let second = try table.begun(isReadOnly: false, at: self.begin)
    #expect(throws: GatewayError.self) {
      for number in 1...100 {
        let collection = CollectionName(bytes: Array("\(number)".utf8))
        try table.queried(.collection(collection), version: 1, in: second, at: self.begin)
      }
    }
    // What it held is free when it has ended.
    _ = try table.ended(second, at: self.begin)
    let third = try table.begun(isReadOnly: false, at: self.begin)
    try table.read([(key(1).address, 1)], in: third, at: self.begin)
  }

  @Test func anotherProcessTransactionIsUnknown() throws {
    var one = self.table()
    var other = TransactionTable(policy: Policy(), instance: 43)
    let id = try one.begun(isReadOnly: false, at: self.begin)
    _ = try other.begun(isReadOnly: false, at: self.begin)
    #expect(throws: GatewayError.unknownTransaction) { try other.ended(id, at: self.begin) }
  }

  @Test func anotherDatabasesTransactionIsUnknown() throws {
    var table = self.table()
    let id = try table.begun(isReadOnly: false, at: self.begin)
    for (project, database) in [("q", ""), ("p", "d")] {
      let other = TransactionTable.ID(
        bytes: id.bytes, project: Name(project), database: Name(database))
      #expect(throws: GatewayError.unknownTransaction) { try table.used(other, at: self.begin) }
      #expect(throws: GatewayError.unknownTransaction) { try table.ended(other, at: self.begin) }
    }
    _ = try table.ended(id, at: self.begin)
  }
}

extension TransactionTable {
  fileprivate mutating func begun(
    isReadOnly: Bool, reading moment: Int64? = nil, isHeld: Bool = false, at now: Timestamp
  ) throws(GatewayError) -> ID {
    try self.begun(
      in: Name("p"), Name(""), isReadOnly: isReadOnly, reading: moment, isHeld: isHeld, at: now)
  }
}
