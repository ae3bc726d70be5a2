import Crypto
import Glibc
import PluginKit

/// `uses: checkout`: puts source into the workspace.
///
/// Without inputs it is the build's own source. `path` copies a folder of this machine, `archive`
/// unpacks a tar archive from a path or URL, `url` clones a git repository; `sha256` checks an
/// archive, `revision` picks a commit, `into` names a folder of the workspace. What of the machine may
/// be named is for ``LocalPlaces`` to say.
///
/// It runs outside the sandbox, and steps have written to the workspace before it: links, hooks, a
/// `.git` of their own. So no program works in there. Source is put together in a fresh folder, and
/// moved to its place by ``Placement``.
struct Checkout: BuildPlugin {
  static let name = "checkout"
  static let version = "1.0.0"
  static let description = "Puts source into the workspace."
  static let wantsSourceArchive = true
  static let inputsSchema = """
    {"type":"object","additionalProperties":false,"properties":{\
    "path":{"type":"string"},"archive":{"type":"string"},"sha256":{"type":"string"},\
    "url":{"type":"string"},"revision":{"type":"string"},"into":{"type":"string"},\
    "strip-components":{"type":"string"}}}
    """

  private static let inputs: Set<String> = [
    "path", "archive", "sha256", "url", "revision", "into", "strip-components",
  ]

  private let places: LocalPlaces

  init() { self.init(.ofThisRunner) }

  init(_ places: LocalPlaces) { self.places = places }

  func executeBuildStep(_ context: BuildContext, events: StepEvents) async throws {
    try context.refuseUnknownInputs(Self.inputs)
    let target = try Self.target(context)
    let fresh = context.scratch + "/source"
    guard mkdir(fresh, 0o755) == 0 else { throw failure("create", fresh) }
    try await self.fetch(context, to: fresh, events)
    // A repository is no folder to be joined: what a step left in one would be this one's settings.
    if access(fresh + "/.git", F_OK) == 0,
      rename(target + "/.git", context.scratch + "/replaced.git") == 0
    {
      events.log("replaced the .git that was there\n")
    }
    try Placement.move(contentsOf: fresh, to: target)
  }

  /// Puts the source that the inputs name into an empty folder.
  private func fetch(
    _ context: BuildContext, to target: String, _ events: StepEvents
  ) async throws {
    let inputs = context.inputs
    if let path = inputs["path"], !path.isEmpty {
      try await self.copy(path, context, to: target, events)
    } else if let archive = inputs["archive"], !archive.isEmpty {
      try await self.unpack(archive, context, to: target, events)
    } else if let url = inputs["url"], !url.isEmpty {
      if Self.isArchive(url) {
        try await self.unpack(url, context, to: target, events)
      } else {
        try await self.clone(
          url, revision: inputs["revision"] ?? "", to: target, context, events)
      }
    } else {
      switch context.source {
      case .archive(let hash, _):
        guard let archive = context.sourceArchive else {
          throw StepFailure("the source archive \(hash) was not fetched")
        }
        // The runner has checked its digest.
        try await Self.extract(archive, strip: inputs["strip-components"], to: target, events)
        events.log("unpacked the source archive \(hash)\n")
      case .git(let url, let revision):
        try await self.clone(
          url, revision: inputs["revision"] ?? revision, to: target, context, events)
      case nil:
        throw StepFailure(
          "the build has no source; submit it with one, or give `path`, `archive` or `url`")
      }
    }
  }

  /// The folder of the workspace that `into` names.
  private static func target(_ context: BuildContext) throws -> String {
    let into = context.inputs["into"] ?? ""
    guard !into.hasPrefix("/"), !into.split(separator: "/").contains("..") else {
      throw StepFailure("into is \"\(into)\": it must lie inside the workspace")
    }
    let target = into.isEmpty ? context.workspace : "\(context.workspace)/\(into)"
    var path = context.workspace
    for part in into.split(separator: "/") {
      path += "/\(part)"
      var status = stat()
      if lstat(path, &status) == 0 {
        guard status.st_mode & S_IFMT == S_IFDIR else {
          throw StepFailure("into is \"\(into)\": \(path) is not a folder")
        }
      } else if mkdir(path, 0o755) != 0 {
        throw failure("create", path)
      }
    }
    return target
  }

