/// Where a range of byte strings begins or ends.
package enum Bound: Hashable, Sendable {
  case none
  case including([UInt8])
  case excluding([UInt8])
}

/// A range of byte strings.
package struct ByteRange: Hashable, Sendable {
  package var lower = Bound.none
  package var upper = Bound.none

  package init(lower: Bound = .none, upper: Bound = .none) {
    self.lower = lower
    self.upper = upper
  }

  package static func exactly(_ bytes: [UInt8]) -> Self {
    Self(lower: .including(bytes), upper: .including(bytes))
  }

  package func contains(_ bytes: [UInt8]) -> Bool {
    self.isBelow(bytes) && self.isAbove(bytes)
  }

  /// Whether the range begins at or below these bytes.
  private func isBelow(_ bytes: [UInt8]) -> Bool {
    switch self.lower {
    case .none: true
    case .including(let bound): !ByteOrder.precedes(bytes, bound)
    case .excluding(let bound): ByteOrder.precedes(bound, bytes)
    }
  }

  /// Whether the range ends at or above these bytes.
  private func isAbove(_ bytes: [UInt8]) -> Bool {
    switch self.upper {
    case .none: true
    case .including(let bound): !ByteOrder.precedes(bound, bytes)
    case .excluding(let bound): ByteOrder.precedes(bytes, bound)
    }
  }

  /// Makes the range smaller, to what a comparison with `bytes` leaves of it.
  mutating func narrow(_ comparison: Query.Comparison, _ bytes: [UInt8]) {
    switch comparison {
    case .equal:
      self.raise(to: .including(bytes))
      self.reduce(to: .including(bytes))
    case .lessThan: self.reduce(to: .excluding(bytes))
    case .lessThanOrEqual: self.reduce(to: .including(bytes))
    case .greaterThan: self.raise(to: .excluding(bytes))
    case .greaterThanOrEqual: self.raise(to: .including(bytes))
    // Our bug: that leaves two ranges; ``ByteRanges`` makes them.
    case .notEqual: preconditionFailure("One range cannot leave out a value inside it")
    }
  }

  private mutating func raise(to bound: Bound) {
    switch (self.lower, bound) {
    case (.none, _): self.lower = bound
    case (.including(let old), .including(let new)), (.excluding(let old), .including(let new)),
      (.excluding(let old), .excluding(let new)):
      if ByteOrder.precedes(old, new) { self.lower = bound }
    case (.including(let old), .excluding(let new)):
      if !ByteOrder.precedes(new, old) { self.lower = bound }
    case (_, .none): break
    }
  }

  private mutating func reduce(to bound: Bound) {
    switch (self.upper, bound) {
    case (.none, _): self.upper = bound
    case (.including(let old), .including(let new)), (.excluding(let old), .including(let new)),
      (.excluding(let old), .excluding(let new)):
      if ByteOrder.precedes(new, old) { self.upper = bound }
    case (.including(let old), .excluding(let new)):
      if !ByteOrder.precedes(old, new) { self.upper = bound }
    case (_, .none): break
    }
  }

  /// Whether nothing can be in it.
  var isEmpty: Bool {
    switch (self.lower, self.upper) {
    case (.none, .none), (.none, .including), (_, .none): false
    case (.none, .excluding(let upper)): upper.isEmpty
    case (.including(let lower), .including(let upper)): ByteOrder.precedes(upper, lower)
    case (.including(let lower), .excluding(let upper)),
      (.excluding(let lower), .including(let upper)),
      (.excluding(let lower), .excluding(let upper)):
      !ByteOrder.precedes(lower, upper)
    }
  }
}

/// Ranges of byte strings, ascending and apart: what comparisons leave of all values.
package struct ByteRanges: Hashable, Sendable {
  /// None of them is empty.
  package private(set) var parts = [ByteRange()]

  package init() {}

  package var isEmpty: Bool { self.parts.isEmpty }

  package func contains(_ bytes: [UInt8]) -> Bool {
    self.parts.contains { $0.contains(bytes) }
  }

  /// From the lowest bound to the highest.
  var hull: ByteRange {
    ByteRange(lower: self.parts.first?.lower ?? .none, upper: self.parts.last?.upper ?? .none)
  }

  /// The one value that is left, if that is sure.
  var onlyValue: [UInt8]? {
    guard self.parts.count == 1, case .including(let value) = self.parts[0].lower,
      self.parts[0].upper == .including(value)
    else { return nil }
    return value
  }

  mutating func narrow(_ comparison: Query.Comparison, _ bytes: [UInt8]) {
    var narrowed: [ByteRange] = []
    for part in self.parts {
      let comparisons: [Query.Comparison] =
        comparison == .notEqual ? [.lessThan, .greaterThan] : [comparison]
      for comparison in comparisons {
        var half = part
        half.narrow(comparison, bytes)
        if !half.isEmpty { narrowed.append(half) }
      }
    }
    self.parts = narrowed
  }
}
