import BuildProtos
import DatastoreGatewayCore
import Domain
import RPC

/// What one commit comes to over what is stored: the same in every store.
struct CommitDecision {
  /// What an entity is to be, ready to be written.
  struct Content: Sendable {
    var bytes: [UInt8]
    var indexEntries: [IndexEntry]
  }

  struct Write {
    var address: EntityAddress
    /// `nil` is no entity.
    var content: Content?
    var after: StoredVersion?
    /// Which of the entities that were asked for it is.
    var entity: Int
  }

  private(set) var answer: CommitAnswer
  /// In the order of first mention.
  private(set) var writes: [Write] = []

  /// - Parameters:
  ///   - version: The commit's, above every one that is stored or was.
  ///   - store: Named in failures.
  ///   - stored: Asked at the first change of each entity.
  /// - Returns: Why the commit cannot be, or what it comes to. Nothing was written yet.
  static func decide(
    _ commit: Commit, version: Int64, policy: Policy, in store: String,
    stored: (EntityAddress) throws(StoreFailure) -> (version: StoredVersion, content: [UInt8])?
  ) throws(StoreFailure) -> Result<CommitDecision, GatewayError> {
    var machine = CommitMachine(version: version, count: commit.changes.count)
    var contents: [Content?] = []
    contents.reserveCapacity(commit.changes.count)
    var transformResults: [Int: [DatastoreV1.Value]] = [:]
    var storedContents: [[UInt8]?] = []
    for (number, change) in commit.changes.enumerated() {
      contents.append(
        change.edit == nil
          ? Content(bytes: change.content, indexEntries: change.indexEntries) : nil)
      var invalid: GatewayError?
      let refusal = try machine.add(
        change.mutation, at: change.address,
        stored: { () throws(StoreFailure) in
          let found = try stored(change.address)
          storedContents.append(found?.content)
          return found?.version
        },
        isSame: { (before: CommitMachine.Before) throws(StoreFailure) in
          let bytes: [UInt8]? =
            switch before {
            case .nothing: nil
            case .stored(let entity): storedContents[entity]
            case .mutation(let earlier): contents[earlier]?.bytes
            }
          if let edit = change.edit {
            let base = try bytes.map { (bytes) throws(StoreFailure) in
              try DatastoreV1.Entity(stored: bytes, in: store)
            }
            let (entity, results) = edit.applied(to: base, at: Timestamp(microseconds: version))
            do throws(GatewayError) {
              contents[number] = try Content(entity, key: change.mutation.key, policy: policy)
            } catch {
              invalid = error
            }
            transformResults[number] = results
          }
          return bytes == contents[number]?.bytes
        })
      if let error = refusal ?? invalid { return .failure(error) }
    }
    var decision = CommitDecision(
      answer: CommitAnswer(
        results: machine.results, indexUpdates: 0, version: version,
        transformResults: transformResults))
    decision.writes = machine.writes.map { address, write in
      Write(
        address: address, content: write.content.flatMap { contents[$0] }, after: write.after,
        entity: write.entity)
    }
    return .success(decision)
  }
}

extension CommitDecision.Content {
  /// Checks an entity as it will be stored.
  init(_ proto: DatastoreV1.Entity, key: Key, policy: Policy) throws(GatewayError) {
    let validation = Validation(policy: policy)
    let entity = try EntityCodec.entity(proto, key: key)
    let proto = EntityCodec.settled(proto, in: key.partition)
    let bytes = EntityCodec.canonicalBytes(proto)
    try validation.check(entity, encodedBytes: bytes.count)
    let entries = entity.indexEntries
    try validation.check(indexEntries: entries.count, of: key)
    self.init(bytes: bytes, indexEntries: entries)
  }
}