  private func copy(
    _ path: String, _ context: BuildContext, to target: String, _ events: StepEvents
  ) async throws {
    guard path.hasPrefix("/") else {
      throw StepFailure("path is \"\(path)\": give an absolute path on the executor's machine")
    }
    let real = try self.places.resolve(path, "path", for: .folder, workspace: context.workspace)
    try await Program.run(
      ["cp", "-a", "--no-target-directory", "--reflink=auto", "--", real, target], in: "/",
      events: events)
    events.log("copied \(path)\n")
  }

  // MARK: Archives

  private static func isArchive(_ url: String) -> Bool {
    let endings = [".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst", ".zip"]
    return endings.contains { url.hasSuffix($0) }
  }

  /// Tar's own words for it would be that it looks like no tar archive.
  private static func refuseZip(_ place: String) throws {
    guard place.hasSuffix(".zip") else { return }
    throw StepFailure(
      "\(place) is a zip archive, and checkout unpacks tar archives: fetch and unzip it in a `run:` "
        + "step")
  }

  private func unpack(
    _ place: String, _ context: BuildContext, to target: String, _ events: StepEvents
  ) async throws {
    try Self.refuseZip(place)
    let archive: String
    if place.contains("://") {
      guard place.hasPrefix("https://") || place.hasPrefix("http://") else {
        throw StepFailure("archive is \"\(place)\": give a path, or an http or https URL")
      }
      let wanted = context.inputs["sha256"] ?? ""
      guard place.hasPrefix("https://") || !wanted.isEmpty else {
        throw StepFailure("archive is \"\(place)\": over plain http it needs `sha256`")
      }
      archive = context.scratch + "/archive"
      try await Program.run(
        [
          "curl", "--fail", "--silent", "--show-error", "--location", "--proto", "=http,https",
          "--retry", "3", "--max-time", "600", "--output", archive, "--", place,
        ], in: context.scratch, events: events)
    } else {
      let path = place.hasPrefix("/") ? place : "\(context.workspace)/\(place)"
      archive = try self.places.resolve(
        path, "archive", for: .file, workspace: context.workspace)
    }
    if let wanted = context.inputs["sha256"], !wanted.isEmpty {
      let found = try Self.sha256(of: archive)
      guard found == wanted.lowercased() else {
        throw StepFailure("\(place) has the SHA-256 \(found), not \(wanted)")
      }
    }
    try await Self.extract(
      archive, strip: context.inputs["strip-components"], to: target, events)
    events.log("unpacked \(place)\n")
  }

  /// Unpacks with the `tar` program into an empty folder. It refuses `..`, strips leading slashes,
  /// and puts links that lead outward in place only behind everything else.
  private static func extract(
    _ archive: String, strip: String?, to target: String, _ events: StepEvents
  ) async throws {
    guard access(archive, R_OK) == 0 else { throw failure("read", archive) }
    var words = [
      "tar", "--extract", "--file", archive, "--directory", target, "--no-same-owner",
      "--no-same-permissions", "--force-local",
    ]
    if let strip, !strip.isEmpty {
      guard let count = Int(strip), (0...64).contains(count) else {
        throw StepFailure("strip-components is \"\(strip)\": give a number from 0 to 64")
      }
      words += ["--strip-components", "\(count)"]
    }
    try await Program.run(words, in: target, events: events)
  }

  /// SHA-256 of a file, in hexadecimal.
  static func sha256(of path: String) throws -> String {
    let file = open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { throw failure("open", path) }
    defer { close(file) }
    var hash = SHA256()
    var chunk = [UInt8](repeating: 0, count: 1 << 20)
    while true {
      let count = read(file, &chunk, chunk.count)
      if count < 0 { throw failure("read", path) }
      if count == 0 { break }
      hash.update(data: chunk[..<count])
    }
    return hash.finalize().map { byte in
      let text = String(byte, radix: 16)
      return byte < 16 ? "0\(text)" : text
    }.joined()
  }

  // MARK: git

