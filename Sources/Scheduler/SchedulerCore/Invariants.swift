import Domain

extension Scheduler {
  /// What must hold between any two inputs; answers every violation, for tests and simulations.
  package func violations() -> [String] {
    var found: [String] = []
    func check(_ holds: Bool, _ message: @autoclosure () -> String) {
      if !holds { found.append(message()) }
    }
    var used: [ProjectID: Resources] = [:]
    var waiting = 0
    var tickets: Set<Ticket> = []
    var liveCount = 0
    var counts = Array(repeating: 0, count: Partition.count)
    for entry in self.builds.values { counts[entry.partition.number] += 1 }
    check(
      self.partitionBuilds == counts,
      "builds of partitions are counted as \(self.partitionBuilds), there are \(counts)")
    for (id, entry) in self.builds.sorted(by: { $0.key < $1.key }) {
      check(self.partitions[entry.partition] != nil, "\(id) is another scheduler's")
      check(
        self.partitions[entry.partition] != .loading
          || self.loadingBuilds[entry.partition]?.contains(id) ?? false,
        "\(id): read, and not among what is to be resumed")
      let machine = entry.machine
      let record = machine.record
      waiting += record.jobs.count { $0.state == .blocked || $0.state == .queued }
      check(
        (record.state == .finished) == (record.outcome != nil),
        "\(id): finished and outcome do not agree")
      check(
        record.state != .finished || record.jobs.allSatisfy { $0.state == .finished },
        "\(id): finished with a job that is not")
      check(
        record.state == .finished || record.jobs.contains { $0.state != .finished },
        "\(id): every job is finished and the build is not")
      check(
        entry.shown.map { $0.revision <= record.revision } ?? true,
        "\(id): what is shown is newer than what is")
      check(
        entry.version != nil || entry.inFlight != nil || entry.isLoading || entry.isDirty,
        "\(id): neither stored nor being stored")
      for (index, job) in record.jobs.enumerated() {
        check(
          (job.state == .finished) == (job.outcome != nil),
          "\(job.id) of \(id): finished and outcome do not agree")
        check(
          record.isShortened
            || job.attempts.enumerated().allSatisfy { Int($1.number) == $0 + 1 },
          "\(job.id) of \(id): attempts are not numbered from 1")
        let open = job.attempts.filter { $0.outcome == nil }
        check(
          open.count == (job.state == .running ? 1 : 0),
          "\(job.id) of \(id): \(open.count) open attempts while \(job.state)")
        for attempt in job.attempts where attempt.outcome == nil {
          check(
            machine.live[attempt.id] != nil, "attempt \(attempt.id) is open and nobody follows it")
        }
        for attempt in job.attempts {
          check(
            attempt.isHeld == (machine.live[attempt.id] != nil),
            "attempt \(attempt.id): held and followed do not agree")
        }
        let isQueued = machine.tickets[.job(index)] != nil
        check(!isQueued || job.state == .queued, "\(job.id) of \(id) waits while \(job.state)")
        let isResting = machine.resting.contains(.job(index))
        check(
          job.state != .queued || isQueued || isResting || !entry.isClean || entry.isLoading
            || self.partitions[entry.partition] != .serving,
          "\(job.id) of \(id) is queued and stands nowhere")
      }
      for (item, ticket) in machine.tickets.all {
        check(self.queue.contains(ticket), "\(item) of \(id) has a ticket that nobody knows")
        check(tickets.insert(ticket).inserted, "ticket \(ticket) is there twice")
      }
      for (attempt, live) in machine.live {
        liveCount += 1
        used[record.project, default: .none] += live.machine.resources
        check(self.attempts[attempt] == id, "attempt \(attempt) is not in the index")
        check(
          self.leases.attempts(under: live.machine.lease).contains(attempt),
          "lease \(live.machine.lease) is not attempt \(attempt)'s")
        check(!live.machine.isOver, "attempt \(attempt) is over and still followed")
      }
    }
    check(
      self.queue.count == tickets.count,
      "the queue holds \(self.queue.count), builds \(tickets.count)")
    check(self.attempts.count == liveCount, "the index holds attempts that are over")
    let held = self.leases.all.reduce(0) { $0 + $1.attempts.count }
    check(held == liveCount, "leases are held that nobody uses")
    check(self.reusable.isEmpty, "leases are neither held nor given back")
    let unstored = self.builds.filter { $0.value.version == nil }.map(\.key)
    check(
      Set(unstored) == self.unstored, "\(self.unstored) are not stored, and \(unstored) are not")
    for attempt in self.handovers.attempts {
      check(self.attempts[attempt] != nil, "\(attempt) waits for a lease and is not followed")
    }
    check(self.waitingJobs == waiting, "\(self.waitingJobs) jobs counted, \(waiting) wait")
    for project in Set(used.keys).union(self.queue.projectsInUse).sorted() {
      check(
        self.queue.used(by: project) == used[project] ?? .none,
        "\(project) is charged with \(self.queue.used(by: project))")
    }
    for shape in self.queue.linesInDoubt {
      found.append("the room that limits leave for \(shape) is not what is known of it")
    }
    for line in self.queue.lineCounts {
      check(
        line.open == line.wanted,
        "\(line.open) open demands where \(line.wanted) are wanted")
    }
    return found
  }
}
