/// A number of bytes.
package struct ByteCount: Hashable, Sendable, Comparable {
  package var bytes: Int64

  package init(_ bytes: Int64) {
    self.bytes = bytes
  }

  package static func kibibytes(_ count: Int64) -> Self { Self(count << 10) }
  package static func mebibytes(_ count: Int64) -> Self { Self(count << 20) }
  package static func gibibytes(_ count: Int64) -> Self { Self(count << 30) }

  package static func < (left: Self, right: Self) -> Bool {
    left.bytes < right.bytes
  }
}

/// A share of an executor: what a job asks for, and what an executor has.
package struct Resources: Hashable, Sendable {
  /// Thousandths of a CPU.
  package var cpuMillis: Int64
  package var memory: ByteCount
  /// Jobs at a time.
  package var slots: Int32

  package init(cpuMillis: Int64, memory: ByteCount, slots: Int32 = 1) {
    self.cpuMillis = cpuMillis
    self.memory = memory
    self.slots = slots
  }

  /// 16 TiB: beyond any machine, and what the allocator's index keeps exact.
  package static let maximumMemory = ByteCount.gibibytes(16 << 10)

  package static let none = Resources(cpuMillis: 0, memory: ByteCount(0), slots: 0)

  /// Whether this share has room for `other` in every dimension.
  package func fits(_ other: Resources) -> Bool {
    other.cpuMillis <= self.cpuMillis && other.memory <= self.memory && other.slots <= self.slots
  }

  /// A sum that no number can hold is the largest that one can: peers say what they like.
  package static func + (left: Self, right: Self) -> Self {
    Self(
      cpuMillis: left.cpuMillis.saturatingSum(right.cpuMillis),
      memory: ByteCount(left.memory.bytes.saturatingSum(right.memory.bytes)),
      slots: left.slots.saturatingSum(right.slots))
  }

  /// Saturates as the sum does.
  package static func - (left: Self, right: Self) -> Self {
    Self(
      cpuMillis: left.cpuMillis.saturatingDifference(right.cpuMillis),
      memory: ByteCount(left.memory.bytes.saturatingDifference(right.memory.bytes)),
      slots: left.slots.saturatingDifference(right.slots))
  }

  package static func += (left: inout Self, right: Self) { left = left + right }
  package static func -= (left: inout Self, right: Self) { left = left - right }
}

extension FixedWidthInteger where Self: SignedInteger {
  fileprivate func saturatingSum(_ other: Self) -> Self {
    let (sum, isOver) = self.addingReportingOverflow(other)
    return isOver ? (other < 0 ? .min : .max) : sum
  }

  fileprivate func saturatingDifference(_ other: Self) -> Self {
    let (difference, isOver) = self.subtractingReportingOverflow(other)
    return isOver ? (other < 0 ? .max : .min) : difference
  }
}

/// What a step or a job really used.
package struct Usage: Hashable, Sendable {
  /// CPU time of the whole process tree, user and system.
  package var cpuTime: Duration
  package var peakMemory: ByteCount
  package var wallTime: Duration

  package init(
    cpuTime: Duration = .zero, peakMemory: ByteCount = ByteCount(0), wallTime: Duration = .zero
  ) {
    self.cpuTime = cpuTime
    self.peakMemory = peakMemory
    self.wallTime = wallTime
  }
}
