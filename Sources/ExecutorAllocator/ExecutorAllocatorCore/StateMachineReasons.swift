import Domain
import HeapModule

/// Why demands wait, and which can never be met.
extension StateMachine {
  mutating func survey(_ name: PoolName, every interval: Duration, at now: Timestamp) {
    guard self.state.table == .connected, let pool = self.state.pools[name], !pool.isSurveying,
      Self.isDue(pool.lastSurvey, interval, now)
    else { return }
    self.state.pools[name]?.isSurveying = true
    self.state.pools[name]?.lastSurvey = now
    self.state.pools[name]?.wantsSurvey = false
    self.effects.append(.survey(name))
  }

  mutating func surveyed(_ name: PoolName, _ survey: PoolSurvey) {
    self.state.pools[name]?.isSurveying = false
    let survey = self.remembering(survey, of: name)
    for shape in self.shapes(of: name, where: \.isUnmet) {
      switch survey.verdict(on: shape, policy: self.policy) {
      case .waits(let reason):
        self.state.pools[name]?.queues[shape]?.wasImpossible = false
        self.explain(shape, reason)
      case .impossible(let reason):
        let isTried = self.state.pools[name]?.trying?.contains { $0.demand.shape == shape } ?? false
        if isTried, self.state.pools[name]?.queues[shape]?.wasImpossible == false {
          // Its executor may have come since the look. But in a pool that is busy, or looked at
          // whenever it is tried, something is always being tried: the next look decides.
          self.state.pools[name]?.queues[shape]?.wasImpossible = true
          continue
        }
        for request in self.requests(of: shape, atMost: .max) {
          guard let open = self.state.demands[request] else { continue }
          self.effects.append(.send(open.stream, .unsatisfiable(request, reason: reason)))
          if open.phase == .trying { self.state.pools[name]?.withdrawn.insert(request) }
          self.remove(request)
        }
      }
    }
    self.dropIfIdle(name)
  }

  /// Kinds of executors that are remembered for a pool: as many as the table remembers of those that left.
  private static let sightedKinds = 1_000

  /// Notes what a look at a pool shows. Answers it with the kinds that earlier looks showed, and that the
  /// table would count as gone not long ago, had it not begun anew since.
  private mutating func remembering(_ survey: PoolSurvey, of name: PoolName) -> PoolSurvey {
    let (now, memory) = (self.now, self.policy.departedMemory)
    self.state.sightings = self.state.sightings.filter { now - $0.value.lastLook < memory }
    var kinds = (self.state.sightings[name]?.kinds ?? [:]).filter { now - $0.value.time < memory }
    // What there is comes before what there was.
    for (group, isLive) in survey.groups.map({ ($0, true) }) + survey.departed.map({ ($0, false) })
    {
      let kind = State.Sightings.Kind(labels: group.labels, capacity: group.capacity)
      guard kinds[kind] != nil || kinds.count < Self.sightedKinds else { continue }
      let time = isLive ? now : kinds[kind]?.time ?? now
      kinds[kind] = State.Sightings.Sighting(time: time, liveSince: survey.liveSince)
    }
    self.state.sightings[name] = kinds.isEmpty ? nil : State.Sightings(kinds: kinds, lastLook: now)
    var survey = survey
    for (kind, sighting) in kinds where sighting.liveSince != survey.liveSince {
      survey.departed.append(
        PoolSurvey.Group(labels: kind.labels, capacity: kind.capacity, count: 1))
    }
    return survey
  }

  /// Tells the first demands of a shape why they wait, unless they know.
  mutating func explain(_ shape: Shape, _ reason: String) {
    self.state.pools[shape.pool]?.queues[shape]?.reason = reason
    for request in self.requests(of: shape, atMost: self.policy.maximumExplained) {
      guard let open = self.state.demands[request], open.told != reason else { continue }
      self.state.demands[request]?.told = reason
      self.effects.append(.send(open.stream, .waiting(request, reason: reason)))
    }
  }

  /// The first demands of a shape, in order. Those that are being tried come first, and count: a
  /// demand that is tried each time somebody asks why it waits must get its answer all the same.
  private func requests(of shape: Shape, atMost limit: Int) -> [AttemptID] {
    guard let pool = self.state.pools[shape.pool] else { return [] }
    var requests = (pool.trying ?? []).filter { one in
      one.demand.shape == shape
        && self.state.demands[one.demand.request]?.arrival == one.arrival
    }.map(\.demand.request)
    var places = pool.queues[shape]?.places ?? []
    while requests.count < limit, let place = places.popMin() {
      if self.counts(place) { requests.append(place.request) }
    }
    return requests
  }

  /// Shapes with open demand, by its first place: dictionaries have another order in every process.
  func shapes(
    of name: PoolName, where counts: (State.Queue) -> Bool = { _ in true }
  ) -> [Shape] {
    guard let pool = self.state.pools[name] else { return [] }
    var heads: [Shape: State.Place] = [:]
    for (shape, queue) in pool.queues where counts(queue) { heads[shape] = queue.places.min }
    for one in pool.trying ?? [] {
      let shape = one.demand.shape
      guard let queue = pool.queues[shape], counts(queue) else { continue }
      let place = State.Place(
        rank: one.demand.rank, arrival: one.arrival, request: one.demand.request)
      heads[shape] = min(heads[shape] ?? place, place)
    }
    return heads.sorted { $0.value < $1.value }.map(\.key)
  }
}
