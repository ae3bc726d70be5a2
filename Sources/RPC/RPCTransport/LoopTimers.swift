import HeapModule
import NIOCore
import RPCCore

/// What happens on a loop after a while, unless it is stopped before, as nearly all are: deadlines of
/// calls. May be used again and again. What nearly always happens is the loop's own to time.
///
/// Confined to its loop.
final class LoopTimer {
  @exclusivity(unchecked) fileprivate var action: (() -> Void)?
  /// Which of the loop's starts it is.
  @exclusivity(unchecked) fileprivate var start = 0

  var isRunning: Bool { self.action != nil }
}

/// The timers of one loop, in a heap, of which the loop itself knows only when the first is due.
///
/// The loop's own timers are three allocations each, and one that is cancelled is looked for among
/// all. Here starting takes the logarithm of how many run; stopping leaves an entry behind, and a
/// heap that is mostly such entries is made anew. `@unchecked Sendable`: only the loop touches it.
final class LoopTimers: @unchecked Sendable {
  private struct Entry: Comparable {
    var moment: NIODeadline
    var start: Int
    var timer: LoopTimer

    /// Started again or stopped, it is not the entry's any more.
    var isCurrent: Bool { self.timer.isRunning && self.timer.start == self.start }

    static func == (left: Entry, right: Entry) -> Bool { left.start == right.start }
    static func < (left: Entry, right: Entry) -> Bool {
      (left.moment, left.start) < (right.moment, right.start)
    }
  }

  /// Entries that may be left behind without a look at how many they are.
  private static let smallNumber = 1_024

  private let eventLoop: any EventLoop
  @exclusivity(unchecked) private var heap = Heap<Entry>()
  @exclusivity(unchecked) private var running = 0
  @exclusivity(unchecked) private var starts = 0
  /// When the loop looks at the heap, and what makes it.
  @exclusivity(unchecked) private var alarm: (moment: NIODeadline, task: Scheduled<Void>)?

  init(_ eventLoop: any EventLoop) {
    self.eventLoop = eventLoop
  }

  /// Runs `action` once the delay is over, instead of what the timer was to run before.
  func start(_ timer: LoopTimer, in delay: Duration, _ action: @escaping () -> Void) {
    self.eventLoop.assertInEventLoop()
    if !timer.isRunning { self.running += 1 }
    self.starts += 1
    timer.action = action
    timer.start = self.starts
    let moment = self.eventLoop.now + TimeAmount(delay)
    self.heap.insert(Entry(moment: moment, start: self.starts, timer: timer))
    if self.heap.count > 2 * self.running + Self.smallNumber {
      self.heap = Heap(self.heap.unordered.filter(\.isCurrent))
    }
    if self.alarm.map({ moment < $0.moment }) ?? true { self.setAlarm(at: moment) }
  }

  /// Runs `action` once the delay is over.
  func start(in delay: Duration, _ action: @escaping () -> Void) -> LoopTimer {
    let timer = LoopTimer()
    self.start(timer, in: delay, action)
    return timer
  }

  /// What the timer was to run is forgotten; nothing happens to one that does not run.
  func stop(_ timer: LoopTimer?) {
    self.eventLoop.assertInEventLoop()
    guard let timer, timer.isRunning else { return }
    timer.action = nil
    self.running -= 1
  }

  private func setAlarm(at moment: NIODeadline) {
    // Or a peer whose deadlines come earlier and earlier would leave one behind with each.
    self.alarm?.task.cancel()
    self.alarm = (moment, self.eventLoop.scheduleTask(deadline: moment) { self.ring() })
  }

  private func ring() {
    self.alarm = nil
    let now = self.eventLoop.now
    while let first = self.heap.min, first.moment <= now || !first.isCurrent {
      self.heap.removeMin()
      guard first.isCurrent, let action = first.timer.action.take() else { continue }
      self.running -= 1
      action()
    }
    // An action may have started one, and set the alarm.
    if let first = self.heap.min, self.alarm.map({ first.moment < $0.moment }) ?? true {
      self.setAlarm(at: first.moment)
    }
  }
}
