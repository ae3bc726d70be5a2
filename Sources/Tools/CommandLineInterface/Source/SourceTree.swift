import Glibc

/// The files of a directory that belong to a build.
package enum SourceTree {
  /// Paths of a listing: beyond it the directory is hardly one that was meant.
  package static let maximumListingBytes = 256 << 20

  /// The entries of a directory, sorted by path.
  ///
  /// In a git repository: what is tracked, and what is neither tracked nor ignored. Elsewhere:
  /// everything but `.git`.
  package static func entries(of directory: String) async throws -> [ArchiveEntry] {
    var paths: [String]
    if let listed = try await self.gitPaths(directory) {
      paths = []
      for path in listed {
        // A submodule, or a repository in the repository, is listed as a directory.
        if Files.status("\(directory)/\(path)").map(isDirectory) == true {
          let name = path.hasSuffix("/") ? String(path.dropLast()) : path
          try self.walk(directory, name, &paths)
        } else {
          paths.append(path)
        }
      }
    } else {
      paths = []
      try self.walk(directory, "", &paths)
    }
    return
      paths
      .sorted { Array($0.utf8).lexicographicallyPrecedes(Array($1.utf8)) }
      .compactMap { self.entry($0, in: directory) }
  }

  /// Nil for a file that is gone, and for sockets, pipes and devices, which no archive should have.
  private static func entry(_ path: String, in directory: String) -> ArchiveEntry? {
    let full = "\(directory)/\(path)"
    guard let status = Files.status(full) else { return nil }
    switch status.st_mode & S_IFMT {
    case S_IFREG:
      return ArchiveEntry(
        path: path,
        kind: .file(size: Int64(status.st_size), executable: status.st_mode & 0o100 != 0))
    case S_IFLNK:
      var buffer = [CChar](repeating: 0, count: Int(PATH_MAX) + 1)
      guard readlink(full, &buffer, Int(PATH_MAX)) >= 0 else { return nil }
      let target = buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
      return ArchiveEntry(
        path: path, kind: .symbolicLink(target: String(decoding: target, as: UTF8.self)))
    case S_IFDIR:
      return ArchiveEntry(path: path, kind: .directory)
    default: return nil
    }
  }

  private static func isDirectory(_ status: stat) -> Bool {
    status.st_mode & S_IFMT == S_IFDIR
  }

  /// Adds all paths below a directory. Empty directories are kept.
  private static func walk(
    _ root: String, _ prefix: String, _ paths: inout [String]
  ) throws(SystemError) {
    let names = try Files.names(in: prefix.isEmpty ? root : "\(root)/\(prefix)")
    if names.isEmpty, !prefix.isEmpty { paths.append(prefix) }
    for name in names where name != ".git" {
      let path = prefix.isEmpty ? name : "\(prefix)/\(name)"
      if Files.status("\(root)/\(path)").map(self.isDirectory) == true {
        try self.walk(root, path, &paths)
      } else {
        paths.append(path)
      }
    }
  }

  /// What git lists; nil if the directory is in no repository, or there is no git.
  private static func gitPaths(_ directory: String) async throws -> [String]? {
    let output = try Files.temporary()
    var command = ChildProcess.Command(
      "git", ["-C", directory, "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
    command.output = output
    command.errors = try OpenFile("/dev/null", O_WRONLY)
    guard let end = try? await ChildProcess.run(command), end == .exited(code: 0) else {
      return nil
    }
    try output.seek(to: 0)
    let bytes = try output.read(self.maximumListingBytes + 1)
    guard bytes.count <= self.maximumListingBytes else {
      throw CommandFailure(
        .usage,
        "\(directory) has too many files: their names alone are more than "
          + Words.bytes(Int64(self.maximumListingBytes)))
    }
    var seen: Set<ArraySlice<UInt8>> = []
    return bytes.split(separator: 0).filter { seen.insert($0).inserted }
      .map { String(decoding: $0, as: UTF8.self) }
  }
}

/// What git knows of a directory, for a build's annotations.
package enum GitState {
  /// `branch`, `commit` and `dirty`, as far as they are known.
  package static func annotations(of directory: String) async -> [String: String] {
    var annotations: [String: String] = [:]
    if let commit = await self.git(directory, "rev-parse", "HEAD") {
      annotations["commit"] = commit
      if let branch = await self.git(directory, "rev-parse", "--abbrev-ref", "HEAD") {
        annotations["branch"] = branch
      }
      if let changes = await self.git(directory, "status", "--porcelain", "--", "."),
        !changes.isEmpty
      {
        annotations["dirty"] = "true"
      }
    }
    if let user = Files.environment("USER") { annotations["actor"] = user }
    return annotations
  }

  private static func git(_ directory: String, _ arguments: String...) async -> String? {
    guard let output = try? Files.temporary(), let null = try? OpenFile("/dev/null", O_WRONLY)
    else { return nil }
    var command = ChildProcess.Command("git", ["-C", directory] + arguments)
    command.output = output
    command.errors = null
    guard let end = try? await ChildProcess.run(command), end == .exited(code: 0),
      (try? output.seek(to: 0)) != nil, let bytes = try? output.read(64 << 10)
    else { return nil }
    let text = String(decoding: bytes, as: UTF8.self)
    return String(text.prefix { !$0.isNewline })
  }
}
