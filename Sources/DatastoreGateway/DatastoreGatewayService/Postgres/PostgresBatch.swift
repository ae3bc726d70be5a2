import BuildProtos
import DatastoreGatewayCore
import Domain

/// Many callers' commits decided one after the other, each on what the database has and what those
/// before it in the batch make of it. Nothing is written here: ``PostgresWriter`` carries out what
/// has come of it all.
struct PostgresBatch {
  /// An entity as it is or will be stored.
  struct Stored {
    var version: StoredVersion
    var content: [UInt8]
    /// Read from the content when they are needed.
    var entries: [IndexEntry]?
  }

  /// What the batch makes of one entity.
  private struct Slot {
    var before: Stored?
    var after: Stored?
    /// The version of the first change.
    var changed: Int64?
  }

  /// What an entity was between two commits of the batch, which the database never has as its content.
  struct Passing {
    var address: EntityAddress
    var stored: Stored
    var until: Int64
  }

  /// What the database has of all that the batch's commits touch and depend on, under the lock.
  struct Facts {
    var lastVersion: Int64 = 0
    var entities: [EntityAddress: Stored] = [:]
    /// Of the entities that cannot be read, why.
    var damaged: [EntityAddress: StoreFailure] = [:]
    /// Of the entities that are only depended on; 0 for none.
    var versions: [EntityAddress: Int64] = [:]
    var reserved: Set<EntityAddress> = []
    var collections: [CollectionName: Int64] = [:]
    var prefixes: [[UInt8]: Int64] = [:]
    var nextID: Int64 = 0
  }

  private let facts: Facts
  private let place: String
  private let policy: Policy
  private let clock: @Sendable () -> Timestamp
  private var slots: [EntityAddress: Slot] = [:]
  /// Changed addresses, in the order of their first change.
  private var order: [EntityAddress] = []
  /// The version of the last change in each collection that the batch changes.
  private(set) var changed: [CollectionName: Int64] = [:]
  private(set) var lastVersion: Int64
  private(set) var nextID: Int64
  var hasNewIDs: Bool { self.nextID != self.facts.nextID }
  /// The store's version before the batch.
  var versionBefore: Int64 { self.facts.lastVersion }
  private(set) var reservations: [EntityAddress] = []
  private(set) var passing: [Passing] = []
  /// Whether there is anything to write.
  private(set) var hasWrites = false

  init(
    _ facts: Facts, at place: String, policy: Policy, clock: @escaping @Sendable () -> Timestamp
  ) {
    self.facts = facts
    self.place = place
    self.policy = policy
    self.clock = clock
    self.lastVersion = facts.lastVersion
    self.nextID = facts.nextID
  }

  // MARK: - Work

  mutating func take(_ work: WriterWork) -> WriterOutcome {
    switch work {
    case .commit(let commit):
      do throws(StoreFailure) {
        return try self.take(commit)
      } catch {
        // Only who touches a damaged entity suffers for it.
        return .failed(error)
      }
    case .idBlock(let count):
      self.hasWrites = true
      defer { self.nextID += count }
      return .idBlock(first: self.nextID)
    case .reserve(let addresses):
      self.hasWrites = true
      self.reservations += addresses
      return .reserved
    case .probe:
      self.hasWrites = true
      self.lastVersion = max(self.lastVersion + 1, self.clock().microseconds)
      return .probed
    case .settle(let moment):
      if moment > self.lastVersion {
        // Of other gateways' commits too.
        self.hasWrites = true
        self.lastVersion = moment
      }
      return .settled
    }
  }

