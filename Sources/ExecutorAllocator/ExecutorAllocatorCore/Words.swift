import Domain

/// Values in words for people.
package enum Words {
  /// `0.3 s`, `12 s`.
  package static func seconds(_ duration: Duration) -> String {
    let tenths = (duration.microseconds + 50_000) / 100_000
    return tenths % 10 == 0 ? "\(tenths / 10) s" : "\(tenths / 10).\(tenths % 10) s"
  }

  /// `2 CPUs`, `0.5 CPU`.
  package static func cpu(_ millis: Int64) -> String {
    var text = "\(millis / 1_000)"
    if millis % 1_000 != 0 {
      var fraction = String(String(1_000 + millis % 1_000).dropFirst())
      while fraction.hasSuffix("0") { fraction.removeLast() }
      text += ".\(fraction)"
    }
    return text + (millis <= 1_000 ? " CPU" : " CPUs")
  }

  /// `4 GiB`, `1.5 GiB`, `512 MiB`.
  package static func memory(_ count: ByteCount) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
      let size = Int64(1) << Int64(shift)
      guard count.bytes >= size else { continue }
      let tenths = count.bytes / (size / 10)
      return tenths % 10 == 0 || tenths >= 1_000
        ? "\(tenths / 10) \(unit)" : "\(tenths / 10).\(tenths % 10) \(unit)"
    }
    return "\(count.bytes) bytes"
  }

  /// `1 executor`, `2 executors`.
  package static func executors(_ count: Int) -> String {
    count == 1 ? "1 executor" : "\(count) executors"
  }
}
