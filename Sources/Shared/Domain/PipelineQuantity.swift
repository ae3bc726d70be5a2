/// Amounts as people write them in a pipeline.
package enum PipelineQuantity {
  /// Thousandths of a CPU: `2`, `0.5` or `500m`. Nil: no such amount.
  package static func cpuMillis(_ text: String) -> Int64? {
    if text.hasSuffix("m") {
      guard let millis = Int64(text.dropLast()), millis > 0 else { return nil }
      return millis <= Self.maximumCPUMillis ? millis : nil
    }
    guard let number = Self.decimal(text), number > 0 else { return nil }
    let millis = (number * 1_000).rounded(.up)
    return millis <= Double(Self.maximumCPUMillis) ? Int64(millis) : nil
  }

  /// `4GiB`, `512Mi`, `1.5G` or plain bytes. Nil: no such amount.
  package static func memory(_ text: String) -> ByteCount? {
    let digits = text.prefix { $0.isNumber || $0 == "." }
    let unit = text.dropFirst(digits.count).drop { $0 == " " }
    guard let number = Self.decimal(String(digits)), let factor = Self.factors[String(unit)] else {
      return nil
    }
    let bytes = (number * factor).rounded(.up)
    guard bytes >= 1, bytes <= Double(Resources.maximumMemory.bytes) else { return nil }
    return ByteCount(Int64(bytes))
  }

  /// Beyond any machine: what is more is a slip of the pen.
  package static let maximumCPUMillis: Int64 = 10_000_000

  /// Only digits and one point: `Double` would take `inf` and `0x10` as well.
  private static func decimal(_ text: String) -> Double? {
    guard !text.isEmpty, text.count <= 20,
      text.allSatisfy({ $0.isASCII && ($0.isNumber || $0 == ".") })
    else { return nil }
    return Double(text)
  }

  private static let factors: [String: Double] = [
    "": 1, "B": 1, "k": 1e3, "K": 1e3, "kB": 1e3, "KB": 1e3, "M": 1e6, "MB": 1e6, "G": 1e9,
    "GB": 1e9, "T": 1e12, "TB": 1e12, "Ki": 1024, "KiB": 1024, "Mi": 1_048_576, "MiB": 1_048_576,
    "Gi": 1_073_741_824, "GiB": 1_073_741_824, "Ti": 1_099_511_627_776, "TiB": 1_099_511_627_776,
  ]
}
