import Domain
import ExecutorAllocatorCore
import Testing

/// A machine whose every step is checked, and the words to drive it.
struct Allocator {
  var machine: StateMachine
  var now = Timestamp(microseconds: 1_764_000_000_000_000)
  private var tokens: Int64 = 0

  static let one = StreamID(1)
  static let two = StreamID(2)

  /// With a table that answers and one scheduler.
  init(policy: Policy = Policy(), connected: Bool = true) {
    self.machine = StateMachine(policy: policy)
    if connected { self.handle(.tableConnected) }
    self.handle(.streamOpened(Self.one))
  }

  @discardableResult
  mutating func handle(
    _ input: Input, sourceLocation: SourceLocation = #_sourceLocation
  ) -> [Effect] {
    let effects = self.machine.handle(input, at: self.now)
    if let violation = self.machine.state.violation {
      Issue.record("after \(input): \(violation)", sourceLocation: sourceLocation)
    }
    return effects
  }

  @discardableResult
  mutating func demand(
    _ request: String, stream: StreamID = Self.one, rank: Int64 = 0, shape: Shape = .small
  ) -> [Effect] {
    self.handle(.demanded(stream, .test(request, rank: rank, shape: shape)))
  }

  /// The ticks of that long.
  @discardableResult
  mutating func pass(_ duration: Duration) -> [Effect] {
    self.now = self.now + duration
    return self.handle(.ticked)
  }

  mutating func lease(_ request: String, executor: ExecutorID = "e1") -> Lease {
    self.tokens += 1
    return .test(request, executor: executor, token: self.tokens)
  }

  /// Puts a granted lease in the scheduler's hands.
  mutating func grant(_ request: String, executor: ExecutorID = "e1") -> Lease {
    self.demand(request)
    let lease = self.lease(request, executor: executor)
    self.handle(.acquired(.standard, [lease]))
    return lease
  }

  var state: State { self.machine.state }
}

extension Shape {
  static let small = Shape(resources: .small)
  static let gpu = Shape(labels: ["gpu"], resources: .small)
}

extension Resources {
  static let small = Resources(cpuMillis: 1_000, memory: .gibibytes(1))
  static let machine = Resources(cpuMillis: 4_000, memory: .gibibytes(8), slots: 4)
}

extension Demand {
  static func test(_ request: String, rank: Int64 = 0, shape: Shape = .small) -> Demand {
    Demand(request: AttemptID(request), project: "lua", shape: shape, rank: rank)
  }
}

extension Lease {
  static func test(_ request: String, executor: ExecutorID = "e1", token: Int64) -> Lease {
    Lease(
      id: LeaseID("lease-\(token)"), executor: executor, address: "127.0.0.1:1", resources: .small,
      token: FencingToken(token), request: AttemptID(request), expires: Timestamp(microseconds: 0))
  }

  /// As its scheduler would name it.
  var held: HeldByScheduler {
    HeldByScheduler(lease: self.id, request: self.request, executor: self.executor)
  }

  func ended(_ cause: EndedLease.Cause, _ message: String = "why") -> EndedLease {
    EndedLease(
      id: self.id, request: self.request, executor: self.executor, cause: cause, message: message)
  }
}

extension [Effect] {
  /// The requests of each batch.
  var batches: [[String]] {
    self.compactMap {
      if case .acquire(_, let demands, _) = $0 { demands.map(\.request.rawValue) } else { nil }
    }
  }

  var sent: [Effect.Event] {
    self.compactMap { if case .send(_, let event) = $0 { event } else { nil } }
  }
}
