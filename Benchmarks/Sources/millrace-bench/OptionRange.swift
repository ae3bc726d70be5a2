import ArgumentParser

/// Refuses an option that is out of its range; one that was not given is in it.
func checkOption(_ name: String, _ value: Int?, _ range: ClosedRange<Int>) throws {
  guard let value, !range.contains(value) else { return }
  throw ValidationError("--\(name) \(value): expected \(range.lowerBound) to \(range.upperBound)")
}
