import BuildProtos
import Domain
import DomainMapping
import ExecutorAllocatorCore
import RPC

extension Heartbeat {
  init(_ message: AllocatorV1.HeartbeatRequest) {
    self.init(
      executor: ExecutorID(message.executorID), incarnation: message.incarnation,
      address: message.address, pool: PoolName(named: message.pool), labels: message.labels,
      capacity: message.capacity.map { Resources($0) } ?? .none,
      held: message.leases.map { Held($0) }, isDraining: message.draining,
      warmProjects: message.warmProjects.map { ProjectID($0) },
      used: message.used.map { Resources($0) } ?? .none,
      newestToken: FencingToken(message.newestFencingToken))
  }
}

extension Heartbeat.Held {
  init(_ message: AllocatorV1.HeldLease) {
    self.init(
      lease: LeaseID(message.leaseID), request: AttemptID(message.requestID),
      token: FencingToken(message.fencingToken), resources: Resources(ofJob: message.resources),
      project: ProjectID(message.project))
  }
}

extension Demand {
  init(_ message: AllocatorV1.Demand) {
    self.init(
      request: AttemptID(message.requestID), project: ProjectID(message.project),
      shape: Shape(
        pool: PoolName(named: message.pool), labels: message.labels,
        resources: Resources(ofJob: message.resources),
        avoid: message.avoidExecutorIds.map { ExecutorID($0) }),
      rank: message.rank)
  }
}

extension HeldByScheduler {
  init(_ message: AllocatorV1.Hold) {
    self.init(
      lease: LeaseID(message.leaseID), request: AttemptID(message.requestID),
      executor: ExecutorID(message.executorID))
  }
}

extension Identifier where Kind == PoolKind {
  /// The pool of that name; empty is the standard one.
  init(named name: String) {
    self = name.isEmpty ? .standard : Self(name)
  }
}

extension Resources {
  /// What a job takes: a slot at least.
  init(ofJob message: TypesV1.Resources?) {
    self.init(message ?? TypesV1.Resources())
    if self.slots == 0 { self.slots = 1 }
  }
}

extension AllocatorV1.HeartbeatResponse {
  init(_ answer: HeartbeatAnswer) {
    self.init(
      stopLeaseIds: answer.stop.map(\.rawValue),
      nextHeartbeat: GoogleProtobuf.Duration(answer.nextHeartbeat),
      lostAfter: GoogleProtobuf.Duration(answer.lostAfter))
  }
}

extension AllocatorV1.AcquireResponse {
  init(_ event: Effect.Event) {
    switch event {
    case .granted(let lease): self.init(event: .granted(AllocatorV1.Lease(lease)))
    case .unsatisfiable(let request, let reason):
      self.init(
        event: .unsatisfiable(
          AllocatorV1.Unsatisfiable(requestID: request.rawValue, reason: reason)))
    case .lost(let lease): self.init(event: .lost(AllocatorV1.LeaseLost(lease)))
    case .waiting(let request, let reason):
      self.init(
        event: .waiting(AllocatorV1.Waiting(requestID: request.rawValue, reason: reason)))
    }
  }
}

extension AllocatorV1.Lease {
  init(_ lease: Lease) {
    self.init(
      id: lease.id.rawValue, executorID: lease.executor.rawValue, executorAddress: lease.address,
      resources: TypesV1.Resources(lease.resources), fencingToken: lease.token.rawValue,
      requestID: lease.request.rawValue, expiresAt: GoogleProtobuf.Timestamp(lease.expires),
      contended: lease.isContended)
  }

  /// A lease in a list of executors.
  init(_ lease: LeaseTable.LeaseRecord, of executor: LeaseTable.ExecutorRecord) {
    self.init(
      id: lease.lease.rawValue, executorID: executor.executor.rawValue,
      executorAddress: executor.address, resources: TypesV1.Resources(lease.resources),
      fencingToken: lease.token.rawValue, requestID: lease.request.rawValue,
      expiresAt: lease.expires.map { GoogleProtobuf.Timestamp($0) })
  }
}

extension AllocatorV1.LeaseLost {
  init(_ lease: EndedLease) {
    let cause: AllocatorV1.LeaseLostCause =
      switch lease.cause {
      case .executorLost: .executorLost
      case .executorRestarted: .executorRestarted
      // To whoever still counts on it, a released lease is one that ran out.
      case .expired, .released: .expired
      }
    self.init(
      leaseID: lease.id.rawValue, requestID: lease.request.rawValue,
      executorID: lease.executor.rawValue, cause: cause, message: lease.message)
  }
}

extension AllocatorV1.Executor {
  init(_ executor: LeaseTable.ExecutorRecord) {
    let state: AllocatorV1.ExecutorState =
      switch executor.state {
      case .ready: .ready
      case .suspect: .suspect
      case .draining: .draining
      }
    let leased = executor.leases.reduce(Resources.none) { $0 + $1.resources }
    self.init(
      id: executor.executor.rawValue, address: executor.address, pool: executor.pool.rawValue,
      labels: executor.labels, state: state, capacity: TypesV1.Resources(executor.capacity),
      leased: TypesV1.Resources(leased),
      leases: executor.leases.map { AllocatorV1.Lease($0, of: executor) },
      lastHeartbeat: GoogleProtobuf.Timestamp(executor.lastHeartbeat))
  }
}

extension RPCError {
  /// How long a caller should wait for Redis to come back.
  private static let tableRetryDelay = Duration.seconds(1)

  init(_ error: LeaseTableError) {
    switch error {
    case .unavailable(let reason):
      self.init(
        .unavailable, "the allocator cannot use its table: \(reason)",
        retryDelay: Self.tableRetryDelay)
    case .broken(let reason): self.init(.internalError, "the allocator's table: \(reason)")
    }
  }

  init(_ refusal: HeartbeatRefusal) {
    switch refusal {
    case .invalid: self.init(.invalidArgument, "\(refusal)")
    case .duplicate(_, _, let silentFor, let lostAfter):
      self.init(
        .alreadyExists, "\(refusal)", retryDelay: max(.zero, lostAfter - silentFor))
    }
  }

  init(_ refusal: Effect.Refusal) {
    switch refusal {
    case .invalid(let reason): self.init(.invalidArgument, reason)
    case .tooMuchDemand, .tooManyLeases:
      self.init(.resourceExhausted, "\(refusal)", retryDelay: .seconds(1))
    }
  }
}
