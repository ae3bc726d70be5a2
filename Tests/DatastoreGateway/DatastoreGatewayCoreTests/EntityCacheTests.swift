import DatastoreGatewayCore
import DatastoreGatewayTesting
import Domain
import Testing

/// An entity that a commit of that version has written.
private func stored(_ version: Int64, bytes: Int = 3) -> EntityCache.Stored {
  EntityCache.Stored(
    content: [UInt8](repeating: 0, count: bytes),
    version: StoredVersion(version: version, createTime: Timestamp(microseconds: 1)))
}

extension EntityCache {
  fileprivate mutating func read(_ stored: Stored?, _ id: Int64, at version: Int64) {
    self.read(stored, at: key(id).address, version: version)
  }

  /// The versions of what is there: 0 for an entity that is known to be absent.
  fileprivate mutating func found(_ ids: Int64...) -> [Int64]? {
    self.found(ids.map { key($0).address })?.map { $0?.version.version ?? 0 }
  }
}

@Suite struct EntityCacheTests {
  private var cache = EntityCache(maximumBytes: 1 << 20)

  @Test mutating func whatWasReadIsFound() {
    self.cache.read(stored(5), 1, at: 10)
    self.cache.read(nil, 2, at: 12)
    #expect(self.cache.found(2, 1) == [0, 5])
    #expect(self.cache.version == 12)
    // All of them or none.
    #expect(self.cache.found(1, 3) == nil)
  }

  @Test mutating func aCommitTakesOutWhatItChanges() {
    for id in 1...3 as ClosedRange<Int64> { self.cache.read(stored(5), id, at: 10) }
    self.cache.changing([key(2).address], as: 11)
    #expect(self.cache.found(2) == nil)
    #expect(self.cache.found(1, 3) == [5, 5])
  }

  @Test mutating func aReaderThatDidNotSeeTheCommitPutsNothingBack() {
    self.cache.changing([key(1).address], as: 11)
    self.cache.read(stored(5), 1, at: 10)
    #expect(self.cache.found(1) == nil)
    self.cache.read(stored(11), 1, at: 11)
    #expect(self.cache.found(1) == [11])
  }

  @Test mutating func theVersionOnlyGrows() {
    self.cache.read(stored(5), 1, at: 12)
    // It began earlier and comes later.
    self.cache.read(stored(5), 2, at: 11)
    #expect(self.cache.found(1, 2) == [5, 5])
    #expect(self.cache.version == 12)
  }

  @Test func whatIsNotAskedForMakesRoom() {
    var cache = EntityCache(maximumBytes: 64 << 10)
    for id in 1...10_000 as ClosedRange<Int64> {
      cache.read(stored(id, bytes: 200), id, at: 10_000)
      // The first is asked for again and again.
      #expect(cache.found(1) == [1])
      #expect(cache.bytes <= 64 << 10)
    }
    #expect(cache.found(10_000) == [10_000])
    #expect(cache.found(5_000) == nil)
    // Nothing is left of what is gone.
    cache.changing((1...10_000).map { key($0).address }, as: 10_001)
    #expect(cache.bytes == 0)
  }

  @Test func whatIsLargeIsNotKept() {
    var cache = EntityCache(maximumBytes: 64 << 10)
    cache.read(stored(5, bytes: 2_000), 1, at: 10)
    #expect(cache.found(1) == nil)
    var none = EntityCache(maximumBytes: 0)
    none.read(nil, 1, at: 10)
    #expect(none.found(1) == nil)
  }

  @Test(arguments: 1...20 as ClosedRange<UInt64>)
  func whatIsFoundIsWhatIsStoredAtThatMoment(seed: UInt64) {
    var store = SlowStore(random: SeededGenerator(seed: seed))
    for step in 0..<20_000 where !store.step() {
      Issue.record("seed \(seed): step \(step) found what is not stored")
      return
    }
    #expect(store.answers > 1_000)
  }
}

/// A store of a few entities whose commits take effect later than they are made, and readers that hold
/// on to views of it.
private struct SlowStore {
  var random: SeededGenerator
  var cache = EntityCache(maximumBytes: 20_000)
  var version: Int64 = 1
  /// The greatest version that a commit got, those that failed included.
  var given: Int64 = 1
  /// The versions of its entities.
  var stored: [Int64: Int64] = [:]
  /// A commit that has been told to the cache and that nobody sees.
  var pending: (version: Int64, changes: [Int64: Int64?])?
  var answers = 0
  /// What readers found, who have not told the cache yet.
  var readers: [(version: Int64, ids: [Int64], found: [Int64?])] = []

  /// False if the cache says what is not so.
  mutating func step() -> Bool {
    let ids = (0..<Int.random(in: 1...3, using: &self.random)).map { _ in
      Int64.random(in: 1...40, using: &self.random)
    }
    switch Int.random(in: 0..<10, using: &self.random) {
    case 0 where self.pending == nil:
      let version = self.given + Int64.random(in: 1...3, using: &self.random)
      let changes = ids.map { ($0, Bool.random(using: &self.random) ? version : nil) }
      self.given = version
      self.pending = (version, Dictionary(changes) { $1 })
      self.cache.changing(ids.map { key($0).address }, as: version)
    case 1:
      // Some fail.
      guard let pending = self.pending.take(), Int.random(in: 0..<4, using: &self.random) > 0
      else { break }
      for (id, version) in pending.changes { self.stored[id] = version }
      self.version = pending.version
    case 2...3 where self.readers.count < 4:
      self.readers.append((self.version, ids, ids.map { self.stored[$0] }))
    case 4...5 where !self.readers.isEmpty:
      let index = Int.random(in: 0..<self.readers.count, using: &self.random)
      let reader = self.readers.remove(at: index)
      for (id, version) in zip(reader.ids, reader.found) {
        self.cache.read(
          version.map { DatastoreGatewayCoreTests.stored($0) }, id, at: reader.version)
      }
    default:
      guard let found = self.cache.found(ids.map { key($0).address }) else { break }
      self.answers += 1
      return found.map { $0?.version.version } == ids.map { self.stored[$0] }
        && self.cache.version <= self.version
    }
    return true
  }
}