  private mutating func take(_ commit: Commit) throws(StoreFailure) -> WriterOutcome {
    if let contention = self.contention(commit.dependencies) { return .refused(contention) }
    let version = max(self.lastVersion + 1, self.clock().microseconds)
    self.lastVersion = version
    for change in commit.changes where change.isAllocated {
      if try self.current(change.address) != nil || self.facts.reserved.contains(change.address)
        || self.reservations.contains(change.address)
      {
        return .idTaken
      }
    }
    let decision: CommitDecision
    switch try CommitDecision.decide(
      commit, version: version, policy: self.policy, in: self.place,
      stored: { (address) throws(StoreFailure) in
        try self.current(address).map { ($0.version, $0.content) }
      })
    {
    case .failure(let refusal): return .refused(refusal)
    case .success(let decided): decision = decided
    }
    // All is decided. What can still fail, reading stored entities, comes before any change.
    var before: [[IndexEntry]] = []
    for write in decision.writes { before.append(try self.entries(at: write.address)) }
    var answer = decision.answer
    for (write, old) in zip(decision.writes, before) {
      var slot = self.slot(write.address)
      if slot.changed == nil {
        self.order.append(write.address)
        slot.changed = version
      } else if let stored = slot.after {
        self.passing.append(Passing(address: write.address, stored: stored, until: version))
      }
      if let content = write.content, let after = write.after {
        slot.after = Stored(version: after, content: content.bytes, entries: content.indexEntries)
      } else {
        slot.after = nil
      }
      let new = slot.after?.entries ?? []
      let differences = old.differences(to: new)
      answer.indexUpdates += differences.gone.count + differences.new.count
      self.slots[write.address] = slot
      self.changed[write.address.collection] = version
      self.hasWrites = true
    }
    return .committed(answer)
  }

  private func slot(_ address: EntityAddress) -> Slot {
    if let slot = self.slots[address] { return slot }
    let stored = self.facts.entities[address]
    return Slot(before: stored, after: stored)
  }

  private func current(_ address: EntityAddress) throws(StoreFailure) -> Stored? {
    if let failure = self.facts.damaged[address] { throw failure }
    return self.slots[address].map(\.after) ?? self.facts.entities[address]
  }

  /// The index entries of an entity as it is, kept for what follows.
  private mutating func entries(at address: EntityAddress) throws(StoreFailure) -> [IndexEntry] {
    var slot = self.slot(address)
    guard var after = slot.after else { return [] }
    if let entries = after.entries { return entries }
    let entries = try DatastoreV1.Entity(stored: after.content, in: self.place)
      .indexEntries(in: self.place)
    after.entries = entries
    slot.after = after
    if slot.changed == nil { slot.before = after }
    self.slots[address] = slot
    return entries
  }

  // MARK: - Contention

  /// Whether something that a transaction read has changed.
  private func contention(_ dependencies: TransactionTable.Dependencies) -> GatewayError? {
    for (collection, version) in dependencies.collections
    where self.changed[collection] ?? self.facts.collections[collection] ?? 0 > version {
      let kind = try? collection.parts().kind
      return .contention("kind \(kind ?? "?")")
    }
    for (prefix, version) in dependencies.prefixes {
      let changed = self.changed.first { $0.value > version && $0.key.bytes.starts(with: prefix) }
      if changed != nil || self.facts.prefixes[prefix] ?? 0 > version {
        let kind = try? changed?.key.parts().kind
        return .contention("kind \(kind ?? "?")")
      }
    }
    for (address, version) in dependencies.entities {
      let current =
        self.slots[address].map { $0.after?.version.version ?? 0 }
        ?? self.facts.entities[address]?.version.version ?? self.facts.versions[address] ?? 0
      if current != version {
        return .contention("entity \(address.path.text ?? "?")")
      }
    }
    return nil
  }

  // MARK: - Results

  /// What one entity was and is to be.
  struct Change {
    var address: EntityAddress
    var before: Stored?
    var after: Stored?
    /// The version of the commit that ended what was before.
    var until: Int64

    /// Index entries that go, and that come.
    var entries: (gone: [IndexEntry], new: [IndexEntry]) {
      (self.before?.entries ?? []).differences(to: self.after?.entries ?? [])
    }
  }

  /// Each entity that is another in the end.
  var changes: [Change] {
    self.order.compactMap { address in
      guard let slot = self.slots[address], let changed = slot.changed,
        slot.before != nil || slot.after != nil
      else { return nil }
      return Change(
        address: address, before: slot.before, after: slot.after, until: changed)
    }
  }

  /// Entities that are no longer what they were, each time that they changed, and what their contents
  /// come to.
  var replaced: (count: Int, contentBytes: Int) {
    var contents = self.passing.map(\.stored.content.count)
    for slot in self.slots.values where slot.changed != nil {
      if let before = slot.before { contents.append(before.content.count) }
    }
    return (contents.count, contents.reduce(0, +))
  }
}
