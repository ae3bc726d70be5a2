import Domain
import SchedulerCore

/// What it costs a scheduler's core that very many jobs wait.
struct QueueBenchmark {
  let count: Int

  func run() {
    self.submit()
    self.takeOver()
  }

  private func submit() {
    let before = residentBytes()
    let requests = Requests()
    var bench = SchedulerBench(policy: Self.policy(self.count))
    bench.feed { $0.recoveryFinished(at: $1) }
    let part = max(1, min(20_000, self.count / 10))
    let clock = ContinuousClock()
    var number = 0
    func submit(until end: Int) -> Double {
      let begin = number
      let time = clock.measure {
        while number < end {
          number += 1
          let (submission, waiter) = (requests.submission(number), Waiter(UInt64(number)))
          bench.feed { $0.submitted(submission, from: waiter, at: $1) }
        }
      }
      return Double(number - begin) / time.inSeconds
    }
    let first = submit(until: part)
    let middle = submit(until: self.count - part)
    let last = submit(until: self.count)
    let megabytes = Double(residentBytes() - before) / 1e6
    print("\(self.count) jobs queued, in builds of one job each")
    print("  submitting, empty queue       \(rounded(first)) builds/s")
    print("  submitting, on the way        \(rounded(middle)) builds/s")
    print(
      "  submitting, behind all of them \(rounded(last)) builds/s, "
        + "\(rounded(last / first * 100)) % of that at an empty queue")
    print("  memory                        \(rounded(megabytes)) MB")
    precondition(bench.scheduler.queueDepth == self.count)
  }

  private func takeOver() {
    let before = residentBytes()
    var bench = SchedulerBench(policy: Self.policy(self.count))
    let clock = ContinuousClock()
    var time = Duration.zero
    for begin in stride(from: 1, through: self.count, by: 500) {
      let page = (begin..<min(begin + 500, self.count + 1)).map {
        StoredBuild(record: Requests.record($0), version: Int64($0))
      }
      time += clock.measure {
        for stored in page { bench.feed { $0.recovered(stored, at: $1) } }
      }
    }
    var longest = Duration.zero
    for partition in Partition.all {
      func turn(_ body: () -> Void) {
        let one = clock.measure(body)
        time += one
        longest = max(longest, one)
      }
      turn { bench.feed { $0.recoveryFinished(of: [partition], at: $1) } }
      while bench.scheduler.nextWake().map({ $0 <= bench.now }) ?? false {
        turn { bench.feed { $0.timePassed(at: $1) } }
      }
    }
    let megabytes = Double(residentBytes() - before) / 1e6
    print("\(self.count) jobs taken over from their records, once these are decoded")
    print(
      "  time                          \(rounded(time.inSeconds)) s, at most "
        + "\(rounded(longest.inSeconds * 1_000)) ms without a break")
    print("  memory                        \(rounded(megabytes)) MB")
    precondition(bench.scheduler.queueDepth == self.count)
  }

  private static func policy(_ count: Int) -> Policy {
    var policy = Policy()
    policy.maximumQueuedJobs = count
    return policy
  }
}

/// A scheduler's core whose store takes every write at once.
struct SchedulerBench {
  var scheduler: Scheduler
  var now = Timestamp(microseconds: 1_764_000_000_000_000)
  private var lastVersion: Int64 = 0
  private var left: [Effect] = []

  init(policy: Policy) {
    self.scheduler = Scheduler(policy: policy, owner: "bench")
  }

  /// Feeds an input and all that its writes come to; `other` is told of every other effect.
  mutating func feed(
    _ input: (inout Scheduler, Timestamp) -> [Effect], other: (Effect) -> Void = { _ in }
  ) {
    var effects = input(&self.scheduler, self.now)
    while true {
      for effect in effects {
        if case .write(let record, _) = effect {
          self.lastVersion += 1
          self.left +=
            self.scheduler.written(
              record.id, .committed(version: self.lastVersion), at: self.now)
        } else {
          other(effect)
        }
      }
      if self.left.isEmpty { return }
      effects = self.left
      self.left.removeAll(keepingCapacity: true)
    }
  }
}
