import ContentCacheCore
import Domain
import Synchronization

/// Uploads that have begun and are not whole yet, to be gone on with by another stream.
///
/// They live as long as the process: after a restart a client begins again.
package final class UploadStore: Sendable {
  /// Why an upload cannot go on.
  package enum Failure: Error, Hashable, Sendable, CustomStringConvertible {
    case tooMany(limit: Int)
    case refused(Upload.Refusal)
    case blob(BlobStore.Failure)

    package var description: String {
      switch self {
      case .tooMany(let limit): "\(limit) uploads are open, which is the limit"
      case .refused(let refusal): refusal.description
      case .blob(let failure): failure.description
      }
    }
  }

  /// Which upload of which blob.
  package struct Key: Hashable, Sendable {
    package let id: String
    package let digest: Digest

    package init(id: String, digest: Digest) {
      self.id = id
      self.digest = digest
    }
  }

  /// What became of a chunk.
  package enum Progress: Hashable, Sendable {
    case committed(Int64)
    /// The blob is stored.
    case finished
  }

  private let blobs: BlobStore
  private let policy: Policy
  private let table = Mutex<[Key: PartialBlob]>([:])

  package init(blobs: BlobStore, policy: Policy) {
    self.blobs = blobs
    self.policy = policy
  }

  /// How many there are.
  package var count: Int { self.table.withLock { $0.count } }

  /// Those that a stream is writing to now.
  package var beingWritten: Int {
    self.table.withLock { table in table.values.count { $0.idleSince == nil } }
  }

  /// Lets go of uploads that nobody has gone on with for too long. Blocks.
  package func sweep(now: Duration) {
    let forgotten = self.table.withLock { self.takeIdle(&$0, now) }
    for partial in forgotten { partial.discard(from: self.blobs) }
  }

  /// A stream begins, or goes on with, an upload.
  package func open(_ key: Key, now: Duration) throws(Failure) -> OpenUpload {
    let found: (partial: PartialBlob?, forgotten: [PartialBlob]) = self.table.withLock { table in
      if let partial = table[key] { return (partial, []) }
      let forgotten = self.makeRoom(&table, now)
      guard table.count < self.policy.maximumUploads else { return (nil, forgotten) }
      let partial = PartialBlob(key.digest, inMemory: self.policy.memoryUploadBytes, now: now)
      table[key] = partial
      return (partial, forgotten)
    }
    for partial in found.forgotten { partial.discard(from: self.blobs) }
    guard let partial = found.partial else { throw .tooMany(limit: self.policy.maximumUploads) }
    return OpenUpload(key: key, partial: partial, writer: partial.open())
  }

  /// Takes a chunk of the upload. Blocks.
  package func receive(
    _ chunk: [UInt8], at offset: Int64, finish: Bool, for upload: OpenUpload
  ) throws(Failure) -> Progress {
    do {
      let progress = try upload.partial.receive(
        chunk, at: offset, finish: finish, by: upload.writer, into: self.blobs)
      if progress == .finished { self.forget(upload) }
      return progress
    } catch {
      // What is there cannot become the blob any more, except when only this chunk was at fault.
      if case .blob = error {
        self.forget(upload)
        upload.partial.discard(from: self.blobs)
      }
      throw error
    }
  }

  /// The blob is there by other means.
  package func abandon(_ upload: OpenUpload) {
    self.forget(upload)
    upload.partial.discard(from: self.blobs)
  }

  /// The stream is over; the upload can be resumed unless it was small.
  package func close(_ upload: OpenUpload, now: Duration) {
    if upload.partial.close(upload.writer, now: now) { self.forget(upload) }
  }

  /// How much of an upload is there; nil if it is not known.
  package func committed(_ key: Key) -> Int64? {
    self.table.withLock { $0[key] }?.committed
  }

  private func forget(_ upload: OpenUpload) {
    self.table.withLock { table in
      if table[upload.key] === upload.partial { table[upload.key] = nil }
    }
  }

  /// Takes out uploads that were left for too long, and the one left longest if there is no room.
  private func makeRoom(_ table: inout [Key: PartialBlob], _ now: Duration) -> [PartialBlob] {
    guard table.count >= self.policy.maximumUploads else { return [] }
    let leaving = self.takeIdle(&table, now)
    guard leaving.isEmpty else { return leaving }
    let idle = table.compactMap { key, partial in partial.idleSince.map { (key, since: $0) } }
    guard let oldest = idle.min(by: { $0.since < $1.since }) else { return [] }
    return table.removeValue(forKey: oldest.0).map { [$0] } ?? []
  }

  /// Takes out uploads that were left for too long.
  private func takeIdle(_ table: inout [Key: PartialBlob], _ now: Duration) -> [PartialBlob] {
    let limit = now - self.policy.uploadIdleTime
    let idle = table.filter { _, partial in partial.idleSince.map { $0 < limit } ?? false }
    for key in idle.keys { table[key] = nil }
    return Array(idle.values)
  }
}

