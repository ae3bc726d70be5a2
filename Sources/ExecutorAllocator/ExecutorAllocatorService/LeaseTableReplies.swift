import Domain
import ExecutorAllocatorCore
import RedisClient
import RedisWire

/// What the scripts answer, as values. Each is nil if the reply is not what its script answers.
extension LeaseTable {
  static func lease(_ fields: [RedisValue], _ request: AttemptID) -> Lease? {
    guard fields.count == 8, let id = fields[0].text, let executor = fields[1].text,
      let address = fields[2].text, let token = fields[3].number,
      let resources = self.resources(fields[4...6]), let expires = fields[7].number
    else { return nil }
    return Lease(
      id: LeaseID(id), executor: ExecutorID(executor), address: address, resources: resources,
      token: FencingToken(token), request: request, expires: Timestamp(microseconds: expires))
  }

  static func record(_ reply: RedisValue) -> HeartbeatRecord? {
    guard let fields = reply.elements, let kind = fields.first?.text else { return nil }
    switch kind {
    case "recorded":
      guard fields.count == 4, let room = fields[1].number, let stop = fields[2].elements,
        let leases = self.all(stop, { $0.text.map { LeaseID($0) } }),
        let ended = self.ended(fields[3])
      else { return nil }
      return .recorded(.init(stop: leases, ended: ended, madeRoom: room != 0))
    case "duplicate":
      guard fields.count == 3, let address = fields[1].text, let silent = fields[2].number else {
        return nil
      }
      return .duplicate(address: address, silentFor: .microseconds(silent))
    case "deregistered": return .deregistered
    case "ahead":
      guard fields.count == 4, let lease = fields[1].text, let token = fields[2].number,
        let limit = fields[3].number
      else { return nil }
      return .tokenAhead(
        lease.isEmpty ? nil : LeaseID(lease), FencingToken(token), limit: FencingToken(limit))
    default: return nil
    }
  }

  static func ended(_ reply: RedisValue) -> [EndedLease]? {
    guard let elements = reply.elements else { return nil }
    return self.all(elements) { element in
      guard let fields = element.elements, fields.count == 5, let lease = fields[0].text,
        let request = fields[1].text, let executor = fields[2].text,
        let cause = fields[3].text.flatMap({ EndedLease.Cause(rawValue: $0) }),
        let message = fields[4].text
      else { return nil }
      return EndedLease(
        id: LeaseID(lease), request: AttemptID(request), executor: ExecutorID(executor),
        cause: cause, message: message)
    }
  }

  static func pools(_ reply: RedisValue) -> [PoolName]? {
    guard let elements = reply.elements else { return nil }
    return self.all(elements) { $0.text.map { PoolName($0) } }
  }

  /// - Parameter replies: Of the leases that do not hold.
  static func standings(_ replies: [RedisValue], of count: Int) -> [LeaseStanding]? {
    var standings = [LeaseStanding](repeating: .held, count: count)
    for reply in replies {
      guard let fields = reply.elements, fields.count >= 2, let number = fields[0].number,
        let place = Int(exactly: number), standings.indices.contains(place)
      else { return nil }
      switch (fields[1].text, fields.count) {
      case ("unknown yet", 2): standings[place] = .unknownYet
      case ("ended", 4):
        guard let message = fields[3].text,
          let cause = fields[2].text.flatMap({ EndedLease.Cause(rawValue: $0) })
        else { return nil }
        standings[place] = .ended(cause, message: message)
      default: return nil
      }
    }
    return standings
  }

  static func survey(_ reply: RedisValue) -> PoolSurvey? {
    guard let fields = reply.elements, fields.count == 4, let now = fields[0].number,
      let since = fields[1].text, let kinds = fields[2].elements, kinds.count % 2 == 0,
      let left = fields[3].elements
    else { return nil }
    var groups: [PoolSurvey.Group] = []
    for index in stride(from: 0, to: kinds.count, by: 2) {
      guard let text = kinds[index].text, let count = kinds[index + 1].number,
        var group = self.group(text)
      else { return nil }
      group.count = Int(count)
      groups.append(group)
    }
    guard let departed = self.all(left, { $0.text.flatMap { self.group($0) } }) else { return nil }
    return PoolSurvey(
      time: Timestamp(microseconds: now),
      liveSince: Int64(since).map { Timestamp(microseconds: $0) }, groups: groups,
      departed: departed)
  }

