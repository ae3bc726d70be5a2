import BuildProtos
import Domain
import Glibc
import PipelineSyntax
import RPC

/// A directory that is to be built: its pipeline, its archive, and what is said of it.
struct Submission: Sendable {
  var directory: String
  /// Relative to the directory.
  var pipelinePath = "millrace.yaml"
  var project: String?
  var idempotencyKey: String?
  var priority: Int32 = 0
  var env: [String: String] = [:]

  /// A pipeline's largest size, as SubmitBuild promises.
  static let maximumPipelineBytes = 1 << 20
  /// Data in one message of an upload.
  private static let chunkBytes = 256 << 10
  /// How often an upload that broke off is gone on with.
  private static let uploadAttempts = 5

  static let example = """
    name: hello
    jobs:
      build:
        steps:
          - uses: checkout
          - run: make
    """

  /// Packs, uploads what the cache does not have, and submits.
  ///
  /// - Parameter tell: Gets a line about what goes on.
  func submit(
    to stack: Connections, tell: @Sendable (String) -> Void
  ) async throws -> SchedulerV1.SubmitBuildResponse {
    let (directory, pipeline) = try self.read()
    try self.check(pipeline)
    let archive = try await SourceArchive.pack(directory, pipeline: self.pipelinePath)
    if try await self.isMissing(archive, in: stack) {
      let files = "\(archive.entries) \(archive.entries == 1 ? "file" : "files")"
      tell("uploading \(files), \(Words.bytes(archive.size))")
      try await self.upload(archive, to: stack)
    }
    let request = SchedulerV1.SubmitBuildRequest(
      project: self.project ?? Self.projectName(directory),
      idempotencyKey: self.idempotencyKey ?? Self.newKey(),
      pipeline: pipeline, pipelinePath: self.pipelinePath,
      source: TypesV1.Source(
        origin: .archive(TypesV1.BlobDigest(hash: archive.hash, sizeBytes: archive.size))),
      env: self.env, priority: self.priority,
      annotations: await GitState.annotations(of: directory))
    return try await self.submit(request, to: stack, pipeline)
  }

  /// What is wrong is told before anything is packed; the scheduler reads it again.
  private func check(_ pipeline: [UInt8]) throws(CommandFailure) {
    do {
      _ = try PipelineFile.read(pipeline, path: self.pipelinePath)
    } catch {
      throw CommandFailure(
        .usage,
        lines: MistakeReport.lines(
          SchedulerV1.PipelineMistakes(
            path: error.path,
            mistakes: error.mistakes.map { mistake in
              SchedulerV1.PipelineMistake(
                line: Int32(clamping: mistake.line), column: Int32(clamping: mistake.column),
                message: mistake.message, suggestion: mistake.suggestion)
            }), path: self.pipelinePath, text: String(decoding: pipeline, as: UTF8.self)))
    }
  }

  private func submit(
    _ request: SchedulerV1.SubmitBuildRequest, to stack: Connections, _ pipeline: [UInt8]
  ) async throws -> SchedulerV1.SubmitBuildResponse {
    let client = SchedulerV1.SchedulerClient(stack.scheduler.channel)
    var delay = Patience.shortestDelay
    // The same key again is the same build: a lost answer may be asked for again.
    for attempt in 1... {
      do {
        return try await client.submitBuild(
          request, options: CallOptions(timeout: Connections.timeout))
      } catch let error as RPCError {
        if let mistakes = MistakeReport.mistakes(in: error) {
          throw CommandFailure(
            .usage,
            lines: MistakeReport.lines(
              mistakes, path: self.pipelinePath,
              text: String(decoding: pipeline, as: UTF8.self)))
        }
        guard [.unavailable, .resourceExhausted].contains(error.code), attempt < 4 else {
          throw stack.scheduler.peer.failure(error)
        }
        try await Task.sleep(for: error.retryDelay ?? delay)
        delay *= 2
      }
    }
    preconditionFailure("the loop ends with an answer or an error")
  }

