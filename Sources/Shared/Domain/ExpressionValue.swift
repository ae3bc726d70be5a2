/// What an expression is made of and comes to.
package enum ExpressionValue: Hashable, Sendable {
  case null
  case bool(Bool)
  case number(Double)
  case string(String)

  /// Whether a condition that comes to this value holds: not for null, false, 0 and "".
  package var isTrue: Bool {
    switch self {
    case .null: false
    case .bool(let value): value
    case .number(let value): value != 0 && !value.isNaN
    case .string(let value): !value.isEmpty
    }
  }

  /// The value as it stands in text.
  package var text: String {
    switch self {
    case .null: return ""
    case .bool(let value): return value ? "true" : "false"
    case .number(let value):
      // 2^53: up to there every whole number has a Double of its own.
      if value == value.rounded(), abs(value) < 9_007_199_254_740_992 {
        return String(Int64(value))
      }
      return String(value)
    case .string(let value): return value
    }
  }

  /// The value as a number, for comparing values of different kinds; NaN is no number at all.
  var number: Double {
    switch self {
    case .null: 0
    case .bool(let value): value ? 1 : 0
    case .number(let value): value
    case .string(let value): value.isEmpty ? 0 : Double(value) ?? .nan
    }
  }

  /// Equality as GitHub Actions has it: text without regard to case, different kinds as numbers.
  func isEqual(to other: ExpressionValue) -> Bool {
    switch (self, other) {
    case (.string(let left), .string(let right)): left.lowercased() == right.lowercased()
    case (.bool(let left), .bool(let right)): left == right
    case (.null, .null): true
    default: self.number == other.number
    }
  }

  /// Order as GitHub Actions has it; values that are no numbers are neither less nor greater.
  func isLess(than other: ExpressionValue) -> Bool {
    if case .string(let left) = self, case .string(let right) = other {
      return left.lowercased() < right.lowercased()
    }
    return self.number < other.number
  }

  /// The value as an expression writes it.
  var literal: String {
    switch self {
    case .null: "null"
    case .bool, .number: self.text
    case .string(let value):
      "'"
        + value.split(separator: "'", omittingEmptySubsequences: false)
        .joined(separator: "''") + "'"
    }
  }
}

extension Outcome {
  /// How expressions call it: what `needs.<job>.result` and `steps.<id>.outcome` come to.
  package var expressionWord: String {
    switch self {
    case .succeeded: "success"
    case .cancelled: "cancelled"
    case .skipped: "skipped"
    case .failed, .timedOut, .outOfMemory, .executorLost, .preempted, .rejected: "failure"
    }
  }
}
