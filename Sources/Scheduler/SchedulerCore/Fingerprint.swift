/// What a submission asked for, in 100 bits: the same idempotency key with another fingerprint is a mistake.
///
/// As text it is twenty characters of base32 (RFC 4648, section 6) in lower case. In a `String` each would
/// be an allocation of its own, for every build that waits.
package struct Fingerprint: Hashable, Sendable {
  /// The first 64 bits, and the others.
  private let high: UInt64
  private let low: UInt64

  private static let alphabet = Array("abcdefghijklmnopqrstuvwxyz234567".utf8)
  private static let characters = 20
  private static let bits: UInt64 = 5

  /// Of a hash's first 100 bits; it has at least as many.
  package init(hash: some Sequence<UInt8>) {
    var (high, low): (UInt64, UInt64) = (0, 0)
    for (index, byte) in hash.prefix(13).enumerated() {
      if index < 8 { high = high << 8 | UInt64(byte) } else { low = low << 8 | UInt64(byte) }
    }
    self.high = high
    // Of the last byte the first half.
    self.low = low >> 4
  }

  /// Nil: it is not the text of one.
  package init?(_ text: String) {
    guard text.utf8.count == Self.characters else { return nil }
    var (high, low): (UInt64, UInt64) = (0, 0)
    for character in text.utf8 {
      guard let value = Self.alphabet.firstIndex(of: character) else { return nil }
      high = high << Self.bits | low >> (36 - Self.bits)
      low = (low << Self.bits | UInt64(value)) & (1 << 36 - 1)
    }
    self.high = high
    self.low = low
  }

  package var text: String {
    var (high, low) = (self.high, self.low)
    var text = [UInt8](repeating: 0, count: Self.characters)
    for index in text.indices.reversed() {
      text[index] = Self.alphabet[Int(low & 31)]
      low = low >> Self.bits | (high & 31) << (36 - Self.bits)
      high >>= Self.bits
    }
    return String(decoding: text, as: UTF8.self)
  }
}
