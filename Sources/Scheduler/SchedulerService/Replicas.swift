import Domain
import Logging
import NIOCore
import RPC
import SchedulerCore
import ServiceRuntime
import Synchronization

/// This scheduler's place among its replicas: carries out what ``Membership`` decides, one step
/// after the other.
///
/// `@unchecked Sendable`: what is not behind the lock is touched on the loop only.
final class Replicas: @unchecked Sendable {
  /// Where the calls for each partition go, as far as is known.
  struct Places: Sendable {
    var owners = Array(repeating: Membership.Owner.nobody, count: Partition.count)
    /// Until then what is in memory may be shown.
    var trustedUntil: ContinuousClock.Instant?
    var isReady = false
    /// The last reason why the datastore could not be asked.
    var trouble: String?

    subscript(partition: Partition) -> Membership.Owner { self.owners[partition.number] }

    /// Whether nobody else is to be asked, whatever it is about.
    var areAllHere: Bool { self.owners.allSatisfy { $0 == .here } }
    var isTrusted: Bool { self.trustedUntil.map { ContinuousClock.now < $0 } ?? false }
  }

  private let store: ReplicaStore
  private let loop: any EventLoop
  private let logger: Logger
  private var core: Membership
  /// Told, on the loop, what changes.
  var listener: @Sendable (Membership.Event) -> Void = { _ in }
  /// Told, on the loop, under which session writes are made from now on.
  var joined: @Sendable (ReplicaID) -> Void = { _ in }
  private var timesFenced = 0
  private let begin = ContinuousClock.now
  private let servedAt = Mutex("")
  private let snapshot = Mutex(Places())
  private let pokes: AsyncStream<Void>
  private let poke: AsyncStream<Void>.Continuation
  private var leavers: [CheckedContinuation<Void, Never>] = []
  private var isOver = false

  init(store: ReplicaStore, loop: any EventLoop, logger: Logger) {
    self.store = store
    self.loop = loop
    self.logger = logger
    self.core = Membership(id: Self.newID())
    (self.pokes, self.poke) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
  }

  /// Another one for each session: what is removed under it never comes back.
  private static func newID() -> ReplicaID {
    ReplicaID(String(UInt64.random(in: .min ... .max), radix: 36))
  }

  var address: String { self.servedAt.withLock { $0 } }
  var places: Places { self.snapshot.withLock { $0 } }
  var peers: Int { self.core.peerCount }
  var owned: Int { self.core.owned.count }

  func takeTimesFenced() -> Int {
    defer { self.timesFenced = 0 }
    return self.timesFenced
  }

  // MARK: Inputs, on the loop

  func loaded(_ partition: Partition) {
    self.core.loaded(partition, at: self.now)
    self.settle()
  }

  func closed(_ partition: Partition) {
    self.core.closed(partition, at: self.now)
    self.settle()
  }

  /// A commit met no session.
  func fenced(_ session: ReplicaID) {
    self.loop.assertInEventLoop()
    guard self.core.isInside, self.core.me.id == session,
      self.core.fenced(as: Self.newID(), at: self.now)
    else {
      self.poke.yield()
      return
    }
    self.timesFenced += 1
    self.logger.warning(
      "other schedulers have given this one up for dead and own its builds now; it joins again",
      metadata: ["session": "\(session)"])
    self.settle()
  }

  /// Gives away all that is owned; returns when it is done, or given up.
  func leave() async {
    await withCheckedContinuation { continuation in
      self.loop.execute {
        if self.isOver { return continuation.resume() }
        self.leavers.append(continuation)
        self.core.leave(at: self.now)
        self.settle()
      }
    }
  }

  // MARK: The steps

