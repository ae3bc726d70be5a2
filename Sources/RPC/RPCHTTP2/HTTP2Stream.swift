import CNghttp2

/// What happens on one stream, told to whoever owns it. All calls come from within
/// ``HTTP2Session/receive(_:)`` or ``HTTP2Session/nextOutput()``; pointers are valid during the call.
package protocol HTTP2StreamEvents: AnyObject {
  /// A header list begins: the request's or the response's, or the trailers.
  func headersBegan()
  func headerReceived(name: UnsafeBufferPointer<UInt8>, value: UnsafeBufferPointer<UInt8>)
  func headersEnded(endOfStream: Bool)
  /// The header list is larger than the limit; what was told of it is not all.
  func headersTooLarge(bytes: Int, limit: Int)
  /// A part of the body. The owner calls ``HTTP2Session/consume(_:on:)`` once it has room for more.
  func dataReceived(_ bytes: UnsafeRawBufferPointer)
  /// The peer has sent everything.
  func endReceived()
  /// Bytes have left the outbound queue; `remaining` are in it.
  func outboundDrained(remaining: Int)
  /// The last event.
  ///
  /// - Parameter code: RFC 9113, section 7; 0 after an ordinary end.
  func closed(code: UInt32)
}

/// One HTTP/2 stream: its number, its owner, and the bytes that wait to go out on it.
package final class HTTP2Stream {
  /// What comes behind the queued bytes.
  enum Ending {
    /// More bytes may be queued.
    case open
    /// END_STREAM on the last DATA frame.
    case endStream
    /// Trailers, which carry END_STREAM.
    case trailers(HeaderFieldsBox)
    case constantTrailers(ConstantHeaderFields)
    /// All of it has been handed to the session.
    case sent
  }

  /// Keeps a header list that cannot be copied where an enum can hold it.
  final class HeaderFieldsBox {
    let fields: HeaderFields
    init(_ fields: consuming HeaderFields) { self.fields = fields }
  }

  @exclusivity(unchecked) package internal(set) var id: Int32 = -1
  /// The bytes that go out as the peer's window allows.
  @exclusivity(unchecked) package var outbound = ByteQueue()
  package let owner: any HTTP2StreamEvents
  @exclusivity(unchecked) var ending = Ending.open
  /// The data provider has nothing to give and must be resumed.
  @exclusivity(unchecked) var isDeferred = false
  /// The headers that carry the data provider have been submitted.
  var hasProvider = false
  @exclusivity(unchecked) var isClosed = false
  /// Bytes that have left the outbound queue, and how many had at the last look while more waited.
  @exclusivity(unchecked) var drainedBytes = 0
  var drainedAtCheck: Int?
  /// Where the session lists it.
  @exclusivity(unchecked) var slot = -1

  package init(owner: any HTTP2StreamEvents) {
    self.owner = owner
  }
}
