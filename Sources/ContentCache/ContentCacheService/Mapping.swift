import BuildProtos
import ContentCacheCore
import Domain
import RPC

/// Domain values and errors to those of the protocols, and back.
enum Mapping {
  /// How long a caller should wait when the cache has too much to do at this moment.
  static let busyDelay = Duration.milliseconds(500)
  /// How long a caller should wait for room on a disk that is full: somebody has to make it.
  static let fullDiskDelay = Duration.seconds(30)

  /// The error of a call for anything that the stores throw.
  static func rpcError(_ error: any Error) -> any Error {
    switch error {
    case let error as RPCError: error
    case let error as BlobStore.Failure: self.rpcError(error)
    case let error as UploadStore.Failure: self.rpcError(error)
    case let error as LogStore.Failure: self.rpcError(error)
    case let error as ResourceName.ParseError: RPCError(.invalidArgument, error.description)
    case let error as DigestError: RPCError(.invalidArgument, error.description)
    case let error as LogReader.Refusal: self.rpcError(error)
    case is CancellationError: RPCError(.cancelled, "the call was cancelled")
    default: error
    }
  }

  static func rpcError(_ error: BlobStore.Failure) -> RPCError {
    switch error {
    case .missing: RPCError(.notFound, error.description)
    case .mismatch: RPCError(.invalidArgument, error.description)
    case .outOfSpace:
      RPCError(.resourceExhausted, error.description, retryDelay: self.fullDiskDelay)
    case .file: RPCError(.internalError, error.description)
    }
  }

  static func rpcError(_ error: UploadStore.Failure) -> RPCError {
    switch error {
    case .tooMany: RPCError(.resourceExhausted, error.description, retryDelay: self.busyDelay)
    case .refused(.superseded): RPCError(.aborted, error.description)
    case .refused: RPCError(.invalidArgument, error.description)
    case .blob(let failure): self.rpcError(failure)
    }
  }

  static func rpcError(_ error: LogStore.Failure) -> RPCError {
    switch error {
    case .name: RPCError(.invalidArgument, error.description)
    case .tooManyLogs, .tooManyCallers:
      RPCError(.resourceExhausted, error.description, retryDelay: self.busyDelay)
    case .refused(.negativeOffset), .refused(.tooLong):
      RPCError(.invalidArgument, error.description)
    case .refused(.gap): RPCError(.outOfRange, error.description)
    case .refused(.sealed): RPCError(.failedPrecondition, error.description)
    case .blob(let failure): self.rpcError(failure)
    case .outOfSpace:
      RPCError(.resourceExhausted, error.description, retryDelay: self.fullDiskDelay)
    case .file: RPCError(.internalError, error.description)
    case .damaged: RPCError(.dataLoss, error.description)
    case .draining: RPCError(.unavailable, error.description)
    }
  }

  static func rpcError(_ error: LogReader.Refusal) -> RPCError {
    switch error {
    case .absent: RPCError(.notFound, error.description)
    case .beyondEnd: RPCError(.outOfRange, error.description)
    case .negative: RPCError(.invalidArgument, error.description)
    }
  }

  /// A digest from a message, where one must be.
  static func digest(
    _ digest: RemoteExecutionV2.Digest?, _ policy: Policy
  ) throws(DigestError) -> Digest {
    try Digest(checking: digest?.hash ?? "", size: digest?.sizeBytes ?? 0, policy: policy)
  }

  static func proto(_ digest: Digest) -> RemoteExecutionV2.Digest {
    RemoteExecutionV2.Digest(hash: digest.hash, sizeBytes: digest.size)
  }

  static func blobDigest(_ digest: Digest) -> TypesV1.BlobDigest {
    TypesV1.BlobDigest(hash: digest.hash, sizeBytes: digest.size)
  }

  /// One blob's status in an answer about many.
  static func status(_ error: any Error) -> GoogleRPC.Status {
    let error =
      self.rpcError(error) as? RPCError ?? RPCError(.unknown, String(describing: error))
    return GoogleRPC.Status(code: Int32(error.code.rawValue), message: error.message)
  }

  /// Only SHA-256 is spoken here.
  static func check(_ function: RemoteExecutionV2.DigestFunction.Value) throws(RPCError) {
    switch function {
    case .unknown, .sha256: return
    default:
      throw RPCError(
        .invalidArgument, "digest function \(function) is not supported: only SHA256 is")
    }
  }
}
