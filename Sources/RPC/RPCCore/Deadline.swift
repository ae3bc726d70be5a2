/// The moment by which a call must be over.
public struct Deadline: Sendable, Hashable, Comparable {
  /// Since `origin`. The size of an `Instant` is known to the runtime alone, which whatever holds one
  /// asks for it with each use.
  private let time: Duration

  private static let origin = ContinuousClock.now

  /// On the clock that goes on while the machine sleeps.
  public var instant: ContinuousClock.Instant { Self.origin.advanced(by: self.time) }

  /// A moment of the continuous clock.
  public init(_ instant: ContinuousClock.Instant) {
    self.time = Self.origin.duration(to: instant)
  }

  /// The moment that is `timeout` from now; it has passed already if that is negative.
  public static func after(_ timeout: Duration) -> Self { .after(timeout, from: .now) }

  /// The same from another moment. What is longer than a century is a century, and no number overflows.
  package static func after(_ timeout: Duration, from begin: ContinuousClock.Instant) -> Self {
    Self(begin.advanced(by: min(max(timeout, .zero - .century), .century)))
  }

  /// The time that is left, negative once it has passed.
  public var remaining: Duration {
    ContinuousClock.Instant.now.duration(to: self.instant)
  }

  /// The earlier one is less.
  public static func < (left: Self, right: Self) -> Bool {
    left.time < right.time
  }
}

extension Duration {
  /// Nobody waits for longer.
  package static let century = Duration.seconds(100 * 365 * 86_400)
}

/// The value of the `grpc-timeout` header: at most eight digits and a unit.
///
/// See "Timeout" in `doc/PROTOCOL-HTTP2.md` of the gRPC project.
package enum TimeoutHeader {
  /// Nil when `text` is no timeout.
  package static func decode(_ text: UnsafeBufferPointer<UInt8>) -> Duration? {
    guard (2...9).contains(text.count) else { return nil }
    var number: Int64 = 0
    for digit in text.dropLast() {
      guard (0x30...0x39).contains(digit) else { return nil }
      number = number * 10 + Int64(digit - 0x30)
    }
    return switch text[text.count - 1] {
    case UInt8(ascii: "H"): .seconds(number * 3_600)
    case UInt8(ascii: "M"): .seconds(number * 60)
    case UInt8(ascii: "S"): .seconds(number)
    case UInt8(ascii: "m"): .milliseconds(number)
    case UInt8(ascii: "u"): .microseconds(number)
    case UInt8(ascii: "n"): .nanoseconds(number)
    default: nil
    }
  }

  /// The finest unit that holds the timeout in eight digits, rounded up so that the server never
  /// gives up before the client does.
  package static func encode(_ timeout: Duration) -> String {
    guard timeout >= .zero else { return "0n" }
    let largest: Int64 = 99_999_999
    // A duration may have more seconds than their number holds.
    let (seconds, attoseconds) = min(timeout, .seconds(largest * 3_600)).components
    if seconds == 0 {
      let nanoseconds = (attoseconds + 999_999_999) / 1_000_000_000
      if nanoseconds <= largest { return "\(nanoseconds)n" }
    }
    if seconds < 99 {
      let microseconds = seconds * 1_000_000 + (attoseconds + 999_999_999_999) / 1_000_000_000_000
      if microseconds <= largest { return "\(microseconds)u" }
    }
    if seconds < 99_999 {
      let milliseconds =
        seconds * 1_000 + (attoseconds + 999_999_999_999_999) / 1_000_000_000_000_000
      return "\(milliseconds)m"
    }
    let whole = attoseconds > 0 ? seconds + 1 : seconds
    if whole <= largest { return "\(whole)S" }
    let minutes = whole / 60 + (whole % 60 > 0 ? 1 : 0)
    if minutes <= largest { return "\(minutes)M" }
    return "\(min(largest, minutes / 60 + 1))H"
  }
}
