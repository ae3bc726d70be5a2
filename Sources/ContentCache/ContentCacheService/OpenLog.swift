import ContentCacheCore
import Domain
import Glibc
import Synchronization

/// One log that somebody reads or writes.
///
/// `contents` is held while bytes are written, so that two writers take turns; readers look at
/// `tail`, which is never held during I/O. All methods block.
package final class OpenLog: Sendable {
  private struct Contents {
    /// Nil until the disk has been asked.
    var stream: LogStream?
    var exists = false
    var file: File?
    /// Of all bytes in the file; nil if they have to be read for it.
    var hash: ContentHash?
  }

  package let name: String
  /// What readers see of it.
  package let tail = LogTail()
  private let path: String
  private let blobs: BlobStore
  private let policy: Policy
  private let contents = Mutex(Contents())

  init(_ name: String, path: String, blobs: BlobStore, policy: Policy) {
    self.name = name
    self.path = path
    self.blobs = blobs
    self.policy = policy
  }

  /// Whether opening it again would cost more than keeping it: it grows, and its hash is known.
  var isWorthKeeping: Bool {
    self.contents.withLock { $0.exists && $0.stream?.seal == nil && $0.hash != nil }
  }

  /// Learns from the disk where the log stands, unless that is known.
  package func load() throws(LogStore.Failure) {
    try self.locked { contents throws(LogStore.Failure) in _ = try self.stream(&contents) }
  }

  /// Bytes that are there, and the blob if it is sealed; nil if there is no such log.
  package func status() throws(LogStore.Failure) -> (size: Int64, seal: Digest?)? {
    try self.locked { contents throws(LogStore.Failure) in
      let stream = try self.stream(&contents)
      return contents.exists ? (stream.size, stream.seal) : nil
    }
  }

  /// Takes a chunk; returns how many of its bytes were new.
  package func append(_ chunk: [UInt8], at offset: Int64) throws(LogStore.Failure) -> Int {
    try self.locked { contents throws(LogStore.Failure) in
      let stream = try self.stream(&contents)
      let effect: LogStream.Effect
      do throws(LogStream.Refusal) {
        effect = try stream.chunkReceived(offset: offset, count: chunk.count)
      } catch {
        throw .refused(error)
      }
      guard case .write(let skipping) = effect else {
        // An empty chunk begins a log, too.
        if !contents.exists { _ = try self.writableFile(&contents) }
        self.publish(contents)
        return 0
      }
      let file = try self.writableFile(&contents)
      let fresh = chunk[skipping...]
      do throws(FileError) { try file.write(fresh, at: stream.size) } catch {
        throw self.failure(error)
      }
      contents.hash?.update(fresh)
      contents.stream?.written(fresh.count)
      self.publish(contents)
      return fresh.count
    }
  }

  /// Returns when all that was appended is on the disk.
  package func synchronize() throws(LogStore.Failure) {
    try self.locked { contents throws(LogStore.Failure) in
      guard let file = contents.file else { return }
      do throws(FileError) { try file.synchronize() } catch { throw self.failure(error) }
    }
  }

  /// Makes the log a blob. A log that is one already stays as it is.
  package func seal() throws(LogStore.Failure) -> Digest {
    try self.locked { contents throws(LogStore.Failure) in
      var stream = try self.stream(&contents)
      if let digest = stream.seal { return digest }
      let file = try self.writableFile(&contents)
      _ = stream.sealReceived()
      guard let digest = contents.hash?.digest else {
        preconditionFailure("a log that can be written has its hash")
      }
      // In this order a crash at any point leaves a log that is whole: open before the marker is
      // there, sealed after it.
      do throws(FileError) {
        // A chunk that failed half-way may have left bytes behind the end.
        try file.truncate(to: stream.size)
        try file.synchronize()
      } catch {
        throw self.failure(error)
      }
      do throws(BlobStore.Failure) { try self.blobs.adopt(file.path, as: digest) } catch {
        throw .blob(error)
      }
      do throws(FileError) {
        try self.writeMarker(digest)
        try Path.remove(file.path)
      } catch {
        throw self.failure(error)
      }
      stream.sealed(digest)
      contents.stream = stream
      self.publish(contents)
      return digest
    }
  }

  /// Reads bytes that ``tail`` says are there.
  package func read(_ count: Int, at offset: Int64) throws(LogStore.Failure) -> [UInt8] {
    let file = try self.locked { contents throws(LogStore.Failure) in
      try self.readableFile(&contents)
    }
    let bytes: [UInt8]
    do { bytes = try file.read(count, at: offset) } catch { throw self.failure(error) }
    guard bytes.count == count else { throw .damaged(path: file.path) }
    return bytes
  }

  private func locked<Value: Sendable>(
    _ body: (inout Contents) throws(LogStore.Failure) -> Value
  ) throws(LogStore.Failure) -> Value {
    let result: Result<Value, LogStore.Failure> = self.contents.withLock { contents in
      do throws(LogStore.Failure) { return .success(try body(&contents)) } catch {
        return .failure(error)
      }
    }
    return try result.get()
  }

  private func publish(_ contents: Contents) {
    guard let stream = contents.stream else { return }
    self.tail.publish(contents.exists ? stream.view : .absent)
  }

  private func stream(_ contents: inout Contents) throws(LogStore.Failure) -> LogStream {
    if let stream = contents.stream { return stream }
    do {
      if let digest = try self.readMarker() {
        contents.stream = LogStream(size: digest.size, seal: digest, policy: self.policy)
        contents.exists = true
        // Left by a crash between the marker and this.
        try Path.remove(self.path + ".log")
      } else if let size = try Path.size(self.path + ".log") {
        contents.stream = LogStream(size: size, seal: nil, policy: self.policy)
        contents.exists = true
      } else {
        contents.stream = LogStream(size: 0, seal: nil, policy: self.policy)
      }
    } catch {
      throw self.failure(error)
    }
    self.publish(contents)
    guard let stream = contents.stream else { preconditionFailure("the log was just loaded") }
    return stream
  }

  private func writableFile(_ contents: inout Contents) throws(LogStore.Failure) -> File {
    if let file = contents.file, contents.hash != nil { return file }
    do {
      let file = try File(self.path + ".log", O_RDWR | O_CREAT)
      var hash = ContentHash()
      var offset: Int64 = 0
      let size = contents.stream?.size ?? 0
      while offset < size {
        let bytes = try file.read(Int(min(size - offset, 1 << 20)), at: offset)
        if bytes.isEmpty { throw LogStore.Failure.damaged(path: file.path) }
        hash.update(bytes[...])
        offset += Int64(bytes.count)
      }
      contents.file = file
      contents.hash = hash
      contents.exists = true
      return file
    } catch let error as FileError {
      throw self.failure(error)
    } catch let error as LogStore.Failure {
      throw error
    } catch {
      preconditionFailure("opening a log throws FileError or Failure, not \(error)")
    }
  }

  private func readableFile(_ contents: inout Contents) throws(LogStore.Failure) -> File {
    if let file = contents.file { return file }
    let file: File
    if let digest = contents.stream?.seal {
      do { file = try self.blobs.open(digest) } catch { throw .blob(error) }
    } else {
      do { file = try File(self.path + ".log", O_RDWR) } catch { throw self.failure(error) }
    }
    contents.file = file
    return file
  }

  private var markerPath: String { self.path + ".sealed" }

  private func writeMarker(_ digest: Digest) throws(FileError) {
    let temporary = self.markerPath + ".new"
    let marker = try File(temporary, O_WRONLY | O_CREAT | O_TRUNC)
    try marker.write(Array("\(digest.hash) \(digest.size)\n\(self.name)\n".utf8)[...], at: 0)
    try marker.synchronize()
    try Path.move(temporary, to: self.markerPath)
    try Path.synchronize(
      directory: String(self.path[..<(self.path.lastIndex(of: "/") ?? self.path.endIndex)]))
  }

  private func readMarker() throws(FileError) -> Digest? {
    guard try Path.size(self.markerPath) != nil else { return nil }
    // A name of the longest length, in the widest characters, and the line before it.
    let text = String(
      decoding: try File(self.markerPath, O_RDONLY).read(16 << 10, at: 0), as: UTF8.self)
    let parts = text.prefix { $0 != "\n" }.split(separator: " ")
    guard parts.count == 2, let size = Int64(parts[1]),
      let digest = try? Digest(checking: String(parts[0]), size: size, policy: self.policy)
    else { throw FileError("understand", self.markerPath, number: EBADMSG) }
    return digest
  }

  private func failure(_ error: FileError) -> LogStore.Failure {
    error.isOutOfSpace ? .outOfSpace(path: error.path) : .file(error)
  }
}

