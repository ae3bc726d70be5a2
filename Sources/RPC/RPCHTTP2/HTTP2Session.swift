import CNghttp2
import RPCCore

/// HTTP/2 framing, header compression and flow control on memory: bytes in, events and bytes out.
///
/// Feed it with ``receive(_:)``, collect what it wants to send with ``produce(into:)``, and end the
/// connection when ``isOver`` or when either throws. Not safe for use from several threads: one
/// event loop owns it. The only code that speaks to libnghttp2.
package final class HTTP2Session {
  package enum Role { case client, server }

  /// Why a connection cannot go on.
  package struct Failure: Error, Sendable, Hashable, CustomStringConvertible {
    package let description: String
    /// nghttp2 has had enough of the peer's frames.
    package let isFlood: Bool

    init(_ code: some BinaryInteger, during what: StaticString) {
      self.description = "\(what): \(String(cString: nghttp2_strerror(Int32(code))))"
      self.isFlood = [NGHTTP2_ERR_FLOODED, NGHTTP2_ERR_TOO_MANY_CONTINUATIONS]
        .contains { $0.rawValue == code }
    }
  }

  let session: OpaquePointer
  private let memory = SessionMemory()
  let role: Role
  let maximumHeaderListBytes: Int
  unowned(unsafe) let delegate: any HTTP2SessionDelegate
  @exclusivity(unchecked) var streams: [HTTP2Stream] = []
  /// The stream that was asked for last: frames, and header fields more so, come in runs.
  @exclusivity(unchecked) private var last: Unmanaged<HTTP2Stream>?
  @exclusivity(unchecked) private var lastID: Int32 = 0
  @exclusivity(unchecked) var headerListBytes = 0
  @exclusivity(unchecked) var headerMemory = HeaderMemory()
  /// A server's, for the list that comes.
  @exclusivity(unchecked) var requestRules = RequestRules()
  @exclusivity(unchecked) var receivedResets: TokenBucket
  @exclusivity(unchecked) var provokedResets: TokenBucket
  @exclusivity(unchecked) var emptyFrames: TokenBucket
  @exclusivity(unchecked) var windowUpdates: TokenBucket
  /// WINDOW_UPDATE frames that the peer owes us for what we have sent.
  @exclusivity(unchecked) var earnedWindowUpdates = 0
  @exclusivity(unchecked) var windows: WindowEstimator
  @exclusivity(unchecked) private var waitingRequests = RequestQueue()
  /// The peer takes no more requests, or is gone.
  private var isLeaving = false
  private let maximumQueuedFrames: Int
  let maximumConcurrentStreams: Int
  private let maximumStreamWindow: Int
  /// Less is consumed without a look at whether it is half a window, of which it is a part.
  private let consumptionStep: Int
  /// Bytes for which the connection's window is opened at the end of the read.
  @exclusivity(unchecked) var consumedBytes = 0
  /// The peer knows our SETTINGS.
  var isAcknowledged = false
  @exclusivity(unchecked) var output = Output()
  /// The stream whose header list has begun and not ended.
  @exclusivity(unchecked) var openHeaders: Int32?
  /// HEADERS and DATA that have gone out.
  @exclusivity(unchecked) package internal(set) var callFramesSent = 0
  /// Of all bodies, and how much it was at the last look for those that stall.
  @exclusivity(unchecked) var bodyBytesSent = 0
  private var bodyBytesAtCheck = 0
  /// Of the DATA frame that comes, without its padding.
  @exclusivity(unchecked) var frameBytes = 0
  /// Header lists that have begun.
  @exclusivity(unchecked) package internal(set) var headerLists = 0
  var hasGoneTooFar = false

  /// - Parameter delegate: Outlives the session.
  package init(
    _ role: Role, configuration: Configuration, delegate: any HTTP2SessionDelegate
  ) {
    self.role = role
    self.delegate = delegate
    self.maximumHeaderListBytes = Int(configuration.maximumHeaderListBytes)
    self.receivedResets = TokenBucket(configuration.receivedResets)
    self.provokedResets = TokenBucket(configuration.provokedResets)
    self.emptyFrames = TokenBucket(configuration.emptyFrames)
    self.windowUpdates = TokenBucket(configuration.windowUpdates)
    self.maximumQueuedFrames =
      configuration.maximumQueuedFrames + 2 * Int(configuration.maximumConcurrentStreams)
    self.maximumConcurrentStreams = Int(configuration.maximumConcurrentStreams)
    self.maximumStreamWindow = Int(configuration.maximumStreamWindow)
    self.consumptionStep = min(4 << 10, Int(configuration.streamWindow) / 8)
    self.windows = WindowEstimator(
      window: Int(configuration.streamWindow), maximum: Int(configuration.maximumStreamWindow))
    var options: OpaquePointer?
    Self.check(nghttp2_option_new(&options))
    defer { nghttp2_option_del(options) }
    // Back-pressure: the window opens as the application reads, by `consume`.
    nghttp2_option_set_no_auto_window_update(options, 1)
    // Ours comes first: nghttp2's goes on to take streams behind the GOAWAY that it queues.
    nghttp2_option_set_stream_reset_rate_limit(options, 1 << 32, 1 << 32)
    nghttp2_option_set_max_continuations(options, configuration.maximumContinuationFrames)
    // `emptyFrames` and `maximumQueuedFrames` come first, and say so by the right code.
    nghttp2_option_set_max_outbound_ack(options, .max)
    nghttp2_option_set_no_closed_streams(options, 1)
    // nghttp2 says nothing of frames whose type it does not know unless it is told to.
    for type in Self.firstUnknownType...UInt8.max {
      nghttp2_option_set_user_recv_extension_type(options, type)
    }
    var session: OpaquePointer?
    var settings = [
      nghttp2_settings_entry(
        settings_id: Int32(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE.rawValue),
        value: UInt32(configuration.streamWindow)),
      nghttp2_settings_entry(
        settings_id: Int32(NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE.rawValue),
        value: configuration.maximumHeaderListBytes),
    ]
    switch role {
    case .server:
      // ``RequestRules`` says which are malformed instead, once for each list that is another.
      nghttp2_option_set_no_http_messaging(options, 1)
      let made = self.memory.withFunctions {
        nghttp2_session_server_new3(&session, HTTP2Callbacks.server.pointer, nil, options, $0)
      }
      Self.check(made)
      // The last one: ``tellStreamLimit(in:count:)``.
      settings.append(
        nghttp2_settings_entry(
          settings_id: Int32(NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS.rawValue),
          value: UInt32(
            clamping: Int(configuration.maximumConcurrentStreams) + Self.streamsBeyondTheLimit)))
    case .client:
      let made = self.memory.withFunctions {
        nghttp2_session_client_new3(&session, HTTP2Callbacks.client.pointer, nil, options, $0)
      }
      Self.check(made)
      settings.append(
        nghttp2_settings_entry(
          settings_id: Int32(NGHTTP2_SETTINGS_ENABLE_PUSH.rawValue), value: 0))
    }
    self.session = session!
    nghttp2_session_set_user_data(self.session, Unmanaged.passUnretained(self).toOpaque())
    Self.check(
      nghttp2_submit_settings(
        self.session, UInt8(NGHTTP2_FLAG_NONE.rawValue), settings, settings.count))
    Self.check(
      nghttp2_session_set_local_window_size(
        self.session, UInt8(NGHTTP2_FLAG_NONE.rawValue), 0, configuration.connectionWindow))
  }

  deinit {
    self.headerMemory.clear()
    nghttp2_session_del(self.session)
  }

  // MARK: - Bytes

  /// Takes bytes from the peer.
  package func receive(_ bytes: UnsafeRawBufferPointer) throws(Failure) {
    let count = nghttp2_session_mem_recv(
      self.session, bytes.baseAddress?.assumingMemoryBound(to: UInt8.self), bytes.count)
    guard count >= 0 else { throw Failure(count, during: "receiving") }
    if self.consumedBytes > 0 {
      nghttp2_session_consume_connection(self.session, self.consumedBytes)
      self.consumedBytes = 0
    }
    let queued = nghttp2_session_get_outbound_queue_size(self.session)
    if queued > self.maximumQueuedFrames {
      self.wentTooFar("\(queued) frames wait for it, and it does not read")
    }
  }

  /// Gives back memory that only traffic needs.
  package func trim() {
    if self.openHeaders == nil { self.headerMemory.clear() }
    self.memory.trim()
  }

  /// The header list that has come is remembered, if its stream says ``HTTP2Stream/knowsHeaders()``.
  package var remembersHeaders: Bool { self.headerMemory.isRecording }

  /// Neither side has anything left to say: the connection is to be closed.
  package var isOver: Bool {
    nghttp2_session_want_read(self.session) == 0 && nghttp2_session_want_write(self.session) == 0
  }

  package var openStreams: Int { self.streams.count }

  /// A header list has begun and not ended.
  package var isInHeaders: Bool { self.openHeaders != nil }

  /// Ends every stream that is open, for a connection that is gone.
  package func abandonStreams(code: UInt32) {
    self.isLeaving = true
    while let stream = self.streams.last {
      self.close(stream, code: code)
    }
  }

  /// Ends the requests that have not gone out, for a peer that takes no more.
  package func refuseUnsentRequests() {
    self.isLeaving = true
    for stream in self.streams.filter({ !$0.hasLeft }) {
      self.close(stream, code: NGHTTP2_REFUSED_STREAM.rawValue)
    }
  }

  // MARK: - Streams

  /// Sends a request's headers, now or when the peer allows one more stream; the body follows from the
  /// stream's outbound queue.
  package func submitRequest(_ fields: consuming HeaderFields, on stream: HTTP2Stream) {
    let waits = self.isFull && !self.isLeaving
    self.list(stream)
    if waits {
      self.waitingRequests.append(fields, of: stream)
    } else {
      self.begin(stream, fields)
    }
  }

  /// Another request would wait for the peer to allow more streams.
  package var isFull: Bool { self.openStreams >= self.remoteStreamLimit }

  /// Requests that wait for that.
  package var queuedStreams: Int { self.waitingRequests.count }

  private var remoteStreamLimit: Int {
    Int(
      nghttp2_session_get_remote_settings(
        self.session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS))
  }

  /// A stream has ended, or the peer allows more: sends what has waited.
  func beginWaitingRequests() {
    while self.queuedStreams > 0, !self.isLeaving,
      self.openStreams - self.queuedStreams < self.remoteStreamLimit,
      let (stream, request) = self.waitingRequests.popFirst()
    {
      self.begin(stream, request.fields)
    }
  }

  private func begin(_ stream: HTTP2Stream, _ fields: borrowing HeaderFields) {
    let id = fields.withNameValues { list, count in
      var provider = Self.provider
      return nghttp2_submit_request(
        self.session, nil, list, count, &provider, Unmanaged.passUnretained(stream).toOpaque())
    }
    guard id > 0 else {
      // No stream numbers are left, or the session is ending: as if the peer had refused it.
      let hasRunOut = id == NGHTTP2_ERR_STREAM_ID_NOT_AVAILABLE.rawValue
      if hasRunOut { self.isLeaving = true }
      self.close(stream, code: NGHTTP2_REFUSED_STREAM.rawValue)
      guard hasRunOut else { return }
      while let (stream, _) = self.waitingRequests.popFirst() {
        self.close(stream, code: NGHTTP2_REFUSED_STREAM.rawValue)
      }
      self.delegate.streamNumbersRanOut()
      return
    }
    stream.id = id
  }

  /// Gives the next request this number, which is odd and higher than all before: so that a test need
  /// not make a thousand million calls to see their numbers run out.
  package func skipStreamNumbers(to number: Int32) {
    Self.check(nghttp2_session_set_next_stream_id(self.session, number))
  }

  /// Sends a response's headers; the body follows from the stream's outbound queue.
  package func submitResponse(_ fields: borrowing HeaderFields, on stream: HTTP2Stream) {
    guard !stream.isClosed else { return }
    stream.outboundIsHeld = false
    let result = fields.withNameValues { list, count in
      var provider = Self.provider
      return nghttp2_submit_response(self.session, stream.id, list, count, &provider)
    }
    self.resetOnError(result, stream)
  }

  /// The same with headers that never change.
  package func submitResponse(_ fields: ConstantHeaderFields, on stream: HTTP2Stream) {
    guard !stream.isClosed else { return }
    stream.outboundIsHeld = false
    var provider = Self.provider
    self.resetOnError(
      nghttp2_submit_response(self.session, stream.id, fields.list, fields.count, &provider),
      stream)
  }

  /// Sends the only headers of a response without a body.
  package func submitTrailersOnly(_ fields: borrowing HeaderFields, on stream: HTTP2Stream) {
    guard !stream.isClosed else { return }
    stream.ending = .sent
    let result = fields.withNameValues { list, count in
      nghttp2_submit_response(self.session, stream.id, list, count, nil)
    }
    self.resetOnError(result, stream)
  }

  /// Bytes were added to the outbound queue.
  package func outboundGrew(_ stream: HTTP2Stream) {
    guard stream.isDeferred, !stream.isClosed else { return }
    stream.isDeferred = false
    // The stream may have been closed by a frame that waits to be sent: harmless.
    _ = nghttp2_session_resume_data(self.session, stream.id)
  }

  /// Ends our side once the outbound queue is empty.
  package func endOutbound(_ stream: HTTP2Stream) {
    guard case .open = stream.ending else { return }
    stream.ending = .endStream
    self.outboundGrew(stream)
  }

  /// Ends our side with trailers once the outbound queue is empty.
  package func endOutbound(_ stream: HTTP2Stream, trailers: consuming HeaderFields) {
    guard case .open = stream.ending else { return }
    stream.ending = .trailers(HTTP2Stream.HeaderFieldsBox(trailers))
    self.endNow(stream)
  }

  /// The same with trailers that never change.
  package func endOutbound(_ stream: HTTP2Stream, trailers: ConstantHeaderFields) {
    guard case .open = stream.ending else { return }
    stream.ending = .constantTrailers(trailers.list, trailers.count)
    self.endNow(stream)
  }

  /// Sends trailers at once where no DATA is before them: they need no window.
  private func endNow(_ stream: HTTP2Stream) {
    guard stream.isDeferred, stream.outbound.isEmpty, !stream.isClosed else {
      return self.outboundGrew(stream)
    }
    stream.isDeferred = false
    self.resetOnError(self.submitTrailers(of: stream), stream)
  }

  /// RST_STREAM; `closed` follows, at once if the peer knows nothing of a request.
  package func reset(_ stream: HTTP2Stream, code: UInt32) {
    guard !stream.isClosed, stream.slot >= 0 else { return }
    if stream.id > 0 {
      nghttp2_submit_rst_stream(
        self.session, UInt8(NGHTTP2_FLAG_NONE.rawValue), stream.id, code)
    }
    if self.role == .client, !stream.hasLeft { self.close(stream, code: code) }
  }

  /// Keeps windows as they were in the beginning, for want of room; makes wide ones narrow again, which
  /// RFC 9113, section 6.9.2, lets become negative until they are read.
  @exclusivity(unchecked) package var hasNarrowWindows = false {
    didSet {
      guard self.hasNarrowWindows, let window = self.windows.narrow() else { return }
      self.tell(streamWindow: window)
    }
  }

  /// Changes the windows of the streams that are open, too: RFC 9113, section 6.9.2.
  func tell(streamWindow: Int) {
    let setting = [
      nghttp2_settings_entry(
        settings_id: Int32(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE.rawValue),
        value: UInt32(streamWindow))
    ]
    nghttp2_submit_settings(self.session, UInt8(NGHTTP2_FLAG_NONE.rawValue), setting, 1)
  }

  /// Opens the stream's window again by bytes that the application has read, half a window at a time.
  package func consume(_ count: Int, on stream: HTTP2Stream) {
    guard !stream.isClosed else { return }
    if !self.hasNarrowWindows, self.windows.read(count) { self.ping(.window) }
    let prepaid = min(count, stream.prepaidBytes)
    stream.prepaidBytes -= prepaid
    stream.consumedBytes += count - prepaid
    if stream.consumedBytes >= self.consumptionStep { self.giveBack(of: stream) }
  }

  /// Padding fills windows as what it pads does, and nobody reads it.
  func paddingReceived(_ count: Int, on stream: HTTP2Stream) {
    stream.consumedBytes += count
    self.giveBack(of: stream)
  }

  /// The peer knows another window than before: half of it may have been consumed already, and it may have
  /// to wait for that.
  func windowsAcknowledged() {
    for stream in self.streams where stream.consumedBytes > 0 { self.giveBack(of: stream) }
  }

  private func giveBack(of stream: HTTP2Stream) {
    guard stream.consumedBytes >= self.acknowledgedWindow / 2 else { return }
    self.openWindow(of: stream, by: stream.consumedBytes)
    stream.consumedBytes = 0
  }

  /// Lets the rest of a message that has begun come without a wait for every half of a window: what the
  /// sender may have on its way grows by what it has said that it will send.
  ///
  /// - Parameter missing: What has yet to come of it, in bytes.
  @inline(__always)
  package func expect(_ missing: Int, on stream: HTTP2Stream) {
    if missing > self.windows.window / 2, stream.prepaidBytes == 0 {
      self.prepay(missing, on: stream)
    }
  }

  private func prepay(_ missing: Int, on stream: HTTP2Stream) {
    let count = min(missing, self.maximumStreamWindow - self.windows.window)
    guard count > 0, !self.hasNarrowWindows, !stream.isClosed else { return }
    stream.prepaidBytes = count
    self.openWindow(of: stream, by: count)
  }

  /// By WINDOW_UPDATE, unless nothing more comes.
  private func openWindow(of stream: HTTP2Stream, by count: Int) {
    guard nghttp2_session_get_stream_remote_close(self.session, stream.id) == 0 else { return }
    nghttp2_submit_window_update(
      self.session, UInt8(NGHTTP2_FLAG_NONE.rawValue), stream.id, Int32(clamping: count))
  }

  /// What the peer knows to be the window in the beginning.
  private var acknowledgedWindow: Int {
    Int(
      nghttp2_session_get_local_settings(self.session, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE))
  }

  // MARK: - The connection

  /// What a ping is for; its eight bytes say so.
  package enum Ping: UInt8 {
    case keepalive = 1
    /// Before the last GOAWAY: RFC 9113, section 6.8.
    case shutdown = 2
    case window = 3
  }

  package func ping(_ purpose: Ping) {
    var data: [UInt8] = [0x6d, 0x69, 0x6c, 0x6c, 0x72, 0x61, 0x63, purpose.rawValue]
    nghttp2_submit_ping(self.session, UInt8(NGHTTP2_FLAG_NONE.rawValue), &data)
  }

  /// GOAWAY with an error; the connection is over when it has been sent.
  package func terminate(code: UInt32, _ text: String) {
    let text = Array(text.utf8.prefix(1_000))
    nghttp2_submit_goaway(
      self.session, UInt8(NGHTTP2_FLAG_NONE.rawValue),
      nghttp2_session_get_last_proc_stream_id(self.session), code, text, text.count)
    nghttp2_session_terminate_session(self.session, code)
  }

  /// Ends the streams of which the peer has not sent since the last time what they wait for.
  ///
  /// - Parameters:
  ///   - minimum: Bytes that must have moved meanwhile.
  ///   - share: Bytes of all bodies that must have moved meanwhile if those that wait for their turn are
  ///     to be left.
  ///   - unread: Those, too, whose responses the peer has not taken since the last time, when that was so
  ///     already: for them it may be a window that is shut, or a connection that is not read.
  ///   - isConnectionRead: Whether the peer reads what it is sent on any stream. What has a window waits
  ///     for its turn then.
  /// - Returns: How many there were.
  package func endStalledStreams(
    minimum: Int, share: Int, unread: Bool, isConnectionRead: Bool
  ) -> Int {
    var count = 0
    let turnsGoRound = self.bodyBytesSent - self.bodyBytesAtCheck >= share
    self.bodyBytesAtCheck = self.bodyBytesSent
    for stream in self.streams where !stream.isClosed {
      if stream.endsForSilence(minimum: minimum) {
        count += 1
        continue
      }
      let isOffered = !stream.outbound.isEmpty && !stream.outboundIsHeld
      let isWaiting = isOffered || stream.ending.isWaiting
      defer { stream.drainedAtCheck = unread && isWaiting ? stream.drainedBytes : nil }
      guard unread, let before = stream.drainedAtCheck, isWaiting,
        stream.drainedBytes - before < minimum, !(stream.waitsForTurn && turnsGoRound),
        !isConnectionRead || self.window(of: stream) < minimum
      else { continue }
      self.reset(stream, code: NGHTTP2_CANCEL.rawValue)
      count += 1
    }
    return count
  }

  /// What the peer may be sent on a stream now.
  func window(of stream: HTTP2Stream) -> Int {
    Int(
      min(
        nghttp2_session_get_stream_remote_window_size(self.session, stream.id),
        nghttp2_session_get_remote_window_size(self.session)))
  }

  /// Tells the peer that no further streams are wanted, without refusing those on their way.
  package func announceShutdown() {
    nghttp2_submit_shutdown_notice(self.session)
  }

  /// Takes no further streams; those that are open go on.
  package func refuseNewStreams() {
    nghttp2_submit_goaway(
      self.session, UInt8(NGHTTP2_FLAG_NONE.rawValue),
      nghttp2_session_get_last_proc_stream_id(self.session), NGHTTP2_NO_ERROR.rawValue, nil, 0)
  }

  // MARK: - Parts

  private static var provider: nghttp2_data_provider {
    nghttp2_data_provider(
      source: nghttp2_data_source(),
      read_callback: { _, id, _, length, flags, _, userData in
        HTTP2Callbacks.withSession(userData) {
          $0.readOutbound(id: id, limit: length, flags: flags!)
        }
      })
  }

  /// Calls `body` with the stream of that number, if it is there. No reference is counted: the list
  /// of streams keeps it.
  @inline(__always)
  func withStream(_ id: Int32, _ body: (HTTP2Stream) -> Void) {
    if id != self.lastID {
      guard let pointer = nghttp2_session_get_stream_user_data(self.session, id) else { return }
      self.lastID = id
      self.last = Unmanaged<HTTP2Stream>.fromOpaque(pointer)
    }
    self.last?._withUnsafeGuaranteedRef(body)
  }

  /// Listed streams are kept alive; nghttp2 holds bare pointers to them.
  func list(_ stream: consuming HTTP2Stream) {
    stream.slot = self.streams.count
    self.streams.append(consume stream)
  }

  func close(_ stream: HTTP2Stream, code: UInt32) {
    guard !stream.isClosed else { return }
    stream.isOver = true
    if stream.id == self.lastID {
      // Number 0 is the connection's: it must find no stream.
      self.lastID = 0
      self.last = nil
    }
    if stream.id == self.openHeaders { self.openHeaders = nil }
    self.output.turns.remove(stream)
    nghttp2_session_set_stream_user_data(self.session, stream.id, nil)
    // Nobody else may keep it.
    let slot = stream.slot
    if slot < self.streams.count - 1 {
      self.streams.swapAt(slot, self.streams.count - 1)
      self.streams[slot].slot = slot
    }
    let ended = self.streams.removeLast()
    self.waitingRequests.remove(ended)
    // A call that was served makes up for those that were given up for it: a hedged call's others.
    if code == NGHTTP2_NO_ERROR.rawValue, ended.hasEnded {
      self.receivedResets.putBack(RetryPolicy.maximumAttemptsOfAny - 1)
    }
    ended.closed(code: code)
    self.beginWaitingRequests()
  }

  private func resetOnError(_ result: Int32, _ stream: HTTP2Stream) {
    // The stream was reset by a frame that is still queued, or the header list is too large to
    // send: either way the peer must not wait for an answer.
    if result != 0 { self.reset(stream, code: NGHTTP2_INTERNAL_ERROR.rawValue) }
  }

  /// Out of memory is the only way these fail.
  private static func check(_ result: Int32) {
    precondition(result == 0, "libnghttp2: \(String(cString: nghttp2_strerror(result)))")
  }
}
