import NIOCore
import Synchronization

/// Runs tasks on an event loop, so that a call never leaves the loop of its connection.
///
/// Jobs that are made on the loop run at the end of the current read, and the connections that they
/// wrote to are flushed behind every few of them: many calls, one system call. `@unchecked Sendable`:
/// what is not in a mutex is touched on the loop only.
@usableFromInline
final class LoopExecutor: TaskExecutor, @unchecked Sendable {
  /// The peer has something to do while the rest of a burst is worked on, and a system call is still
  /// one for many calls. With all of a burst in one write, client and server wait for each other.
  private static let jobsBetweenFlushes = 32
  /// NIO looks at its sockets when no task is due: one that follows at once would keep it from that.
  private static let rest = TimeAmount.milliseconds(1)
  /// Rests that may be over without a turn: jobs that go on all the time keep nobody from theirs.
  private static let maximumRests = 8

  /// How long connections may keep their loop from its other sockets, while more of what they sent
  /// waits: a few kilobytes may be work for seconds, whether by decompression or in handlers.
  static let turn = TimeAmount.milliseconds(5)
  /// What a slice of bytes is, which are looked at together: room for one message that is made of a
  /// thousandth of its size.
  static let sliceBytes = 4 << 10
  /// What takes longer than this for each slice counts for all of the loop's connections together.
  /// Calls that are no work take a fraction of it.
  private static let slowSlice = TimeAmount.milliseconds(1)

  /// A connection that has more to read, and in how far others are to go on first.
  private struct Resting {
    var connection: Connection
    var weight: Int
    var arrival: Int
  }

  let eventLoop: any EventLoop
  let timers: LoopTimers
  @exclusivity(unchecked) private var jobs: [UnownedJob] = []
  @exclusivity(unchecked) private var running: [UnownedJob] = []
  @exclusivity(unchecked) private var dirtyConnections: [Connection] = []
  @exclusivity(unchecked) private var isScheduled = false
  @exclusivity(unchecked) private var isDraining = false
  /// Connections that have had their turn, or had none for those that were read from before them.
  private var resting: [Resting] = []
  private var arrivals = 0
  private var restIsTimed = false
  /// What slow work took since the loop looked at its sockets.
  @exclusivity(unchecked) private var slowTime = TimeAmount.zero
  /// Rests since the last turn.
  private var rests = 0
  /// Since the rest began, jobs have run, which may have been all that there was time for.
  @exclusivity(unchecked) private var hasWorked = false
  /// Since the rest began, a socket was heard.
  @exclusivity(unchecked) private var hasHeard = false
  /// Tasks that wait for a call to serve.
  @exclusivity(unchecked) var idleHandlers: [HandlerTask] = []
  private let foreignJobs = Mutex<[UnownedJob]>([])

  private static let executors = Mutex<[ObjectIdentifier: LoopExecutor]>([:])

  /// The executor of that loop; loops live as long as their group, which for servers is the
  /// process.
  static func of(_ eventLoop: any EventLoop) -> LoopExecutor {
    self.executors.withLock { executors in
      let id = ObjectIdentifier(eventLoop)
      if let executor = executors[id], executor.eventLoop === eventLoop { return executor }
      let executor = LoopExecutor(eventLoop)
      executors[id] = executor
      return executor
    }
  }

  private init(_ eventLoop: any EventLoop) {
    self.eventLoop = eventLoop
    self.timers = LoopTimers(eventLoop)
  }

  var inEventLoop: Bool { self.eventLoop.inEventLoop }

  @usableFromInline
  func enqueue(_ job: consuming ExecutorJob) {
    let job = UnownedJob(job)
    if self.inEventLoop {
      self.jobs.append(job)
      self.schedule()
    } else {
      let isFirst = self.foreignJobs.withLock { jobs in
        jobs.append(job)
        return jobs.count == 1
      }
      if isFirst { self.eventLoop.execute { self.drain() } }
    }
  }

  /// Runs `body` on the loop: now if this is the loop.
  func execute(_ body: @escaping @Sendable () -> Void) {
    if self.inEventLoop { body() } else { self.eventLoop.execute(body) }
  }

