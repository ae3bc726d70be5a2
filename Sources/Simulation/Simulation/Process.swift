import Domain

/// What every process of a world has around it.
struct Surroundings {
  let timeline: Timeline
  let network: Network
  let checker: Checker
}

/// A process: it lives, is paused, is killed with all that it has in memory, and lives again.
///
/// What a life has planned happens in that life only. A subclass keeps what is volatile in one
/// value, which ``began()`` makes anew.
class Process {
  let name: String
  let surroundings: Surroundings
  /// Grows with every start; 0: it has not lived yet.
  private(set) var life = 0
  private(set) var isUp = false
  private(set) var isPaused = false
  var clock = DriftingClock()
  /// What came due while it was paused.
  private var backlog: [(life: Int, body: () -> Void)] = []
  /// Who hears of its end; each with whether the kernel of a machine that is still there says so.
  private var mourners: [Int: (_ isSilent: Bool) -> Void] = [:]
  private var lastMourner = 0

  init(_ name: String, in surroundings: Surroundings) {
    self.name = name
    self.surroundings = surroundings
  }

  var timeline: Timeline { self.surroundings.timeline }
  var network: Network { self.surroundings.network }
  var checker: Checker { self.surroundings.checker }

  /// The time of day, as its machine's clock has it.
  var now: Timestamp { self.clock.read(self.timeline.now) }
  /// Of a clock that drifts and never jumps.
  var uptime: Timestamp { self.clock.readMonotonic(self.timeline.now) }

  // MARK: For subclasses

  /// A new life has begun; nothing is left of the one before.
  func began() {}
  /// It is about to end as an operator ends it; answers how long it takes over that.
  func wasAskedToEnd() -> Duration { .zero }

  /// Does something later in this life.
  func after(_ delay: Duration, _ body: @escaping () -> Void) {
    let life = self.life
    self.timeline.after(self.clock.stretched(delay)) { self.run(in: life, body) }
  }

  /// Does something now, if that life is still going on; when it goes on, if it is paused.
  func run(in life: Int, _ body: @escaping () -> Void) {
    guard self.isUp, self.life == life else { return }
    guard !self.isPaused else {
      self.backlog.append((life, body))
      return
    }
    body()
  }

  func note(_ what: String) { self.timeline.note(self.name, what) }

  // MARK: Fate

  func start() {
    guard !self.isUp else { return }
    self.life += 1
    self.isUp = true
    self.note("starts, life \(self.life)")
    self.began()
  }

  /// SIGKILL, or with `silently` the loss of its machine: nobody is told.
  func kill(silently: Bool = false) {
    guard self.isUp else { return }
    self.note(silently ? "its machine is gone" : "is killed")
    self.isUp = false
    self.isPaused = false
    self.backlog = []
    let mourners = self.mourners.sorted { $0.key < $1.key }
    self.mourners = [:]
    for (_, mourner) in mourners { mourner(silently) }
  }

  /// SIGTERM.
  func terminate() {
    guard self.isUp else { return }
    self.note("is asked to end")
    let life = self.life
    self.timeline.after(self.wasAskedToEnd()) {
      if self.life == life { self.kill() }
    }
  }

  func pause() {
    guard self.isUp, !self.isPaused else { return }
    self.note("is paused")
    self.isPaused = true
  }

  func resume() {
    guard self.isPaused else { return }
    self.note("goes on")
    self.isPaused = false
    let backlog = self.backlog
    self.backlog = []
    for item in backlog { self.run(in: item.life, item.body) }
  }

  /// Has `body` called when this life ends. Answers what ``forget(mourner:)`` takes.
  func mourn(_ body: @escaping (_ isSilent: Bool) -> Void) -> Int {
    self.lastMourner += 1
    self.mourners[self.lastMourner] = body
    return self.lastMourner
  }

  func forget(mourner: Int) { self.mourners[mourner] = nil }
}

/// A machine's clock: it runs a little too fast or too slow, and somebody may set it.
struct DriftingClock {
  /// Millionths by which it is too fast.
  var drift: Int64 = 0
  /// How far it was set ahead or back.
  var jump = Duration.zero

  func readMonotonic(_ time: Timestamp) -> Timestamp {
    let elapsed = (time - Timeline.beginning).microseconds
    return time + .microseconds(elapsed / 1_000 * self.drift / 1_000)
  }

  func read(_ time: Timestamp) -> Timestamp { self.readMonotonic(time) + self.jump }

  /// How long it really takes until this clock has gone on by `delay`.
  func stretched(_ delay: Duration) -> Duration {
    .microseconds(delay.microseconds - delay.microseconds / 1_000 * self.drift / 1_000)
  }
}
