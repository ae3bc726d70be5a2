import ContentCacheCore
import Domain
import Glibc
import Synchronization

/// Logs on the disk, and who reads and writes them now.
///
/// A log's name is the caller's, so its files are named by the name's SHA-256: `logs/ab/cdef...log`
/// while it grows. Sealing makes that file a blob and leaves `logs/ab/cdef...sealed`, a line with
/// the blob's digest and a line with the log's name.
package final class LogStore: Sendable {
  /// Why a log cannot be used.
  package enum Failure: Error, Hashable, Sendable, CustomStringConvertible {
    case name(characters: Int, limit: Int)
    case tooManyLogs(limit: Int)
    case tooManyCallers(limit: Int)
    case refused(LogStream.Refusal)
    case blob(BlobStore.Failure)
    case outOfSpace(path: String)
    case file(FileError)
    /// The file has fewer bytes than were written to it.
    case damaged(path: String)
    /// The process is about to end.
    case draining

    package var description: String {
      switch self {
      case .name(let characters, let limit):
        "a log's name has 1 to \(limit) characters, not \(characters)"
      case .tooManyLogs(let limit): "\(limit) logs are open, which is the limit"
      case .tooManyCallers(let limit): "\(limit) callers use this log, which is the limit"
      case .refused(let refusal): refusal.description
      case .blob(let failure): failure.description
      case .outOfSpace(let path): "no space left on the device of \(path)"
      case .file(let error): error.description
      case .damaged(let path): "\(path) is shorter than it was"
      case .draining: "the content-cache is about to end; read on from your offset"
      }
    }
  }

  private struct Entry {
    var log: OpenLog
    var callers: Int
  }

  private struct Table {
    var entries: [String: Entry] = [:]
    /// Names of logs without callers that are kept open, the one left longest first.
    var idle: [String] = []
    var isDraining = false
  }

  private let directory: String
  private let blobs: BlobStore
  private let policy: Policy
  private let table = Mutex(Table())

  package init(dataDirectory: String, blobs: BlobStore, policy: Policy) throws(FileError) {
    self.directory = dataDirectory + "/logs"
    self.blobs = blobs
    self.policy = policy
    for number in 0..<256 {
      try Path.makeDirectories("\(self.directory)/\(hexadecimal([UInt8(number)]))")
    }
  }

  /// Logs that somebody reads or writes now.
  package var count: Int { self.table.withLock { $0.entries.count - $0.idle.count } }

  /// Takes hold of a log, whether it exists or not. Each one is given back with ``close(_:)``.
  package func open(_ name: String) throws(Failure) -> OpenLog {
    guard (1...self.policy.maximumLogNameCharacters).contains(name.count) else {
      throw .name(characters: name.count, limit: self.policy.maximumLogNameCharacters)
    }
    let result: Result<OpenLog, Failure> = self.table.withLock { table in
      if table.isDraining { return .failure(.draining) }
      if let entry = table.entries[name] {
        guard entry.callers < self.policy.maximumCallersPerLog else {
          return .failure(.tooManyCallers(limit: self.policy.maximumCallersPerLog))
        }
        if entry.callers == 0 { table.idle.removeAll { $0 == name } }
        table.entries[name]?.callers += 1
        return .success(entry.log)
      }
      guard table.entries.count - table.idle.count < self.policy.maximumOpenLogs else {
        return .failure(.tooManyLogs(limit: self.policy.maximumOpenLogs))
      }
      let log = OpenLog(name, path: self.path(of: name), blobs: self.blobs, policy: self.policy)
      table.entries[name] = Entry(log: log, callers: 1)
      return .success(log)
    }
    return try result.get()
  }

  /// Gives a log back.
  package func close(_ log: OpenLog) {
    self.table.withLock { table in
      guard let entry = table.entries[log.name] else { return }
      guard entry.callers == 1 else {
        table.entries[log.name]?.callers -= 1
        return
      }
      guard log.isWorthKeeping else {
        table.entries[log.name] = nil
        return
      }
      table.entries[log.name]?.callers = 0
      table.idle.append(log.name)
      if table.idle.count > self.policy.maximumIdleLogs {
        table.entries[table.idle.removeFirst()] = nil
      }
    }
  }

  /// Ends every follower, so that a server that shuts down does not wait for builds.
  package func drain() {
    let logs = self.table.withLock { table in
      table.isDraining = true
      return table.entries.values.map(\.log)
    }
    for log in logs { log.tail.end() }
  }

  /// The log's files without their extensions.
  package func path(of name: String) -> String {
    let hash = ContentHash.digest(of: Array(name.utf8)).hash
    return "\(self.directory)/\(hash.prefix(2))/\(hash.dropFirst(2))"
  }
}
