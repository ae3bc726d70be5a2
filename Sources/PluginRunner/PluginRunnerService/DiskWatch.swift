import Domain
import Logging
import PluginRunnerCore
import ServiceRuntime
import Synchronization

/// Looks after the room on the disk that the workspaces are on.
///
/// Short of room, the runner takes no further jobs. With none at all, whoever keeps its state on the
/// same disk cannot even write down that a build is cancelled, and a step that sleeps on what it has
/// filled would stop a farm for hours: the attempt that holds most of the disk fails, and its
/// workspace is removed.
final class DiskWatch: Sendable {
  static let interval = Duration.seconds(1)
  /// How long there may be no room at all: what a step takes that finds it out and ends by itself.
  static let patience = Duration.seconds(10)
  /// An attempt that holds less does not fill a disk.
  static let leastHeld = ByteCount.mebibytes(4)

  private let folder: String
  private let driver: Driver
  private let logger: Logger
  private let shortage = Mutex<String?>(nil)

  init(folder: String, driver: Driver, logger: Logger) {
    self.folder = folder
    self.driver = driver
    self.logger = logger
  }

  /// Why no further job has room, if so.
  var problem: String? { self.shortage.withLock { $0 } }

  /// Looks until it is cancelled.
  func run() async {
    var fullSince: ContinuousClock.Instant?
    while !Task.isCancelled {
      let folder = self.folder
      let found = try? await blocking { () throws(SystemError) in
        (short: shortDisk(at: folder), isFull: fullDisk(at: folder) != nil)
      }
      self.note(found?.short)
      fullSince = found?.isFull == true ? fullSince ?? .now : nil
      if let since = fullSince, .now - since >= Self.patience {
        await self.makeRoom()
        fullSince = nil
      }
      // Cancellation ends the sleep and the loop.
      try? await Task.sleep(for: Self.interval)
    }
  }

  /// Says a change once, not each second.
  private func note(_ new: String?) {
    let old = self.shortage.withLock { shortage in
      defer { shortage = new }
      return shortage
    }
    switch (old, new) {
    case (nil, let problem?):
      self.logger.warning("no further jobs are taken", metadata: ["reason": "\(problem)"])
    case (_?, nil):
      self.logger.info("there is room on the disk again")
    default: break
    }
  }

  /// Fails the attempt that holds most.
  private func makeRoom() async {
    let attempts = self.driver.runningWorkspaces
    let held = try? await blocking { () throws(SystemError) in
      attempts.map { (attempt: $0.attempt, bytes: bytesHeld(in: $0.folder)) }
    }
    guard let most = held?.max(by: { $0.bytes < $1.bytes }), most.bytes >= Self.leastHeld.bytes
    else { return }
    let patience = Self.patience.components.seconds
    let why =
      "the disk of \(self.folder) was full for \(patience) s (ENOSPC), and of all jobs here this one "
      + "held most of it: \(most.bytes >> 20) MiB"
    self.logger.warning(
      "an attempt is ended to make room",
      metadata: ["attempt": "\(most.attempt)", "reason": "\(why)"])
    self.driver.received(.outOfRoom(why), for: most.attempt)
  }
}
