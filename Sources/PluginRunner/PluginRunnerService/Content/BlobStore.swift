import BuildProtos
import Crypto
import Domain
import Glibc
import NIOPosix
import RPC

/// Files to and from the content-cache, by their digest.
struct BlobStore {
  /// A blob up to this size goes in one message.
  static let maximumBatchBytes: Int64 = 1 << 20
  /// Bytes in one message of a stream.
  static let chunkBytes = 256 << 10
  /// Tries of one transfer, and the wait before the second, which doubles: a cache that restarts
  /// is back within it.
  static let maximumTries = 6
  static let firstBackoff = Duration.milliseconds(100)

  let content: RemoteExecutionV2.ContentAddressableStorageClient
  let streams: ByteStreamV1.ByteStreamClient

  init(_ channel: RPCChannel) {
    self.content = RemoteExecutionV2.ContentAddressableStorageClient(channel)
    self.streams = ByteStreamV1.ByteStreamClient(channel)
  }

  /// What went wrong with a file; the transport's errors come as they are.
  struct TransferError: Error, CustomStringConvertible {
    var description: String
  }

  // MARK: Upload

  /// Uploads a file, unless it is there already.
  func upload(_ path: String) async throws -> Domain.Digest {
    let digest = try await Self.digest(of: path)
    try await self.retrying {
      let wanted = RemoteExecutionV2.Digest(hash: digest.hash, sizeBytes: digest.size)
      let missing = try await self.content.findMissingBlobs(
        RemoteExecutionV2.FindMissingBlobsRequest(blobDigests: [wanted]))
      guard !missing.missingBlobDigests.isEmpty else { return }
      if digest.size <= Self.maximumBatchBytes {
        try await self.uploadWhole(path, wanted)
      } else {
        try await self.uploadStream(path, digest)
      }
    }
    return digest
  }

  private func uploadWhole(_ path: String, _ digest: RemoteExecutionV2.Digest) async throws {
    let data = try await blocking { () throws(SystemError) -> [UInt8] in
      try FileReader(path).next(Int(Self.maximumBatchBytes) + 1)
    }
    let answer = try await self.content.batchUpdateBlobs(
      RemoteExecutionV2.BatchUpdateBlobsRequest(requests: [
        RemoteExecutionV2.BatchUpdateBlobsRequest.Request(digest: digest, data: data)
      ]))
    if let status = answer.responses.first?.status, status.code != 0 {
      throw RPCError(
        StatusCode(rawValue: Int(status.code)) ?? .unknown, "\(path): \(status.message)")
    }
  }

  private func uploadStream(_ path: String, _ digest: Domain.Digest) async throws {
    let file = try await blocking { () throws(SystemError) -> FileReader in try FileReader(path) }
    let unique = String(UInt64.random(in: .min ... .max), radix: 16)
    let name = "uploads/\(unique)/blobs/\(digest)"
    let call = try await self.streams.write()
    var offset: Int64 = 0
    repeat {
      let data = try await blocking { () throws(SystemError) -> [UInt8] in
        try file.next(Self.chunkBytes)
      }
      if data.isEmpty && offset < digest.size {
        call.cancel()
        throw TransferError(description: "\(path) became shorter while it was uploaded")
      }
      let end = offset + Int64(data.count)
      do {
        try await call.send(
          ByteStreamV1.WriteRequest(
            resourceName: offset == 0 ? name : "", writeOffset: offset,
            finishWrite: end >= digest.size, data: data))
      } catch let error as RPCError where error.code == .cancelled || error.code == .ok {
        break  // The cache had the blob already and ended the call early.
      }
      offset = end
    } while offset < digest.size
    let answer = try await call.finish()
    guard answer.committedSize == digest.size else {
      throw TransferError(
        description: "\(path): the cache took \(answer.committedSize) of \(digest.size) bytes")
    }
  }

