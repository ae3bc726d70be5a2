import RPC

/// Durations and byte counts as operators write them.
package enum Quantity {
  private static let durations: [(unit: String, nanoseconds: Int64)] = [
    ("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000),
    ("m", 60_000_000_000), ("h", 3_600_000_000_000), ("d", 86_400_000_000_000),
  ]
  private static let sizes: [(unit: String, bytes: Int64)] = [
    ("", 1), ("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40),
    ("kB", 1_000), ("KB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
  ]

  /// `nil` for what is no duration or does not fit into nanoseconds.
  package static func duration(_ text: String) -> Duration? {
    guard let (count, unit) = self.split(text),
      let scale = self.durations.first(where: { $0.unit == unit })?.nanoseconds
    else { return nil }
    let (nanoseconds, overflow) = count.multipliedReportingOverflow(by: scale)
    return overflow ? nil : .nanoseconds(nanoseconds)
  }

  /// `nil` for what is no size or does not fit into 63 bits.
  package static func byteCount(_ text: String) -> Int64? {
    guard let (count, unit) = self.split(text),
      let scale = self.sizes.first(where: { $0.unit == unit })?.bytes
    else { return nil }
    let (bytes, overflow) = count.multipliedReportingOverflow(by: scale)
    return overflow ? nil : bytes
  }

  private static func split(_ text: String) -> (Int64, String)? {
    let digits = text.prefix { $0.isASCII && $0.isNumber }
    guard !digits.isEmpty, let count = Int64(digits) else { return nil }
    return (count, String(text.dropFirst(digits.count)))
  }
}

extension Setting.Kind {
  /// Why a text is no value of this kind, or `nil` if it is one.
  package func complaint(about text: String) -> String? {
    switch self {
    case .string:
      return nil
    case .integer:
      return Int(text) == nil ? "expected a whole number" : nil
    case .boolean:
      return self.boolean(text) == nil ? "expected true or false" : nil
    case .duration:
      return Quantity.duration(text) == nil ? "expected a duration such as 250ms, 5s or 10m" : nil
    case .byteCount:
      return Quantity.byteCount(text) == nil ? "expected a size such as 512KiB or 4GiB" : nil
    case .address:
      do {
        _ = try ListenAddress(text)
        return nil
      } catch {
        return "\(error.reason); expected HOST:PORT or unix:PATH"
      }
    case .choice(let words):
      return words.contains(text)
        ? nil : "expected one of \(words.joined(separator: ", "))"
    }
  }

  func boolean(_ text: String) -> Bool? {
    switch text {
    case "true": true
    case "false": false
    default: nil
    }
  }
}
