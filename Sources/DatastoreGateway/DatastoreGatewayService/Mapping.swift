import BuildProtos
import DatastoreGatewayCore
import Domain
import RPC
import RPCCore

/// Requests to the core's values, and the core's values and errors to answers.
enum Mapping {
  /// How long a caller should wait for room on a disk that is full: somebody has to make it.
  static let fullDiskDelay = Duration.seconds(10)
  /// How long for another process to let go of the file.
  static let lockedDelay = Duration.seconds(1)
  /// How long for a database's server that is down or has no connection left.
  static let unreachableDelay = Duration.seconds(1)

  // MARK: - Errors

  /// The error of a call for anything that is thrown below it.
  static func rpcError(_ error: any Error) -> any Error {
    switch error {
    case let error as RPCError: error
    case let error as GatewayError: self.rpcError(error)
    case let error as StoreFailure: self.rpcError(error)
    case is AllocatedIDTaken:
      RPCError(.aborted, "no free id was found for a new entity: try again")
    case is CancellationError: RPCError(.cancelled, "the call was cancelled")
    default: error
    }
  }

  static func rpcError(_ error: GatewayError) -> RPCError {
    switch error {
    case .invalid: RPCError(.invalidArgument, error.description)
    case .unsupported: RPCError(.unimplemented, error.description)
    case .alreadyExists: RPCError(.alreadyExists, error.description)
    case .notFound: RPCError(.notFound, error.description)
    case .conflict: RPCError(.failedPrecondition, error.description)
    case .contention: RPCError(.aborted, error.description)
    case .unknownTransaction: RPCError(.invalidArgument, error.description)
    case .overloaded(_, _, let retryDelay):
      RPCError(.resourceExhausted, error.description, retryDelay: retryDelay)
    case .past: RPCError(.failedPrecondition, error.description)
    case .draining: RPCError(.unavailable, error.description)
    }
  }

  static func rpcError(_ failure: StoreFailure) -> RPCError {
    switch failure.kind {
    case .full:
      RPCError(.resourceExhausted, failure.description, retryDelay: self.fullDiskDelay)
    case .readOnly: RPCError(.failedPrecondition, failure.description)
    case .locked: RPCError(.unavailable, failure.description, retryDelay: self.lockedDelay)
    case .corrupt: RPCError(.dataLoss, failure.description)
    case .outcomeUnknown: RPCError(.unknown, failure.description)
    case .unreachable, .tooManyConnections:
      RPCError(.unavailable, failure.description, retryDelay: self.unreachableDelay)
    case .inputOutput, .refused, .other: RPCError(.internalError, failure.description)
    }
  }

  /// How metrics count an error.
  static func outcome(_ error: any Error) -> Metrics.Outcome {
    switch self.rpcError(error) {
    case let error as RPCError:
      switch error.code {
      case .resourceExhausted, .aborted, .unavailable, .cancelled, .deadlineExceeded: .pushedBack
      case .internalError, .unknown, .dataLoss: .failed
      default: .refused
      }
    default: .failed
    }
  }

  /// Whether a transaction can only be rolled back after a commit that failed so, or goes on; `nil`
  /// where nothing is left of it, for something may have been written.
  static func isTransactionOver(after error: any Error) -> Bool? {
    switch error {
    case let error as GatewayError:
      switch error {
      case .invalid, .unsupported, .alreadyExists, .notFound, .conflict, .overloaded, .draining:
        return false
      case .contention: return true
      case .unknownTransaction, .past: return nil
      }
    case let error as StoreFailure:
      switch error.kind {
      case .full, .readOnly, .locked, .unreachable, .tooManyConnections: return false
      case .corrupt, .outcomeUnknown, .inputOutput, .refused, .other: return nil
      }
    case is AllocatedIDTaken: return false
    default: return nil
    }
  }

  // MARK: - Commit

  /// A change of a commit before ids are allocated.
  struct Change {
    enum Content {
      case entity(DatastoreV1.Entity)
      case nothing
    }

    var operation: Mutation.Operation
    var key: Key
    var content: Content
    var base: Mutation.Base
    var resolution: Mutation.Resolution
    var mask: PropertyMask?
    var transforms: [PropertyTransform]
  }

