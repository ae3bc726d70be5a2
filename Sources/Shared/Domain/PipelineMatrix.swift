extension Pipeline {
  /// The values that a job runs with, each combination of them as a job of its own: a leg.
  package struct Matrix: Hashable, Sendable {
    package struct Axis: Hashable, Sendable {
      package var name: String
      package var values: [String]

      package init(name: String, values: [String]) {
        self.name = name
        self.values = values
      }
    }

    /// In the order of the file.
    package var axes: [Axis]
    /// Added to every leg that they contradict nowhere, or else legs of their own.
    package var include: [Combination]
    /// Legs that hold all of these values are left out.
    package var exclude: [Combination]

    package init(axes: [Axis], include: [Combination] = [], exclude: [Combination] = []) {
      self.axes = axes
      self.include = include
      self.exclude = exclude
    }

    /// The most legs one matrix may have; GitHub Actions has the same bound.
    package static let maximumLegs = 256
    /// Entries of `include`, and of `exclude`.
    package static let maximumEntries = 256
    /// Different names in one matrix, of its axes and in `include`.
    package static let maximumNames = 64
    /// Comparisons to spread out all matrices of a pipeline: some milliseconds' work.
    package static let maximumEffort = 200_000

    /// More than a matrix may have.
    package enum Excess: Error, Hashable, Sendable, CustomStringConvertible {
      /// Legs before anything is excluded; a lower bound once it is beyond all measure.
      case legs(Int)
      case entries(Int)
      case names(Int)
      case effort

      package var description: String {
        switch self {
        case .legs(let count): "\(count) legs, more than \(Matrix.maximumLegs)"
        case .entries(let count):
          "\(count) entries of include or exclude, more than \(Matrix.maximumEntries)"
        case .names(let count): "\(count) different names, more than \(Matrix.maximumNames)"
        case .effort: "more legs and entries of include and exclude together than are compared"
        }
      }
    }

    /// Every name in it, in their order, each once.
    package var names: [String] {
      var seen: Set<String> = []
      return (self.axes.map(\.name) + self.include.flatMap { $0.entries.map(\.name) })
        .filter { seen.insert($0).inserted }
    }

    /// Comparisons that spreading it out takes at most. To be known before that begins: a file of
    /// some kilobytes can ask for days of them.
    package func effort() throws(Excess) -> Int {
      var product = self.axes.isEmpty ? 0 : 1
      for axis in self.axes {
        let (count, overflow) = product.multipliedReportingOverflow(by: axis.values.count)
        // Exclusion is allowed to bring a product down, so bound what is spread out, with room.
        if overflow || count > Self.maximumLegs * 4 { throw .legs(overflow ? .max : count) }
        product = count
      }
      let entries = max(self.include.count, self.exclude.count)
      if entries > Self.maximumEntries { throw .entries(entries) }
      let names = self.names.count
      if names > Self.maximumNames { throw .names(names) }
      let compared = (self.include + self.exclude).reduce(1) { $0 + $1.entries.count }
      return product * names * compared
    }

    /// Every leg, in the order of their values: the last axis changes fastest.
    package func legs() throws(Excess) -> [Combination] {
      guard try self.effort() <= Self.maximumEffort else { throw .effort }
      var legs: [Combination] = self.axes.isEmpty ? [] : [Combination([])]
      for axis in self.axes {
        legs = legs.flatMap { leg in
          axis.values.map { leg.adding(name: axis.name, value: $0) }
        }
      }
      legs.removeAll { leg in self.exclude.contains { leg.contains($0) } }
      // An entry may overwrite what another entry added, never a value of an axis.
      let original = legs
      for entry in self.include {
        var fits = false
        for index in original.indices where !original[index].contradicts(entry) {
          legs[index] = legs[index].overwritten(by: entry)
          fits = true
        }
        if !fits { legs.append(entry) }
      }
      guard legs.count <= Self.maximumLegs else { throw .legs(legs.count) }
      return legs
    }
  }

  /// Names with a value each, in order.
  package struct Combination: Hashable, Sendable {
    package struct Entry: Hashable, Sendable {
      package var name: String
      package var value: String

      package init(name: String, value: String) {
        self.name = name
        self.value = value
      }
    }

    package var entries: [Entry]

    package init(_ entries: [Entry]) {
      self.entries = entries
    }

    package subscript(name: String) -> String? {
      self.entries.first { $0.name == name }?.value
    }

    func adding(name: String, value: String) -> Combination {
      Combination(self.entries + [Entry(name: name, value: value)])
    }

    func contains(_ other: Combination) -> Bool {
      other.entries.allSatisfy { self[$0.name] == $0.value }
    }

    func contradicts(_ other: Combination) -> Bool {
      other.entries.contains { entry in self[entry.name].map { $0 != entry.value } ?? false }
    }

    func overwritten(by other: Combination) -> Combination {
      other.entries.reduce(into: self) { result, entry in
        if let index = result.entries.firstIndex(where: { $0.name == entry.name }) {
          result.entries[index].value = entry.value
        } else {
          result.entries.append(entry)
        }
      }
    }

    /// How a leg with these values is told from its siblings: `value, value`.
    package var label: String { self.entries.map(\.value).joined(separator: ", ") }
  }
}
