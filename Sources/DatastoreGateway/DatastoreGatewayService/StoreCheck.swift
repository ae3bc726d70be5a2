import BuildProtos
import DatastoreGatewayCore
import Domain

/// Whether a store is whole: its entities, their checksums, and its indexes against its entities.
///
/// Entities and index rows are each read once, in the store's own order, however many there are: the
/// rows that entities should have and those that are there are added up in parts, by entity. Only
/// parts whose sums differ are read again, to name what is wrong in them.
struct StoreCheck {
  /// What was looked at, and what is wrong.
  struct Report: Sendable, Hashable {
    var entities = 0
    var indexRows = 0
    /// One sentence each; the first ``StoreCheck/listedFaults`` of them.
    var faults: [String] = []
    /// With those that are not listed, as far as they were counted.
    var faultCount = 0

    var isWhole: Bool { self.faultCount == 0 }

    mutating func add(_ fault: String) {
      self.faultCount += 1
      if self.faults.count < StoreCheck.listedFaults { self.faults.append(fault) }
    }
  }

  static let listedFaults = 100
  /// Parts in which rows are added up: a megabyte of sums.
  private static let parts = 65_536
  /// Parts whose rows are compared one by one.
  private static let namedParts = 256
  private static let progressStep = 100_000

  /// A sum of rows, so large that rows which differ do not come to the same.
  private struct Sum: Equatable {
    var first: UInt64 = 0
    var second: UInt64 = 0

    mutating func add(_ row: SnapshotIndexRow) {
      self.first &+= Self.digest(row, 1)
      self.second &+= Self.digest(row, 2)
    }

    private static func digest(_ row: SnapshotIndexRow, _ salt: UInt8) -> UInt64 {
      var hasher = Hasher()
      hasher.combine(salt)
      hasher.combine(row)
      return UInt64(bitPattern: Int64(hasher.finalize()))
    }
  }

  private let snapshot: any StoreSnapshot
  private let progress: (Report) -> Void
  private var report = Report()

  /// Checks a store.
  ///
  /// - Parameter progress: Told of what was looked at so far, every hundred thousand entities.
  /// - Throws: `StoreFailure`: the store cannot be read.
  static func run(
    _ snapshot: any StoreSnapshot, progress: @escaping (Report) -> Void = { _ in }
  ) throws(StoreFailure) -> Report {
    var check = StoreCheck(snapshot: snapshot, progress: progress)
    try check.run()
    return check.report
  }

  private init(snapshot: any StoreSnapshot, progress: @escaping (Report) -> Void) {
    self.snapshot = snapshot
    self.progress = progress
  }

  private mutating func run() throws(StoreFailure) {
    do throws(StoreFailure) {
      for fault in try self.snapshot.ownFaults() { self.report.add(fault) }
      try self.compare()
    } catch  where error.kind == .corrupt {
      // Beyond it nothing can be read.
      self.report.add("\(error); what comes behind it is not checked")
    }
  }

  private mutating func compare() throws(StoreFailure) {
    var expected = Array(repeating: Sum(), count: Self.parts)
    var found = expected
    var report = self.report
    defer { self.report = report }
    try self.snapshot.forEachEntity { (stored) throws(StoreFailure) in
      report.entities += 1
      if report.entities.isMultiple(of: Self.progressStep) { self.progress(report) }
      guard let entity = self.entity(stored, { report.add($0) }) else { return }
      for row in Self.rows(of: entity, stored) { expected[Self.part(of: row)].add(row) }
    }
    try self.snapshot.forEachIndexRow { (row) throws(StoreFailure) in
      report.indexRows += 1
      found[Self.part(of: row)].add(row)
    }
    let wrong = expected.indices.filter { expected[$0] != found[$0] }
    if !wrong.isEmpty { try self.name(wrong, &report) }
  }

  private static func part(of row: SnapshotIndexRow) -> Int {
    var hasher = Hasher()
    hasher.combine(row.collection)
    hasher.combine(row.path)
    return Int(UInt(bitPattern: hasher.finalize()) % UInt(Self.parts))
  }

  /// The entity, if it can be read and stands where it belongs.
  private func entity(_ stored: SnapshotEntity, _ fault: (String) -> Void) -> Entity? {
    let name = stored.name
    if stored.version > self.snapshot.version {
      fault("\(name) has version \(stored.version), beyond the last one, \(self.snapshot.version)")
    }
    if stored.created > stored.version {
      fault("\(name) was made at version \(stored.created), behind its own, \(stored.version)")
    }
    let entity: Entity
    do throws(StoreFailure) {
      let content = try StoredContent.opened(stored.content, in: name)
      entity = try DatastoreV1.Entity(stored: content, in: name).core(in: name)
    } catch {
      fault("\(error)")
      return nil
    }
    guard entity.key.isComplete, entity.key.address.path.bytes == stored.path,
      entity.key.address.collection.bytes == stored.collectionName
    else {
      fault("\(name) is stored under another key than its own, \(entity.key)")
      return nil
    }
    return entity
  }

  /// The index rows that an entity is to have.
  private static func rows(of entity: Entity, _ stored: SnapshotEntity) -> [SnapshotIndexRow] {
    entity.indexEntries.map {
      SnapshotIndexRow(
        collection: stored.collection, property: $0.property, value: $0.value, path: stored.path,
        entity: stored.row, isRepeated: $0.isRepeated)
    }
  }

  /// Finds out what is wrong in parts of the indexes.
  private func name(_ wrong: [Int], _ report: inout Report) throws(StoreFailure) {
    let named = Set(wrong.prefix(Self.namedParts))
    var expected: [SnapshotIndexRow: String] = [:]
    try self.snapshot.forEachEntity { (stored) throws(StoreFailure) in
      guard let entity = self.entity(stored, { _ in }) else { return }
      for row in Self.rows(of: entity, stored) where named.contains(Self.part(of: row)) {
        expected[row] = entity.key.description
      }
    }
    var strays: [SnapshotIndexRow] = []
    try self.snapshot.forEachIndexRow { (row) throws(StoreFailure) in
      guard named.contains(Self.part(of: row)) else { return }
      if expected.removeValue(forKey: row) == nil { strays.append(row) }
    }
    for (row, key) in expected.sorted(by: { $0.value < $1.value }) {
      report.add("the index of \(row.property ?? "?") has no right row for \(key)")
    }
    for row in strays {
      report.add(
        "the index of \(row.property ?? "?") has a row for \(row.entityName), which has no such value"
      )
    }
    for _ in wrong.dropFirst(Self.namedParts) {
      report.add("another part of the indexes is not what its entities have")
    }
  }
}
