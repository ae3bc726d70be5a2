import Domain

/// What may go wrong, and how often.
package struct FaultPlan: Sendable {
  enum Kind: CaseIterable {
    case killScheduler, killAllocator, killRunner, loseRunner, drainRunner
    case pauseScheduler, pauseAllocator, pauseRunner, pauseStore, pauseRedis
    case cutOff, cutTwo, flushRedis, killRedis, killStore, slowStore, takeOver, setClock
  }

  /// Between two faults.
  var interval: ClosedRange<Duration>
  /// How long one lasts.
  var length: ClosedRange<Duration>
  /// Which kinds this world has: the more of one kind, the further it gets.
  var kinds: [Kind]

  static let none = FaultPlan(
    interval: .seconds(1)...(.seconds(1)), length: .seconds(1)...(.seconds(1)), kinds: [])

  init(interval: ClosedRange<Duration>, length: ClosedRange<Duration>, kinds: [Kind]) {
    self.interval = interval
    self.length = length
    self.kinds = kinds
  }

  init(_ random: inout Randomness) {
    self.interval = .milliseconds(100)...random.pick([.seconds(2), .seconds(8), .seconds(30)])
    self.length = .milliseconds(10)...random.pick([.seconds(1), .seconds(8), .seconds(20)])
    self.kinds = Kind.allCases.filter { _ in random.chance(0.4) }
  }
}

/// Breaks things while the storm lasts, and mends everything at its end.
final class Faults {
  private let plan: FaultPlan
  private unowned let world: World
  private let timeline: Timeline
  private(set) var isOver = false

  init(_ plan: FaultPlan, _ world: World, _ timeline: Timeline) {
    self.plan = plan
    self.world = world
    self.timeline = timeline
  }

  func begin(for storm: Duration) {
    self.timeline.after(storm) { self.end() }
    self.planNext()
  }

  private func planNext() {
    guard !self.plan.kinds.isEmpty else { return }
    self.timeline.after(self.timeline.random.duration(self.plan.interval)) {
      guard !self.isOver else { return }
      self.strike(self.timeline.random.pick(self.plan.kinds))
      self.planNext()
    }
  }

  private func strike(_ kind: FaultPlan.Kind) {
    let length = self.timeline.random.duration(self.plan.length)
    let world = self.world
    switch kind {
    case .killScheduler: self.kill(self.timeline.random.pick(world.schedulers), length)
    case .killAllocator: self.kill(self.timeline.random.pick(world.allocators), length)
    case .killRunner: self.kill(self.timeline.random.pick(world.runners), length)
    case .loseRunner: self.kill(self.timeline.random.pick(world.runners), length, silently: true)
    case .killRedis: self.kill(world.redis, length)
    case .killStore: self.kill(world.store, length)
    case .drainRunner:
      let runner = self.timeline.random.pick(world.runners)
      runner.terminate()
      self.timeline.after(.seconds(35) + length) { runner.start() }
    case .pauseScheduler: self.pause(self.timeline.random.pick(world.schedulers), length)
    case .pauseAllocator: self.pause(self.timeline.random.pick(world.allocators), length)
    case .pauseRunner: self.pause(self.timeline.random.pick(world.runners), length)
    case .pauseStore: self.pause(world.store, length)
    case .pauseRedis: self.pause(world.redis, length)
    case .cutOff:
      let alone = self.timeline.random.pick(world.processes)
      for other in world.processes where other !== alone { self.cut(alone, other, length) }
    case .cutTwo:
      let one = self.timeline.random.pick(world.processes)
      let other = self.timeline.random.pick(world.processes)
      if one !== other { self.cut(one, other, length) }
    case .flushRedis: world.redis.flush()
    case .slowStore:
      world.store.commitTime = .milliseconds(100)...(.seconds(12))
      self.timeline.after(length) { world.store.commitTime = Store.usualCommitTime }
    case .takeOver: world.takeOver(overlap: length)
    case .setClock:
      let process = self.timeline.random.pick(world.processes)
      let jump = self.timeline.random.duration(.zero...(.seconds(60))) - .seconds(30)
      process.note("has its clock set by \(jump)")
      process.clock.jump += jump
    }
  }

  private func kill(_ process: Process, _ length: Duration, silently: Bool = false) {
    process.kill(silently: silently)
    self.timeline.after(length) { process.start() }
  }

  private func pause(_ process: Process, _ length: Duration) {
    process.pause()
    self.timeline.after(length) { process.resume() }
  }

  private func cut(_ one: Process, _ other: Process, _ length: Duration) {
    self.world.network.cut(one, other)
    self.timeline.after(length) { self.world.network.mend(one, other) }
  }

  private func end() {
    self.isOver = true
    self.timeline.note("world", "the storm is over")
    let world = self.world
    world.network.weather = .calm
    world.store.commitTime = Store.usualCommitTime
    for process in world.processes {
      process.resume()
      for other in world.processes where other !== process { world.network.mend(process, other) }
    }
    // One that drains is let drain; the others are up at once.
    for process in world.processes where process !== world.spare { process.start() }
  }
}
