import Glibc

/// All bytes of a small file, as text. Belongs off the event loops.
package func readFile(_ path: String) throws(SystemError) -> String {
  let file = try Descriptor.open(path, O_RDONLY)
  var bytes: [UInt8] = []
  var chunk = [UInt8](repeating: 0, count: 16 << 10)
  while true {
    let count = read(file.raw, &chunk, chunk.count)
    if count < 0 && errno == EINTR { continue }
    if count < 0 { throw SystemError("read", path) }
    if count == 0 { return String(decoding: bytes, as: UTF8.self) }
    bytes += chunk[..<count]
  }
}

/// Writes a file of the system's, which must exist and takes its text at once.
func writeFile(_ path: String, _ text: String) throws(SystemError) {
  try writeAll(Array(text.utf8), to: Descriptor.open(path, O_WRONLY), path: path)
}

/// Makes a file with these bytes.
func createFile(_ path: String, _ bytes: [UInt8], mode: mode_t) throws(SystemError) {
  let file = try Descriptor.open(path, O_WRONLY | O_CREAT | O_TRUNC, mode: mode)
  try writeAll(bytes, to: file, path: path)
}

func writeAll(
  _ bytes: [UInt8], to file: Descriptor, path: String
) throws(SystemError) {
  var done = 0
  while done < bytes.count {
    let count = bytes.withUnsafeBytes { write(file.raw, $0.baseAddress! + done, $0.count - done) }
    if count < 0 && errno == EINTR { continue }
    if count < 0 { throw SystemError("write", path) }
    done += count
  }
}

/// Names in a folder, without the two that every folder has, sorted.
package func listFolder(_ path: String) throws(SystemError) -> [String] {
  guard let folder = opendir(path) else { throw SystemError("list", path) }
  defer { closedir(folder) }
  var names: [String] = []
  while let entry = readdir(folder) {
    let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
      pointer.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
    }
    if name != "." && name != ".." { names.append(name) }
  }
  return names.sorted()
}

/// Whether it is a folder, not a link to one.
package func isFolder(_ path: String) -> Bool {
  var status = stat()
  return lstat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
}

/// Makes a folder and those above it.
package func makeFolders(_ path: String, mode: mode_t = 0o755) throws(SystemError) {
  if mkdir(path, mode) == 0 || errno == EEXIST { return }
  guard errno == ENOENT, let slash = path.lastIndex(of: "/"), slash > path.startIndex else {
    throw SystemError("create", path)
  }
  try makeFolders(String(path[..<slash]), mode: mode)
  guard mkdir(path, mode) == 0 || errno == EEXIST else { throw SystemError("create", path) }
}

/// Removes a tree: links are removed, never followed, and folders without write permission are
/// opened first.
package func removeTree(_ path: String) throws(SystemError) {
  guard isFolder(path) else {
    guard unlink(path) == 0 || errno == ENOENT else { throw SystemError("remove", path) }
    return
  }
  let parent = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
  if parent < 0, errno == EACCES {
    chmod(path, 0o700)
  } else if parent >= 0 {
    close(parent)
  }
  try removeContents(of: path)
  guard rmdir(path) == 0 || errno == ENOENT else { throw SystemError("remove", path) }
}

/// Empties a folder by descriptors, so that a folder which becomes a link meanwhile is not entered
/// and paths may be longer than the system's limit.
private func removeContents(of path: String) throws(SystemError) {
  let root = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
  guard root >= 0 else { throw SystemError("open", path) }
  // Folders that are open, with what is left in each: bounded depth of descriptors would need
  // reopening, so one level at a time is moved up to the root when a tree is very deep.
  try empty(root, path: path, depth: 0, root: root)
  close(root)
}

/// Descriptors open at once while a tree is removed; a deeper folder is moved up to the tree's top.
private let maximumOpenDepth = 64

