import ArgumentParser
import BuildProtos
import Crypto
import Glibc
import RPC

/// Lists and downloads what a build's jobs kept.
struct ArtifactsCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "artifacts", abstract: "Lists and downloads a build's artifacts.",
    subcommands: [ListArtifactsCommand.self, GetArtifactsCommand.self])
}

/// A build's artifacts, with the jobs they come from.
private func artifacts(
  of build: SchedulerV1.Build
) -> [(job: String, artifact: TypesV1.Artifact)] {
  build.jobs.flatMap { job in
    (job.attempts.last?.artifacts ?? []).map { (job.id, $0) }
  }
}

/// What `artifacts` prints as JSON.
private struct ArtifactsReport: Encodable {
  var artifacts: [ArtifactReport]
}

struct ListArtifactsCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "list", abstract: "Lists a build's artifacts.")

  @Argument(help: "The build's id.")
  var build: String

  @OptionGroup var global: GlobalOptions

  func run() async throws {
    let build = try await Connections(self.global).build(self.build)
    let all = artifacts(of: build)
    switch self.global.output {
    case .json:
      Terminal.print(
        JSONText.document(
          ArtifactsReport(artifacts: all.map { ArtifactReport($0.artifact, job: $0.job) })))
    case .text:
      guard !all.isEmpty else { return Terminal.print("no artifacts") }
      let rows = all.map { job, artifact in
        [
          Sanitizer.line(artifact.name), Sanitizer.line(artifact.path),
          Words.bytes(artifact.digest?.sizeBytes ?? 0),
          String(artifact.mode & 0o7777, radix: 8), Sanitizer.line(job),
        ]
      }
      for line in Table.lines(header: ["NAME", "PATH", "SIZE", "MODE", "JOB"], rows: rows) {
        Terminal.print(line)
      }
    }
  }
}

struct GetArtifactsCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "get", abstract: "Downloads a build's artifacts.",
    discussion: """
      Files keep their paths below the directory, and their permissions. Where two files have the \
      same path, each job's files go into a directory of its own, and those that one job kept \
      later into JOB#2, JOB#3, ...
      """)

  @Argument(help: "The build's id.")
  var build: String

  @Argument(help: "Only artifacts of this name.")
  var name: String?

  @Option(help: ArgumentHelp("Only this job's.", valueName: "job-id"))
  var job: String?

  @Option(name: [.customShort("o"), .long], help: ArgumentHelp("Where to.", valueName: "dir"))
  var directory = "."

  @OptionGroup var global: GlobalOptions

  func run() async throws {
    let stack = try Connections(self.global)
    let build = try await stack.build(self.build)
    let wanted = artifacts(of: build).filter { job, artifact in
      (self.name == nil || artifact.name == self.name) && (self.job == nil || job == self.job)
    }
    guard !wanted.isEmpty else {
      let what = self.name.map { " named \"\($0)\"" } ?? ""
      throw CommandFailure(.usage, "build \(build.id) has no artifacts\(what)")
    }
    let paths = ArtifactPaths.choose(
      wanted.map { job, artifact in
        ArtifactPaths.Kept(
          job: job, path: artifact.path,
          content: "\(artifact.digest?.hash ?? "") \(artifact.mode)")
      })
    var reports: [ArtifactReport] = []
    for ((job, artifact), path) in zip(wanted, paths) {
      guard let path else {
        throw CommandFailure(
          .usage,
          "artifact \"\(Sanitizer.line(artifact.path))\" of job \(job) has a path that "
            + "leaves the directory; it is not downloaded")
      }
      let file = "\(self.directory)/\(path)"
      try await self.download(artifact, to: file, stack)
      reports.append(ArtifactReport(artifact, job: job, file: file))
      if self.global.output == .text {
        Terminal.print("\(file)  \(Words.bytes(artifact.digest?.sizeBytes ?? 0))")
      }
    }
    if self.global.output == .json {
      Terminal.print(JSONText.document(ArtifactsReport(artifacts: reports)))
    }
  }

  private func download(
    _ artifact: TypesV1.Artifact, to path: String, _ stack: Connections
  ) async throws {
    guard let digest = artifact.digest else {
      throw CommandFailure(.infrastructure, "artifact \(artifact.path) has no digest")
    }
    let directory = path[..<(path.lastIndex(of: "/") ?? path.startIndex)]
    try Files.makeDirectories(String(directory))
    let temporary = "\(path).\(getpid()).part"
    do {
      let file = try OpenFile(temporary, O_WRONLY | O_CREAT | O_TRUNC, mode: 0o600)
      var hasher = SHA256()
      try await Connections.call(stack.cache) { channel in
        let responses = try await ByteStreamV1.ByteStreamClient(channel).read(
          ByteStreamV1.ReadRequest(
            resourceName: "blobs/\(digest.hash)/\(digest.sizeBytes)"))
        for try await response in responses {
          hasher.update(data: response.data)
          try file.write(response.data)
        }
      }
      let actual = hexadecimal(hasher.finalize())
      guard actual == digest.hash else {
        throw CommandFailure(
          .infrastructure,
          "\(artifact.path) came with digest \(actual) instead of \(digest.hash); try again")
      }
      // Permissions, but neither set-user-id nor its like.
      let mode = artifact.mode == 0 ? 0o644 : mode_t(artifact.mode & 0o777)
      guard fchmod(file.descriptor, mode) == 0, rename(temporary, path) == 0 else {
        throw SystemError("write \(path)")
      }
    } catch {
      unlink(temporary)
      throw error
    }
  }
}

