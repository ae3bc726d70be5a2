import Domain
import HeapModule

extension State {
  /// What must hold after every input. Answers the first thing that does not, or nil.
  package var violation: String? {
    for (request, open) in self.demands {
      if open.demand.request != request { return "demand \(request) is kept as \(open.demand)" }
      if self.streams[open.stream]?.demands.contains(request) != true {
        return "demand \(request) belongs to stream \(open.stream), which does not know it"
      }
      let pool = self.pools[open.demand.shape.pool]
      switch open.phase {
      case .waiting:
        let places = pool?.queues[open.demand.shape]?.places.unordered ?? []
        let count = places.count { $0 == open.place }
        if count != 1 { return "waiting demand \(request) stands in its queue \(count) times" }
      case .trying:
        if pool?.trying?.contains(where: { $0.arrival == open.arrival }) != true {
          return "demand \(request) is tried in no batch"
        }
      }
    }
    for (id, stream) in self.streams {
      for request in stream.demands where self.demands[request]?.stream != id {
        return "stream \(id) has demand \(request), which is not its"
      }
      let pools = stream.demands.compactMap { self.demands[$0]?.demand.shape.pool }
        .reduce(into: [PoolName: Int]()) { $0[$1, default: 0] += 1 }
      if pools != stream.pools {
        return "stream \(id) has demands in \(pools), and \(stream.pools) are counted"
      }
      for lease in stream.leases where self.watches[lease]?.stream != id {
        return "stream \(id) has lease \(lease), which it does not watch"
      }
    }
    if self.dueTurns > self.turns.count {
      return "\(self.dueTurns) turns have come, of \(self.turns.count)"
    }
    let turns = self.turns.reduce(into: [State.Turn: Int]()) { $0[$1, default: 0] += 1 }
    for (lease, watch) in self.watches {
      let count = turns[Turn(lease: lease, number: watch.number)] ?? 0
      if count != 1 { return "lease \(lease) is looked up \(count) times in each round" }
    }
    for (lease, watch) in self.watches
    where self.streams[watch.stream]?.leases.contains(lease) != true {
      return "lease \(lease) is watched for stream \(watch.stream), which does not know it"
    }
    for (name, pool) in self.pools {
      for (shape, queue) in pool.queues {
        let waiting = self.demands.values.count {
          $0.phase == .waiting && $0.demand.shape == shape
        }
        if waiting != queue.count {
          return "a queue of pool \(name) counts \(queue.count) demands and has \(waiting)"
        }
        if queue.count == 0 && pool.trying == nil { return "pool \(name) keeps an empty queue" }
        if let reason = Self.misplaced(shape, queue, in: pool) {
          return "a shape of pool \(name), at \(String(describing: queue.listed)), \(reason)"
        }
      }
      if pool.queues.isEmpty && pool.trying == nil && !pool.isSurveying {
        return "pool \(name) is kept for nothing"
      }
    }
    return nil
  }

  /// What is wrong with where a shape stands in its line, or nil.
  private static func misplaced(_ shape: Shape, _ queue: Queue, in pool: Pool) -> String? {
    if queue.isBlocked {
      if queue.listed != nil { return "is blocked and stands in line" }
      return pool.blocked.contains(shape) ? nil : "is blocked for ever"
    }
    guard queue.count > 0, let first = queue.places.min else { return nil }
    guard let listed = queue.listed else { return "stands in no line" }
    let line = queue.isTriedAgain ? pool.lines.again : pool.lines.fresh
    if !line.unordered.contains(where: { $0.place == listed && $0.shape == shape }) {
      return "does not stand where it should"
    }
    return first < listed ? "stands behind its first demand, at \(first)" : nil
  }
}
