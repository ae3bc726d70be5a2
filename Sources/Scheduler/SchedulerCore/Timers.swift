import Domain
import HeapModule

/// Moments at which something wants to be looked at; each key has at most one.
struct Timers<Key: Hashable & Sendable>: Sendable {
  private struct Alarm: Comparable, Sendable {
    var time: Timestamp
    var order: UInt64
    var key: Key

    static func == (left: Self, right: Self) -> Bool { left.order == right.order }

    static func < (left: Self, right: Self) -> Bool {
      (left.time, left.order) < (right.time, right.order)
    }
  }

  private var heap: Heap<Alarm> = []
  private var armed: [Key: (time: Timestamp, order: UInt64)] = [:]
  private var nextOrder: UInt64 = 0

  var count: Int { self.armed.count }

  /// Sets or moves a key's alarm; nil takes it away.
  mutating func set(_ key: Key, to time: Timestamp?) {
    guard let time else {
      self.armed[key] = nil
      self.compact()
      return
    }
    if self.armed[key]?.time == time { return }
    self.nextOrder += 1
    self.armed[key] = (time, self.nextOrder)
    self.heap.insert(Alarm(time: time, order: self.nextOrder, key: key))
    self.compact()
  }

  /// When the next alarm goes off.
  mutating func next() -> Timestamp? {
    while let alarm = self.heap.min {
      if self.armed[alarm.key]?.order == alarm.order { return alarm.time }
      _ = self.heap.popMin()
    }
    return nil
  }

  /// Takes the next alarm that is due.
  mutating func pop(at now: Timestamp) -> Key? {
    guard let time = self.next(), time <= now, let alarm = self.heap.popMin() else { return nil }
    self.armed[alarm.key] = nil
    return alarm.key
  }

  /// Alarms that were moved or taken away stay in the heap until they come up; an attempt's limit
  /// of hours must not keep it there for hours.
  private mutating func compact() {
    guard self.heap.count > 2 * self.armed.count + 1_024 else { return }
    let armed = self.armed
    self.heap = Heap(self.heap.unordered.filter { armed[$0.key]?.order == $0.order })
  }
}
