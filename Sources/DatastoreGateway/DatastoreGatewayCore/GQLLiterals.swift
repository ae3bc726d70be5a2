import Domain

/// Base64 of the alphabet for URLs, without padding.
enum Base64 {
  static func decoded(_ text: String) -> [UInt8]? {
    var bytes: [UInt8] = []
    var bits: UInt32 = 0
    var count = 0
    for byte in text.utf8 {
      let value: UInt8
      switch byte {
      case UInt8(ascii: "A")...UInt8(ascii: "Z"): value = byte - UInt8(ascii: "A")
      case UInt8(ascii: "a")...UInt8(ascii: "z"): value = byte - UInt8(ascii: "a") + 26
      case UInt8(ascii: "0")...UInt8(ascii: "9"): value = byte - UInt8(ascii: "0") + 52
      case UInt8(ascii: "-"): value = 62
      case UInt8(ascii: "_"): value = 63
      default: return nil
      }
      bits = bits << 6 | UInt32(value)
      count += 6
      if count >= 8 {
        count -= 8
        bytes.append(UInt8(truncatingIfNeeded: bits >> UInt32(count)))
      }
    }
    // One letter alone is less than a byte.
    return text.utf8.count % 4 == 1 ? nil : bytes
  }
}

/// Times as RFC 3339 writes them, with a T and without leap seconds.
enum DateTimeText {
  /// The years 1 to 9999 in Greenwich.
  private static let seconds: ClosedRange<Int64> = -62_135_596_800...253_402_300_799

  static func timestamp(_ text: String) -> Timestamp? {
    var rest = Array(text.utf8)[...]
    guard let year = self.number(4, &rest), self.take("-", &rest),
      let month = self.number(2, &rest), (1...12).contains(month), self.take("-", &rest),
      let day = self.number(2, &rest), (1...self.days(in: month, of: year)).contains(day),
      self.take("T", &rest) || self.take("t", &rest),
      let hour = self.number(2, &rest), hour < 24, self.take(":", &rest),
      let minute = self.number(2, &rest), minute < 60, self.take(":", &rest),
      let second = self.number(2, &rest), second < 60, year > 0
    else { return nil }
    var microseconds: Int64 = 0
    if self.take(".", &rest) {
      guard let fraction = self.fraction(&rest) else { return nil }
      microseconds = fraction
    }
    guard let offset = self.offset(&rest), rest.isEmpty else { return nil }
    let seconds =
      self.days(before: year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset
    guard self.seconds.contains(seconds) else { return nil }
    return Timestamp(microseconds: seconds * 1_000_000 + microseconds)
  }

  private static func take(_ character: Unicode.Scalar, _ rest: inout ArraySlice<UInt8>) -> Bool {
    guard rest.first == UInt8(ascii: character) else { return false }
    rest.removeFirst()
    return true
  }

  private static func number(_ digits: Int, _ rest: inout ArraySlice<UInt8>) -> Int64? {
    var number: Int64 = 0
    for _ in 0..<digits {
      guard let digit = self.digit(&rest) else { return nil }
      number = number * 10 + digit
    }
    return number
  }

  private static func digit(_ rest: inout ArraySlice<UInt8>) -> Int64? {
    guard let byte = rest.first, (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) else {
      return nil
    }
    rest.removeFirst()
    return Int64(byte - UInt8(ascii: "0"))
  }

  /// In microseconds; finer digits are dropped.
  private static func fraction(_ rest: inout ArraySlice<UInt8>) -> Int64? {
    var fraction: Int64 = 0
    var scale: Int64 = 100_000
    guard var digit = self.digit(&rest) else { return nil }
    while true {
      fraction += digit * scale
      scale /= 10
      guard let next = self.digit(&rest) else { return fraction }
      digit = next
    }
  }

  /// Seconds east of Greenwich.
  private static func offset(_ rest: inout ArraySlice<UInt8>) -> Int64? {
    if self.take("Z", &rest) || self.take("z", &rest) { return 0 }
    let isWest = self.take("-", &rest)
    guard isWest || self.take("+", &rest), let hours = self.number(2, &rest), hours < 24,
      self.take(":", &rest), let minutes = self.number(2, &rest), minutes < 60
    else { return nil }
    let offset = hours * 3_600 + minutes * 60
    // That means that nobody knows where (section 4.3), and so not when.
    if isWest && offset == 0 { return nil }
    return isWest ? -offset : offset
  }

  private static func isLeap(_ year: Int64) -> Bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
  }

  private static func days(in month: Int64, of year: Int64) -> Int64 {
    switch month {
    case 4, 6, 9, 11: 30
    case 2: self.isLeap(year) ? 29 : 28
    default: 31
    }
  }

  /// Days from 1970-01-01 to a date.
  private static func days(before year: Int64, _ month: Int64, _ day: Int64) -> Int64 {
    let past = year - 1
    var days = past * 365 + past / 4 - past / 100 + past / 400 - 719_162
    for earlier in 1..<month { days += self.days(in: earlier, of: year) }
    return days + day - 1
  }
}
