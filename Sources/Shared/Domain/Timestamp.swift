/// A moment on the wall clock, in microseconds since 1970-01-01T00:00:00Z.
///
/// Cores never ask the clock: a timestamp comes in with each input.
package struct Timestamp: Hashable, Sendable, Comparable {
  package var microseconds: Int64

  package init(microseconds: Int64) {
    self.microseconds = microseconds
  }

  package static func < (left: Self, right: Self) -> Bool {
    left.microseconds < right.microseconds
  }

  package static func + (left: Self, right: Duration) -> Self {
    Self(microseconds: left.microseconds + right.microseconds)
  }

  package static func - (left: Self, right: Duration) -> Self {
    Self(microseconds: left.microseconds - right.microseconds)
  }

  package static func - (left: Self, right: Self) -> Duration {
    .microseconds(left.microseconds - right.microseconds)
  }
}

extension Duration {
  /// The whole microseconds in this duration.
  package var microseconds: Int64 {
    let (seconds, attoseconds) = self.components
    return seconds * 1_000_000 + attoseconds / 1_000_000_000_000
  }
}
