/// What a caller may say of one call.
public struct CallOptions: Sendable {
  /// How long the call may take in all, further attempts included; nil is without bound.
  public var timeout: Duration?
  /// Sent with the request.
  public var metadata: Metadata
  /// Waits for a connection instead of failing with `unavailable` while there is none. Nil: as the
  /// channel's service config says, which is not to wait.
  public var waitForReady: Bool?
  /// The largest request message that is sent; nil is without bound.
  public var maximumRequestBytes: Int?
  /// The largest response message that is accepted, uncompressed; a larger one fails the call with
  /// `resourceExhausted`. Nil: as the channel's service config says, which is
  /// ``defaultMaximumMessageBytes``.
  public var maximumResponseBytes: Int?
  /// How requests are compressed. A server that does not understand it fails the call with
  /// `unimplemented`.
  public var compression: Compression
  /// Whether a call that is made while another is served ends by that one's deadline.
  public var inheritsDeadline: Bool
  /// Filled with what the server sends beside its messages. For calls that return no stream; those
  /// that do tell it themselves. Nil: nobody wants it.
  public var receivedMetadata: ReceivedMetadata?

  /// Options; those that are not named have their defaults.
  public init(
    timeout: Duration? = nil, metadata: Metadata = Metadata(), waitForReady: Bool? = nil,
    maximumRequestBytes: Int? = nil, maximumResponseBytes: Int? = nil,
    compression: Compression = .identity, inheritsDeadline: Bool = true,
    receivedMetadata: ReceivedMetadata? = nil
  ) {
    self.timeout = timeout
    self.metadata = metadata
    self.waitForReady = waitForReady
    self.maximumRequestBytes = maximumRequestBytes
    self.maximumResponseBytes = maximumResponseBytes
    self.compression = compression
    self.inheritsDeadline = inheritsDeadline
    self.receivedMetadata = receivedMetadata
  }

  /// 4 MiB, what every gRPC implementation accepts unless it is told otherwise.
  public static let defaultMaximumMessageBytes = 4 << 20
}
