import Glibc

/// The files of a directory that belong to a build.
package enum SourceTree {
  /// Paths of a listing: beyond it the directory is hardly one that was meant.
  package static let maximumListingBytes = 256 << 20

  /// The entries of a directory, sorted by path.
  ///
  /// In a git repository: what is tracked, and what is neither tracked nor ignored. Elsewhere, and
  /// in a directory that the repository around it ignores as a whole: everything but `.git`.
  ///
  /// - Parameter pipeline: The pipeline's file, from the directory or from the root: git's list is
  ///   of no use without it.
  package static func entries(
    of directory: String, pipeline: String
  ) async throws -> [ArchiveEntry] {
    let root = BytePath(directory)
    var paths: [BytePath] = []
    if let listed = try await self.gitPaths(directory, pipeline) {
      for path in listed {
        // A submodule, or a repository in the repository, is listed as a directory.
        if try Files.status(root.appending(path)).map(isDirectory) == true {
          let hasSlash = path.bytes.last == UInt8(ascii: "/")
          try self.walk(root, hasSlash ? BytePath(path.bytes.dropLast()) : path, &paths)
        } else {
          paths.append(path)
        }
      }
    } else {
      try self.walk(root, "", &paths)
    }
    return try paths.sorted().compactMap { try self.entry($0, in: root) }
  }

  /// Nil for a file that is gone, and for sockets, pipes and devices, which no archive should have.
  private static func entry(
    _ path: BytePath, in root: BytePath
  ) throws(SystemError) -> ArchiveEntry? {
    let full = root.appending(path)
    guard let status = try Files.status(full) else { return nil }
    switch status.st_mode & S_IFMT {
    case S_IFREG:
      return ArchiveEntry(
        path: path,
        kind: .file(size: Int64(status.st_size), executable: status.st_mode & 0o100 != 0))
    case S_IFLNK:
      return ArchiveEntry(path: path, kind: .symbolicLink(target: try Files.target(of: full)))
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
    _ root: BytePath, _ prefix: BytePath, _ paths: inout [BytePath]
  ) throws(SystemError) {
    let names = try Files.names(in: prefix.bytes.isEmpty ? root : root.appending(prefix))
    if names.isEmpty, !prefix.bytes.isEmpty { paths.append(prefix) }
    for name in names where name != ".git" {
      let path = prefix.appending(name)
      if try Files.status(root.appending(path)).map(self.isDirectory) == true {
        try self.walk(root, path, &paths)
      } else {
        paths.append(path)
      }
    }
  }

  /// What git lists; nil if the directory is in no repository, there is no git, or the repository
  /// ignores the directory.
  private static func gitPaths(
    _ directory: String, _ pipeline: String
  ) async throws -> [BytePath]? {
    let output = try Files.temporary()
    guard
      try await self.git(
        directory, ["ls-files", "-z", "--cached", "--others", "--exclude-standard"], output)
    else { return nil }
    try output.seek(to: 0)
    let bytes = try output.read(self.maximumListingBytes + 1)
    guard bytes.count <= self.maximumListingBytes else {
      throw CommandFailure(
        .usage,
        "\(directory) has too many files: their names alone are more than "
          + Words.bytes(Int64(self.maximumListingBytes)))
    }
    var seen: Set<ArraySlice<UInt8>> = []
    let paths = bytes.split(separator: 0).filter { seen.insert($0).inserted }.map { BytePath($0) }
    let isMeant =
      self.relative(pipeline, to: directory).map { paths.contains($0) } ?? !paths.isEmpty
    // A pipeline that is ignored by itself is no reason to take all else that is ignored.
    if !isMeant, try await self.git(directory, ["check-ignore", "-q", "--no-index", "."]) {
      return nil
    }
    return paths
  }

  /// A path as git lists it; nil if it leads out of the directory.
  private static func relative(_ path: String, to directory: String) -> BytePath? {
    var path = path[...]
    if path.hasPrefix("/") {
      guard path.hasPrefix(directory + "/") else { return nil }
      path = path.dropFirst(directory.count + 1)
    }
    let parts = path.split(separator: "/").filter { $0 != "." }
    return parts.contains("..") ? nil : BytePath(parts.joined(separator: "/"))
  }

  /// Whether git could be run, and ended well.
  private static func git(
    _ directory: String, _ arguments: [String], _ output: OpenFile? = nil
  ) async throws -> Bool {
    var command = ChildProcess.Command("git", ["-C", directory] + arguments)
    command.output = output
    command.errors = try OpenFile("/dev/null", O_WRONLY)
    return (try? await ChildProcess.run(command)) == .exited(code: 0)
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
