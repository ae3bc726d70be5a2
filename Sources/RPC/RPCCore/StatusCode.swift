/// How a call ended, by gRPC's numbering.
///
/// See "Status codes and their use in gRPC", `doc/statuscodes.md` of the gRPC project.
public enum StatusCode: Int, Sendable, Hashable, CaseIterable {
  /// No error.
  case ok = 0
  /// The caller cancelled the call, or left.
  case cancelled = 1
  /// An error that its maker gave no status.
  case unknown = 2
  /// The request is wrong, whatever the state of the service.
  case invalidArgument = 3
  /// The deadline passed before the call ended; what it was to do may have been done.
  case deadlineExceeded = 4
  /// What was asked for is not there.
  case notFound = 5
  /// What was to be made is there already.
  case alreadyExists = 6
  /// The caller is known and may not do this.
  case permissionDenied = 7
  /// A quota, a limit or some space is used up.
  case resourceExhausted = 8
  /// The service is not in a state for this; to try again helps only once that has changed.
  case failedPrecondition = 9
  /// A conflict, as of transactions: try the whole again, from reading on.
  case aborted = 10
  /// Beyond what there is, as a read past the end.
  case outOfRange = 11
  /// The method is not there, or not supported.
  case unimplemented = 12
  /// Something that must never happen did; also: the peer broke the protocol.
  case internalError = 13
  /// The service cannot be reached or is overloaded: to try again, after a while, may help.
  case unavailable = 14
  /// Data is lost or damaged for good.
  case dataLoss = 15
  /// The caller has not proved who it is.
  case unauthenticated = 16
}

extension StatusCode: CustomStringConvertible {
  /// The name that gRPC's documents use, for example `DEADLINE_EXCEEDED`.
  public var description: String {
    switch self {
    case .ok: "OK"
    case .cancelled: "CANCELLED"
    case .unknown: "UNKNOWN"
    case .invalidArgument: "INVALID_ARGUMENT"
    case .deadlineExceeded: "DEADLINE_EXCEEDED"
    case .notFound: "NOT_FOUND"
    case .alreadyExists: "ALREADY_EXISTS"
    case .permissionDenied: "PERMISSION_DENIED"
    case .resourceExhausted: "RESOURCE_EXHAUSTED"
    case .failedPrecondition: "FAILED_PRECONDITION"
    case .aborted: "ABORTED"
    case .outOfRange: "OUT_OF_RANGE"
    case .unimplemented: "UNIMPLEMENTED"
    case .internalError: "INTERNAL"
    case .unavailable: "UNAVAILABLE"
    case .dataLoss: "DATA_LOSS"
    case .unauthenticated: "UNAUTHENTICATED"
    }
  }

  /// The status of a response that carried HTTP's status but none of gRPC's.
  ///
  /// See `doc/http-grpc-status-mapping.md` of the gRPC project.
  package init(httpStatus: Int) {
    switch httpStatus {
    case 400: self = .internalError
    case 401: self = .unauthenticated
    case 403: self = .permissionDenied
    case 404: self = .unimplemented
    case 429, 502, 503, 504: self = .unavailable
    default: self = .unknown
    }
  }

  /// The status of a stream that the peer reset.
  ///
  /// See "HTTP2 Transport Mapping, Errors" in `doc/PROTOCOL-HTTP2.md` of the gRPC project.
  package init(resetCode: UInt32) {
    switch resetCode {
    case 0x7: self = .unavailable  // REFUSED_STREAM
    case 0x8: self = .cancelled  // CANCEL
    case 0xb: self = .resourceExhausted  // ENHANCE_YOUR_CALM
    case 0xc: self = .permissionDenied  // INADEQUATE_SECURITY
    default: self = .internalError
    }
  }
}
