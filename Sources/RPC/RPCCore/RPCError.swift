/// A call that failed: the status that travels in its trailers.
///
/// Thrown by a handler it becomes the call's status; a client's call throws the one it received,
/// or one that its own side made (a deadline that passed, a connection that could not be had).
public struct RPCError: Error, Sendable, Hashable {
  /// Never `ok`, which is taken for `unknown`.
  public var code: StatusCode {
    didSet { if self.code == .ok { self.code = .unknown } }
  }
  /// For people: what went wrong, naming the thing and the value.
  public var message: String
  /// Further trailing metadata.
  public var metadata: Metadata

  /// Makes an error.
  ///
  /// - Parameters:
  ///   - code: Why the call failed; `ok` is taken for `unknown`.
  ///   - message: For people.
  ///   - metadata: Further trailing metadata.
  ///   - retryDelay: How long the caller should wait before it tries again, sent as
  ///     `grpc-retry-pushback-ms`.
  public init(
    _ code: StatusCode, _ message: String, metadata: Metadata = Metadata(),
    retryDelay: Duration? = nil
  ) {
    self.code = code == .ok ? .unknown : code
    self.message = message
    self.metadata = metadata
    if let retryDelay {
      self.retryDelay = retryDelay
    }
  }

  /// How long the caller should wait before it tries again: from zero to a year, in milliseconds.
  /// What a server sends beyond that is taken for a year. Nil: it says nothing, or something that is no
  /// such number, which asks that the call be made no more.
  public var retryDelay: Duration? {
    get {
      guard let text = self.metadata["grpc-retry-pushback-ms"], !text.isEmpty,
        text.utf8.allSatisfy({ (0x30...0x39).contains($0) })
      else { return nil }
      // Digits that are no `Int64` are more than any.
      guard let count = Int64(text) else { return Self.longestRetryDelay }
      return min(.milliseconds(count), Self.longestRetryDelay)
    }
    set {
      self.metadata.removeAll(for: "grpc-retry-pushback-ms")
      if let newValue {
        let (seconds, attoseconds) = min(max(newValue, .zero), Self.longestRetryDelay).components
        let milliseconds = seconds * 1_000 + attoseconds / 1_000_000_000_000_000
        self.metadata.add(String(milliseconds), for: "grpc-retry-pushback-ms")
      }
    }
  }

  /// No server means more than a year, and no number overflows.
  private static let longestRetryDelay = Duration.seconds(31_536_000)

  /// An encoded `google.rpc.Status` with details for programs.
  public var statusDetails: [UInt8]? {
    get { self.metadata.binary(for: "grpc-status-details-bin") }
    set {
      self.metadata.removeAll(for: "grpc-status-details-bin")
      if let newValue {
        self.metadata.add(binary: newValue, for: "grpc-status-details-bin")
      }
    }
  }
}

extension RPCError: CustomStringConvertible {
  /// For example `NOT_FOUND: there is no build 7`.
  public var description: String { "\(self.code): \(self.message)" }
}
