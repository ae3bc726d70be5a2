import Domain

/// What some executors of one pool have, and what leases take of it, as one look found it.
package struct PoolUsage: Hashable, Sendable {
  package var executors: Int
  package var capacity: Resources
  package var leased: Resources

  package init(executors: Int, capacity: Resources, leased: Resources) {
    self.executors = executors
    self.capacity = capacity
    self.leased = leased
  }

  static func + (left: Self, right: Self) -> Self {
    Self(
      executors: left.executors + right.executors, capacity: left.capacity + right.capacity,
      leased: left.leased + right.leased)
  }

  /// How many executors the pool needs for its leases and for what waits: as many of its usual
  /// size as hold both in every dimension.
  ///
  /// - Parameter standard: The size of an executor where there is none to look at.
  func desired(waiting: Resources, standard: Resources) -> Int {
    let need = self.leased + waiting
    func count(_ dimension: (Resources) -> Int64) -> Int {
      let needed = dimension(need)
      guard needed > 0 else { return 0 }
      let (whole, count) =
        dimension(self.capacity) > 0 && self.executors > 0
        ? (dimension(self.capacity), Int64(self.executors)) : (dimension(standard), 1)
      // needed / (whole / count), rounded up, without a division before the last.
      let (product, isOver) = needed.multipliedReportingOverflow(by: count)
      return Int(clamping: isOver ? Int64.max : (product - 1) / whole + 1)
    }
    return max(count(\.cpuMillis), count(\.memory.bytes), count { Int64($0.slots) })
  }
}

/// Some of the executors, summed up by pool, and where the next page begins.
package struct UsagePage: Hashable, Sendable {
  package var pools: [PoolName: PoolUsage]
  /// Nil behind the last.
  package var last: String?

  package init(pools: [PoolName: PoolUsage], last: String?) {
    self.pools = pools
    self.last = last
  }
}

extension State {
  /// What the demands that wait here come to.
  package var waiting: [PoolName: Resources] {
    self.pools.mapValues { pool in
      var waiting = Resources.none
      for (shape, queue) in pool.queues { waiting += shape.resources.times(queue.count) }
      for one in pool.trying ?? [] { waiting += one.demand.shape.resources }
      return waiting
    }
  }

  /// How many executors each pool should have now. Computed from what is: the leases as the last
  /// round of looks found them, the demands that wait here, and those that wait elsewhere. Of a shape
  /// a scheduler sends only the first few hundred demands, so for a long queue it is a lower bound.
  package func desiredExecutors(_ policy: Policy) -> [PoolName: Int] {
    var desired: [PoolName: Int] = [:]
    let waiting = self.waiting.merging(self.elsewhere) { $0 + $1 }
    for name in Set(self.usage.keys).union(waiting.keys) {
      let usage = self.usage[name] ?? PoolUsage(executors: 0, capacity: .none, leased: .none)
      desired[name] = usage.desired(
        waiting: waiting[name] ?? .none, standard: policy.standardExecutor)
    }
    return desired
  }
}

extension Resources {
  fileprivate func times(_ count: Int) -> Resources {
    // No product is too large: what a demand may ask for, and their number, are bounded.
    Resources(
      cpuMillis: self.cpuMillis * Int64(count), memory: ByteCount(self.memory.bytes * Int64(count)),
      slots: Int32(clamping: Int64(self.slots) * Int64(count)))
  }
}