  private func clone(
    _ url: String, revision: String, to target: String, _ context: BuildContext,
    _ events: StepEvents
  ) async throws {
    // Both are arguments of git's: one that begins with a dash would be an option.
    guard !url.hasPrefix("-"), !revision.hasPrefix("-"), !url.hasPrefix("ext::") else {
      throw StepFailure("git cannot clone \"\(url)\" at \"\(revision)\"")
    }
    let local = try self.repository(url, context)
    let environment = try Self.gitEnvironment(context, isLocal: local != nil)
    func git(_ words: String...) async throws {
      try await Program.run(
        ["git", "-C", target] + Self.gitSettings + words, in: target, environment: environment,
        events: events)
    }
    try await git("init", "--quiet", ".")
    try await git("remote", "add", "origin", local ?? url)
    do {
      // One commit is enough, where the server allows to ask for it.
      try await git(
        "fetch", "--quiet", "--depth", "1", "origin", revision.isEmpty ? "HEAD" : revision)
    } catch let shallow as StepFailure {
      guard !revision.isEmpty else { throw shallow }
      try await git("fetch", "--quiet", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*")
      try await git("checkout", "--quiet", "--detach", revision)
      events.log("cloned \(url) at \(revision)\n")
      return
    }
    try await git("checkout", "--quiet", "--detach", "FETCH_HEAD")
    events.log("cloned \(url) at \(revision.isEmpty ? "HEAD" : revision)\n")
  }
}

extension Checkout {
  /// The folder that a URL names on this machine, by git's own rule; nil if it is elsewhere.
  fileprivate func repository(_ url: String, _ context: BuildContext) throws -> String? {
    var path = url
    if url.hasPrefix("file://") {
      path = String(url.dropFirst("file://".count))
      guard !path.contains("%") else {
        throw StepFailure("git cannot clone \"\(url)\": give the path without `file://`")
      }
    } else if let colon = url.firstIndex(of: ":") {
      // `host:path` and `scheme://`; a slash before the colon makes it a path.
      guard let slash = url.firstIndex(of: "/"), slash < colon else { return nil }
    }
    guard path.hasPrefix("/") else {
      throw StepFailure("git cannot clone \"\(url)\": give a URL, or an absolute path")
    }
    return try self.places.resolve(
      path, "url", for: .repository, workspace: context.workspace)
  }

  /// What would let a repository name programs to run, said once more though the repository is
  /// fresh and has no settings but git's own.
  fileprivate static let gitSettings = [
    "core.hooksPath=/dev/null", "core.fsmonitor=false", "protocol.ext.allow=never",
    "fetch.recurseSubmodules=false", "submodule.recurse=false",
  ].flatMap { ["-c", $0] }

  /// What git gets of the step's environment: how text is written and how the network is reached.
  /// Not its PATH and HOME, nor any variable that names a program, a library or a file of settings
  /// (`GIT_SSH_COMMAND`, `GIT_EXEC_PATH`, `LD_PRELOAD`, `GIT_CONFIG_GLOBAL`): a pipeline sets the
  /// one and its steps write the other, and git runs as the runner's user, outside the sandbox.
  static func gitEnvironment(_ context: BuildContext, isLocal: Bool) throws -> [String: String] {
    let home = context.scratch + "/home"
    guard mkdir(home, 0o700) == 0 || errno == EEXIST else { throw failure("create", home) }
    var environment = Program.ownEnvironment
    for (name, value) in context.environment
    where Program.passedVariables.contains(name) || name.hasPrefix("MILLRACE") {
      environment[name] = value
    }
    environment["PATH"] = Program.ownEnvironment["PATH"]
    environment["HOME"] = home
    environment["GIT_CONFIG_NOSYSTEM"] = "1"
    environment["GIT_CONFIG_GLOBAL"] = "/dev/null"
    // What is on this machine was looked at before; nothing else leads there.
    environment["GIT_ALLOW_PROTOCOL"] = isLocal ? "file" : "git:http:https:ssh"
    // It must fail, not ask.
    environment["GIT_TERMINAL_PROMPT"] = "0"
    return environment
  }
}

extension BuildContext {
  /// A misspelt input would otherwise be silently without effect.
  func refuseUnknownInputs(_ known: Set<String>) throws {
    for name in self.inputs.keys.sorted() where !known.contains(name) {
      throw StepFailure(
        "unknown input \"\(name)\"; known are \(known.sorted().joined(separator: ", "))")
    }
  }
}
