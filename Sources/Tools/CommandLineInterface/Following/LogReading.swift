import BuildProtos
import RPC

/// Reads one attempt's log to its end, over as many streams as it takes, and shows its lines under
/// the headings of its steps.
struct LogReading: Sendable {
  let cache: LogsV1.LogClient
  let name: String
  let job: String
  let progress: StepProgress
  let presenter: any Presenter
  /// Bytes go to standard output as they are, without headings and names.
  let isRaw: Bool
  let patience: Patience

  /// Returns when the log is complete, or the attempt is over and its log will not grow.
  ///
  /// - Throws: `RPCError` when the cache cannot be reached for longer than anybody waits.
  func run() async throws {
    var position: Int64 = 0
    var lines = LineAssembler()
    var patience = self.patience
    while true {
      do {
        if try await self.read(&position, &lines) { break }
        patience.succeeded()
        if self.progress.isAbandoned { break }
      } catch let error as RPCError {
        // Ended by `abandon`: what is there is read once more, without waiting.
        if error.code == .cancelled, self.progress.isAbandoned, !Task.isCancelled { continue }
        if error.code == .notFound, self.progress.isAbandoned { break }
        try await patience.failed(error)
      }
    }
    if self.isRaw { return }
    // Steps without output have their headings at the end.
    while case .heading(let step) = await self.progress.next(at: position) {
      await self.presenter.heading(step, of: self.job)
    }
  }

  /// True when the log is complete.
  private func read(_ position: inout Int64, _ lines: inout LineAssembler) async throws -> Bool {
    let responses = try await self.cache.readLog(
      LogsV1.ReadLogRequest(
        name: self.name, offset: position, follow: !self.progress.isAbandoned))
    self.progress.reading { responses.cancel() }
    for try await response in responses {
      if response.complete {
        if let last = lines.finish() { await self.presenter.lines([last], of: self.job) }
        return true
      }
      guard response.offset == position else {
        throw RPCError(
          .dataLoss, "log \(self.name) went on at \(response.offset) instead of \(position)")
      }
      try await self.show(response.data[...], &position, &lines)
    }
    if self.progress.isAbandoned, let last = lines.finish() {
      await self.presenter.lines([last], of: self.job)
    }
    return false
  }

  private func show(
    _ bytes: ArraySlice<UInt8>, _ position: inout Int64, _ lines: inout LineAssembler
  ) async throws {
    if self.isRaw {
      Terminal.write(bytes)
      position += Int64(bytes.count)
      return
    }
    var rest = bytes
    while !rest.isEmpty {
      switch await self.progress.next(at: position) {
      case .heading(let step):
        if let last = lines.finish() { await self.presenter.lines([last], of: self.job) }
        await self.presenter.heading(step, of: self.job)
      case .bytes(let end):
        let count = Int(min(Int64(rest.count), end - position))
        let whole = lines.append(rest.prefix(count))
        if !whole.isEmpty { await self.presenter.lines(whole, of: self.job) }
        rest = rest.dropFirst(count)
        position += Int64(count)
      }
    }
  }
}

/// How long a command bears with a service that cannot be reached.
struct Patience: Sendable {
  /// A scheduler or cache that is started again is back within seconds; a machine within minutes.
  static let limit = Duration.seconds(300)
  static let shortestDelay = Duration.milliseconds(100)
  static let longestDelay = Duration.seconds(2)

  /// What to say when patience begins to be needed, and when it is no longer.
  var note: @Sendable (String?) async -> Void
  let peer: Peer
  private var since: ContinuousClock.Instant?
  /// Whether a call has failed since one worked.
  var isNeeded: Bool { self.since != nil }
  private var delay = Self.shortestDelay

  init(_ peer: Peer, note: @escaping @Sendable (String?) async -> Void) {
    self.peer = peer
    self.note = note
  }

  /// A call has worked.
  mutating func succeeded() {
    self.since = nil
    self.delay = Self.shortestDelay
  }

  /// A call has failed: waits a little, or throws the error when waiting is of no use.
  mutating func failed(_ error: RPCError) async throws {
    guard error.code == .unavailable else { throw error }
    let since = self.since ?? .now
    if self.since == nil {
      await self.note("lost the \(self.peer.name) at \(self.peer.address); trying again")
    }
    self.since = since
    guard since.duration(to: .now) < Self.limit else { throw error }
    try await Task.sleep(for: self.delay)
    self.delay = min(self.delay * 2, Self.longestDelay)
  }
}
