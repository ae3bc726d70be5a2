import RPCCore

/// What happens on a connection as a whole.
package protocol HTTP2SessionDelegate: AnyObject {
  /// A request begins: makes its stream, or refuses it by nil (REFUSED_STREAM).
  func streamBegan() -> HTTP2Stream?
  /// The peer's SETTINGS came.
  func settingsReceived()
  /// The peer will take no stream after `lastStreamID`.
  ///
  /// - Parameter text: What the peer says for people; it may hold anything.
  func goAwayReceived(lastStreamID: Int32, code: UInt32, text: String)
  /// We end the connection for an error, of which the peer has been told.
  ///
  /// - Parameter text: What nghttp2 says was wrong; may be empty.
  func goAwaySent(code: UInt32, text: String)
  /// The peer asks whether we live; it is answered without the delegate.
  func pingReceived()
  /// A ping of ours was answered.
  func pingAcknowledged(_ purpose: HTTP2Session.Ping)
  /// A client's connection can begin no further stream: RFC 9113, section 5.1.1.
  func streamNumbersRanOut()
  /// The peer did something too often; the connection is to be ended with `ENHANCE_YOUR_CALM`.
  func peerWentTooFar(_ what: String)
}

extension HTTP2SessionDelegate {
  package func goAwaySent(code: UInt32, text: String) {}
}

extension HTTP2Session {
  package struct Configuration: Sendable {
    /// How many streams the peer may have open (SETTINGS_MAX_CONCURRENT_STREAMS).
    package var maximumConcurrentStreams: UInt32 = 1_000
    /// How much of a stream's body the peer may send before it is read, in the beginning.
    package var streamWindow: Int32 = 1 << 16
    /// What that grows to on a connection that needs it.
    package var maximumStreamWindow: Int32 = 8 << 20
    /// The same for the connection; large, since streams are bounded one by one.
    package var connectionWindow: Int32 = 1 << 26
    /// The largest header list that is accepted (SETTINGS_MAX_HEADER_LIST_SIZE).
    package var maximumHeaderListBytes: UInt32 = 64 << 10
    /// Frames of one header list behind its first (CVE-2024-28182).
    package var maximumContinuationFrames = 8
    /// Resets that the peer may send (CVE-2023-44487).
    package var receivedResets = TokenBucket.Limit(burst: 1_000, perSecond: 200)
    /// Resets that the peer may make us send (CVE-2025-8671).
    package var provokedResets = TokenBucket.Limit(burst: 200, perSecond: 20)
    /// Frames that carry nothing: PING, SETTINGS, PRIORITY, empty DATA, unknown types, and DATA that
    /// the peer's windows cut to a few bytes. Each frame that does carry something makes up for one.
    package var emptyFrames = TokenBucket.Limit(burst: 1_000, perSecond: 100)
    /// WINDOW_UPDATE frames, beside two for each DATA frame that we send.
    package var windowUpdates = TokenBucket.Limit(burst: 10_000, perSecond: 10_000)
    /// Frames other than DATA that may wait for such a peer, beside two for each stream.
    package var maximumQueuedFrames = 10_000

    package init() {}
  }
}
