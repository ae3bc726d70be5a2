import Crypto
import Glibc
import PluginKit

/// `uses: checkout`: puts source into the workspace.
///
/// Without inputs it is the build's own source. `path` copies a folder of this machine, `archive`
/// unpacks a tar or zip archive from a path or URL, `url` clones a git repository; `sha256` checks
/// an archive, `revision` picks a commit, `into` names a folder of the workspace.
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

  func executeBuildStep(_ context: BuildContext, events: StepEvents) async throws {
    try context.refuseUnknownInputs(Self.inputs)
    let target = try Self.target(context)
    let inputs = context.inputs
    if let path = inputs["path"], !path.isEmpty {
      try await Self.copy(path, to: target, events)
    } else if let archive = inputs["archive"], !archive.isEmpty {
      try await Self.unpack(archive, context, to: target, events)
    } else if let url = inputs["url"], !url.isEmpty {
      if Self.isArchive(url) {
        try await Self.unpack(url, context, to: target, events)
      } else {
        try await Self.clone(
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
        try await Self.clone(
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

  private static func copy(_ path: String, to target: String, _ events: StepEvents) async throws {
    guard path.hasPrefix("/") else {
      throw StepFailure("path is \"\(path)\": give an absolute path on the executor's machine")
    }
    var status = stat()
    guard stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else {
      throw StepFailure("path is \"\(path)\": there is no such folder on this executor")
    }
    try await Program.run(
      ["cp", "-a", "--no-target-directory", "--reflink=auto", "--", path, target], in: "/",
      events: events)
    events.log("copied \(path)\n")
  }

  // MARK: Archives

  private static func isArchive(_ url: String) -> Bool {
    let endings = [".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst", ".zip"]
    return endings.contains { url.hasSuffix($0) }
  }

  private static func unpack(
    _ place: String, _ context: BuildContext, to target: String, _ events: StepEvents
  ) async throws {
    var archive = place
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
    } else if !place.hasPrefix("/") {
      archive = "\(context.workspace)/\(place)"
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

  /// Unpacks with the `tar` program. It refuses `..`, strips leading slashes, puts links that lead
  /// outward in place only behind everything else, and puts a folder where a link to one stands.
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

  private static func clone(
    _ url: String, revision: String, to target: String, _ context: BuildContext,
    _ events: StepEvents
  ) async throws {
    // Both are arguments of git's: one that begins with a dash would be an option.
    guard !url.hasPrefix("-"), !revision.hasPrefix("-"), !url.hasPrefix("ext::") else {
      throw StepFailure("git cannot clone \"\(url)\" at \"\(revision)\"")
    }
    var environment = context.environment
    // It must fail, not ask.
    environment["GIT_TERMINAL_PROMPT"] = "0"
    environment["GIT_CONFIG_NOSYSTEM"] = "1"
    func git(_ words: String...) async throws {
      try await Program.run(
        ["git", "-C", target] + words, in: target, environment: environment, events: events)
    }
    try await git("init", "--quiet", ".")
    try await git("remote", "add", "origin", url)
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

extension BuildContext {
  /// A misspelt input would otherwise be silently without effect.
  func refuseUnknownInputs(_ known: Set<String>) throws {
    for name in self.inputs.keys.sorted() where !known.contains(name) {
      throw StepFailure(
        "unknown input \"\(name)\"; known are \(known.sorted().joined(separator: ", "))")
    }
  }
}
