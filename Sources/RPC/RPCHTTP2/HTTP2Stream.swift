import CNghttp2
import RPCCore

/// One HTTP/2 stream: its number, the bytes that wait to go out on it, and what happens on it.
///
/// Whose stream it is says what the events mean, by overriding them. All of them come from within
/// ``HTTP2Session/receive(_:)`` or ``HTTP2Session/produce(into:)``; pointers are valid during the call.
/// Confined to the event loop of its session.
open class HTTP2Stream {
  /// What comes behind the queued bytes.
  enum Ending {
    /// More bytes may be queued.
    case open
    /// END_STREAM on the last DATA frame.
    case endStream
    /// Trailers, which carry END_STREAM.
    case trailers(HeaderFieldsBox)
    case constantTrailers(UnsafeMutablePointer<nghttp2_nv>, Int)
    /// All of it has been handed to the session.
    case sent

    /// What ends the stream waits behind the queued bytes.
    var isWaiting: Bool {
      switch self {
      case .open, .sent: false
      case .endStream, .trailers, .constantTrailers: true
      }
    }
  }

  /// Keeps a header list that cannot be copied where an enum can hold it.
  final class HeaderFieldsBox {
    let fields: HeaderFields
    init(_ fields: consuming HeaderFields) { self.fields = fields }
  }

  @exclusivity(unchecked) package internal(set) final var id: Int32 = -1
  /// The bytes that go out as the peer's window allows.
  @exclusivity(unchecked) package final var outbound = BodyQueue()
  /// Nothing of that is offered to the peer yet.
  @exclusivity(unchecked) package final var outboundIsHeld = false
  @exclusivity(unchecked) final var ending = Ending.open
  /// The data provider has nothing to give and must be resumed.
  @exclusivity(unchecked) final var isDeferred = false
  /// Its body goes on when others have had their turn.
  @exclusivity(unchecked) final var waitsForTurn = false
  /// It is over; nothing on it has an effect any more.
  package final var isClosed: Bool { self.isOver }
  @exclusivity(unchecked) final var isOver = false
  /// Headers of a request that waits for its turn.
  final var waitingRequest: HeaderFieldsBox?
  /// A request's headers have gone out.
  @exclusivity(unchecked) package internal(set) final var hasLeft = false
  /// The peer has reset it.
  @exclusivity(unchecked) package internal(set) final var wasResetByPeer = false
  /// What the peer did wrong on it, for which nghttp2 resets it.
  @exclusivity(unchecked) package internal(set) final var fault: String?
  /// A part of the body has gone out.
  package final var hasSentBytes: Bool { self.drainedBytes > 0 }
  /// Our side has ended.
  package final var hasEnded: Bool { if case .sent = self.ending { true } else { false } }
  /// Bytes that have left the outbound queue, and how many had at the last look while more waited
  /// and room was short.
  @exclusivity(unchecked) final var drainedBytes = 0
  final var drainedAtCheck: Int?
  /// Bytes that the owner has consumed and the peer has not been told of.
  @exclusivity(unchecked) final var consumedBytes = 0
  /// Bytes for which the window was opened before they came.
  @exclusivity(unchecked) final var prepaidBytes = 0
  /// What the request says, and how many bytes of its body have come.
  @exclusivity(unchecked) final var request = RequestRules.Request()
  @exclusivity(unchecked) final var bodyBytes = 0
  /// Whether ``knowsHeaders()`` was said of the list that has just ended.
  @exclusivity(unchecked) final var headersAreKnown = false
  /// Where the session lists it.
  @exclusivity(unchecked) final var slot = -1

  public init() {}

  /// Makes a stream that is over one that has not begun, with the memory that it has.
  package final func renew() {
    self.id = -1
    self.outbound.clear()
    self.ending = .open
    self.isDeferred = false
    self.isOver = false
    self.hasLeft = false
    self.wasResetByPeer = false
    self.fault = nil
    self.drainedBytes = 0
    self.drainedAtCheck = nil
    self.consumedBytes = 0
    self.prepaidBytes = 0
    self.request = RequestRules.Request()
    self.bodyBytes = 0
    self.slot = -1
  }

  /// So much more of the body has come; false: it is more than there is.
  final func mayHaveBody(_ count: Int) -> Bool {
    self.bodyBytes += count
    return self.request.contentLength.map { self.bodyBytes <= $0 } ?? true
  }

  /// What has come is what was to come.
  final var hasWholeBody: Bool {
    self.request.contentLength.map { $0 == self.bodyBytes } ?? true
  }

  // What the owner, a module away, does and asks all the time. Straight at what is stored, each of these
  // and ``isClosed`` would ask the runtime whether somebody else is at it.

  package final var outboundCount: Int { self.outbound.count }
  package final func reserveOutboundBytes(_ count: Int) -> UnsafeMutableRawPointer {
    self.outbound.reserve(count)
  }
  package final func appendOutboundBytes(_ bytes: UnsafeRawBufferPointer) {
    self.outbound.append(bytes)
  }
  package final func appendOutboundBytes(_ array: [UInt8]) { self.outbound.append(array) }
  package final func clearOutbound() {
    self.outbound.clear()
    self.outboundIsHeld = false
  }
  /// Said in ``headersEnded(endOfStream:)``: ``headersAreAsBefore()`` is enough should they come again.
  package final func knowsHeaders() { self.headersAreKnown = true }

  /// A header list begins: the request's or the response's, or the trailers.
  open func headersBegan() {}
  open func headerReceived(
    name: UnsafeBufferPointer<UInt8>, value: UnsafeBufferPointer<UInt8>
  ) {}
  /// The list that ends next is the last one on this connection of which ``knowsHeaders()`` was said. Of its
  /// fields only `grpc-timeout` was told.
  open func headersAreAsBefore() {}
  open func headersEnded(endOfStream: Bool) {}
  /// The header list is larger than the limit; what was told of it is not all.
  open func headersTooLarge(bytes: Int, limit: Int) {}
  /// A part of the body. The owner calls ``HTTP2Session/consume(_:on:)`` once it has room for more.
  open func dataReceived(_ bytes: UnsafeRawBufferPointer) {}
  /// The peer has sent everything.
  open func endReceived() {}
  /// From time to time: true if the peer has sent less than `minimum` since the last time of what it
  /// owes; then the stream has ended itself.
  open func endsForSilence(minimum: Int) -> Bool { false }
  /// Bytes have left the outbound queue; `remaining` are in it.
  open func outboundDrained(remaining: Int) {}
  /// The last event.
  ///
  /// - Parameter code: RFC 9113, section 7; 0 after an ordinary end.
  open func closed(code: UInt32) {}
}
