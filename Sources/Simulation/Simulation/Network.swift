import Domain

/// How bad the network is.
package struct Weather: Sendable {
  package var latency: ClosedRange<Duration> = .microseconds(50)...(.milliseconds(2))
  /// How often something takes far longer, and then how long.
  package var spikes = 0.0
  package var spike: ClosedRange<Duration> = .milliseconds(50)...(.milliseconds(3_000))
  /// Of a call's request or answer; on a stream it only costs time.
  package var loss = 0.0
  /// How often a call's request arrives twice.
  package var duplication = 0.0
  /// How often a message on a stream breaks it.
  package var breaks = 0.0

  package init() {}

  package static let calm = Weather()
}

/// Why a call has no answer: nobody knows whether it was carried out.
struct CallFailure: Error, CustomStringConvertible {
  let description: String
}

/// How a stream ended, as its client learns.
enum Closing: Hashable {
  /// As its server wanted it.
  case ended
  case notFound
  case refused(String)
  case invalid(String)
  case broken(String)
}

/// What lies between processes: calls, which are delayed, lost and repeated; streams, which keep
/// their order and break; and cuts, through which nothing passes.
final class Network {
  /// Two processes, in either order.
  struct Pair: Hashable {
    let low: String
    let high: String

    init(_ one: Process, _ other: Process) {
      (self.low, self.high) = (min(one.name, other.name), max(one.name, other.name))
    }
  }

  private let timeline: Timeline
  var weather = Weather.calm
  /// Each with the number of its cut.
  private var cuts: [Pair: Int] = [:]
  private var lastCut = 0
  private var lanes: [Pair: [Lane]] = [:]

  init(_ timeline: Timeline) {
    self.timeline = timeline
  }

  // MARK: Cuts

  func isCut(_ one: Process, _ other: Process) -> Bool {
    !self.cuts.isEmpty && self.cuts[Pair(one, other)] != nil
  }

  func cut(_ one: Process, _ other: Process) {
    let pair = Pair(one, other)
    guard self.cuts[pair] == nil else { return }
    self.timeline.note("network", "nothing passes between \(pair.low) and \(pair.high)")
    self.lastCut += 1
    let number = self.lastCut
    self.cuts[pair] = number
    for lane in self.lanes[pair] ?? [] {
      self.timeline.after(lane.keepalive) {
        // Whoever has sent pings without an answer gives the stream up.
        if self.cuts[pair] == number { lane.gaveUp() }
      }
    }
  }

  func mend(_ one: Process, _ other: Process) {
    let pair = Pair(one, other)
    guard self.cuts.removeValue(forKey: pair) != nil else { return }
    self.timeline.note("network", "\(pair.low) and \(pair.high) reach each other")
    for lane in self.lanes[pair] ?? [] { lane.flush() }
  }

  fileprivate func register(_ lane: Lane) {
    self.lanes[Pair(lane.from, lane.to), default: []].append(lane)
  }

  fileprivate func forget(_ lane: Lane) {
    self.lanes[Pair(lane.from, lane.to)]?.removeAll { $0 === lane }
  }

  fileprivate func cutNumber(_ lane: Lane) -> Int? { self.cuts[Pair(lane.from, lane.to)] }

  func latency() -> Duration {
    let usual = self.timeline.random.duration(self.weather.latency)
    return self.timeline.random.chance(self.weather.spikes)
      ? usual + self.timeline.random.duration(self.weather.spike) : usual
  }

  private func isLost(_ from: Process, _ to: Process) -> Bool {
    self.isCut(from, to) || self.timeline.random.chance(self.weather.loss)
  }

  // MARK: Calls

  /// One request and one answer. `serve` is done at the server, once, twice or never; `then` once
  /// at the client, if that life of it goes on.
  func call<Answer>(
    _ what: String, from client: Process, to server: Process, timeout: Duration,
    _ serve: @escaping (_ answer: @escaping (Answer) -> Void) -> Void,
    then: @escaping (Result<Answer, CallFailure>) -> Void
  ) {
    let life = client.life
    var isDone = false
    let finish = { (result: Result<Answer, CallFailure>) in
      client.run(in: life) {
        guard !isDone else { return }
        isDone = true
        then(result)
      }
    }
    client.after(timeout) {
      finish(.failure(CallFailure(description: "no answer to \(what) from \(server.name) in time")))
    }
    let copies = self.timeline.random.chance(self.weather.duplication) ? 2 : 1
    for _ in 0..<copies where !self.isLost(client, server) {
      self.timeline.after(self.latency()) {
        self.deliver(what, client, server, serve, finish)
      }
    }
  }

