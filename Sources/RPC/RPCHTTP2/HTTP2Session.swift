import CNghttp2
import RPCCore

/// HTTP/2 framing, header compression and flow control on memory: bytes in, events and bytes out.
///
/// Feed it with ``receive(_:)``, collect what it wants to send with ``nextOutput()``, and end the
/// connection when ``isOver`` or when either throws. Not safe for use from several threads: one
/// event loop owns it. The only code that speaks to libnghttp2.
package final class HTTP2Session {
  package enum Role { case client, server }

  /// Why a connection cannot go on.
  package struct Failure: Error, Sendable, Hashable, CustomStringConvertible {
    package let description: String

    init(_ code: some BinaryInteger, during what: StaticString) {
      self.description = "\(what): \(String(cString: nghttp2_strerror(Int32(code))))"
    }
  }

  private let session: OpaquePointer
  private let memory = SessionMemory()
  private let role: Role
  private let maximumHeaderListBytes: Int
  private unowned(unsafe) let delegate: any HTTP2SessionDelegate
  @exclusivity(unchecked) private var streams: [HTTP2Stream] = []
  /// The stream that was asked for last: frames, and header fields more so, come in runs.
  @exclusivity(unchecked) private var last: Unmanaged<HTTP2Stream>?
  @exclusivity(unchecked) private var lastID: Int32 = 0
  @exclusivity(unchecked) private var headerListBytes = 0
  private var provokedResets: TokenBucket
  @exclusivity(unchecked) private var emptyFrames: TokenBucket
  @exclusivity(unchecked) private var windows: WindowEstimator
  private let maximumQueuedFrames: Int
  private let maximumConcurrentStreams: Int
  /// nghttp2 is told of what was consumed in steps, for the telling is not for free; small enough
  /// that half of a window always comes together.
  private let consumptionStep: Int
  /// Bytes for which the connection's window is opened at the end of the read.
  @exclusivity(unchecked) private var consumedBytes = 0
  /// The peer knows our SETTINGS.
  private var isAcknowledged = false
  /// Our first SETTINGS have not gone out.
  private var isSilent = true
  /// Where ``produce(into:)`` writes: what is left of it.
  @exclusivity(unchecked) private var region = UnsafeMutableRawBufferPointer(start: nil, count: 0)
  /// Bytes of nghttp2's that found no room, valid until it is asked for more.
  @exclusivity(unchecked) private var pending = UnsafeRawBufferPointer(start: nil, count: 0)
  /// A DATA frame waits for a region with more room.
  @exclusivity(unchecked) private var isOutOfRoom = false
  /// Nothing is left to send, for now.
  @exclusivity(unchecked) package private(set) var isDrained = true
  /// A header list has begun and not ended.
  @exclusivity(unchecked) package private(set) var isInHeaders = false
  /// HEADERS and DATA that have gone out.
  @exclusivity(unchecked) package private(set) var callFramesSent = 0
  /// Header lists that have begun.
  @exclusivity(unchecked) package private(set) var headerLists = 0
  private var hasGoneTooFar = false

  /// - Parameter delegate: Outlives the session.
  package init(
    _ role: Role, configuration: Configuration, delegate: any HTTP2SessionDelegate
  ) {
    self.role = role
    self.delegate = delegate
    self.maximumHeaderListBytes = Int(configuration.maximumHeaderListBytes)
    self.provokedResets = TokenBucket(configuration.provokedResets)
    self.emptyFrames = TokenBucket(configuration.emptyFrames)
    self.maximumQueuedFrames =
      configuration.maximumQueuedFrames + 2 * Int(configuration.maximumConcurrentStreams)
    self.maximumConcurrentStreams = Int(configuration.maximumConcurrentStreams)
    self.consumptionStep = min(4 << 10, Int(configuration.streamWindow) / 8)
    self.windows = WindowEstimator(
      window: Int(configuration.streamWindow), maximum: Int(configuration.maximumStreamWindow))
    var options: OpaquePointer?
    Self.check(nghttp2_option_new(&options))
    defer { nghttp2_option_del(options) }
    // Back-pressure: the window opens as the application reads, by `consume`.
    nghttp2_option_set_no_auto_window_update(options, 1)
    nghttp2_option_set_stream_reset_rate_limit(
      options, UInt64(configuration.receivedResets.burst),
      UInt64(configuration.receivedResets.perSecond))
    nghttp2_option_set_max_continuations(options, configuration.maximumContinuationFrames)
    nghttp2_option_set_max_outbound_ack(options, configuration.maximumOutboundAcknowledgements)
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
      let made = self.memory.withFunctions {
        nghttp2_session_server_new3(&session, HTTP2Callbacks.shared.pointer, nil, options, $0)
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
        nghttp2_session_client_new3(&session, HTTP2Callbacks.shared.pointer, nil, options, $0)
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

  /// What ``produce(into:)`` needs at least: a DATA frame as large as any that we send.
  package static let minimumRegionBytes = 16_384 + frameHeaderBytes
  private static let frameHeaderBytes = 9

  /// Fills a region with what is to be sent now.
  ///
  /// - Parameter region: At least ``minimumRegionBytes``.
  /// - Returns: How many bytes; after them there is more unless ``isDrained``.
  package func produce(into region: UnsafeMutableRawBufferPointer) throws(Failure) -> Int {
    self.region = region
    defer { self.region = UnsafeMutableRawBufferPointer(start: nil, count: 0) }
    self.isDrained = false
    self.takePending()
    while self.pending.isEmpty {
      var bytes: UnsafePointer<UInt8>?
      self.isOutOfRoom = false
      let count = nghttp2_session_mem_send(self.session, &bytes)
      guard count >= 0 else { throw Failure(count, during: "sending") }
      if count == 0 {
        self.isDrained = !self.isOutOfRoom
        break
      }
      if self.isSilent {
        self.isSilent = false
        if self.role == .server { self.tellStreamLimit(in: bytes, count: count) }
      }
      self.pending = UnsafeRawBufferPointer(start: bytes, count: count)
      self.takePending()
    }
    return region.count - self.region.count
  }

  /// Moves what nghttp2 has made into the region, as far as there is room.
  private func takePending() {
    let count = min(self.pending.count, self.region.count)
    guard count > 0 else { return }
    self.region.copyMemory(from: UnsafeRawBufferPointer(rebasing: self.pending[..<count]))
    self.region = UnsafeMutableRawBufferPointer(rebasing: self.region[count...])
    self.pending = UnsafeRawBufferPointer(rebasing: self.pending[count...])
  }

  /// Writes a DATA frame straight from the stream's queue into the region.
  ///
  /// - Returns: What nghttp2 takes from `send_data_callback`.
  func dataSent(id: Int32, header: UnsafePointer<UInt8>, count: Int) -> Int32 {
    guard self.region.count >= Self.frameHeaderBytes + count else {
      self.isOutOfRoom = true
      return NGHTTP2_ERR_WOULDBLOCK.rawValue
    }
    self.region.copyMemory(
      from: UnsafeRawBufferPointer(start: header, count: Self.frameHeaderBytes))
    self.withStream(id) { stream in
      stream.outbound.move(
        count, into: self.region.baseAddress! + Self.frameHeaderBytes)
      stream.drainedBytes += count
    }
    self.region = UnsafeMutableRawBufferPointer(
      rebasing: self.region[(Self.frameHeaderBytes + count)...])
    if count > 0 { self.withStream(id) { $0.outboundDrained(remaining: $0.outbound.count) } }
    return 0
  }

  /// The types below are RFC 9113's.
  private static let firstUnknownType: UInt8 = 0xa

  /// How many streams nghttp2 lets a peer begin beyond what the peer is told.
  private static let streamsBeyondTheLimit = 10_000

  /// Writes the limit of streams into our SETTINGS.
  ///
  /// nghttp2 ends the whole connection when a peer exceeds the limit that it has acknowledged. RFC
  /// 9113, section 5.1.2, wants the stream refused. So nghttp2 is given a larger limit, and
  /// ``headersBegan(id:isRequest:)`` refuses.
  ///
  /// - Parameter bytes: The SETTINGS frame, in a buffer of nghttp2's that it only frees from now on.
  private func tellStreamLimit(in bytes: UnsafePointer<UInt8>?, count: Int) {
    guard let bytes, count >= 15, bytes[3] == UInt8(NGHTTP2_SETTINGS.rawValue),
      bytes[count - 5] == UInt8(NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS.rawValue)
    else { preconditionFailure("libnghttp2: a server says its SETTINGS first") }
    UnsafeMutableRawPointer(mutating: bytes).storeBytes(
      of: UInt32(self.maximumConcurrentStreams).bigEndian, toByteOffset: count - 4, as: UInt32.self)
  }

  /// Neither side has anything left to say: the connection is to be closed.
  package var isOver: Bool {
    nghttp2_session_want_read(self.session) == 0 && nghttp2_session_want_write(self.session) == 0
  }

  package var openStreams: Int { self.streams.count }

  /// Ends every stream that is open, for a connection that is gone.
  package func abandonStreams(code: UInt32) {
    while let stream = self.streams.last {
      self.close(stream, code: code)
    }
  }

  // MARK: - Streams

  /// Sends a request's headers; the body follows from the stream's outbound queue.
  package func submitRequest(_ fields: borrowing HeaderFields, on stream: HTTP2Stream) {
    let id = fields.withNameValues { list, count in
      var provider = Self.provider
      return nghttp2_submit_request(
        self.session, nil, list, count, &provider, Unmanaged.passUnretained(stream).toOpaque())
    }
    guard id > 0 else {
      // No stream numbers are left, or the session is ending: as if the peer had refused it.
      stream.isClosed = true
      stream.closed(code: NGHTTP2_REFUSED_STREAM.rawValue)
      return
    }
    stream.id = id
    self.list(stream)
  }

  /// Sends a response's headers; the body follows from the stream's outbound queue.
  package func submitResponse(_ fields: borrowing HeaderFields, on stream: HTTP2Stream) {
    guard !stream.isClosed else { return }
    let result = fields.withNameValues { list, count in
      var provider = Self.provider
      return nghttp2_submit_response(self.session, stream.id, list, count, &provider)
    }
    self.resetOnError(result, stream)
  }

  /// The same with headers that never change.
  package func submitResponse(_ fields: ConstantHeaderFields, on stream: HTTP2Stream) {
    guard !stream.isClosed else { return }
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
    self.outboundGrew(stream)
  }

  /// The same with trailers that never change.
  package func endOutbound(_ stream: HTTP2Stream, trailers: ConstantHeaderFields) {
    guard case .open = stream.ending else { return }
    stream.ending = .constantTrailers(trailers)
    self.outboundGrew(stream)
  }

  /// RST_STREAM; `closed` follows.
  package func reset(_ stream: HTTP2Stream, code: UInt32) {
    guard !stream.isClosed, stream.id > 0 else { return }
    nghttp2_submit_rst_stream(
      self.session, UInt8(NGHTTP2_FLAG_NONE.rawValue), stream.id, code)
  }

  /// Opens the stream's window again by bytes that the application has read.
  package func consume(_ count: Int, on stream: HTTP2Stream) {
    guard !stream.isClosed else { return }
    stream.consumedBytes += count
    guard stream.consumedBytes >= self.consumptionStep else { return }
    nghttp2_session_consume_stream(self.session, stream.id, stream.consumedBytes)
    stream.consumedBytes = 0
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

  /// Resets the streams whose bytes the peer has not taken since the last time.
  ///
  /// - Parameter minimum: Bytes that it must have taken while more were waiting.
  /// - Returns: How many there were.
  package func resetStalledStreams(minimum: Int) -> Int {
    var count = 0
    for stream in self.streams where !stream.isClosed {
      defer { stream.drainedAtCheck = stream.outbound.isEmpty ? nil : stream.drainedBytes }
      guard let before = stream.drainedAtCheck, !stream.outbound.isEmpty,
        stream.drainedBytes - before < minimum
      else { continue }
      self.reset(stream, code: NGHTTP2_CANCEL.rawValue)
      count += 1
    }
    return count
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

  // MARK: - From the callbacks

  /// A server that ends a call before the request has come whole tells the client to stop sending,
  /// after the trailers: RFC 9113, section 8.1.
  func endOfStreamSent(id: Int32) {
    guard self.role == .server, nghttp2_session_get_stream_remote_close(self.session, id) == 0
    else { return }
    nghttp2_submit_rst_stream(
      self.session, UInt8(NGHTTP2_FLAG_NONE.rawValue), id, NGHTTP2_NO_ERROR.rawValue)
  }

  /// A frame begins. On the way of every frame: no more than counting.
  func frameBegan(type: UInt8, flags: UInt8, length: Int) {
    switch UInt32(type) {
    case NGHTTP2_HEADERS.rawValue:
      self.emptyFrames.putBack()
      return
    case NGHTTP2_DATA.rawValue:
      if length > 0 {
        self.emptyFrames.putBack()
        return
      }
      if flags & UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) != 0 { return }
    case NGHTTP2_PING.rawValue, NGHTTP2_SETTINGS.rawValue:
      if flags & UInt8(NGHTTP2_FLAG_ACK.rawValue) != 0 { return }
    case NGHTTP2_PRIORITY.rawValue, NGHTTP2_WINDOW_UPDATE.rawValue:
      break
    case UInt32(Self.firstUnknownType)...:
      // Whatever it carries means nothing to us: RFC 9113, section 5.5.
      break
    default:
      return
    }
    if !self.emptyFrames.take(at: Self.second) {
      self.wentTooFar("it sends too many frames that carry nothing")
    }
  }

  /// A frame has gone out.
  func frameSent(type: UInt8, resetCode: UInt32) {
    switch UInt32(type) {
    case NGHTTP2_DATA.rawValue:
      // The peer answers with WINDOW_UPDATE, for the stream and for the connection.
      self.emptyFrames.putBack(2)
      self.callFramesSent &+= 1
    case NGHTTP2_HEADERS.rawValue:
      self.callFramesSent &+= 1
    case NGHTTP2_RST_STREAM.rawValue where self.role == .server:
      guard resetCode != NGHTTP2_NO_ERROR.rawValue, resetCode != NGHTTP2_REFUSED_STREAM.rawValue
      else { return }
      if !self.provokedResets.take(at: Self.second) {
        self.wentTooFar("it makes us reset too many streams")
      }
    default: break
    }
  }

  /// A frame has come whole.
  func frameReceived(_ frame: UnsafePointer<nghttp2_frame>) {
    let header = frame.pointee.hd
    let isEnd = header.flags & UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) != 0
    let isAcknowledgement = header.flags & UInt8(NGHTTP2_FLAG_ACK.rawValue) != 0
    switch UInt32(header.type) {
    case NGHTTP2_HEADERS.rawValue:
      self.headersEnded(id: header.stream_id, endOfStream: isEnd)
    case NGHTTP2_DATA.rawValue:
      if isEnd { self.dataEnded(id: header.stream_id) }
    case NGHTTP2_SETTINGS.rawValue:
      if isAcknowledgement { self.isAcknowledged = true } else { self.delegate.settingsReceived() }
    case NGHTTP2_PING.rawValue:
      if isAcknowledgement {
        self.pingAcknowledged(frame.pointee.ping.opaque_data.7)
      } else {
        self.delegate.pingReceived()
      }
    case NGHTTP2_GOAWAY.rawValue:
      let text = UnsafeBufferPointer(
        start: frame.pointee.goaway.opaque_data, count: frame.pointee.goaway.opaque_data_len)
      self.delegate.goAwayReceived(
        lastStreamID: frame.pointee.goaway.last_stream_id, code: frame.pointee.goaway.error_code,
        text: String(decoding: text, as: UTF8.self))
    default:
      break
    }
  }

  private static let start = ContinuousClock.now
  private static var second: Int64 { Self.start.duration(to: .now).components.seconds }

  private func wentTooFar(_ what: String) {
    guard !self.hasGoneTooFar else { return }
    self.hasGoneTooFar = true
    self.delegate.peerWentTooFar(what)
  }

  func headersBegan(id: Int32, isRequest: Bool) {
    self.headerListBytes = 0
    self.isInHeaders = true
    self.headerLists += 1
    if isRequest {
      let isBeyondTheLimit = self.streams.count >= self.maximumConcurrentStreams
      // Before it knows the limit, a client cannot keep it.
      if isBeyondTheLimit, self.isAcknowledged, !self.provokedResets.take(at: Self.second) {
        self.wentTooFar("it begins too many streams beyond the limit")
      }
      guard !isBeyondTheLimit, let stream = self.delegate.streamBegan() else {
        nghttp2_submit_rst_stream(
          self.session, UInt8(NGHTTP2_FLAG_NONE.rawValue), id, NGHTTP2_REFUSED_STREAM.rawValue)
        return
      }
      stream.id = id
      nghttp2_session_set_stream_user_data(
        self.session, id, Unmanaged.passUnretained(stream).toOpaque())
      self.list(stream)
    }
    self.withStream(id) { $0.headersBegan() }
  }

  func headerReceived(
    id: Int32, name: UnsafeBufferPointer<UInt8>, value: UnsafeBufferPointer<UInt8>
  ) {
    // RFC 9113, section 6.5.2: a field counts 32 bytes on top of its own.
    self.headerListBytes += name.count + value.count + 32
    // What is beyond is read, for the sake of HPACK's table, and dropped.
    guard self.headerListBytes <= self.maximumHeaderListBytes else { return }
    self.withStream(id) { $0.headerReceived(name: name, value: value) }
  }

  private func headersEnded(id: Int32, endOfStream: Bool) {
    self.isInHeaders = false
    self.withStream(id) { stream in
      if self.headerListBytes > self.maximumHeaderListBytes {
        stream.headersTooLarge(bytes: self.headerListBytes, limit: self.maximumHeaderListBytes)
      } else {
        stream.headersEnded(endOfStream: endOfStream)
      }
      if endOfStream, !stream.isClosed { stream.endReceived() }
    }
  }

  func dataReceived(id: Int32, _ bytes: UnsafeRawBufferPointer) {
    // The connection's window is opened at once; each stream's own holds its sender back.
    self.consumedBytes += bytes.count
    if self.windows.received(bytes.count) { self.ping(.window) }
    self.withStream(id) { $0.dataReceived(bytes) }
  }

  private func dataEnded(id: Int32) {
    self.withStream(id) { stream in
      if !stream.isClosed { stream.endReceived() }
    }
  }

  func streamClosed(id: Int32, code: UInt32) {
    self.withStream(id) { self.close($0, code: code) }
  }

  /// A request never left: it was cancelled, or the peer takes no more streams.
  func requestNotSent(id: Int32) {
    // nghttp2 knows no stream of that number yet, so its user data cannot be asked for.
    guard let stream = self.streams.first(where: { $0.id == id }) else { return }
    self.close(stream, code: NGHTTP2_REFUSED_STREAM.rawValue)
  }

  /// - Parameter purpose: The last of the answer's bytes.
  private func pingAcknowledged(_ purpose: UInt8) {
    switch Ping(rawValue: purpose) {
    case .window:
      guard let window = self.windows.pingAnswered() else { return }
      // Changes the windows of the streams that are open, too: RFC 9113, section 6.9.2.
      let setting = [
        nghttp2_settings_entry(
          settings_id: Int32(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE.rawValue), value: UInt32(window))
      ]
      nghttp2_submit_settings(self.session, UInt8(NGHTTP2_FLAG_NONE.rawValue), setting, 1)
    case .keepalive, .shutdown:
      self.delegate.pingAcknowledged(Ping(rawValue: purpose)!)
    case nil:
      // An answer that nobody asked for.
      break
    }
  }

  /// Says how much of the stream's queue goes into its next DATA frame; ``dataSent(id:header:count:)``
  /// moves it.
  func readOutbound(id: Int32, limit: Int, flags: UnsafeMutablePointer<UInt32>) -> Int {
    var count = Int(NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE.rawValue)
    self.withStream(id) { count = self.readOutbound(of: $0, limit: limit, flags: flags) }
    return count
  }

  private func readOutbound(
    of stream: HTTP2Stream, limit: Int, flags: UnsafeMutablePointer<UInt32>
  ) -> Int {
    let count = min(stream.outbound.count, limit)
    flags.pointee |= NGHTTP2_DATA_FLAG_NO_COPY.rawValue
    guard count == stream.outbound.count else { return count }
    switch stream.ending {
    case .open, .sent:
      if count == 0 {
        stream.isDeferred = true
        return Int(NGHTTP2_ERR_DEFERRED.rawValue)
      }
    case .endStream:
      stream.ending = .sent
      flags.pointee |= NGHTTP2_DATA_FLAG_EOF.rawValue
    case .trailers(let box):
      let result = box.fields.withNameValues { list, count in
        nghttp2_submit_trailer(self.session, stream.id, list, count)
      }
      guard self.trailersFollow(stream, flags, result) else {
        return Int(NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE.rawValue)
      }
    case .constantTrailers(let fields):
      let result = nghttp2_submit_trailer(self.session, stream.id, fields.list, fields.count)
      guard self.trailersFollow(stream, flags, result) else {
        return Int(NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE.rawValue)
      }
    }
    return count
  }

  private func trailersFollow(
    _ stream: HTTP2Stream, _ flags: UnsafeMutablePointer<UInt32>, _ result: Int32
  ) -> Bool {
    stream.ending = .sent
    flags.pointee |= NGHTTP2_DATA_FLAG_EOF.rawValue | NGHTTP2_DATA_FLAG_NO_END_STREAM.rawValue
    return result == 0
  }

  // MARK: -

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
  private func withStream(_ id: Int32, _ body: (HTTP2Stream) -> Void) {
    if id != self.lastID {
      guard let pointer = nghttp2_session_get_stream_user_data(self.session, id) else { return }
      self.lastID = id
      self.last = Unmanaged<HTTP2Stream>.fromOpaque(pointer)
    }
    self.last?._withUnsafeGuaranteedRef(body)
  }

  /// Listed streams are kept alive; nghttp2 holds bare pointers to them.
  private func list(_ stream: HTTP2Stream) {
    stream.slot = self.streams.count
    self.streams.append(stream)
  }

  private func close(_ stream: HTTP2Stream, code: UInt32) {
    guard !stream.isClosed else { return }
    stream.isClosed = true
    if stream.id == self.lastID { self.lastID = 0 }
    nghttp2_session_set_stream_user_data(self.session, stream.id, nil)
    let slot = stream.slot
    self.streams.swapAt(slot, self.streams.count - 1)
    self.streams[slot].slot = slot
    // Nobody else may keep it.
    let ended = self.streams.removeLast()
    ended.closed(code: code)
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
