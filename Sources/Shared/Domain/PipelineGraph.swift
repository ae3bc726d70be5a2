/// Who comes before whom: the `needs` of a pipeline's jobs.
package struct PipelineGraph: Hashable, Sendable {
  /// Keys on a ring, each needing the next; the first is named again at the end.
  package struct Cycle: Hashable, Sendable, CustomStringConvertible {
    package var keys: [String]

    package init(keys: [String]) {
      self.keys = keys
    }

    package var description: String { self.keys.joined(separator: " -> ") }
  }

  private let needs: [String: [String]]
  private let keys: [String]

  /// Takes each job's key with the keys that it needs; unknown keys are looked past.
  package init(_ jobs: [(key: String, needs: [String])]) {
    self.keys = jobs.map(\.key)
    self.needs = Dictionary(
      jobs.map { ($0.key, $0.needs) }, uniquingKeysWith: { first, _ in first })
  }

  /// Cycles that are looked for: who has made as many does not read more of them.
  package static let maximumCycles = 50

  /// Every cycle that a walk in the order of the file runs into, within the bound; none if the
  /// graph is sound.
  package func cycles() -> [Cycle] {
    enum Mark { case open, done }
    var marks: [String: Mark] = [:]
    var cycles: [Cycle] = []
    for start in self.keys where marks[start] == nil {
      // A stack of our own: a chain of a thousand jobs must not be a thousand calls deep.
      var stack: [(key: String, next: Int)] = [(start, 0)]
      marks[start] = .open
      while let (key, next) = stack.last {
        let needed = self.needs[key] ?? []
        guard next < needed.count else {
          marks[key] = .done
          stack.removeLast()
          continue
        }
        stack[stack.count - 1].next += 1
        let other = needed[next]
        switch marks[other] {
        case nil where self.needs[other] != nil:
          marks[other] = .open
          stack.append((other, 0))
        case .open where cycles.count < Self.maximumCycles:
          let ring = stack.drop { $0.key != other }.map(\.key)
          cycles.append(Cycle(keys: ring + [other]))
        case nil, .open, .done: break
        }
      }
    }
    return cycles
  }
}
