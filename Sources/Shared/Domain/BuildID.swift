/// One run of a pipeline for a project.
///
/// Any text. Twenty lower-case letters and digits, which is how the scheduler calls builds, are kept in the
/// sixteen bytes of the value itself: a million builds that wait would take 60 MB for their names, and each use of
/// one would count a reference.
package struct BuildID: Hashable, Sendable {
  private enum Storage: Sendable {
    /// The two halves in base 36, 52 bits each.
    case short(UInt64, UInt32, UInt8)
    case text(Text)
  }

  private final class Text: Sendable {
    let value: String
    init(_ value: String) { self.value = value }
  }

  private static let half = 10
  private static let bits: UInt64 = 52

  private let storage: Storage

  package init(_ rawValue: String) {
    var rawValue = rawValue
    let short = rawValue.withUTF8 { bytes -> Storage? in
      guard bytes.count == 2 * Self.half,
        let first = Self.number(bytes.prefix(Self.half)),
        let last = Self.number(bytes.suffix(Self.half))
      else { return nil }
      let high = first << (64 - Self.bits) | last >> (2 * Self.bits - 64)
      return .short(high, UInt32(truncatingIfNeeded: last >> 8), UInt8(truncatingIfNeeded: last))
    }
    self.storage = short ?? .text(Text(rawValue))
  }

  package var rawValue: String {
    switch self.storage {
    case .text(let text): return text.value
    case .short(let high, let low, let lowest):
      let first = high >> (64 - Self.bits)
      let last = high << 40 & (1 << Self.bits - 1) | UInt64(low) << 8 | UInt64(lowest)
      return String(unsafeUninitializedCapacity: 2 * Self.half) { bytes in
        Self.write(first, to: bytes.prefix(Self.half))
        Self.write(last, to: bytes.suffix(Self.half))
        return 2 * Self.half
      }
    }
  }

  private static let digits = Array("0123456789abcdefghijklmnopqrstuvwxyz".utf8)
  private static let base = UInt64(Self.digits.count)

  /// In base 36; nil if it is not.
  private static func number(_ text: Slice<UnsafeBufferPointer<UInt8>>) -> UInt64? {
    var number: UInt64 = 0
    for byte in text {
      let digit =
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "z"): byte - UInt8(ascii: "a") + 10
        default: UInt8.max
        }
      guard digit < Self.base else { return nil }
      number = number * Self.base + UInt64(digit)
    }
    return number
  }

  private static func write(_ number: UInt64, to text: Slice<UnsafeMutableBufferPointer<UInt8>>) {
    var left = number
    var text = text
    for place in text.indices.reversed() {
      text[place] = Self.digits[Int(left % Self.base)]
      left /= Self.base
    }
  }

  package static func == (left: Self, right: Self) -> Bool {
    switch (left.storage, right.storage) {
    case (.short(let high, let low, let lowest), .short(let otherHigh, let otherLow, let other)):
      high == otherHigh && low == otherLow && lowest == other
    case (.text(let text), .text(let other)): text.value == other.value
    case (.short, .text), (.text, .short): false
    }
  }

  package func hash(into hasher: inout Hasher) {
    switch self.storage {
    case .short(let high, let low, let lowest):
      hasher.combine(high)
      hasher.combine(UInt64(low) << 8 | UInt64(lowest))
    case .text(let text): hasher.combine(text.value)
    }
  }
}

extension BuildID: Comparable {
  /// As texts are.
  package static func < (left: Self, right: Self) -> Bool {
    guard case .short(let high, let low, let lowest) = left.storage,
      case .short(let otherHigh, let otherLow, let other) = right.storage
    else { return left.rawValue < right.rawValue }
    return (high, low, lowest) < (otherHigh, otherLow, other)
  }
}

extension BuildID: CustomStringConvertible, ExpressibleByStringLiteral {
  package var description: String { self.rawValue }
  package init(stringLiteral value: String) { self.init(value) }
}