  /// The directory's real path and the pipeline's text.
  private func read() throws -> (String, [UInt8]) {
    guard Files.exists(self.directory) else {
      throw CommandFailure(.usage, "there is no directory \(self.directory)")
    }
    guard Files.isDirectory(self.directory), let directory = Files.real(self.directory) else {
      throw CommandFailure(.usage, "\(self.directory) is no directory")
    }
    let path =
      self.pipelinePath.hasPrefix("/") ? self.pipelinePath : "\(directory)/\(self.pipelinePath)"
    guard Files.exists(path) else {
      throw CommandFailure(
        .usage,
        lines: ["millrace: there is no \(self.pipelinePath) in \(directory); it looks like this:"]
          + [""] + Self.example.split(separator: "\n").map { "    \($0)" } + [""])
    }
    // Reading a pipe would wait for whoever writes to it.
    if let kind = Files.specialKind(of: path) {
      throw CommandFailure(.usage, "\(path) is \(kind); a pipeline has to be a regular file")
    }
    do {
      return (directory, try Files.read(path, limit: Self.maximumPipelineBytes))
    } catch let error where error.number == EFBIG {
      throw CommandFailure(
        .usage,
        "\(path) is larger than \(Words.bytes(Int64(Self.maximumPipelineBytes)))")
    } catch {
      throw CommandFailure(.usage, error.description)
    }
  }

  private func isMissing(_ archive: SourceArchive, in stack: Connections) async throws -> Bool {
    try await Connections.call(stack.cache) { channel in
      let client = RemoteExecutionV2.ContentAddressableStorageClient(channel)
      let response = try await client.findMissingBlobs(
        RemoteExecutionV2.FindMissingBlobsRequest(
          blobDigests: [
            RemoteExecutionV2.Digest(hash: archive.hash, sizeBytes: archive.size)
          ]), options: CallOptions(timeout: Connections.timeout))
      return !response.missingBlobDigests.isEmpty
    }
  }

  private func upload(_ archive: SourceArchive, to stack: Connections) async throws {
    let name = "uploads/\(Self.randomKey())/blobs/\(archive.hash)/\(archive.size)"
    try await Connections.call(stack.cache) { channel in
      let client = ByteStreamV1.ByteStreamClient(channel)
      var offset: Int64 = 0
      for attempt in 1... {
        do {
          return try await self.write(archive, name, from: offset, client)
        } catch let error as RPCError {
          guard error.code == .unavailable, attempt < Self.uploadAttempts else { throw error }
          try await Task.sleep(for: Patience.shortestDelay * (1 << attempt))
          let status = try? await client.queryWriteStatus(
            ByteStreamV1.QueryWriteStatusRequest(resourceName: name))
          if status?.complete == true { return }
          offset = status?.committedSize ?? 0
        }
      }
    }
  }

  private func write(
    _ archive: SourceArchive, _ name: String, from start: Int64,
    _ client: ByteStreamV1.ByteStreamClient
  ) async throws {
    try archive.file.seek(to: start)
    let call = try await client.write()
    var offset = start
    do {
      repeat {
        let data = try archive.file.read(Self.chunkBytes)
        let end = offset + Int64(data.count)
        try await call.send(
          ByteStreamV1.WriteRequest(
            resourceName: offset == start ? name : "", writeOffset: offset,
            finishWrite: end == archive.size, data: data))
        offset = end
      } while offset < archive.size
    } catch is RPCError {
      // The call is over: `finish` tells why, or that another upload was faster.
    }
    let committed = try await call.finish().committedSize
    guard committed == archive.size else {
      throw RPCError(
        .dataLoss, "the cache has \(committed) bytes of an archive of \(archive.size)")
    }
  }

  /// The directory's name, with what a project's name cannot have replaced.
  static func projectName(_ directory: String) -> String {
    let last = directory.split(separator: "/").last.map(String.init) ?? "root"
    let name = last.unicodeScalars.map { scalar -> Character in
      let isAllowed =
        scalar.isASCII
        && (scalar.properties.isAlphabetic || ("0"..."9").contains(scalar)
          || "-_.".unicodeScalars.contains(scalar))
      return isAllowed ? Character(scalar) : "-"
    }
    return String(name.prefix(200))
  }

  private static func newKey() -> String {
    let now = currentTime()
    return TimeOrderedKey.make(
      at: Timestamp(microseconds: now.seconds * 1_000_000 + Int64(now.nanos) / 1_000))
  }

  /// 128 random bits.
  static func randomKey() -> String {
    var generator = SystemRandomNumberGenerator()
    return hexadecimal(
      (0..<16).map { _ in UInt8.random(in: .min ... .max, using: &generator) })
  }
}
