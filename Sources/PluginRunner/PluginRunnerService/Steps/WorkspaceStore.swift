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
    /// When anything of it was last changed, in nanoseconds: nobody can set that. 0 for the folder
    /// that holds the others, which being renamed changes.
    var changed: Int64

    init(_ status: stat, attributes: Int, changed: Int64) {
      self.device = UInt64(status.st_dev)
      self.inode = UInt64(status.st_ino)
      self.mode = status.st_mode
      self.owner = status.st_uid
      self.group = status.st_gid
      self.attributes = attributes
      self.changed = changed
    }
  }

  /// Folders in the order of ``Workspace/parts``, behind the one that holds them.
  private typealias Marks = [Mark]

  private struct Use {
    var marks: Marks
    /// The folders were changed last so long before that whoever changes them shows by the time.
    var isSettled: Bool
  }

  /// Several ticks of the clock that file systems take times from.
  private static let settlingTime = 50_000_000 as Int64

  private struct State {
    var inUse: [String: Use] = [:]
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
        let use = Use(marks: spare.marks, isSettled: Self.areSettled(spare.marks))
        self.state.withLock { $0.inUse[workspace.folder] = use }
        return
      }
      try removeTree(spare.folder)
    }
    try workspace.make()
    let use = Self.marks(of: workspace).map { Use(marks: $0, isSettled: false) }
    self.state.withLock { $0.inUse[workspace.folder] = use }
  }

  /// Removes an attempt's folders. Belongs off the event loops.
  package func remove(_ workspace: Workspace) throws(SystemError) {
    let (use, spare) = self.state.withLock { state -> (Use?, String?) in
      let use = state.inUse.removeValue(forKey: workspace.folder)
      guard use != nil, state.spares.count < self.maximumSpares else { return (use, nil) }
      state.lastSpare += 1
      // No attempt has such a name.
      return (use, "\(self.root)/.spare-\(state.lastSpare)")
    }
    if let use, let spare, Self.isUntouched(workspace, since: use),
      rename(workspace.folder, spare) == 0
    {
      self.state.withLock { $0.spares.append((spare, use.marks)) }
    } else {
      try removeTree(workspace.folder)
    }
  }

  private static func areSettled(_ marks: Marks) -> Bool {
    var now = timespec()
    clock_gettime(CLOCK_REALTIME, &now)
    let last = marks.lazy.map(\.changed).max() ?? 0
    return self.nanoseconds(now) - last > self.settlingTime
  }

  private static func isUntouched(_ workspace: Workspace, since use: Use) -> Bool {
    guard use.isSettled else { return self.marks(of: workspace) == use.marks }
    // What is put into a folder, or made of it, changes its time: no need to look inside.
    return self.mark(of: workspace) == use.marks.first
      && zip(workspace.parts, use.marks.dropFirst()).allSatisfy { path, mark in
        var status = stat()
        return lstat(path, &status) == 0
          && Mark(status, attributes: mark.attributes, changed: self.nanoseconds(status.st_ctim))
            == mark
      }
  }

  /// Nil if something is in them, or cannot be looked at.
  private static func marks(of workspace: Workspace) -> Marks? {
    guard let mark = self.mark(of: workspace) else { return nil }
    var marks = [mark]
    for path in workspace.parts {
      guard let mark = self.mark(path, entries: 0) else { return nil }
      marks.append(mark)
    }
    return marks
  }

  /// Of the folder that holds the others.
  private static func mark(of workspace: Workspace) -> Mark? {
    var mark = self.mark(workspace.folder, entries: workspace.parts.count)
    mark?.changed = 0
    return mark
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
    return Mark(status, attributes: attributes, changed: self.nanoseconds(status.st_ctim))
  }

  private static func nanoseconds(_ time: timespec) -> Int64 {
    Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
  }
}
