import Domain
import SchedulerCore

/// People and their tools: they do what the workload says, and try again until they are answered.
final class Client: Process {
  private static let callTimeout = Duration.seconds(15)
  private static let backoff: ClosedRange<Duration> = .milliseconds(100)...(.seconds(3))

  /// How often somebody looks at a build that was answered.
  private static let curiosity = 0.3

  /// Those that there are; any will do.
  private let schedulers: () -> [SchedulerProcess]
  private var workload: any Workload
  private var builds: [BuildID] = []
  /// Things that were begun and have no answer.
  private var open = 0
  private var isAtEnd = false
  private let answered: (BuildID) -> Void

  init(
    workload: any Workload, schedulers: @escaping () -> [SchedulerProcess],
    answered: @escaping (BuildID) -> Void, in surroundings: Surroundings
  ) {
    self.workload = workload
    self.schedulers = schedulers
    self.answered = answered
    super.init("client", in: surroundings)
  }

  /// Everything has arrived and was answered.
  var isDone: Bool { self.isAtEnd && self.open == 0 }

  override func began() { self.await() }

  private func await() {
    guard let arrival = self.workload.next() else {
      self.isAtEnd = true
      return
    }
    self.timeline.at(Timeline.beginning + arrival.time) {
      self.arrived(arrival.what)
      self.await()
    }
  }

  private func arrived(_ what: Arrival.What) {
    switch what {
    case .submit(let wish):
      guard
        let legs = try? wish.pipeline.expanded(standard: SchedulerCore.Policy().standardResources)
      else { return self.note("\(wish.id) cannot be expanded") }
      self.builds.append(wish.id)
      self.checker.wanted(wish.id)
      self.note(
        "wants \(wish.id) of \(wish.project), priority \(wish.priority), group "
          + "\"\(wish.pipeline.concurrency?.group ?? "")\"")
      let submission = Submission(
        id: wish.id, project: wish.project, pipeline: wish.pipeline, legs: legs,
        priority: wish.priority)
      self.ask("submit \(wish.id)", .submit(submission)) { answer in
        if case .build(let record, _) = answer { self.answered(record.id) }
      }
    case .cancel(let number):
      guard self.builds.indices.contains(number - 1) else { return }
      let id = self.builds[number - 1]
      self.ask("cancel \(id)", .cancel(id, reason: "nobody wants it"))
    case .retry(let number):
      guard self.builds.indices.contains(number - 1) else { return }
      let id = self.builds[number - 1]
      self.ask("retry \(id)", .retry(id))
    }
  }

  private func ask(
    _ what: String, _ call: SchedulerProcess.Call, then: @escaping (Answer) -> Void = { _ in }
  ) {
    self.open += 1
    self.tryNow(what, call) { answer in
      self.open -= 1
      then(answer)
      if case .build(let record, _) = answer, self.timeline.random.chance(Self.curiosity) {
        self.look(at: record.id)
      }
    }
  }

  private func look(at build: BuildID) {
    self.after(self.timeline.random.duration(.zero...(.seconds(10)))) {
      self.call("read \(build)", .read(build)) { _ in }
    }
  }

  private func tryNow(
    _ what: String, _ call: SchedulerProcess.Call, then: @escaping (Answer) -> Void
  ) {
    self.call(what, call) { result in
      switch result {
      case .success(.unavailable), .success(.exhausted), .failure:
        self.after(self.timeline.random.duration(Self.backoff)) {
          self.tryNow(what, call, then: then)
        }
      case .success(let answer):
        self.note("\(what): \(answer.word)")
        then(answer)
      }
    }
  }

  private func call(
    _ what: String, _ call: SchedulerProcess.Call,
    then: @escaping (Result<Answer, CallFailure>) -> Void
  ) {
    let scheduler = self.timeline.random.pick(self.schedulers())
    let told = self.checker.told(of: call.build)
    self.network.call(
      what, from: self, to: scheduler, timeout: Self.callTimeout
    ) { answer in
      scheduler.answer(call, answer)
    } then: { (result: Result<Answer, CallFailure>) in
      // What anybody was told is what everybody is told from then on.
      if case .success(let answer) = result {
        self.checker.told(call.build, answer, since: told)
      }
      then(result)
    }
  }
}

extension Answer {
  var word: String {
    switch self {
    case .build(let record, let existed):
      "\(record.outcome.map { "\($0)" } ?? "\(record.state)")\(existed ? ", there before" : "")"
    case .notFound: "not found"
    case .failedPrecondition(let why), .invalid(let why), .alreadyExists(let why),
      .exhausted(let why, _), .unavailable(let why):
      why
    }
  }
}
