import Glibc
import Synchronization

/// Whether the disk takes what callers write: said once when that changes, for whoever is on call.
package final class DiskHealth: Sendable {
  /// What the disk does now.
  package enum Change: Hashable, Sendable {
    /// A write failed; why.
    case failing(String)
    case well
  }

  /// Less than this is full in practice: a log's chunk and the marker behind it hardly fit, and the
  /// next source does not.
  package static let reserve: UInt64 = 4 << 20
  /// A disk at its limit takes a small write and refuses a large one, in turns: said this often.
  package static let quietTime = Duration.seconds(10)

  private struct State {
    var isFailing = false
    /// When it was last said that it fails.
    var saidAt: ContinuousClock.Instant?
  }

  private let directory: String
  private let quietTime: Duration
  private let tell: @Sendable (Change) -> Void
  private let state = Mutex(State())

  package init(
    _ directory: String, quietTime: Duration = DiskHealth.quietTime,
    tell: @escaping @Sendable (Change) -> Void = { _ in }
  ) {
    self.directory = directory
    self.quietTime = quietTime
    self.tell = tell
  }

  /// A write has succeeded.
  package func wrote() {
    let isNew = self.state.withLock { state in
      // A recovery is not said before the quiet time is over: the next failure may follow at once.
      guard state.isFailing, state.saidAt.map({ .now - $0 >= self.quietTime }) ?? true
      else { return false }
      state.isFailing = false
      return true
    }
    if isNew { self.tell(.well) }
  }

  /// A write has failed. What is not the disk's fault changes nothing.
  package func failed(_ error: any Error) {
    guard let why = Self.fault(of: error) else { return }
    let isNew = self.state.withLock { state in
      defer { state.isFailing = true }
      guard !state.isFailing else { return false }
      state.saidAt = .now
      return true
    }
    if isNew { self.tell(.failing(why)) }
  }

  /// Bytes that are free on the disk.
  package var freeBytes: UInt64 {
    var status = statvfs()
    guard statvfs(self.directory, &status) == 0 else { return 0 }
    return UInt64(status.f_bavail) * UInt64(status.f_frsize)
  }

  /// Why there is no room for what callers will write, if so.
  package func shortage(reserve: UInt64 = DiskHealth.reserve) -> String? {
    let free = self.freeBytes
    guard free < reserve else { return nil }
    return "the disk of \(self.directory) is full: \(free >> 10) KiB are free"
  }

  /// The disk's part in an error of a write, or nil.
  private static func fault(of error: any Error) -> String? {
    switch error {
    case let error as UploadStore.Failure:
      if case .blob(let failure) = error { self.fault(of: failure) } else { nil }
    case let error as LogStore.Failure:
      switch error {
      case .outOfSpace, .file, .damaged: error.description
      case .blob(let failure): self.fault(of: failure)
      case .name, .tooManyLogs, .tooManyCallers, .refused, .draining: nil
      }
    case let error as BlobStore.Failure:
      switch error {
      case .outOfSpace, .file: error.description
      case .missing, .mismatch: nil
      }
    default: nil
    }
  }
}