private func empty(
  _ folder: Int32, path: String, depth: Int, root: Int32
) throws(SystemError) {
  fchmod(folder, 0o700)
  // Moving a folder up adds names to the root while it is read: go over it until it is empty.
  var movedUp = true
  var round = 0
  while movedUp {
    movedUp = false
    round += 1
    guard let stream = fdopendir(dup(folder)) else { throw SystemError("list", path) }
    defer { closedir(stream) }
    rewinddir(stream)
    while let entry = readdir(stream) {
      // As bytes: a step may have given names that are no text.
      let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
        pointer.withMemoryRebound(to: CChar.self, capacity: 256) {
          Array(UnsafeBufferPointer(start: $0, count: strlen($0) + 1))
        }
      }
      let text = String(decoding: name.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
      if text == "." || text == ".." { continue }
      if unlinkat(folder, name, 0) == 0 { continue }
      guard errno == EISDIR || errno == EPERM || errno == ENOTEMPTY else {
        throw SystemError("remove", "\(path)/\(text)")
      }
      if unlinkat(folder, name, AT_REMOVEDIR) == 0 { continue }
      if depth >= maximumOpenDepth {
        guard renameat(folder, name, root, ".deep-\(round)-\(entry.pointee.d_ino)") == 0 else {
          throw SystemError("move", "\(path)/\(text)")
        }
        continue
      }
      var child = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
      if child < 0, errno == EACCES {
        fchmodat(folder, name, 0o700, 0)
        child = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
      }
      guard child >= 0 else { throw SystemError("open", "\(path)/\(text)") }
      defer { close(child) }
      try empty(child, path: "\(path)/\(text)", depth: depth + 1, root: root)
      guard unlinkat(folder, name, AT_REMOVEDIR) == 0 else {
        throw SystemError("remove", "\(path)/\(text)")
      }
    }
    if depth == 0, !((try? isEmpty(folder)) ?? true) { movedUp = true }
    // Somebody else's files that keep coming are not ours to chase for ever.
    if round > 10_000 { break }
  }
}

private func isEmpty(_ folder: Int32) throws(SystemError) -> Bool {
  guard let stream = fdopendir(dup(folder)) else { throw SystemError("list", "a folder") }
  defer { closedir(stream) }
  rewinddir(stream)
  var count = 0
  while readdir(stream) != nil { count += 1 }
  return count <= 2
}

/// Bytes that a tree takes on its disk. Links are not followed; what cannot be looked at, or goes
/// meanwhile, counts for nothing.
func bytesHeld(in path: String) -> Int64 {
  var bytes: Int64 = 0
  var folders = [path]
  while let folder = folders.popLast() {
    for name in (try? listFolder(folder)) ?? [] {
      var status = stat()
      guard lstat("\(folder)/\(name)", &status) == 0 else { continue }
      bytes += Int64(status.st_blocks) * 512
      if status.st_mode & S_IFMT == S_IFDIR { folders.append("\(folder)/\(name)") }
    }
  }
  return bytes
}

/// What is kept free below the data directory before a job is taken: less is no room for its folders
/// and scripts, and what else keeps its state on that disk needs some to end anything.
private let diskReserve: UInt64 = 4 << 20

/// What is wrong with the file system under `path` when it has no room for another job.
func shortDisk(at path: String, reserve: UInt64 = diskReserve) -> String? {
  var status = statvfs()
  guard statvfs(path, &status) == 0 else { return nil }
  let free = UInt64(status.f_bavail) * UInt64(status.f_frsize)
  guard free < reserve else { return nil }
  return "the disk of \(path) is full: \(free >> 10) KiB are free, and \(reserve >> 10) KiB are "
    + "kept for what runs"
}

/// What is wrong with the file system under `path`, when it is full.
func fullDisk(at path: String) -> String? {
  var status = statvfs()
  guard statvfs(path, &status) == 0 else { return nil }
  // Less than this is full in practice: a compiler that failed to write leaves the rest of a page.
  let enough: UInt64 = 64 << 10
  if UInt64(status.f_bavail) * UInt64(status.f_frsize) < enough {
    return "the workspace \(path) is full: no space left on device (ENOSPC)"
  }
  if status.f_files > 0, status.f_favail == 0 {
    return "the workspace \(path) has no file numbers left: no space left on device (ENOSPC)"
  }
  return nil
}
