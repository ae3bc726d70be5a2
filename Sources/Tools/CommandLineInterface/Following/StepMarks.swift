/// Where a log's steps begin, so that their headings stand in the right place among its bytes.
///
/// A log's bytes and the states of its steps come on two streams, in any order. A reader asks
/// `next` with the offset of the byte it would print next; it waits where it cannot know yet
/// whether a heading comes first.
package struct StepMarks: Hashable, Sendable {
  /// A step, as far as its place in the log is known.
  package struct Mark: Hashable, Sendable {
    package var index: Int
    package var start: Int64
    /// Nil while it runs.
    package var end: Int64?

    package init(index: Int, start: Int64, end: Int64?) {
      self.index = index
      self.start = start
      self.end = end
    }
  }

  /// What comes next.
  package enum Next: Hashable, Sendable {
    case heading(index: Int)
    /// Bytes before this offset may be printed.
    case bytes(upTo: Int64)
    /// Until the steps' states are known better.
    case wait
  }

  private var marks: [Mark] = []
  private var isFinished = false
  private var shown: Set<Int> = []

  package init() {}

  /// The steps that have begun, as they are known now. `finished`: there will be no further ones.
  package mutating func update(_ marks: [Mark], finished: Bool) {
    self.marks = marks.sorted { ($0.start, $0.index) < ($1.start, $1.index) }
    self.isFinished = self.isFinished || finished
  }

  /// What comes at an offset. A heading is given once.
  package mutating func next(at offset: Int64) -> Next {
    for mark in self.marks where !self.shown.contains(mark.index) {
      if mark.start > offset { return .bytes(upTo: mark.start) }
      self.shown.insert(mark.index)
      return .heading(index: mark.index)
    }
    if self.isFinished { return .bytes(upTo: .max) }
    // Behind the end of the last known step stands the heading of the next one.
    guard let last = self.marks.last else { return .wait }
    guard let end = last.end else { return .bytes(upTo: .max) }
    return offset < end ? .bytes(upTo: end) : .wait
  }
}