  private func deliver<Answer>(
    _ what: String, _ client: Process, _ server: Process,
    _ serve: @escaping (_ answer: @escaping (Answer) -> Void) -> Void,
    _ finish: @escaping (Result<Answer, CallFailure>) -> Void
  ) {
    guard !self.isCut(client, server) else { return }
    guard server.isUp else {
      self.timeline.after(self.latency()) {
        finish(.failure(CallFailure(description: "\(server.name) is not there")))
      }
      return
    }
    let mourner = server.mourn { isSilent in
      guard !isSilent else { return }
      self.timeline.after(self.latency()) {
        finish(.failure(CallFailure(description: "\(server.name) ended during \(what)")))
      }
    }
    server.run(in: server.life) {
      serve { answer in
        server.forget(mourner: mourner)
        guard !self.isLost(server, client) else { return }
        self.timeline.after(self.latency()) { finish(.success(answer)) }
      }
    }
  }

  // MARK: Streams

  /// Opens a stream. `accept` is done at the server when it gets there; then either `opened` at
  /// the client and, once, `closed`; or only `closed`.
  func open<Up, Down>(
    from client: Process, to server: Process, keepalive: Duration,
    accept: @escaping (Stream<Up, Down>) -> Void,
    opened: @escaping (Stream<Up, Down>) -> Void = { _ in },
    closed: @escaping (Closing) -> Void
  ) -> Stream<Up, Down> {
    let stream = Stream<Up, Down>(
      self, from: client, to: server, keepalive: keepalive, closed: closed)
    let life = client.life
    self.timeline.after(self.latency()) {
      if self.isCut(client, server) || !server.isUp {
        let patience = self.isCut(client, server) ? Duration.seconds(2) : self.latency()
        self.timeline.after(patience) {
          client.run(in: life) { stream.closedAtClient(.broken("\(server.name) is not reached")) }
        }
        return
      }
      // One that was let go of on its way may have got there all the same, or not.
      guard stream.isWanted || self.timeline.random.chance(0.5) else { return }
      stream.arrived()
      server.run(in: server.life) {
        accept(stream)
        stream.down.push { opened(stream) }
        if !stream.isWanted { stream.closeAtServer() }
      }
    }
    return stream
  }
}

/// One direction of a stream: in order, and while the way is cut, held.
final class Lane {
  private let network: Network
  let from: Process
  let to: Process
  let keepalive: Duration
  private let timeline: Timeline
  /// The receiver's life that it belongs to.
  private var life = 0
  private var held: [() -> Void] = []
  private var last = Timeline.beginning
  private var isClosed = false
  var broke: () -> Void = {}
  var gaveUp: () -> Void = {}

  init(_ network: Network, from: Process, to: Process, keepalive: Duration) {
    self.network = network
    self.from = from
    self.to = to
    self.keepalive = keepalive
    self.timeline = from.timeline
  }

  /// Its receiver is in that life.
  func begin(_ life: Int) {
    self.life = life
    self.network.register(self)
  }

  func close() {
    guard !self.isClosed else { return }
    self.isClosed = true
    self.held = []
    self.network.forget(self)
  }

  func push(_ body: @escaping () -> Void) {
    guard !self.isClosed else { return }
    if self.timeline.random.chance(self.network.weather.breaks) {
      self.broke()
      return
    }
    var delay = self.network.latency()
    if self.timeline.random.chance(self.network.weather.loss) {
      // Sent again by TCP.
      delay += self.timeline.random.duration(.milliseconds(200)...(.milliseconds(900)))
    }
    self.last = max(self.last, self.timeline.now + delay)
    self.timeline.at(self.last) { self.arrive(body) }
  }

  private func arrive(_ body: @escaping () -> Void) {
    guard !self.isClosed else { return }
    guard self.network.cutNumber(self) == nil, self.held.isEmpty else {
      self.held.append(body)
      return
    }
    self.to.run(in: self.life) { if !self.isClosed { body() } }
  }

  /// The way is open again.
  func flush() {
    let held = self.held
    self.held = []
    for body in held { self.push(body) }
  }
}

/// A stream between a client and a server.
final class Stream<Up, Down> {
  let client: Process
  let server: Process
  fileprivate let up: Lane
  fileprivate let down: Lane
  private let timeline: Timeline
  private let network: Network
  private let closed: (Closing) -> Void
  private let clientLife: Int
  private var serverLife = 0
  private var isOpenAtClient = true
  private var isOpenAtServer = false
  private var mourners: [(Process, Int)] = []

