/// What a caller may say of one call.
public struct CallOptions: Sendable {
  /// How long the call may take in all; nil is without bound.
  public var timeout: Duration?
  /// Sent with the request.
  public var metadata: Metadata
  /// Waits for a connection instead of failing with `unavailable` while there is none.
  public var waitForReady: Bool
  /// The largest response message that is accepted; a larger one fails the call with
  /// `resourceExhausted`.
  public var maximumResponseBytes: Int

  public init(
    timeout: Duration? = nil, metadata: Metadata = Metadata(), waitForReady: Bool = false,
    maximumResponseBytes: Int = CallOptions.defaultMaximumMessageBytes
  ) {
    self.timeout = timeout
    self.metadata = metadata
    self.waitForReady = waitForReady
    self.maximumResponseBytes = maximumResponseBytes
  }

  /// 4 MiB, what every gRPC implementation accepts unless it is told otherwise.
  public static let defaultMaximumMessageBytes = 4 << 20
}
