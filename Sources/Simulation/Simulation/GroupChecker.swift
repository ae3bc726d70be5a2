import Domain
import SchedulerCore

/// Whether the builds of a concurrency group run one at a time, and whether one that says
/// `cancel-in-progress` ends those before it.
///
/// It judges from what is stored, and the second only once nothing has been broken for a while.
final class GroupChecker {
  /// What follows from a stored build must have been done after so long.
  private static let settled = Duration.seconds(30)

  private let timeline: Timeline
  private let isCalm: () -> Bool
  private var builds: [BuildID: BuildRecord] = [:]
  /// When a build was first asked for.
  private var wanted: [BuildID: Timestamp] = [:]
  /// When the present round of a build was first stored.
  private var begun: [BuildID: Timestamp] = [:]

  init(_ timeline: Timeline, isCalm: @escaping () -> Bool) {
    self.timeline = timeline
    self.isCalm = isCalm
  }

  func wanted(_ build: BuildID) { self.wanted[build] = self.timeline.now }

  func stored(_ record: BuildRecord) {
    guard !record.group.isEmpty else { return }
    let before = self.builds.updateValue(record, forKey: record.id)
    if before?.round != record.round { self.begun[record.id] = self.timeline.now }
    if record.isUnderWay, !(before?.isUnderWay ?? false),
      let other = self.others(in: record).first(where: \.isUnderWay)
    {
      self.timeline.fail("\(record.id) starts while \(other.id) of its group \(record.group) runs")
    }
    if before == nil, record.pipeline.concurrency?.cancelInProgress ?? false {
      self.mustEnd(before: record)
    }
  }

  private func others(in record: BuildRecord) -> [BuildRecord] {
    self.builds.values.filter {
      $0.id != record.id && $0.project == record.project && $0.group == record.group
    }.sorted { $0.id < $1.id }
  }

  /// What was stored before anybody asked for `later` surely came before it.
  private func mustEnd(before later: BuildRecord) {
    guard let wanted = self.wanted[later.id] else { return }
    for earlier in self.others(in: later)
    where earlier.state != .finished && self.begun[earlier.id]! < wanted {
      self.mustEnd(earlier, for: later.id)
    }
  }

  private func mustEnd(_ earlier: BuildRecord, for later: BuildID) {
    self.timeline.after(Self.settled) {
      guard self.isCalm() else { return self.mustEnd(earlier, for: later) }
      let now = self.builds[earlier.id]!
      if now.round == earlier.round, now.state != .finished {
        self.timeline.fail(
          "\(earlier.id) goes on, though \(later) of its group \(earlier.group), which cancels what "
            + "is in progress, came later")
      }
    }
  }
}

extension BuildRecord {
  /// It has begun, and something of it is to be done or may still be done somewhere.
  fileprivate var isUnderWay: Bool { self.state == .running || self.holdsExecutors }
}