  /// One kind of executor, as the scripts write it: `r|2000|4294967296|2|label...`.
  static func group(_ text: String) -> PoolSurvey.Group? {
    let parts = text.split(separator: "|", maxSplits: 4, omittingEmptySubsequences: false)
    guard parts.count == 5, let cpu = Int64(parts[1]), let memory = Int64(parts[2]),
      let slots = Int32(parts[3])
    else { return nil }
    let state: PoolSurvey.Group.State
    switch parts[0] {
    case "r": state = .ready
    case "s": state = .suspect
    case "d": state = .draining
    default: return nil
    }
    return PoolSurvey.Group(
      labels: self.split(String(parts[4])),
      capacity: Resources(cpuMillis: cpu, memory: ByteCount(memory), slots: slots), state: state,
      count: 1)
  }

  static func demand(_ reply: RedisValue) -> [PoolName: Resources]? {
    guard let elements = reply.elements else { return nil }
    var waiting: [PoolName: Resources] = [:]
    for element in elements {
      guard let fields = element.elements, fields.count == 4, let pool = fields[0].text,
        let resources = self.sum(fields[1...3])
      else { return nil }
      waiting[PoolName(pool)] = resources
    }
    return waiting
  }

  static func usage(_ reply: RedisValue) -> UsagePage? {
    guard let parts = reply.elements, parts.count == 2, let last = parts[0].text,
      let elements = parts[1].elements
    else { return nil }
    var pools: [PoolName: PoolUsage] = [:]
    for element in elements {
      guard let fields = element.elements, fields.count == 8, let pool = fields[0].text,
        let count = fields[1].number, let capacity = self.sum(fields[2...4]),
        let leased = self.sum(fields[5...7])
      else { return nil }
      pools[PoolName(pool)] = PoolUsage(
        executors: Int(count), capacity: capacity, leased: leased)
    }
    return UsagePage(pools: pools, last: last.isEmpty ? nil : last)
  }

  /// Of many executors: more slots than one may have.
  private static func sum(_ fields: ArraySlice<RedisValue>) -> Resources? {
    let numbers = fields.compactMap(\.number)
    guard numbers.count == 3 else { return nil }
    return Resources(
      cpuMillis: numbers[0], memory: ByteCount(numbers[1]), slots: Int32(clamping: numbers[2]))
  }

  static func executor(_ reply: RedisValue) -> ExecutorRecord? {
    guard let fields = reply.elements, fields.count == 11, let id = fields[0].text,
      let address = fields[1].text, let pool = fields[2].text, let labels = fields[3].text,
      let draining = fields[4].text, let suspect = fields[5].text,
      let capacity = self.resources(fields[6...8]), let heard = fields[9].number,
      let elements = fields[10].elements,
      let leases = self.all(elements, { self.leaseRecord($0) })
    else { return nil }
    return ExecutorRecord(
      executor: ExecutorID(id), address: address, pool: PoolName(pool),
      labels: self.split(labels),
      state: suspect == "1" ? .suspect : draining == "1" ? .draining : .ready, capacity: capacity,
      lastHeartbeat: Timestamp(microseconds: heard), leases: leases)
  }

  private static func leaseRecord(_ reply: RedisValue) -> LeaseRecord? {
    guard let fields = reply.elements, fields.count == 7, let lease = fields[0].text,
      let request = fields[1].text, let token = fields[2].number,
      let resources = self.resources(fields[3...5]), let expires = fields[6].text
    else { return nil }
    return LeaseRecord(
      lease: LeaseID(lease), request: AttemptID(request), token: FencingToken(token),
      resources: resources, expires: Int64(expires).map { Timestamp(microseconds: $0) })
  }

  private static func resources(_ fields: ArraySlice<RedisValue>) -> Resources? {
    let numbers = fields.compactMap(\.number)
    guard numbers.count == 3, let slots = Int32(exactly: numbers[2]) else { return nil }
    return Resources(cpuMillis: numbers[0], memory: ByteCount(numbers[1]), slots: slots)
  }

  private static func split(_ text: String) -> [String] {
    text.split(separator: RedisArguments.separator).map { String($0) }
  }

  /// Every element's value, or nil if one has none.
  static func all<Value>(
    _ elements: [RedisValue], _ value: (RedisValue) -> Value?
  ) -> [Value]? {
    var values: [Value] = []
    values.reserveCapacity(elements.count)
    for element in elements {
      guard let value = value(element) else { return nil }
      values.append(value)
    }
    return values
  }
}