/// What readers see of a log, and those that wait for it to grow.
package final class LogTail: Sendable {
  private struct Waiter {
    let beyond: Int64
    let continuation: CheckedContinuation<Void, any Error>
  }

  private struct State {
    var view = LogView.absent
    var waiters: [Int: Waiter] = [:]
    var nextWaiter = 0
    var hasEnded = false
  }

  private let state = Mutex(State())

  init() {}

  package var view: LogView { self.state.withLock { $0.view } }

  /// Returns when the log is longer than that, or sealed.
  ///
  /// - Throws: ``LogStore/Failure/draining``, or `CancellationError`.
  package func grows(beyond: Int64) async throws {
    let id = self.state.withLock { state in
      state.nextWaiter += 1
      return state.nextWaiter
    }
    try await withTaskCancellationHandler {
      try await withCheckedThrowingContinuation { continuation in
        let answer: Result<Void, any Error>? = self.state.withLock { state in
          if state.hasEnded { return .failure(LogStore.Failure.draining) }
          if state.view.size > beyond || state.view.isSealed { return .success(()) }
          if Task.isCancelled { return .failure(CancellationError()) }
          state.waiters[id] = Waiter(beyond: beyond, continuation: continuation)
          return nil
        }
        if let answer { continuation.resume(with: answer) }
      }
    } onCancel: {
      let waiter = self.state.withLock { $0.waiters.removeValue(forKey: id) }
      waiter?.continuation.resume(throwing: CancellationError())
    }
  }

  /// The log is like this now.
  func publish(_ view: LogView) {
    let woken = self.state.withLock { state in
      state.view = view
      let ids = state.waiters.filter { view.isSealed || view.size > $0.value.beyond }.keys
      return ids.compactMap { state.waiters.removeValue(forKey: $0) }
    }
    for waiter in woken { waiter.continuation.resume() }
  }

  /// Nobody waits any longer.
  func end() {
    let waiters = self.state.withLock { state in
      state.hasEnded = true
      defer { state.waiters = [:] }
      return Array(state.waiters.values)
    }
    for waiter in waiters { waiter.continuation.resume(throwing: LogStore.Failure.draining) }
  }
}
