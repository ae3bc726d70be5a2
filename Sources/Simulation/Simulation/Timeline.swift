import Domain
import HeapModule

/// Virtual time, and what is still to happen in it, in one order.
///
/// All chance comes from ``random``, and events at one moment happen in the order in which they
/// were planned: so a seed decides everything.
final class Timeline {
  private struct Event: Comparable {
    var time: Timestamp
    var order: UInt64
    var body: () -> Void

    static func == (left: Self, right: Self) -> Bool { left.order == right.order }

    static func < (left: Self, right: Self) -> Bool {
      (left.time, left.order) < (right.time, right.order)
    }
  }

  /// What no clock in the world need show; see ``Process/now``.
  private(set) var now = Timeline.beginning
  var random: Randomness
  private(set) var trace = Trace()
  /// The first thing that must not be; the run ends with it.
  private(set) var failure: String?
  private(set) var eventCount = 0
  private var events = Heap<Event>()
  private var lastOrder: UInt64 = 0

  static let beginning = Timestamp(microseconds: 1_764_000_000_000_000)

  init(seed: UInt64) {
    self.random = Randomness(seed: seed)
  }

  func after(_ delay: Duration, _ body: @escaping () -> Void) {
    self.at(self.now + max(.zero, delay), body)
  }

  func at(_ time: Timestamp, _ body: @escaping () -> Void) {
    self.lastOrder += 1
    self.events.insert(Event(time: max(time, self.now), order: self.lastOrder, body: body))
  }

  /// Lets happen what is due until `end`, or until `isDone` or a failure.
  func run(until end: Timestamp, isDone: () -> Bool = { false }) {
    while self.failure == nil, let event = self.events.min, event.time <= end {
      _ = self.events.popMin()
      self.now = event.time
      self.eventCount += 1
      event.body()
      if isDone() { return }
    }
    if self.failure == nil { self.now = max(self.now, end) }
  }

  func note(_ who: String, _ what: String) {
    self.trace.append(self.now - Self.beginning, who, what)
  }

  /// Something is as it must never be.
  func fail(_ why: String) {
    guard self.failure == nil else { return }
    self.failure = why
    self.note("CHECK", why)
  }
}

/// What happened, in words: the last lines, and a digest of all.
package struct Trace {
  private static let kept = 2_000

  private var lines: [String] = []
  /// Two runs of a seed that differ anywhere differ in this.
  package private(set) var digest: UInt64 = 0xcbf2_9ce4_8422_2325

  /// The last lines, oldest first.
  package func last(_ count: Int) -> ArraySlice<String> { self.lines.suffix(count) }

  mutating func append(_ time: Duration, _ who: String, _ what: String) {
    let line = "\(Self.spoken(time))  \(who): \(what)"
    for byte in line.utf8 { self.digest = (self.digest ^ UInt64(byte)) &* 0x100_0000_01b3 }
    self.lines.append(line)
    if self.lines.count > 2 * Self.kept { self.lines.removeFirst(Self.kept) }
  }

  private static func spoken(_ time: Duration) -> String {
    let micros = time.microseconds
    let fraction = String(1_000_000 + micros % 1_000_000).dropFirst()
    let seconds = String(micros / 1_000_000)
    return String(repeating: " ", count: max(0, 5 - seconds.count)) + "\(seconds).\(fraction)"
  }
}
