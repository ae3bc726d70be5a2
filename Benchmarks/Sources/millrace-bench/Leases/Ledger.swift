import BuildProtos
import RPC
import Synchronization

/// Every demand of a measurement: when it was due and sent, and when it had its lease.
final class Ledger: Sendable {
  /// What was found, of the demands that count.
  struct Summary: Sendable {
    var grants: [Duration]
    var heartbeats: [Duration]
    /// How long after its moment a demand was sent.
    var delays: [Duration]
    var problems: [String]
  }

  private struct Held {
    var lease: String
    var executor: String
    var until: ContinuousClock.Instant
  }

  private struct State {
    var begin: ContinuousClock.Instant?
    var sent: [Duration] = []
    var granted: [Duration?]
    var answers = 0
    var standing = 0
    var held: [Held] = []
    /// Those before it in `held` were given back.
    var firstHeld = 0
    var heartbeats: [Duration] = []
    var leasedTwice = 0
    var stopped = 0
    var refusals: [String] = []
  }

  private static let pause = Duration.milliseconds(10)

  private let farm: BenchFarm
  private let standing: Int
  private let measured: Int
  private let rate: Int
  private let hold: Duration
  private let state: Mutex<State>

  init(farm: BenchFarm, standing: Int, measured: Int, rate: Int, hold: Duration) {
    self.farm = farm
    self.standing = standing
    self.measured = measured
    self.rate = rate
    self.hold = hold
    self.state = Mutex(State(granted: Array(repeating: nil, count: measured)))
  }

  // MARK: What happens

  func begin() {
    self.state.withLock { state in
      state.heartbeats = []
      state.begin = .now
    }
  }

  func waitUntilDue(_ index: Int) async throws {
    guard let begin = self.state.withLock({ $0.begin }) else { return }
    let due = begin + .seconds(Double(index) / Double(self.rate))
    if due > .now { try await Task.sleep(until: due, tolerance: .zero, clock: .continuous) }
  }

  func sent(_ index: Int) {
    self.state.withLock { state in
      if let begin = state.begin { state.sent.append(begin.duration(to: .now)) }
    }
  }

  func received(_ event: AllocatorV1.AcquireResponse.Event?) {
    let now = ContinuousClock.now
    switch event {
    case .granted(let lease):
      let index = Int(lease.requestID) ?? 0
      let fits = self.farm.take(lease, of: "project-\(index.magnitude % 97)")
      self.state.withLock { state in
        if !fits { state.leasedTwice += 1 }
        if index < 0 {
          state.standing += 1
        } else {
          state.granted[index] = state.begin?.duration(to: now)
          state.answers += 1
          state.held.append(
            Held(lease: lease.id, executor: lease.executorID, until: now + self.hold))
        }
      }
    case .unsatisfiable(let event): self.failed("demand \(event.requestID): \(event.reason)")
    case .lost(let event): self.failed("lease \(event.leaseID) was lost: \(event.message)")
    case .waiting, nil: break
    }
  }

  private func failed(_ why: String) { self.state.withLock { $0.refusals.append(why) } }

  func reported(after time: Duration, stopping count: Int) {
    self.state.withLock { state in
      state.heartbeats.append(time)
      state.stopped += count
    }
  }

  /// The leases whose time is over; their jobs have ended.
  func takeDone() -> [String] {
    let now = ContinuousClock.now
    let done = self.state.withLock { state in
      let end = state.held[state.firstHeld...].firstIndex { $0.until > now } ?? state.held.count
      defer { state.firstHeld = end }
      return Array(state.held[state.firstHeld..<end])
    }
    for held in done { self.farm.end(held.lease, on: held.executor) }
    return done.map(\.lease)
  }

  // MARK: What is waited for

  func waitUntilFilled(within limit: Duration) async throws {
    try await self.wait(within: limit, for: self.standing, "shares that are kept") { $0.standing }
  }

  func waitUntilAnswered(within limit: Duration) async throws {
    try await self.wait(within: limit, for: self.measured, "demands") { $0.answers }
  }

  private func wait(
    within limit: Duration, for wanted: Int, _ what: String,
    _ count: @Sendable (borrowing State) -> Int
  ) async throws {
    let end = ContinuousClock.now + limit
    while true {
      let (now, refusal) = self.state.withLock { (count($0), $0.refusals.first) }
      if now == wanted { return }
      guard .now < end, refusal == nil else {
        throw BenchmarkFailure("\(now) of \(wanted) \(what) were leased: \(refusal ?? "too slow")")
      }
      try await Task.sleep(for: Self.pause)
    }
  }

  /// Without the first demands, which meet whatever the beginning has stirred up.
  func summary(leavingOut first: Int) -> Summary {
    self.state.withLock { state in
      var problems: [String] = []
      if state.leasedTwice > 0 { problems.append("\(state.leasedTwice) shares were leased twice") }
      if state.stopped > 0 { problems.append("\(state.stopped) leases were to be stopped") }
      let counted = first..<self.measured
      return Summary(
        grants: counted.compactMap { index in
          state.granted[index].map { $0 - state.sent[index] }
        },
        heartbeats: state.heartbeats,
        delays: counted.map { state.sent[$0] - .seconds(Double($0) / Double(self.rate)) },
        problems: problems)
    }
  }
}
