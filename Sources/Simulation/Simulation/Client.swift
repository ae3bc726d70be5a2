import Domain
import SchedulerCore

/// People and their tools: they do what the workload says, and try again until they are answered.
final class Client: Process {
  private static let callTimeout = Duration.seconds(15)
  private static let backoff: ClosedRange<Duration> = .milliseconds(100)...(.seconds(3))

  private let scheduler: () -> SchedulerProcess
  private var workload: any Workload
  private var builds: [BuildID] = []
  /// Things that were begun and have no answer.
  private var open = 0
  private var isAtEnd = false
  private let answered: (BuildID) -> Void

  init(
    workload: any Workload, scheduler: @escaping () -> SchedulerProcess,
    answered: @escaping (BuildID) -> Void, in surroundings: Surroundings
  ) {
    self.workload = workload
    self.scheduler = scheduler
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
      self.note(
        "wants \(wish.id) of \(wish.project), priority \(wish.priority), group "
          + "\"\(wish.pipeline.concurrency?.group ?? "")\"")
      let submission = Submission(
        id: wish.id, project: wish.project, pipeline: wish.pipeline, legs: legs,
        priority: wish.priority)
      self.ask("submit \(wish.id)") {
        $0.submit(submission, $1)
      } then: { answer in
        if case .build(let record, _) = answer { self.answered(record.id) }
      }
    case .cancel(let number):
      guard self.builds.indices.contains(number - 1) else { return }
      let id = self.builds[number - 1]
      self.ask("cancel \(id)") {
        $0.cancel(id, reason: "nobody wants it", $1)
      } then: { _ in
      }
    case .retry(let number):
      guard self.builds.indices.contains(number - 1) else { return }
      let id = self.builds[number - 1]
      self.ask("retry \(id)") {
        $0.retry(id, $1)
      } then: { _ in
      }
    }
  }

  private func ask(
    _ what: String, _ serve: @escaping (SchedulerProcess, @escaping (Answer) -> Void) -> Void,
    then: @escaping (Answer) -> Void
  ) {
    self.open += 1
    self.tryNow(what, serve) { answer in
      self.open -= 1
      then(answer)
    }
  }

  private func tryNow(
    _ what: String, _ serve: @escaping (SchedulerProcess, @escaping (Answer) -> Void) -> Void,
    then: @escaping (Answer) -> Void
  ) {
    let scheduler = self.scheduler()
    self.network.call(
      what, from: self, to: scheduler, timeout: Self.callTimeout
    ) { answer in
      serve(scheduler, answer)
    } then: { (result: Result<Answer, CallFailure>) in
      switch result {
      case .success(.unavailable), .success(.exhausted), .failure:
        self.after(self.timeline.random.duration(Self.backoff)) {
          self.tryNow(what, serve, then: then)
        }
      case .success(let answer):
        self.note("\(what): \(answer.word)")
        then(answer)
      }
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
