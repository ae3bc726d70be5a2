import Glibc
import PluginKit

/// Moves files into a folder that others have written to, and that nobody writes to meanwhile.
///
/// No link of theirs is followed: each folder on the way is looked at before it is entered, and what
/// is not one is replaced.
enum Placement {
  /// Moves what a folder holds into another on the same file system. A folder joins the folder of its
  /// name; anything else takes the place of what has its name.
  static func move(contentsOf source: String, to target: String) throws {
    try self.move(contentsOf: Path(source), to: Path(target))
  }

  /// A path as the system has it: names need not be text.
  private struct Path: CustomStringConvertible {
    /// With the NUL at its end.
    let bytes: [CChar]

    init(_ text: String) { self.bytes = Array(text.utf8CString) }

    init(_ folder: Path, _ name: [CChar]) {
      self.bytes = folder.bytes.dropLast() + [CChar(bitPattern: UInt8(ascii: "/"))] + name
    }

    var description: String {
      String(decoding: self.bytes.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
  }

  private static func move(contentsOf source: Path, to target: Path) throws {
    // A folder that may not be written to cannot be emptied either.
    chmod(source.bytes, 0o700)
    for name in try self.names(in: source) {
      let (from, to) = (Path(source, name), Path(target, name))
      let isFolder = self.isFolder(from)
      if isFolder, self.isFolder(to) {
        try self.move(contentsOf: from, to: to)
        guard rmdir(from.bytes) == 0 else { throw failure("remove", "\(from)") }
        continue
      }
      // A folder does not take the place of a file or link by itself.
      if isFolder { unlink(to.bytes) }
      try self.rename(from, to, isFolder: isFolder)
    }
  }

  private static func rename(_ from: Path, _ to: Path, isFolder: Bool) throws {
    if Glibc.rename(from.bytes, to.bytes) == 0 { return }
    guard isFolder, errno == EACCES else { throw failure("replace", "\(to)") }
    // A folder that may not be written to is not moved either: its `..` would change.
    var status = stat()
    guard lstat(from.bytes, &status) == 0 else { throw failure("read", "\(from)") }
    chmod(from.bytes, 0o700)
    guard Glibc.rename(from.bytes, to.bytes) == 0 else { throw failure("replace", "\(to)") }
    chmod(to.bytes, status.st_mode & 0o7777)
  }

  private static func isFolder(_ path: Path) -> Bool {
    var status = stat()
    return lstat(path.bytes, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
  }

  /// Each with the NUL at its end.
  private static func names(in folder: Path) throws -> [[CChar]] {
    guard let stream = opendir(folder.bytes) else { throw failure("list", "\(folder)") }
    defer { closedir(stream) }
    var names: [[CChar]] = []
    while let entry = readdir(stream) {
      let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
        pointer.withMemoryRebound(to: CChar.self, capacity: 256) {
          Array(UnsafeBufferPointer(start: $0, count: strlen($0) + 1))
        }
      }
      if name != Array(".".utf8CString) && name != Array("..".utf8CString) { names.append(name) }
    }
    return names
  }
}