  /// SHA-256 and size of a file.
  static func digest(of path: String) async throws -> Domain.Digest {
    let file = try await blocking { () throws(SystemError) -> FileReader in try FileReader(path) }
    var hash = SHA256()
    var size: Int64 = 0
    while true {
      // Between two reads a step can be ended; a file may be of many gigabytes.
      try Task.checkCancellation()
      let data = try await blocking { () throws(SystemError) -> [UInt8] in try file.next(1 << 20) }
      if data.isEmpty { break }
      hash.update(data: data)
      size += Int64(data.count)
    }
    return Domain.Digest(hash: hexadecimal(hash.finalize()), size: size)
  }

  // MARK: Download

  /// Downloads a blob to a file, and checks that it is the one that was asked for.
  func download(_ digest: Domain.Digest, to path: String) async throws {
    try await self.retrying {
      let file = try await blocking { () throws(SystemError) -> Descriptor in
        try Descriptor.open(path, O_WRONLY | O_CREAT | O_TRUNC)
      }
      var hash = SHA256()
      var size: Int64 = 0
      let request = ByteStreamV1.ReadRequest(resourceName: "blobs/\(digest)")
      for try await part in try await self.streams.read(request) {
        size += Int64(part.data.count)
        guard size <= digest.size else { break }
        hash.update(data: part.data)
        try await blocking { () throws(SystemError) in
          try writeAll(part.data, to: file, path: path)
        }
      }
      let found = Domain.Digest(hash: hexadecimal(hash.finalize()), size: size)
      guard found == digest else {
        throw TransferError(description: "the cache answered \(found) for the blob \(digest)")
      }
    }
  }

  // MARK: Tries

  private func retrying(_ transfer: () async throws -> Void) async throws {
    var backoff = Self.firstBackoff
    for attempt in 1... {
      do {
        return try await transfer()
      } catch let error as RPCError where attempt < Self.maximumTries && error.isTransient {
        // A disk that is full asks for more patience than there is: what is in the way may be the
        // workspace that the file is in.
        let asked = error.isOutOfSpace ? .zero : error.retryDelay ?? .zero
        try await Task.sleep(for: max(backoff, asked))
        backoff = backoff * 2
      }
    }
  }
}

extension RPCError {
  /// The same call may succeed later.
  var isTransient: Bool {
    switch self.code {
    case .unavailable, .deadlineExceeded, .resourceExhausted, .aborted, .internalError, .unknown:
      true
    default: false
    }
  }

  /// The content-cache's disk is full. Too many calls at once have the same code, but are over soon:
  /// those who are to wait for that are told so.
  var isOutOfSpace: Bool {
    guard self.code == .resourceExhausted else { return false }
    return self.retryDelay.map { $0 > LogAppender.fullLimit } ?? true
  }
}

/// A file that is read from front to back.
private struct FileReader: Sendable {
  private let file: Descriptor
  private let path: String

  init(_ path: String) throws(SystemError) {
    self.path = path
    self.file = try Descriptor.open(path, O_RDONLY)
  }

  /// At most `count` bytes; none at the end.
  func next(_ count: Int) throws(SystemError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    var done = 0
    while done < count {
      let got = bytes.withUnsafeMutableBytes {
        read(self.file.raw, $0.baseAddress! + done, $0.count - done)
      }
      if got < 0 && errno == EINTR { continue }
      if got < 0 { throw SystemError("read", self.path) }
      if got == 0 { break }
      done += got
    }
    bytes.removeLast(count - done)
    return bytes
  }
}

func hexadecimal(_ bytes: some Sequence<UInt8>) -> String {
  let digits = Array("0123456789abcdef".utf8)
  var text: [UInt8] = []
  for byte in bytes {
    text.append(digits[Int(byte >> 4)])
    text.append(digits[Int(byte & 15)])
  }
  return String(decoding: text, as: UTF8.self)
}

/// Runs what blocks on a thread that may. It runs to its end even if the task is cancelled: what
/// cleans up must not be skipped.
func blocking<Value: Sendable>(
  _ body: @escaping @Sendable () throws(SystemError) -> Value
) async throws -> Value {
  try await withCheckedThrowingContinuation { continuation in
    NIOThreadPool.singleton.submit { state in
      switch state {
      case .active: continuation.resume(with: Result { try body() })
      case .cancelled: continuation.resume(throwing: CancellationError())
      }
    }
  }
}