/// Where artifacts go below the directory they are downloaded to.
package enum ArtifactPaths {
  /// A file that a job kept.
  package struct Kept: Hashable, Sendable {
    package var job: String
    package var path: String
    /// The same for files that are the same.
    package var content: String

    package init(job: String, path: String, content: String = "") {
      self.job = job
      self.path = path
      self.content = content
    }
  }

  /// Files that can lie in one directory.
  private struct Layer {
    private var files: [String: String] = [:]
    private var directories: Set<Substring> = []

    /// False if another file has the path, or one of the two would have to be a directory.
    mutating func add(_ file: Kept) -> Bool {
      if let content = self.files[file.path] { return content == file.content }
      let above = file.path.indices.filter { file.path[$0] == "/" }.map { file.path[..<$0] }
      guard !self.directories.contains(file.path[...]),
        !above.contains(where: { self.files[String($0)] != nil })
      else { return false }
      self.files[file.path] = file.content
      self.directories.formUnion(above)
      return true
    }
  }

  /// A path for each; nil for one that would leave the directory.
  package static func choose(_ artifacts: [Kept]) -> [String?] {
    let safe = artifacts.filter { self.isSafe($0.path) }
    var all = Layer()
    if safe.allSatisfy({ all.add($0) }) {
      return artifacts.map { self.isSafe($0.path) ? $0.path : nil }
    }
    var layers: [(files: Layer, directory: String)] = []
    var layersOfJobs: [String: [Int]] = [:]
    var taken: Set<String> = []
    return artifacts.map { file in
      guard self.isSafe(file.path) else { return nil }
      let ofJob = layersOfJobs[file.job, default: []]
      for index in ofJob where layers[index].files.add(file) {
        return "\(layers[index].directory)/\(file.path)"
      }
      var directory = self.directory(file.job) + (ofJob.isEmpty ? "" : "#\(ofJob.count + 1)")
      while !taken.insert(directory).inserted { directory += "_" }
      var files = Layer()
      _ = files.add(file)
      layersOfJobs[file.job, default: []].append(layers.count)
      layers.append((files, directory))
      return "\(directory)/\(file.path)"
    }
  }

  private static func isSafe(_ path: String) -> Bool {
    !path.utf8.contains(0)
      && !path.split(separator: "/", omittingEmptySubsequences: false)
        .contains { $0.isEmpty || $0 == "." || $0 == ".." }
  }

  /// A job's id as the name of a directory.
  private static func directory(_ job: String) -> String {
    let name = String(job.map { "/\0".contains($0) ? "_" : $0 })
    return name == "." || name == ".." || name.isEmpty ? "_" : name
  }
}
