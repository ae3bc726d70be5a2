import CProcess
import Glibc
import Synchronization

/// Makes and removes the folders of attempts.
///
/// Six folders to make and to remove cost a disk's journal more than all else that a short job costs.
/// So a set that an attempt has left as it was made, with nothing in it, is kept for another one.
/// Scripts always leave something: what is used again, only plugins have seen.
package final class WorkspaceStore: Sendable {
  /// A folder as it was made: who changed any of it has left a trace.
  private struct Mark: Equatable {
    var device: UInt64
    var inode: UInt64
    var mode: UInt32
    var owner: UInt32
    var group: UInt32
    /// Bytes of the names of its extended attributes: access lists are among them.
    var attributes: Int
  }

  /// Folders in the order of ``Workspace/parts``, behind the one that holds them.
  private typealias Marks = [Mark]

  private struct State {
    var inUse: [String: Marks] = [:]
    var spares: [(folder: String, marks: Marks)] = []
    var lastSpare = 0
  }

  private let root: String
  private let maximumSpares: Int
  private let state = Mutex(State())

  /// - Parameters:
  ///   - root: The folder that holds them all. What it holds at the beginning is not this one's.
  ///   - maximumSpares: As many as there are jobs at a time.
  package init(root: String, maximumSpares: Int) {
    self.root = root
    self.maximumSpares = maximumSpares
  }

  /// Makes an attempt's folders. Belongs off the event loops.
  package func make(_ workspace: Workspace) throws(SystemError) {
    if let spare = self.state.withLock({ $0.spares.popLast() }) {
      if rename(spare.folder, workspace.folder) == 0 {
        self.state.withLock { $0.inUse[workspace.folder] = spare.marks }
        return
      }
      try removeTree(spare.folder)
    }
    try workspace.make()
    let marks = Self.marks(of: workspace)
    self.state.withLock { $0.inUse[workspace.folder] = marks }
  }

  /// Removes an attempt's folders. Belongs off the event loops.
  package func remove(_ workspace: Workspace) throws(SystemError) {
    let (marks, spare) = self.state.withLock { state -> (Marks?, String?) in
      let marks = state.inUse.removeValue(forKey: workspace.folder)
      guard marks != nil, state.spares.count < self.maximumSpares else { return (marks, nil) }
      state.lastSpare += 1
      // No attempt has such a name.
      return (marks, "\(self.root)/.spare-\(state.lastSpare)")
    }
    if let marks, let spare, Self.marks(of: workspace) == marks,
      rename(workspace.folder, spare) == 0
    {
      self.state.withLock { $0.spares.append((spare, marks)) }
    } else {
      try removeTree(workspace.folder)
    }
  }

  /// Nil if something is in them, or cannot be looked at.
  private static func marks(of workspace: Workspace) -> Marks? {
    var marks: Marks = []
    let folders = [(workspace.folder, workspace.parts.count)] + workspace.parts.map { ($0, 0) }
    for (path, entries) in folders {
      guard let mark = self.mark(path, entries: entries) else { return nil }
      marks.append(mark)
    }
    return marks
  }

  /// Nil unless it is a folder with so many entries.
  private static func mark(_ path: String, entries: Int) -> Mark? {
    let folder = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
    guard folder >= 0 else { return nil }
    guard let stream = fdopendir(folder) else {
      close(folder)
      return nil
    }
    defer { closedir(stream) }
    var status = stat()
    let attributes = millrace_attribute_bytes(folder)
    guard fstat(folder, &status) == 0, attributes >= 0 else { return nil }
    var count = 0
    while readdir(stream) != nil { count += 1 }
    // With the two that every folder has.
    guard count == entries + 2 else { return nil }
    return Mark(
      device: UInt64(status.st_dev), inode: UInt64(status.st_ino), mode: status.st_mode,
      owner: status.st_uid, group: status.st_gid, attributes: attributes)
  }
}
