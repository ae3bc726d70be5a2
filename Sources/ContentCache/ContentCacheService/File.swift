import Glibc

/// Why the disk did not do what it should.
package struct FileError: Error, Hashable, Sendable, CustomStringConvertible {
  /// What was tried: "write", "open", ...
  package let operation: String
  package let path: String
  /// The system's error number.
  package let number: CInt

  package init(_ operation: String, _ path: String, number: CInt = errno) {
    self.operation = operation
    self.path = path
    self.number = number
  }

  /// The disk, or this user's share of it, is full.
  package var isOutOfSpace: Bool { self.number == ENOSPC || self.number == EDQUOT }

  package var description: String {
    let reason = String(cString: strerror(self.number)).lowercased()
    return "cannot \(self.operation) \(self.path): \(reason)"
  }
}

/// An open file. Every call blocks: only for threads that may wait for a disk.
///
/// Closed when the last reference goes. Safe to share: each call names its own offset, and the
/// descriptor never changes.
package final class File: Sendable {
  package let path: String
  private let descriptor: CInt

  /// Opens a file with `open`'s flags. Child processes do not inherit it.
  package init(_ path: String, _ flags: CInt, mode: mode_t = 0o644) throws(FileError) {
    self.path = path
    self.descriptor = open(path, flags | O_CLOEXEC, mode)
    if self.descriptor < 0 { throw FileError("open", path) }
  }

  deinit { close(self.descriptor) }

  /// Its present size.
  package func size() throws(FileError) -> Int64 {
    var status = stat()
    guard fstat(self.descriptor, &status) == 0 else { throw FileError("stat", self.path) }
    return Int64(status.st_size)
  }

  /// Writes all of the bytes at an offset.
  package func write(_ bytes: ArraySlice<UInt8>, at offset: Int64) throws(FileError) {
    let failure: FileError? = bytes.withUnsafeBytes { buffer in
      var done = 0
      while done < buffer.count {
        let count = pwrite(
          self.descriptor, buffer.baseAddress! + done, buffer.count - done, Int(offset) + done)
        if count < 0 {
          if errno == EINTR { continue }
          return FileError("write", self.path)
        }
        done += count
      }
      return nil
    }
    if let failure { throw failure }
  }

  /// Reads up to `count` bytes at an offset; fewer only at the file's end.
  package func read(_ count: Int, at offset: Int64) throws(FileError) -> [UInt8] {
    var failure: FileError?
    let bytes = [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
      while initialized < count {
        let got = pread(
          self.descriptor, buffer.baseAddress! + initialized, count - initialized,
          Int(offset) + initialized)
        if got < 0 {
          if errno == EINTR { continue }
          failure = FileError("read", self.path)
          return
        }
        if got == 0 { return }
        initialized += got
      }
    }
    if let failure { throw failure }
    return bytes
  }

  /// Cuts the file off.
  package func truncate(to size: Int64) throws(FileError) {
    guard ftruncate(self.descriptor, Int(size)) == 0 else { throw FileError("truncate", self.path) }
  }

  /// Returns when the bytes are on the disk.
  package func synchronize() throws(FileError) {
    guard fsync(self.descriptor) == 0 else { throw FileError("fsync", self.path) }
  }
}

/// Names in the file system. Every call blocks.
package enum Path {
  /// Makes a directory and those above it.
  package static func makeDirectories(_ path: String) throws(FileError) {
    var made = path.hasPrefix("/") ? "" : "."
    for part in path.split(separator: "/") {
      made += "/" + part
      if mkdir(made, 0o755) != 0 && errno != EEXIST { throw FileError("make directory", made) }
    }
  }

  /// The size of a regular file; nil if there is none.
  package static func size(_ path: String) throws(FileError) -> Int64? {
    var status = stat()
    guard stat(path, &status) == 0 else {
      if errno == ENOENT || errno == ENOTDIR { return nil }
      throw FileError("stat", path)
    }
    return status.st_mode & S_IFMT == S_IFREG ? Int64(status.st_size) : nil
  }

  /// Gives a file another name, in place of a file that has it.
  package static func move(_ path: String, to target: String) throws(FileError) {
    guard rename(path, target) == 0 else { throw FileError("rename to", target) }
  }

  /// Gives a file one more name; a file that has it already stays.
  package static func link(_ path: String, to target: String) throws(FileError) {
    if Glibc.link(path, target) != 0 && errno != EEXIST { throw FileError("link to", target) }
  }

  /// Removes a file; one that is not there is no error.
  package static func remove(_ path: String) throws(FileError) {
    if unlink(path) != 0 && errno != ENOENT { throw FileError("remove", path) }
  }

  /// Makes the names in a directory as durable as the files.
  package static func synchronize(directory: String) throws(FileError) {
    try File(directory, O_RDONLY | O_DIRECTORY).synchronize()
  }

  /// The names in a directory.
  package static func names(in directory: String) throws(FileError) -> [String] {
    guard let stream = opendir(directory) else { throw FileError("list", directory) }
    defer { closedir(stream) }
    var names: [String] = []
    while let entry = readdir(stream) {
      let name = withUnsafePointer(to: &entry.pointee.d_name) {
        $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
      }
      if name != "." && name != ".." { names.append(name) }
    }
    return names.sorted()
  }
}
