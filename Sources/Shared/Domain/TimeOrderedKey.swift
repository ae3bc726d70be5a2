/// A key that nobody else chooses, and that sorts by when it was chosen: a UUID of version 7.
///
/// RFC 9562, section 5.7: 48 bits of milliseconds since 1970, the version, 74 bits of chance.
package enum TimeOrderedKey {
  /// A new one, as text: `0193...-....-7...-....-............`.
  package static func make(at now: Timestamp) -> String {
    var generator = SystemRandomNumberGenerator()
    let milliseconds = UInt64(clamping: now.microseconds / 1_000) & (1 << 48 - 1)
    let high = milliseconds << 16 | 0x7000 | UInt64.random(in: 0..<1 << 12, using: &generator)
    let low = 0b10 << 62 | UInt64.random(in: 0..<1 << 62, using: &generator)
    let digits = Array("\(self.hexadecimal(high))\(self.hexadecimal(low))")
    let groups = [0..<8, 8..<12, 12..<16, 16..<20, 20..<32]
    return groups.map { String(digits[$0]) }.joined(separator: "-")
  }

  /// When a key was chosen, in milliseconds since 1970; nil if it is no UUID of version 7.
  package static func milliseconds(of key: String) -> UInt64? {
    let bytes = Array(key.utf8)
    guard bytes.count == 36, bytes[14] == UInt8(ascii: "7"),
      "89abAB".utf8.contains(bytes[19])
    else { return nil }
    for (index, byte) in bytes.enumerated() {
      let isRight =
        [8, 13, 18, 23].contains(index)
        ? byte == UInt8(ascii: "-") : Character(Unicode.Scalar(byte)).isHexDigit
      guard isRight else { return nil }
    }
    return UInt64(String(decoding: bytes[..<8] + bytes[9..<13], as: UTF8.self), radix: 16)
  }

  private static func hexadecimal(_ bits: UInt64) -> String {
    let digits = String(bits, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
  }
}