/// One stream's hold on an upload.
package struct OpenUpload: Sendable {
  package let key: UploadStore.Key
  fileprivate let partial: PartialBlob
  fileprivate let writer: Upload.Writer
}

/// The bytes of an upload so far: in memory for a small blob, else in a temporary file.
///
/// `progress` is for looking and never held during I/O; `contents` is held while a chunk is stored,
/// so that two streams of one upload take turns.
private final class PartialBlob: Sendable {
  private struct Contents {
    var file: File?
    var bytes: [UInt8] = []
    var hash = ContentHash()
  }

  private let digest: Digest
  private let isInMemory: Bool
  private let progress: Mutex<Upload>
  private let contents = Mutex(Contents())

  init(_ digest: Digest, inMemory: Int64, now: Duration) {
    self.digest = digest
    self.isInMemory = digest.size <= inMemory
    self.progress = Mutex(Upload(digest, now: now))
  }

  var committed: Int64 { self.progress.withLock { $0.committed } }
  var idleSince: Duration? { self.progress.withLock { $0.idleSince } }

  func open() -> Upload.Writer { self.progress.withLock { $0.writerOpened() } }

  /// True if nothing is kept for another stream.
  func close(_ writer: Upload.Writer, now: Duration) -> Bool {
    self.progress.withLock { upload in
      upload.writerClosed(writer, now: now)
      return self.isInMemory && upload.idleSince != nil
    }
  }

  func receive(
    _ chunk: [UInt8], at offset: Int64, finish: Bool, by writer: Upload.Writer,
    into blobs: BlobStore
  ) throws(UploadStore.Failure) -> UploadStore.Progress {
    let result = self.contents.withLock { contents in
      self.receive(chunk, at: offset, finish: finish, by: writer, into: blobs, &contents)
    }
    return try result.get()
  }

  func discard(from blobs: BlobStore) {
    self.contents.withLock { contents in
      if let file = contents.file { blobs.discard(file) }
      contents = Contents()
    }
  }

  private func receive(
    _ chunk: [UInt8], at offset: Int64, finish: Bool, by writer: Upload.Writer,
    into blobs: BlobStore, _ contents: inout Contents
  ) -> Result<UploadStore.Progress, UploadStore.Failure> {
    let effect: Result<Upload.Effect, Upload.Refusal> = self.progress.withLock { upload in
      Result { () throws(Upload.Refusal) in
        try upload.chunkReceived(by: writer, offset: offset, count: chunk.count, finish: finish)
      }
    }
    do {
      switch try effect.get() {
      case .store(let skipping):
        try self.append(chunk[skipping...], blobs, &contents)
        return .success(.committed(self.committed))
      case .finish(let skipping):
        try self.append(chunk[skipping...], blobs, &contents)
        try self.finish(blobs, &contents)
        return .success(.finished)
      }
    } catch let error as Upload.Refusal {
      return .failure(.refused(error))
    } catch let error as BlobStore.Failure {
      return .failure(.blob(error))
    } catch {
      preconditionFailure("storing a chunk throws a refusal or a store's failure, not \(error)")
    }
  }

  private func append(
    _ bytes: ArraySlice<UInt8>, _ blobs: BlobStore, _ contents: inout Contents
  ) throws(BlobStore.Failure) {
    if self.isInMemory {
      contents.bytes.append(contentsOf: bytes)
    } else if !bytes.isEmpty {
      let file: File
      if let known = contents.file {
        file = known
      } else {
        file = try blobs.begin(self.digest)
        contents.file = file
      }
      do {
        try file.write(bytes, at: self.committed)
      } catch {
        throw blobs.discarded(file, self.digest, error)
      }
      contents.hash.update(bytes)
    }
    self.progress.withLock { $0.stored(bytes.count) }
  }

  private func finish(
    _ blobs: BlobStore, _ contents: inout Contents
  ) throws(BlobStore.Failure) {
    guard !self.isInMemory, let file = contents.file else {
      return try blobs.put(contents.bytes, as: self.digest)
    }
    let actual = contents.hash.digest
    guard actual == self.digest else {
      throw .mismatch(expected: self.digest, actual: actual)
    }
    try blobs.keep(file, as: self.digest)
    contents.file = nil
  }
}
