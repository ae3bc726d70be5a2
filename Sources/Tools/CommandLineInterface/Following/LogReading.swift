import BuildProtos
import RPC

/// The attempt that a log is of.
package struct LogOrigin: Hashable, Sendable {
  package var job: String
  package var attempt: Int32
  /// The log's name in the content-cache.
  package var log: String

  package init(job: String, attempt: Int32, log: String) {
    self.job = job
    self.attempt = attempt
    self.log = log
  }
}

/// Reads one attempt's log to its end, over as many streams as it takes, and shows its lines under
/// the headings of its steps.
struct LogReading: Sendable {
  let cache: LogsV1.LogClient
  let service: ServiceContact
  let origin: LogOrigin
  let progress: StepProgress
  let presenter: any Presenter
  /// Bytes are shown as they are, without headings and names.
  let isRaw: Bool

  /// Returns when the log is complete, when the attempt is over and its log will not grow, or when
  /// the cache has told that the log cannot be read; that is shown.
  ///
  /// - Throws: `RPCError` when the cache cannot be reached for longer than anybody waits.
  func run() async throws {
    var position: Int64 = 0
    var lines = LineAssembler()
    var patience = Patience()
    while true {
      let follow = !self.progress.isAbandoned
      do {
        try await self.read(follow, &position, &lines, &patience)
        break
      } catch let error as RPCError {
        try Task.checkCancellation()
        // Ended by `abandon`: what is there is read once more, without waiting.
        if follow, self.progress.isAbandoned, error.code == .cancelled { continue }
        // A runner that is gone may have taken the log's end with it.
        if !follow, error.code == .notFound || error.code == .outOfRange { break }
        guard Patience.bears(error) else {
          if let last = lines.finish() { await self.presenter.lines([last], of: self.origin) }
          return await self.presenter.unreadable(error.message, self.origin)
        }
        try await self.service.failed(error, &patience)
      }
    }
    if let last = lines.finish() { await self.presenter.lines([last], of: self.origin) }
    if self.isRaw { return }
    // Steps without output have their headings at the end.
    while case .heading(let step) = try await self.progress.next(at: position) {
      await self.presenter.heading(step, of: self.origin)
    }
  }

  /// Returns when nothing follows.
  private func read(
    _ follow: Bool, _ position: inout Int64, _ lines: inout LineAssembler,
    _ patience: inout Patience
  ) async throws {
    let responses = try await self.cache.readLog(
      LogsV1.ReadLogRequest(
        name: self.origin.log, offset: position, follow: follow))
    if follow { self.progress.reading { responses.cancel() } }
    // The cache says that it has taken the reader up, however long the log is silent.
    _ = try await withTaskCancellationHandler {
      try await responses.initialMetadata
    } onCancel: {
      responses.cancel()
    }
    patience.answered()
    await self.service.answered()
    for try await response in responses {
      if response.complete { return }
      guard response.offset == position else {
        throw RPCError(
          .dataLoss, "it went on at \(response.offset) instead of \(position)")
      }
      try await self.show(response.data[...], &position, &lines)
    }
    if follow { throw RPCError(.unavailable, "the stream of a log ended before the log") }
  }

  private func show(
    _ bytes: ArraySlice<UInt8>, _ position: inout Int64, _ lines: inout LineAssembler
  ) async throws {
    if self.isRaw {
      await self.presenter.bytes(bytes, of: self.origin)
      position += Int64(bytes.count)
      return
    }
    var rest = bytes
    while !rest.isEmpty {
      switch try await self.progress.next(at: position) {
      case .heading(let step):
        if let last = lines.finish() { await self.presenter.lines([last], of: self.origin) }
        await self.presenter.heading(step, of: self.origin)
      case .bytes(let end):
        let count = Int(min(Int64(rest.count), end - position))
        let whole = lines.append(rest.prefix(count))
        if !whole.isEmpty { await self.presenter.lines(whole, of: self.origin) }
        rest = rest.dropFirst(count)
        position += Int64(count)
      }
    }
  }
}