  /// Takes part until it is cancelled, or has left. To be run on the loop's executor.
  func run(servedAt address: String) async {
    self.servedAt.withLock { $0 = address }
    self.core.isServed(at: address)
    var timer: Scheduled<Void>?
    var pokes = self.pokes.makeAsyncIterator()
    while !Task.isCancelled, !self.core.hasLeft {
      switch self.core.next(at: self.now) {
      case .wait(let until):
        self.settle(poking: false)
        let delay = min(until - self.now, .seconds(60))
        timer = self.loop.scheduleTask(in: .microseconds(delay.microseconds)) {
          self.poke.yield()
        }
        _ = await pokes.next()
        timer?.cancel()
      case let step:
        await self.carryOut(step)
        self.settle(poking: false)
      }
    }
    self.isOver = true
    for leaver in self.leavers { leaver.resume() }
    self.leavers = []
  }

  private func carryOut(_ step: Membership.Step) async {
    let begin = self.now
    let session = self.core.me.id
    switch step {
    case .wait: break
    case .join(let replica):
      switch await self.store.join(replica) {
      case .done:
        self.core.joined(begunAt: begin)
        self.joined(session)
        self.trouble(nil)
      case let end: self.failed(end, "join") { self.core.joinFailed(at: self.now) }
      }
    case .renew(let replica):
      let end = await self.store.renew(replica)
      // Fenced meanwhile, as another write has shown.
      guard self.core.me.id == session else { return }
      switch end {
      case .done:
        self.core.renewed(begunAt: begin)
        self.trouble(nil)
      case let end: self.failed(end, "renew its session") { self.core.renewalFailed(at: self.now) }
      }
    case .look:
      do {
        let view = try await self.store.look()
        guard self.core.me.id == session else { return }
        self.core.looked(view, begunAt: begin, endedAt: self.now)
      } catch {
        self.failed(.unknown((error as? RPCError)?.message ?? "\(error)"), "look around") {
          self.core.lookFailed(at: self.now)
        }
      }
    case .change(let change):
      let end = await self.store.change(change, as: session)
      guard self.core.me.id == session else { return }
      switch end {
      case .done(let version):
        self.log(change)
        self.core.changed(change, version: version, begunAt: begin, at: self.now)
        if change.successor != nil { self.joined(self.core.me.id) }
      case let end: self.failed(end, "change owners") { self.core.changeFailed(at: self.now) }
      }
    case .leave(let session):
      _ = await self.store.leave(session)
      self.core.left()
    }
  }

  private func failed(
    _ end: ReplicaStore.WriteEnd, _ what: String, _ body: () -> Void
  ) {
    switch end {
    case .fenced where self.core.isInside: return self.fenced(self.core.me.id)
    case .unknown(let why):
      if self.places.trouble == nil {
        self.logger.warning(
          "the datastore does not let this scheduler \(what)", metadata: ["error": "\(why)"])
      }
      self.trouble(why)
    // Somebody was faster.
    case .conflict, .fenced, .done: break
    }
    body()
  }

  private func log(_ change: Membership.Change) {
    if change.successor != nil {
      self.logger.warning(
        "partitions were given away with writes under way, which come to nothing")
    }
    for sighting in change.removed {
      self.logger.notice(
        "a scheduler is silent and was given up for dead",
        metadata: [
          "session": "\(sighting.replica.id)", "address": "\(sighting.replica.address)",
        ])
    }
  }

  private func trouble(_ trouble: String?) { self.snapshot.withLock { $0.trouble = trouble } }

  private var now: Duration { ContinuousClock.now - self.begin }

  /// Tells what came of an input, and has the next step taken.
  private func settle(poking: Bool = true) {
    self.loop.assertInEventLoop()
    for event in self.core.takeEvents() { self.listener(event) }
    let trusted = self.core.trustedFor.map { self.begin + $0 }
    let owners = Partition.all.map { self.core.owner(of: $0) }
    let isReady = self.core.isReady
    self.snapshot.withLock { places in
      places.owners = owners
      places.trustedUntil = trusted
      places.isReady = isReady
    }
    if poking { self.poke.yield() }
  }
}
