/// A question for entities of one kind, as a caller asks it.
package struct Query: Sendable {
  /// How a filter compares; inequalities run across types.
  package enum Comparison: Hashable, Sendable, CaseIterable {
    case equal, lessThan, lessThanOrEqual, greaterThan, greaterThanOrEqual
  }

  /// Entities of which some value of a property compares so.
  package struct Filter: Sendable {
    package var property: Name
    package var comparison: Comparison
    package var value: Value

    package init(_ property: Name, _ comparison: Comparison, _ value: Value) {
      self.property = property
      self.comparison = comparison
      self.value = value
    }
  }

  /// By a property's values; an entity without one is no result.
  package struct Order: Hashable, Sendable {
    package var property: Name
    package var isDescending: Bool

    package init(_ property: Name, isDescending: Bool = false) {
      self.property = property
      self.isDescending = isDescending
    }
  }

  /// The property that stands for an entity's key.
  package static let keyProperty: Name = "__key__"

  package var partition: PartitionID
  package var kind: Name
  /// Only this entity and those below it.
  package var ancestor: Key?
  /// All of them must hold.
  package var filters: [Filter]
  package var orders: [Order]
  package var isKeysOnly: Bool
  /// Results to leave out first.
  package var offset: Int
  package var limit: Int?
  /// Results after this one.
  package var start: [UInt8]
  /// Results up to this one.
  package var end: [UInt8]

  package init(
    partition: PartitionID, kind: Name, ancestor: Key? = nil, filters: [Filter] = [],
    orders: [Order] = [], isKeysOnly: Bool = false, offset: Int = 0, limit: Int? = nil,
    start: [UInt8] = [], end: [UInt8] = []
  ) {
    self.partition = partition
    self.kind = kind
    self.ancestor = ancestor
    self.filters = filters
    self.orders = orders
    self.isKeysOnly = isKeysOnly
    self.offset = offset
    self.limit = limit
    self.start = start
    self.end = end
  }
}

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
