/// A result's place in the order of a query's results.
package struct Position: Hashable, Sendable {
  /// One for each order of the query, then one for each trailing property.
  package var values: [[UInt8]]
  package var path: PathBytes

  package init(values: [[UInt8]], path: PathBytes) {
    self.values = values
    self.path = path
  }
}

extension ResolvedQuery {
  /// Whether a result at `left` comes before one at `right`.
  package func precedes(_ left: Position, _ right: Position) -> Bool {
    for index in self.orders.indices {
      let (first, second) =
        self.orders[index].isDescending
        ? (right.values[index], left.values[index]) : (left.values[index], right.values[index])
      if first != second { return ByteOrder.precedes(first, second) }
    }
    if left.path != right.path {
      return self.isKeyDescending ? right.path < left.path : left.path < right.path
    }
    for index in self.trailing.indices {
      let (first, second) =
        (left.values[self.orders.count + index], right.values[self.orders.count + index])
      if first != second { return ByteOrder.precedes(first, second) }
    }
    return false
  }

  /// Whether cursors leave this position in.
  func isBetweenCursors(_ position: Position) -> Bool {
    if let start = self.start {
      if self.includesStart ? self.precedes(position, start) : !self.precedes(start, position) {
        return false
      }
    }
    guard let end = self.end else { return true }
    return self.includesEnd ? !self.precedes(end, position) : self.precedes(position, end)
  }

  /// The properties whose values make a position.
  var positionProperties: [Name] { self.orders.map(\.property) + self.trailing }

  /// Whether an entity may stand at several places: at each value of what is projected, or of what
  /// results are distinct by.
  var hasManyPlaces: Bool {
    if case .projection = self.form { true } else { self.distinctCount > 0 }
  }

  /// Whether an entity stands at each of its values of one of the ``positionProperties``.
  private func isAtEachValue(of number: Int) -> Bool {
    if case .projection = self.form { true } else { number < self.distinctCount }
  }

  /// The places of an entity among the results: none if it is no result, one unless it may have many.
  ///
  /// - Parameter entries: All of the entity's, as ``Entity/indexEntries`` gives them.
  /// - Throws: ``TooManyPlaces``.
  package func positions(
    of path: PathBytes, entries: [IndexEntry]
  ) throws(TooManyPlaces) -> [Position] {
    var positions: [Position] = []
    var seen: Set<Position> = []
    for term in self.terms {
      for position in try self.positions(of: path, entries: entries, in: term)
      where seen.insert(position).inserted {
        positions.append(position)
      }
    }
    if positions.count > 1 {
      positions.sort { self.precedes($0, $1) }
      // It stands at the first one of those that the terms give it.
      if !self.hasManyPlaces { positions.removeLast(positions.count - 1) }
    }
    return positions
  }

  /// An entity has more combinations of the values of projected properties than an index of Datastore's may
  /// have entries of it.
  package struct TooManyPlaces: Error {
    package var path: PathBytes
    package var limit: Int

    package var error: GatewayError {
      .invalid(
        "The entity \(self.path.text ?? "?") has more than \(self.limit) combinations of values of the projected "
          + "properties.")
    }
  }

  /// The places of an entity that one term gives it, in order.
  func positions(
    of path: PathBytes, entries: [IndexEntry], in term: Conjunction
  ) throws(TooManyPlaces) -> [Position] {
    guard term.means(path, entries) else { return [] }
    var combinations: [[[UInt8]]] = [[]]
    for (number, property) in self.positionProperties.enumerated() {
      let values = term.orderValues(of: property, entries)
      let isDescending = number < self.orders.count && self.orders[number].isDescending
      if self.isAtEachValue(of: number) {
        if combinations.count * values.count > self.maximumPlaces {
          throw TooManyPlaces(path: path, limit: self.maximumPlaces)
        }
        combinations = combinations.flatMap { combination in values.map { combination + [$0] } }
      } else {
        // Entries of a property are sorted: an entity stands at its first value in the order.
        guard let value = isDescending ? values.last : values.first else { return [] }
        for index in combinations.indices { combinations[index].append(value) }
      }
    }
    let positions = combinations.map { Position(values: $0, path: path) }
    return positions.count < 2 ? positions : positions.sorted { self.precedes($0, $1) }
  }
}

extension Conjunction {
  /// Whether an entity has what its filters ask.
  fileprivate func means(_ path: PathBytes, _ entries: [IndexEntry]) -> Bool {
    if !self.paths.contains(path.bytes) { return false }
    for equality in self.equalities
    where !entries.contains(where: {
      $0.value == equality.value && $0.property == equality.property
    }) {
      return false
    }
    for range in self.ranges
    where !entries.contains(where: {
      $0.property == range.property && range.values.contains($0.value)
    }) {
      return false
    }
    return true
  }

  /// The values of a property at which an order may see an entity, ascending: the one that a filter
  /// fixes, else those in the range of its inequalities, else all.
  fileprivate func orderValues(of property: Name, _ entries: [IndexEntry]) -> [[UInt8]] {
    if let value = self.fixedValue(of: property) { return [value] }
    let range = self.values(of: property)
    return entries.compactMap { entry in
      entry.property == property && range?.contains(entry.value) ?? true ? entry.value : nil
    }
  }
}