  /// Flushes the connection when the jobs that are due have run.
  func flushLater(_ connection: Connection) {
    self.dirtyConnections.append(connection)
    self.schedule()
  }

  /// Runs what is due, then flushes what it wrote to; in a long burst also the connection that is
  /// being read from, whose own flush follows.
  func drain(flushing connection: Connection? = nil) {
    self.eventLoop.assertInEventLoop()
    // From within a flush between two jobs, for NIO reads what is left when a write fails: the drain
    // that flushes goes on with what is due.
    guard !self.isDraining else { return }
    self.isDraining = true
    defer { self.isDraining = false }
    self.isScheduled = false
    let foreign = self.foreignJobs.withLock { jobs in
      if jobs.isEmpty { return [UnownedJob]() }
      defer { jobs.removeAll() }
      return jobs
    }
    for job in foreign {
      job.runSynchronously(on: self.asUnownedTaskExecutor())
    }
    // Jobs that these jobs make run behind other tasks of the loop.
    swap(&self.jobs, &self.running)
    if !self.running.isEmpty || !foreign.isEmpty { self.hasWorked = true }
    for (index, job) in self.running.enumerated() {
      job.runSynchronously(on: self.asUnownedTaskExecutor())
      if (index + 1) % Self.jobsBetweenFlushes == 0 { self.flush(connection) }
    }
    self.running.removeAll(keepingCapacity: true)
    self.flush(nil)
    if !self.jobs.isEmpty { self.schedule() }
  }

  private func flush(_ connection: Connection?) {
    connection?.flush()
    while let dirty = self.dirtyConnections.popLast() { dirty.flush() }
  }

  /// To work on so many bytes of what a connection sent took that long.
  func worked(_ time: TimeAmount, on bytes: Int) {
    guard time > Self.slowSlice * max(1, bytes / Self.sliceBytes) else { return }
    if self.slowTime == .zero {
      // Behind all that was readable together.
      self.eventLoop.execute { self.slowTime = .zero }
    }
    self.slowTime = self.slowTime + time
  }

  /// Connections have taken a turn since the loop looked at its sockets: what else was readable waits
  /// until it has looked again, for it may be as slow.
  var isLate: Bool { self.slowTime > Self.turn }

  /// Gives the connection its next turn when the loop has looked at its sockets.
  ///
  /// - Parameter weight: Those of less go on first: bytes that wait. It halves with each rest.
  func goesOnLater(_ connection: Connection, weight: Int) {
    self.arrivals += 1
    self.resting.append(Resting(connection: connection, weight: weight, arrival: self.arrivals))
    self.timeRest()
  }

  private func timeRest() {
    guard !self.restIsTimed, !self.resting.isEmpty else { return }
    self.restIsTimed = true
    self.hasWorked = false
    self.hasHeard = false
    self.eventLoop.scheduleTask(in: Self.rest) {
      self.rests += 1
      // Otherwise jobs may have taken all of the rest, and no socket has been looked at.
      if self.hasHeard || !self.hasWorked || self.rests == Self.maximumRests {
        self.rests = 0
        self.giveTurns()
      }
      // From the end of this turn on.
      self.restIsTimed = false
      self.timeRest()
    }
  }

  /// To as many as together take no longer than one may, and to one at least.
  private func giveTurns() {
    let began = NIODeadline.now()
    var waiting = self.resting.sorted { ($0.weight, $0.arrival) < ($1.weight, $1.arrival) }[...]
    self.resting = []
    repeat {
      waiting.removeFirst().connection.goOn()
    } while !waiting.isEmpty && .now() - began <= Self.turn
    for one in waiting {
      self.resting.append(
        Resting(connection: one.connection, weight: one.weight / 2, arrival: one.arrival))
    }
  }

  /// A socket of the loop had something to read.
  func heard() { self.hasHeard = true }

  private func schedule() {
    guard !self.isScheduled else { return }
    self.isScheduled = true
    self.eventLoop.execute { self.drain() }
  }
}

extension EventLoop {
  /// Runs a task on this loop, where the calls of a channel on the same loop cost least.
  ///
  ///     group.addTask(executorPreference: loop.callExecutor) { ... }
  public var callExecutor: any TaskExecutor { LoopExecutor.of(self) }
}
