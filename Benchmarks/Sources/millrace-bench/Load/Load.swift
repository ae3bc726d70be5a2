import BuildProtos
import Glibc
import RPC
import Synchronization

/// Builds to submit, and how.
///
/// Without a rate the loop is closed: `concurrency` submitters, each with one call at a time. With
/// one it is open: a build has its moment, and if all submitters are busy then, its latency counts
/// from that moment all the same, so that a slow scheduler cannot slow down who measures it.
struct Load: Sendable {
  /// Beyond what a server takes on one connection, calls would only wait in the client.
  static let maximumConcurrency = 1_000
  /// A timer is not exact. A build that is submitted later than this after its moment was held up
  /// by something else.
  private static let timerTolerance = Duration.milliseconds(2)

  /// Holds these builds and no others.
  var project: String
  var count: Int
  var concurrency: Int
  /// Builds a second.
  var rate: Double?
  var step: NoOpStep
  /// How long one build is tried for.
  var timeout: Duration
  /// The builds are of so many projects in turn, whose names begin with ``project``; 1: of that one.
  var projects = 1
  /// The number of the first build: the same number is the same build.
  var first = 0
  /// Where they are to run; empty: anywhere.
  var pool = ""

  /// The call that submits a build.
  func request(_ index: Int) -> SchedulerV1.SubmitBuildRequest {
    SchedulerV1.SubmitBuildRequest(
      project: self.projects == 1 ? self.project : "\(self.project)/\(index % self.projects)",
      idempotencyKey: Self.key(index), pipeline: Array(self.step.pipeline(in: self.pool).utf8),
      pipelinePath: "millrace.yaml")
  }

  /// A UUID of version 7, as `millrace submit` chooses one: of ten builds a millisecond, whenever they come.
  private static func key(_ index: Int) -> String {
    let time = String(Self.begin + index / 10, radix: 16)
    let digits = String(repeating: "0", count: 12 - time.count) + time
    let number = String(index, radix: 16)
    return "\(digits.prefix(8))-\(digits.suffix(4))-7000-8000-"
      + String(repeating: "0", count: 12 - number.count) + number
  }

  /// In milliseconds since 1970.
  private static let begin: Int = {
    var now = timespec()
    clock_gettime(CLOCK_REALTIME, &now)
    return now.tv_sec * 1_000
  }()

  /// Submits all builds; each has an answer, or was given up, when this returns.
  func run(on scheduler: Scheduler, _ clock: RunClock) async throws -> [Submission] {
    let tickets = Tickets(count: self.count)
    return try await withThrowingTaskGroup(of: [Submission].self) { group in
      for _ in 0..<min(self.concurrency, self.count) {
        group.addTask {
          var submissions: [Submission] = []
          while let index = tickets.next() {
            submissions.append(try await self.submit(index, to: scheduler, clock))
          }
          return submissions
        }
      }
      return try await group.reduce(into: []) { $0 += $1 }
    }
  }

  private func submit(
    _ index: Int, to scheduler: Scheduler, _ clock: RunClock
  ) async throws -> Submission {
    let request = self.request(self.first + index)
    let submitted = try await self.moment(of: index, clock)
    var patience = Patience(limit: self.timeout)
    let end: Submission.End
    do {
      end = .answered(buildID: try await scheduler.submit(request, &patience))
    } catch let error as RPCError {
      end = .failed("\(error)")
    }
    return Submission(
      submitted: submitted, ended: clock.now, end: end, refusals: patience.refusals,
      repetitions: patience.repetitions)
  }

  /// Waits for a build's moment, and says from when on its latency counts.
  private func moment(of index: Int, _ clock: RunClock) async throws -> Duration {
    guard let rate = self.rate else { return clock.now }
    let due = Duration.seconds(Double(index) / rate)
    try await clock.wait(until: due)
    let now = clock.now
    return now - due > Self.timerTolerance ? due : now
  }
}

/// The numbers of the builds that nobody has submitted yet.
private final class Tickets: Sendable {
  private let count: Int
  private let taken = Atomic(0)

  init(count: Int) {
    self.count = count
  }

  func next() -> Int? {
    let index = self.taken.wrappingAdd(1, ordering: .relaxed).oldValue
    return index < self.count ? index : nil
  }
}
