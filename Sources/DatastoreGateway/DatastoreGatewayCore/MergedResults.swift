/// All results of a query in their order: the terms' results in all collections, merged, each
/// given once.
struct MergedResults<Indexes: EntityIndexes> {
  typealias Index = Indexes.Index
  typealias Candidate = DatastoreGatewayCore.Candidate<Index.Stored>

  private let query: ResolvedQuery
  private var streams: [TermResults<Index>] = []
  /// The next result of each stream.
  private var heads: [Candidate?] = []
  /// The stream whose result was given last: its next one is read only when it is asked for.
  private var given: Int?
  private var last: Position?
  /// The values of the last result, where of each combination only the first is given.
  private var lastGroup: ArraySlice<[UInt8]>?
  let progress: QueryProgress
  /// Whether what follows is unknown.
  private(set) var wasCut = false
  /// Results that were passed over because one with the same values was given.
  private(set) var lastPassed: Position?
  /// How many were passed over behind the last that was given.
  private var passed = 0

  init(
    _ query: ResolvedQuery, _ parts: [QueryPlan.Part], on indexes: Indexes, policy: Policy,
    wanted: Int, isOrdered: Bool = true, isCancelled: @escaping () -> Bool
  ) throws(Index.Failure) {
    self.query = query
    self.progress = QueryProgress(isCancelled: isCancelled)
    if query.distinctCount > 0, !query.includesStart {
      self.lastGroup = query.start?.values.prefix(query.distinctCount)
    }
    for part in parts where part.plan.source != .nothing {
      var stream = try TermResults(
        TermPlace(query: query, term: part.term, plan: part.plan),
        on: indexes.index(of: part.collection), policy: policy, wanted: wanted,
        isOrdered: isOrdered,
        progress: self.progress)
      self.heads.append(try stream.next())
      self.wasCut = self.wasCut || stream.wasCut && self.heads[self.heads.count - 1] == nil
      self.streams.append(stream)
    }
  }

  /// The next result, and the stream that it came from.
  mutating func next() throws(Index.Failure) -> (candidate: Candidate, stream: Int)? {
    while !self.wasCut {
      if let given = self.given.take() {
        self.heads[given] = try self.streams[given].next()
        // Of a stream that was cut the next result is unknown, and so is what comes first.
        if self.heads[given] == nil && self.streams[given].wasCut {
          self.wasCut = true
          return nil
        }
      }
      guard let number = self.firstStream(), let candidate = self.heads[number] else { return nil }
      self.given = number
      // Several terms may give an entity at the same place.
      if let last = self.last, last == candidate.position { continue }
      self.last = candidate.position
      if self.query.distinctCount > 0 {
        let group = candidate.position.values.prefix(self.query.distinctCount)
        if let lastGroup = self.lastGroup, lastGroup.elementsEqual(group) {
          self.lastPassed = candidate.position
          self.passed += 1
          try self.leap(beyond: group)
          continue
        }
        self.passed = 0
        self.lastGroup = group
      }
      return (candidate, number)
    }
    return nil
  }

  /// Leaves out what else has the values of a result that was given, where that is much.
  private mutating func leap(beyond group: ArraySlice<[UInt8]>) throws(Index.Failure) {
    guard self.passed % Index.rowsBeforeLeap == 0, self.query.distinctCount == 1,
      self.streams.count == 1, self.streams[0].canLeap, let value = group.first
    else { return }
    try self.streams[0].leap(beyond: value)
  }

  /// The entity of a result; read now if it was not yet.
  func stored(_ candidate: Candidate, of stream: Int) throws(Index.Failure) -> Index.Stored {
    if let stored = candidate.stored { return stored }
    return try self.streams[stream].load(candidate.row)
  }

  private func firstStream() -> Int? {
    if self.streams.count == 1 { return self.heads[0] == nil ? nil : 0 }
    var first: Int?
    for (number, head) in self.heads.enumerated() {
      guard let head else { continue }
      if let current = first, let other = self.heads[current],
        !self.query.precedes(head.position, other.position)
      {
        continue
      }
      first = number
    }
    return first
  }
}
