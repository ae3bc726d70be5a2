/// How a query's results are found: a plan for each of its terms in each collection.
package struct QueryPlan: Hashable, Sendable {
  package struct Part: Hashable, Sendable {
    package var collection: CollectionName
    package var term: Conjunction
    package var plan: Plan
  }

  package var parts: [Part] = []

  package init() {}

  package init<Indexes: EntityIndexes>(
    _ query: ResolvedQuery, on indexes: Indexes, policy: Policy
  ) throws(Indexes.Index.Failure) {
    let collections: [CollectionName]
    switch query.source {
    case .kind(let collection): collections = [collection]
    case .everyKind(let partition):
      collections = try indexes.collections(withPrefix: CollectionName.prefix(of: partition))
    case .metadata, .nothing: collections = []
    }
    for collection in collections {
      let index = try indexes.index(of: collection)
      for term in query.terms {
        let plan = try Plan(query, term, policy: policy) {
          (rows, limit) throws(Indexes.Index.Failure) in
          switch rows {
          case .equality(let equality): try index.count(equality, upTo: limit)
          case .range(let range): try index.count(range, upTo: limit)
          case .paths(let paths): try index.count(paths, upTo: limit)
          }
        }
        self.parts.append(Part(collection: collection, term: term, plan: plan))
      }
    }
  }
}

extension QueryPlan: CustomStringConvertible {
  /// Parts that logs tell; a query of every kind may have thousands.
  private static let toldParts = 8

  /// For logs: the plans of all terms.
  package var description: String {
    if self.parts.isEmpty { return "nothing" }
    let told = self.parts.prefix(Self.toldParts).map { "\($0.plan)" }.joined(separator: "; ")
    return self.parts.count > Self.toldParts ? "\(told); \(self.parts.count) in all" : told
  }
}

/// An index that a query reads, as Google's servers tell it.
package struct IndexUse: Hashable, Sendable {
  /// For example "(done ASC, priority DESC, __name__ ASC)".
  package var properties: String
  package var scope: String
}

extension QueryPlan {
  /// Each index that is used, once.
  package func indexUses(of query: ResolvedQuery) -> [IndexUse] {
    var uses: [IndexUse] = []
    for part in self.parts {
      for use in part.plan.indexUses(of: part.term) where !uses.contains(use) { uses.append(use) }
    }
    if case .metadata(let kind, _) = query.source {
      uses.append(IndexUse(properties: "(\(kind.kind) ASC)", scope: "Metadata"))
    }
    return uses
  }
}

extension Plan {
  fileprivate func indexUses(of term: Conjunction) -> [IndexUse] {
    let scope = term.paths == ByteRanges() ? "Collection group" : "Includes ancestors"
    let direction = self.isReversed ? "DESC" : "ASC"
    switch self.source {
    case .nothing: return []
    // The index by key has ancestors in it anyway.
    case .entity, .kind:
      return [IndexUse(properties: "(__name__ \(direction))", scope: "Collection group")]
    case .equalities(let equalities):
      return equalities.map {
        IndexUse(properties: "(\($0.property) ASC, __name__ \(direction))", scope: scope)
      }
    case .range(let property):
      return [IndexUse(properties: "(\(property) ASC, __name__ ASC)", scope: scope)]
    case .order(let property, let probed):
      return [
        IndexUse(properties: "(\(property) \(direction), __name__ \(direction))", scope: scope)
      ] + probed.map { IndexUse(properties: "(\($0.property) ASC, __name__ ASC)", scope: scope) }
    }
  }
}