  /// Set by the server when it accepts.
  var serverReceived: (Up) -> Void = { _ in }
  var serverClosed: () -> Void = {}
  /// Set by the client when it opens.
  var clientReceived: (Down) -> Void = { _ in }

  fileprivate init(
    _ network: Network, from client: Process, to server: Process, keepalive: Duration,
    closed: @escaping (Closing) -> Void
  ) {
    self.network = network
    self.client = client
    self.server = server
    self.closed = closed
    self.clientLife = client.life
    self.timeline = client.timeline
    self.up = Lane(network, from: client, to: server, keepalive: keepalive)
    self.down = Lane(network, from: server, to: client, keepalive: keepalive)
  }

  fileprivate var isWanted: Bool {
    self.isOpenAtClient && self.client.isUp && self.client.life == self.clientLife
  }

  /// The server's kernel has it.
  fileprivate func arrived() {
    self.isOpenAtServer = true
    self.serverLife = self.server.life
    self.up.begin(self.serverLife)
    if self.isWanted { self.down.begin(self.clientLife) } else { self.down.close() }
    self.up.broke = { self.breakUp() }
    self.down.broke = { self.breakUp() }
    self.up.gaveUp = { self.closeAtServerSoon() }
    self.down.gaveUp = { self.closeAtClientSoon(.broken("keepalive")) }
    self.mourners = [
      (self.server, self.server.mourn { self.serverDied(isSilent: $0) }),
      (self.client, self.client.mourn { self.clientDied(isSilent: $0) }),
    ]
  }

  func sendUp(_ message: Up) {
    guard self.isOpenAtClient else { return }
    self.up.push { self.serverReceived(message) }
  }

  func sendDown(_ message: Down) {
    guard self.isOpenAtServer else { return }
    self.down.push { self.clientReceived(message) }
  }

  /// The client lets go of it; it hears nothing more.
  func cancel() {
    guard self.isOpenAtClient else { return }
    self.isOpenAtClient = false
    self.down.close()
    self.up.push { self.closeAtServer() }
  }

  /// The server is done; the client learns it behind what was sent before.
  func end(_ closing: Closing) {
    guard self.isOpenAtServer else { return }
    self.isOpenAtServer = false
    self.up.close()
    self.down.push { self.closedAtClient(closing) }
  }

  fileprivate func closedAtClient(_ closing: Closing) {
    guard self.isOpenAtClient else { return }
    self.isOpenAtClient = false
    self.down.close()
    // Should the server not know yet: as soon as anything gets through.
    self.up.push { self.closeAtServer() }
    self.closed(closing)
  }

  private func closeAtClientSoon(_ closing: Closing) {
    self.timeline.after(self.network.latency()) {
      self.client.run(in: self.clientLife) { self.closedAtClient(closing) }
    }
  }

  fileprivate func closeAtServer() {
    guard self.isOpenAtServer else { return }
    self.isOpenAtServer = false
    self.up.close()
    self.down.push { self.closedAtClient(.broken("\(self.server.name) closed it")) }
    self.forgetMourners()
    self.serverClosed()
  }

  /// What is under way is lost.
  private func breakUp() {
    self.up.close()
    self.down.close()
    self.closeAtClientSoon(.broken("the connection was reset"))
    self.closeAtServerSoon()
  }

  private func closeAtServerSoon(after delay: Duration = .zero) {
    self.timeline.after(self.network.latency() + delay) {
      self.server.run(in: self.serverLife) { self.closeAtServer() }
    }
  }

  private func serverDied(isSilent: Bool) {
    self.isOpenAtServer = false
    self.up.close()
    if isSilent {
      self.timeline.after(self.down.keepalive) {
        self.client.run(in: self.clientLife) { self.closedAtClient(.broken("keepalive")) }
      }
    } else {
      self.down.push { self.closedAtClient(.broken("\(self.server.name) ended")) }
    }
  }

  private func clientDied(isSilent: Bool) {
    self.isOpenAtClient = false
    self.down.close()
    if isSilent {
      self.closeAtServerSoon(after: self.up.keepalive)
    } else {
      self.up.push { self.closeAtServer() }
    }
  }

  private func forgetMourners() {
    for (process, mourner) in self.mourners { process.forget(mourner: mourner) }
    self.mourners = []
  }
}