  static func change(
    _ mutation: DatastoreV1.Mutation, in scope: EntityCodec.Scope, policy: Policy
  ) throws(GatewayError) -> Change {
    let validation = Validation(policy: policy)
    let operation: Mutation.Operation
    let key: Key
    let content: Change.Content
    switch mutation.operation {
    case nil: throw .invalid("Mutation is missing operation.")
    case .insert(let entity):
      (operation, key, content) = (.insert, try self.key(of: entity, in: scope), .entity(entity))
      try validation.check(key, .mayBeIncomplete)
    case .update(let entity):
      (operation, key, content) = (.update, try self.key(of: entity, in: scope), .entity(entity))
      try validation.check(key, .complete)
    case .upsert(let entity):
      (operation, key, content) = (.upsert, try self.key(of: entity, in: scope), .entity(entity))
      try validation.check(key, .mayBeIncomplete)
    case .delete(let deleted):
      (operation, key, content) = (.delete, try EntityCodec.key(deleted, in: scope), .nothing)
      try validation.check(key, .complete)
      if !mutation.propertyTransforms.isEmpty {
        throw .invalid("Delete mutation cannot have PropertyTransforms.")
      }
    }
    let base: Mutation.Base =
      switch mutation.conflictDetectionStrategy {
      case nil: .anything
      case .baseVersion(let version): .version(version)
      case .updateTime(let time):
        .updateTime(try EntityCodec.timestamp(time, of: "update_time"))
      }
    if mutation.conflictResolutionStrategy != .strategyUnspecified && base == .anything {
      throw .invalid(
        "cannot set a conflict resolution strategy if no detection strategy was set")
    }
    let resolution: Mutation.Resolution
    switch mutation.conflictResolutionStrategy {
    case .strategyUnspecified, .serverValue: resolution = .keepStored
    case .fail: resolution = .fail
    case .unrecognized(let number):
      throw .invalid("conflict_resolution_strategy \(number) is unknown")
    }
    var change = Change(
      operation: operation, key: key, content: content, base: base, resolution: resolution,
      transforms: [])
    if let mask = mutation.propertyMask { change.mask = try PropertyMask(mask, policy: policy) }
    change.transforms = try Self.transforms(mutation.propertyTransforms, policy: policy)
    return change
  }

  private static func transforms(
    _ protos: [DatastoreV1.PropertyTransform], policy: Policy
  ) throws(GatewayError) -> [PropertyTransform] {
    if protos.count > policy.maximumTransforms {
      throw .invalid(
        "\(protos.count) transforms of one entity, more than \(policy.maximumTransforms).")
    }
    var transforms: [PropertyTransform] = []
    for proto in protos {
      transforms.append(try PropertyTransform(proto, policy: policy))
    }
    let paths = Set(transforms.map(\.path.names))
    for transform in transforms {
      let names = transform.path.names
      for count in 1..<names.count where paths.contains(Array(names.prefix(count))) {
        throw .invalid(
          "Cannot transform the property around \(transform.path) and that at the same time.")
      }
    }
    return transforms
  }

  private static func key(
    of entity: DatastoreV1.Entity, in scope: EntityCodec.Scope
  ) throws(GatewayError) -> Key {
    guard let key = entity.key else { throw .invalid("Entity is missing key.") }
    return try EntityCodec.key(key, in: scope)
  }

  /// A change as stores take it.
  ///
  /// - Parameter key: Complete.
  static func prepared(
    _ change: Change, key: Key, isAllocated: Bool, policy: Policy
  ) throws(GatewayError) -> Commit.Change {
    let mutation = Mutation(
      // Nothing may have an allocated id: an upsert of one is an insert.
      isAllocated ? .insert : change.operation, key, base: change.base,
      resolution: change.resolution)
    try mutation.check()
    guard case .entity(var proto) = change.content else {
      return Commit.Change(mutation: mutation, address: key.address)
    }
    if proto.key?.partitionID == nil || isAllocated
      || proto.key?.partitionID?.projectID.isEmpty ?? true
    {
      proto.key = EntityCodec.proto(key)
    }
    let content = try CommitDecision.Content(proto, key: key, policy: policy)
    guard change.mask != nil || !change.transforms.isEmpty else {
      return Commit.Change(
        mutation: mutation, address: key.address, content: content.bytes,
        indexEntries: content.indexEntries, isAllocated: isAllocated)
    }
    return Commit.Change(
      mutation: mutation, address: key.address, content: content.bytes,
      edit: EntityEdit(proposed: proto, mask: change.mask, transforms: change.transforms),
      isAllocated: isAllocated)
  }

  static func proto(
    _ answer: CommitAnswer, allocated: [Int: Key]
  ) -> DatastoreV1.CommitResponse {
    DatastoreV1.CommitResponse(
      mutationResults: answer.results.enumerated().map { number, result in
        DatastoreV1.MutationResult(
          key: allocated[number].map(EntityCodec.proto), version: result.version,
          createTime: result.createTime.map(EntityCodec.proto),
          updateTime: result.updateTime.map(EntityCodec.proto),
          conflictDetected: result.conflictDetected,
          transformResults: answer.transformResults[number] ?? [])
      },
      indexUpdates: Int32(clamping: answer.indexUpdates),
      commitTime: EntityCodec.proto(Timestamp(microseconds: answer.version)))
  }

  // MARK: - Lookup

  static func result(
    _ stored: StoredEntity, cursor: [UInt8] = [], mask: PropertyMask? = nil
  ) throws(StoreFailure) -> DatastoreV1.EntityResult {
    var result = DatastoreV1.EntityResult(
      version: stored.version.version, createTime: EntityCodec.proto(stored.version.createTime),
      updateTime: EntityCodec.proto(stored.version.updateTime), cursor: cursor)
    if let mask {
      result.entity = mask.selected(try stored.entity())
    } else {
      result.unknownFields = UnknownFields(message: stored.content, as: self.entityField)
    }
    return result
  }

  /// Of `EntityResult.entity`.
  private static let entityField = 1

  static func result(onlyKey key: Key, version: Int64 = 0) -> DatastoreV1.EntityResult {
    DatastoreV1.EntityResult(
      entity: DatastoreV1.Entity(key: EntityCodec.proto(key)), version: version)
  }
}
