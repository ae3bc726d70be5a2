import Domain

/// One change that a caller wants made, as far as deciding about it goes.
package struct Mutation: Sendable {
  package enum Operation: Hashable, Sendable {
    case insert, update, upsert, delete
  }

  /// What the caller believes to be stored.
  package enum Base: Hashable, Sendable {
    case anything
    /// 0 is no entity.
    case version(Int64)
    case updateTime(Timestamp)
  }

  /// What to do when something else is stored.
  package enum Resolution: Hashable, Sendable {
    /// Leave the stored entity as it is, and say so.
    case keepStored
    /// Refuse the whole commit.
    case fail
  }

  package var operation: Operation
  package var key: Key
  package var base: Base
  package var resolution: Resolution

  package init(
    _ operation: Operation, _ key: Key, base: Base = .anything,
    resolution: Resolution = .keepStored
  ) {
    self.operation = operation
    self.key = key
    self.base = base
    self.resolution = resolution
  }

  /// Refuses what contradicts itself, whatever is stored.
  package func check() throws(GatewayError) {
    switch (self.operation, self.base) {
    case (.insert, .version(let version)) where version > 0:
      throw .invalid("Cannot insert an entity with a base version greater than zero: \(self.key)")
    case (.insert, .updateTime):
      throw .invalid("Cannot insert an entity with an update time: \(self.key)")
    case (.update, .version(0)):
      throw .invalid("Cannot update an entity with a base version set to zero: \(self.key)")
    case (_, .version(let version)) where version < 0:
      throw .invalid("A base version must not be negative: \(version) of \(self.key)")
    default: break
    }
  }
}

/// What is known of a stored entity besides its content.
package struct StoredVersion: Hashable, Sendable {
  /// The microsecond of the commit that wrote it, or later where several fell together: it only
  /// grows, over all entities of a store. It is the time of the last change too.
  package var version: Int64
  package var createTime: Timestamp

  package init(version: Int64, createTime: Timestamp) {
    self.version = version
    self.createTime = createTime
  }

  package var updateTime: Timestamp { Timestamp(microseconds: self.version) }
}

