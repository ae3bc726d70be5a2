import Domain
import SchedulerCore

/// Who looks at which build. A watcher that is slow skips states; the last one it always gets.
struct Watches {
  typealias ID = UInt64

  /// Watches that one scheduler serves; one more is told to come back.
  static let maximumCount = 100_000

  private var states: [BuildID: [ID: AsyncStream<BuildRecord>.Continuation]] = [:]
  private var nextID: ID = 0
  private(set) var count = 0

  /// The states of a build from now on; nil: there are too many watches.
  mutating func begin(_ build: BuildID) -> (id: ID, states: AsyncStream<BuildRecord>)? {
    guard self.count < Self.maximumCount else { return nil }
    let (stream, continuation) = AsyncStream.makeStream(
      of: BuildRecord.self, bufferingPolicy: .bufferingNewest(1))
    self.nextID += 1
    self.count += 1
    self.states[build, default: [:]][self.nextID] = continuation
    return (self.nextID, stream)
  }

  mutating func end(_ id: ID, of build: BuildID) {
    guard self.states[build]?.removeValue(forKey: id) != nil else { return }
    self.count -= 1
    if self.states[build]?.isEmpty ?? false { self.states[build] = nil }
  }

  func show(_ record: BuildRecord) {
    for watch in (self.states[record.id] ?? [:]).values { watch.yield(record) }
  }

  /// Ends the streams of a build's watches.
  func finish(_ build: BuildID) {
    for watch in (self.states[build] ?? [:]).values { watch.finish() }
  }

  /// Ends the streams of all watches.
  func finishAll() {
    for watches in self.states.values { for watch in watches.values { watch.finish() } }
  }
}
