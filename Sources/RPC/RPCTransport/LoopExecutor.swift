import NIOCore
import Synchronization

/// Runs tasks on an event loop, so that a call never leaves the loop of its connection.
///
/// Jobs that are made on the loop run behind the slice of a read that made them, and handlers of calls behind
/// them, while what they were given is in the cache; the connections that they wrote to are flushed behind every
/// few of them: many calls, one system call.
/// `@unchecked Sendable`: what is not in a mutex is touched on the loop only.
@usableFromInline
final class LoopExecutor: TaskExecutor, @unchecked Sendable {
  /// The peer has something to do while the rest of a burst is worked on, and a system call is still
  /// one for many calls. With all of a burst in one write, client and server wait for each other.
  private static let jobsBetweenFlushes = 32

  let eventLoop: any EventLoop
  let timers: LoopTimers
  let turns: LoopTurns
  @exclusivity(unchecked) private var jobs: [UnownedJob] = []
  @exclusivity(unchecked) private var running: [UnownedJob] = []
  @exclusivity(unchecked) private var dirtyConnections: [Connection] = []
  @exclusivity(unchecked) private var isScheduled = false
  @exclusivity(unchecked) private var isDraining = false
  /// A slice is being taken: what it makes due is run behind it.
  @exclusivity(unchecked) private var isTaking = false
  /// Jobs and handlers of the current read that nothing was flushed behind.
  @exclusivity(unchecked) private var unflushed = 0
  /// Handlers that are due, from `firstHandler` on.
  @exclusivity(unchecked) private var handlers: [HandlerJob?] = []
  @exclusivity(unchecked) private var firstHandler = 0
  /// Since when handlers have their turn; nil: they have none.
  @exclusivity(unchecked) private var turnBegan: NIODeadline?
  private static let handlersBetweenLooks = 8
  /// What a handler that is due weighs against bytes that are to be read.
  private static let handlerWeight = 1 << 10
  /// The connection that is read from while this drains.
  @exclusivity(unchecked) private var connectionInTurn: Connection?
  /// Tasks that wait for a call to serve.
  @exclusivity(unchecked) var idleHandlers: [HandlerTask] = []
  private let foreignJobs = Mutex<[UnownedJob]>([])

  private static let executors = Mutex<[ObjectIdentifier: LoopExecutor]>([:])

  /// The executor of that loop. It is kept for as long as the process lives, some kilobytes, also when the
  /// loop's group is shut down: NIO tells nobody.
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
    self.turns = LoopTurns(eventLoop)
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

  /// Runs a handler behind the slice that is being taken, with all others that are due then.
  func serve(_ job: consuming HandlerJob) {
    self.handlers.append(consume job)
    self.schedule()
  }

  /// The next handler that is due, for a task that takes it; nil when it is the turn of something else.
  func nextHandler() -> HandlerJob? {
    guard let began = self.turnBegan, self.firstHandler < self.handlers.count else { return nil }
    let count = self.firstHandler
    // Behind the first, and then as often as costs little: the rest may be other work than those before.
    if count == 1 || count > 0 && count.isMultiple(of: Self.handlersBetweenLooks),
      .now() - began > LoopTurns.handlersTurn
    {
      self.turnBegan = nil
      return nil
    }
    self.flushAtTimes()
    self.firstHandler += 1
    return self.handlers[count].take()
  }

  /// Until none is due, or they have had their turn: each task takes them until one waits. What is left
  /// goes on when the loop has looked at its sockets.
  private func serveHandlers() {
    guard !self.handlers.isEmpty else { return }
    self.turnBegan = .now()
    while self.turnBegan != nil, self.firstHandler < self.handlers.count {
      let taken = self.firstHandler
      HandlerTask.serve(on: self)
      // Otherwise this would make tasks without end.
      precondition(self.turnBegan == nil || self.firstHandler > taken, "a task takes no handler")
    }
    self.turnBegan = nil
    let left = self.handlers[self.firstHandler...].compactMap { $0 }
    self.handlers.removeAll(keepingCapacity: true)
    self.firstHandler = 0
    guard !left.isEmpty else { return }
    self.turns.goesOnLater(weight: left.count * Self.handlerWeight) {
      for job in left { self.serve(job) }
      self.drain()
    }
  }

  /// Runs the job that came last now: it must not wait behind other tasks of the loop.
  func runNewestJob() {
    self.jobs.popLast()?.runSynchronously(on: self.asUnownedTaskExecutor())
  }

  /// Flushes the connection when the jobs that are due have run.
  func flushLater(_ connection: Connection) {
    self.dirtyConnections.append(connection)
    self.schedule()
  }

  /// Takes a slice of what was read; ``runDue(from:)`` follows if work is due.
  func take(_ slice: () throws -> Void) rethrows {
    self.isTaking = true
    do {
      try slice()
    } catch {
      self.isTaking = false
      self.schedule()
      throw error
    }
    self.isTaking = false
  }

  /// Runs what is due behind a slice, and flushes what it wrote to; in a long burst also the connection that is
  /// being read from, whose own flush follows at the end of the read.
  func runDue(from connection: Connection) { self.run([], from: connection) }

  /// Nothing more was read from a connection for now, which is to be flushed.
  func readEnds(of connection: Connection) {
    if self.isWorkDue { self.runDue(from: connection) }
    self.unflushed = 0
  }

  var isWorkDue: Bool {
    !(self.handlers.isEmpty && self.jobs.isEmpty && self.dirtyConnections.isEmpty)
  }

  /// Runs what is due, also what others than the loop have made, and flushes what it wrote to.
  func drain() {
    guard !self.isDraining else { return self.eventLoop.execute { self.drain() } }
    let foreign = self.foreignJobs.withLock { jobs in
      if jobs.isEmpty { return [UnownedJob]() }
      defer { jobs.removeAll() }
      return jobs
    }
    self.run(foreign, from: nil)
  }

  /// - Parameter foreign: What others than the loop have made.
  private func run(_ foreign: [UnownedJob], from connection: Connection?) {
    self.eventLoop.assertInEventLoop()
    // From within a flush between two jobs, for NIO reads what is left when a write fails: the drain
    // that flushes goes on with what is due.
    guard !self.isDraining else { return }
    self.isDraining = true
    self.isScheduled = false
    for job in foreign {
      job.runSynchronously(on: self.asUnownedTaskExecutor())
    }
    // Jobs that these jobs make run behind other tasks of the loop.
    swap(&self.jobs, &self.running)
    if !self.running.isEmpty || !foreign.isEmpty || !self.handlers.isEmpty {
      self.turns.jobsHaveRun()
    }
    self.connectionInTurn = connection
    for job in self.running {
      job.runSynchronously(on: self.asUnownedTaskExecutor())
      self.flushAtTimes()
    }
    self.running.removeAll(keepingCapacity: true)
    self.serveHandlers()
    self.connectionInTurn = nil
    self.flush(nil)
    self.isDraining = false
    if self.isWorkDue { self.schedule() }
  }

  private func flushAtTimes() {
    self.unflushed += 1
    guard self.unflushed >= Self.jobsBetweenFlushes else { return }
    self.unflushed = 0
    self.flush(self.connectionInTurn)
  }

  private func flush(_ connection: Connection?) {
    connection?.flush()
    while let dirty = self.dirtyConnections.popLast() { dirty.flush() }
  }

  private func schedule() {
    guard !self.isScheduled, !self.isTaking, !self.isDraining else { return }
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