/// Decides one caller's commit: mutations in order, each with what is stored, to what is to be
/// written and what is answered. Nothing is written until all are decided, so a refused commit
/// leaves no trace.
///
/// The caller makes one with the commit's version, calls ``add(_:at:stored:isSame:)`` for each
/// mutation, and then carries out ``writes``.
package struct CommitMachine: Sendable {
  /// What one entity is to become: the last of its mutations that changed it.
  package struct Write: Hashable, Sendable {
    /// Which mutation's content is written; `nil` is no entity.
    package var content: Int?
    package var after: StoredVersion?
    /// Whether something is stored now.
    package var wasStored: Bool
    /// Which of the entities it is, in the order in which ``CommitMachine/add(_:at:stored:isSame:)``
    /// asked for what is stored.
    package var entity: Int

    package init(content: Int?, after: StoredVersion?, wasStored: Bool, entity: Int) {
      self.content = content
      self.after = after
      self.wasStored = wasStored
      self.entity = entity
    }
  }

  /// What an entity is before a mutation.
  package enum Before: Hashable, Sendable {
    case nothing
    /// What is stored of this entity, by its number as in ``Write/entity``.
    case stored(Int)
    /// What this mutation of the same commit made it.
    case mutation(Int)
  }

  /// The answer for one mutation.
  package struct Result: Hashable, Sendable {
    package var version: Int64
    package var createTime: Timestamp?
    package var updateTime: Timestamp?
    package var conflictDetected: Bool

    package init(
      version: Int64, createTime: Timestamp?, updateTime: Timestamp?, conflictDetected: Bool
    ) {
      self.version = version
      self.createTime = createTime
      self.updateTime = updateTime
      self.conflictDetected = conflictDetected
    }
  }

  private struct Entity {
    let address: EntityAddress
    var current: StoredVersion?
    var wasStored: Bool
    /// The mutation whose content it has; `nil` while it has the stored one.
    var content: Int?
    var isChanged = false
  }

  private let version: Int64
  /// In the order of first mention, so that writes have one order.
  private var entities: [Entity] = []
  private var places: [EntityAddress: Int] = [:]
  package private(set) var results: [Result] = []

  /// - Parameters:
  ///   - version: Above every version that is stored or was.
  ///   - count: Mutations that will come.
  package init(version: Int64, count: Int = 0) {
    self.version = version
    self.entities.reserveCapacity(count)
    self.places.reserveCapacity(count)
    self.results.reserveCapacity(count)
  }

  /// Decides the next mutation.
  ///
  /// - Parameters:
  ///   - address: Of the mutation's key.
  ///   - stored: Asked at the first mutation of each entity.
  ///   - isSame: Asked of each write that nothing refuses: whether the mutation's content is what
  ///     was there before. Then nothing is written and the version stays.
  package mutating func add<Failure: Error>(
    _ mutation: Mutation, at address: EntityAddress,
    stored: () throws(Failure) -> StoredVersion?,
    isSame: (_ before: Before) throws(Failure) -> Bool
  ) throws(Failure) -> GatewayError? {
    let place: Int
    if let known = self.places[address] {
      place = known
    } else {
      let current = try stored()
      place = self.entities.count
      self.places[address] = place
      self.entities.append(
        Entity(address: address, current: current, wasStored: current != nil))
    }
    var entity = self.entities[place]
    defer { self.entities[place] = entity }
    let number = self.results.count
    switch (mutation.operation, entity.current) {
    case (.insert, .some): return .alreadyExists(mutation.key)
    case (.update, .none): return .notFound(mutation.key)
    default: break
    }
    if let required = Self.mismatch(mutation.base, entity.current) {
      if let stored = entity.current?.version, required > stored {
        return .invalid(
          "Invalid base version, it is greater than the stored version: \(required) of "
            + "\(mutation.key), which has \(stored)")
      }
      if mutation.resolution == .fail {
        return .conflict(
          mutation.key, stored: entity.current?.version ?? 0, required: required)
      }
      self.results.append(self.result(entity.current, or: 0, conflictDetected: true))
      return nil
    }
    switch mutation.operation {
    case .delete:
      if entity.current != nil {
        entity.current = nil
        entity.content = nil
        entity.isChanged = true
      }
      // Above that of any earlier entity, below that of any later one.
      self.results.append(self.result(nil, or: self.version, conflictDetected: false))
    case .insert, .update, .upsert:
      let before: Before =
        if entity.current == nil { .nothing } else {
          entity.content.map { .mutation($0) } ?? .stored(place)
        }
      if try isSame(before), let current = entity.current {
        self.results.append(self.result(current, or: 0, conflictDetected: false))
        return nil
      }
      let after = StoredVersion(
        version: self.version,
        createTime: entity.current?.createTime ?? Timestamp(microseconds: self.version))
      entity.current = after
      entity.content = number
      entity.isChanged = true
      self.results.append(self.result(after, or: 0, conflictDetected: false))
    }
    return nil
  }

  private func result(
    _ stored: StoredVersion?, or version: Int64, conflictDetected: Bool
  ) -> Result {
    Result(
      version: stored?.version ?? version, createTime: stored?.createTime,
      updateTime: stored?.updateTime, conflictDetected: conflictDetected)
  }

  /// The version that a mutation builds on, where that is not what is stored.
  private static func mismatch(_ base: Mutation.Base, _ current: StoredVersion?) -> Int64? {
    switch base {
    case .anything: nil
    case .version(let version): version == current?.version ?? 0 ? nil : version
    case .updateTime(let time):
      time == current?.updateTime ? nil : time.microseconds
    }
  }

  /// What has to be written for all mutations to hold.
  package var writes: [(address: EntityAddress, write: Write)] {
    self.entities.enumerated().compactMap { place, entity in
      guard entity.isChanged, entity.wasStored || entity.current != nil else { return nil }
      return (
        entity.address,
        Write(
          content: entity.content, after: entity.current, wasStored: entity.wasStored,
          entity: place)
      )
    }
  }
}
