import CNghttp2
import RPCCore

/// What nghttp2's callbacks tell of the peer.
extension HTTP2Session {
  /// The types below are RFC 9113's.
  static let firstUnknownType: UInt8 = 0xa
  /// Bytes of a DATA frame that a peer's window may well cut it to.
  private static let smallFrame = 64

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
    case NGHTTP2_DATA.rawValue:
      self.frameBytes = 0
      // What is padded may be nothing but padding: ``dataReceived(id:_:)`` puts back.
      if length > 0, flags & UInt8(NGHTTP2_FLAG_PADDED.rawValue) == 0 { return }
      if flags & UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) != 0 { return }
    case NGHTTP2_WINDOW_UPDATE.rawValue:
      return self.windowOpens()
    case NGHTTP2_PING.rawValue, NGHTTP2_SETTINGS.rawValue, NGHTTP2_PRIORITY.rawValue,
      NGHTTP2_GOAWAY.rawValue:
      // Answers among them: ``frameSent(type:id:length:flags:resetCode:)`` puts back for each question.
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

  /// What answers our DATA is as often as that. Others are the rounds of a peer that measures its way,
  /// gRPC's own among them: each opens the windows of all streams.
  private func windowOpens() {
    if self.earnedWindowUpdates > 0 {
      self.earnedWindowUpdates -= 1
    } else if !self.windowUpdates.take(at: Self.second) {
      self.wentTooFar("it opens windows too often")
    }
  }

  /// A request's headers are made into bytes: some of them may be on the wire from now on, while the rest
  /// has no room yet.
  func requestLeaves(id: Int32) { self.withStream(id) { $0.hasLeft = true } }

  /// A frame has gone out.
  func frameSent(type: UInt8, id: Int32, length: Int, flags: UInt8, resetCode: UInt32) {
    switch UInt32(type) {
    case NGHTTP2_DATA.rawValue:
      // One for the stream and one for the connection.
      self.earnedWindowUpdates += 2
      self.callFramesSent &+= 1
      if length < Self.smallFrame, self.isCutShort(id) {
        // Whoever has us send bytes one by one (CVE-2019-9511) makes us work as with empty frames.
        if !self.emptyFrames.take(at: Self.second) {
          self.wentTooFar("its windows open by a few bytes, too many times")
        }
      } else {
        self.emptyFrames.putBack()
      }
    case NGHTTP2_PING.rawValue, NGHTTP2_SETTINGS.rawValue:
      if flags & UInt8(NGHTTP2_FLAG_ACK.rawValue) == 0 { self.emptyFrames.putBack() }
    case NGHTTP2_HEADERS.rawValue:
      self.callFramesSent &+= 1
    case NGHTTP2_RST_STREAM.rawValue where self.role == .client:
      // The server's own reset may be on its way.
      self.emptyFrames.putBack()
    case NGHTTP2_RST_STREAM.rawValue:
      guard resetCode != NGHTTP2_NO_ERROR.rawValue, resetCode != NGHTTP2_REFUSED_STREAM.rawValue
      else { return }
      if !self.provokedResets.take(at: Self.second) {
        self.wentTooFar("it makes us reset too many streams")
      }
    default: break
    }
  }

  /// Whether a frame that has gone out would have been longer, had the peer's window let it.
  private func isCutShort(_ id: Int32) -> Bool {
    var isWaiting = false
    self.withStream(id) { isWaiting = !$0.outbound.isEmpty }
    return isWaiting
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
      if header.flags & UInt8(NGHTTP2_FLAG_PADDED.rawValue) != 0 {
        self.withStream(header.stream_id) {
          self.paddingReceived(header.length - self.frameBytes, on: $0)
        }
      }
      if isEnd { self.dataEnded(id: header.stream_id) }
    case NGHTTP2_RST_STREAM.rawValue:
      self.resetReceived(id: header.stream_id)
    case NGHTTP2_SETTINGS.rawValue:
      if isAcknowledgement {
        self.isAcknowledged = true
        self.windowsAcknowledged()
      } else {
        self.delegate.settingsReceived()
        self.beginWaitingRequests()
      }
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

  private func resetReceived(id: Int32) {
    guard self.role == .client else {
      if !self.receivedResets.take(at: Self.second) {
        self.wentTooFar("it resets too many streams")
      }
      return
    }
    // A server ends calls that we began, each once, however many it refuses or answers early.
    var isOpen = false
    self.withStream(id) { stream in
      stream.wasResetByPeer = true
      isOpen = true
    }
    if !isOpen, !self.emptyFrames.take(at: Self.second) {
      self.wentTooFar("it sends too many frames that carry nothing")
    }
  }

  private static let start = ContinuousClock.now
  private static var second: Int64 { Self.start.duration(to: .now).components.seconds }

  func wentTooFar(_ what: String) {
    guard !self.hasGoneTooFar else { return }
    self.hasGoneTooFar = true
    self.delegate.peerWentTooFar(what)
  }

  func headersBegan(id: Int32, isRequest: Bool) {
    self.headerListBytes = 0
    self.headerLists += 1
    self.headerMemory.begin(isRequest: isRequest)
    self.requestRules = RequestRules()
    if isRequest {
      let isBeyondTheLimit = self.streams.count >= self.maximumConcurrentStreams
      // Before it knows the limit, a client cannot keep it.
      if isBeyondTheLimit, self.isAcknowledged, !self.provokedResets.take(at: Self.second) {
        self.wentTooFar("it begins too many streams beyond the limit")
      }
      guard !isBeyondTheLimit, !self.hasGoneTooFar, let stream = self.delegate.streamBegan() else {
        nghttp2_submit_rst_stream(
          self.session, UInt8(NGHTTP2_FLAG_NONE.rawValue), id, NGHTTP2_REFUSED_STREAM.rawValue)
        // nghttp2 does not tell when the list of a stream that is reset ends.
        self.openHeaders = nil
        return
      }
      stream.id = id
      nghttp2_session_set_stream_user_data(
        self.session, id, Unmanaged.passUnretained(stream).toOpaque())
      self.list(consume stream)
    }
    self.openHeaders = id
    self.withStream(id) { stream in
      if !isRequest { self.requestRules = RequestRules(trailersOf: stream.request) }
      // A call's. Others, of streams that are over, pay for nothing.
      self.emptyFrames.putBack()
      stream.headersBegan()
    }
  }

  /// - Returns: False: its stream is reset, and nothing is to be told of the list's other fields.
  func headerReceived(id: Int32, name: OpaquePointer, value: OpaquePointer) -> Bool {
    if self.headerMemory.isAsBefore(name, value) { return true }
    if !HeaderMemory.tellsEachTime(name) {
      self.headersDiffer(id: id)
      self.headerMemory.record(name, value)
    } else if self.headerMemory.expectsPseudoField {
      self.headersDiffer(id: id)
    }
    return self.tell(id: id, name: name, value: value)
  }

  /// Tells of the fields that looked like those of the list before.
  private func headersDiffer(id: Int32) {
    // A timeout was told before them, and comes behind the pseudo-fields among them all the same.
    let hasRegularFields = self.requestRules.hasRegularFields
    self.requestRules.hasRegularFields = false
    self.headerMemory.differ { _ = self.tell(id: id, name: $0, value: $1) }
    if hasRegularFields { self.requestRules.hasRegularFields = true }
  }

  /// The request breaks a rule of HTTP's messages: RFC 9113, section 8.1.1.
  private func malformed(id: Int32) {
    if self.openHeaders == id { self.openHeaders = nil }
    nghttp2_submit_rst_stream(
      self.session, UInt8(NGHTTP2_FLAG_NONE.rawValue), id, NGHTTP2_PROTOCOL_ERROR.rawValue)
  }

  private func tell(id: Int32, name: OpaquePointer, value: OpaquePointer) -> Bool {
    let (name, value) = (nghttp2_rcbuf_get_buf(name), nghttp2_rcbuf_get_buf(value))
    return self.tell(
      id: id, name: UnsafeBufferPointer(start: name.base, count: name.len),
      value: UnsafeBufferPointer(start: value.base, count: value.len))
  }

  private func tell(
    id: Int32, name: UnsafeBufferPointer<UInt8>, value: UnsafeBufferPointer<UInt8>
  ) -> Bool {
    if self.role == .server, !self.requestRules.accept(name, value) {
      self.malformed(id: id)
      return false
    }
    // RFC 9113, section 6.5.2: a field counts 32 bytes on top of its own.
    let before = self.headerListBytes
    self.headerListBytes += name.count + value.count + 32
    // What is beyond is read, for the sake of HPACK's table, and dropped. A byte stands for kilobytes.
    guard self.headerListBytes <= self.maximumHeaderListBytes else {
      let steps = self.headerListBytes / Self.bytesForNothing - before / Self.bytesForNothing
      if steps > 0, !self.emptyFrames.take(at: Self.second) {
        self.wentTooFar("its header lists are far beyond the limit")
      }
      return true
    }
    self.withStream(id) { $0.headerReceived(name: name, value: value) }
    return true
  }

  /// So much of a header list that is dropped counts as a frame that carries nothing.
  private static let bytesForNothing = 16 << 10

  private func headersEnded(id: Int32, endOfStream: Bool) {
    self.openHeaders = nil
    let areAsBefore = self.headerMemory.isWholeAsBefore
    if !areAsBefore {
      self.headersDiffer(id: id)
      if self.role == .server, !self.requestRules.isWhole(endOfStream: endOfStream) {
        self.headerMemory.end(isKnown: false, RequestRules.Request())
        return self.malformed(id: id)
      }
    }
    var isKnown = false
    self.withStream(id) { stream in
      stream.request = areAsBefore ? self.headerMemory.request : self.requestRules.request
      if endOfStream, !stream.hasWholeBody { return self.malformed(id: id) }
      if self.headerListBytes > self.maximumHeaderListBytes {
        stream.headersTooLarge(bytes: self.headerListBytes, limit: self.maximumHeaderListBytes)
      } else {
        if areAsBefore { stream.headersAreAsBefore() }
        stream.headersAreKnown = false
        stream.headersEnded(endOfStream: endOfStream)
        isKnown = stream.headersAreKnown
      }
      if endOfStream, !stream.isClosed { stream.endReceived() }
    }
    self.headerMemory.end(isKnown: isKnown, self.requestRules.request)
  }

  func dataReceived(id: Int32, _ bytes: UnsafeRawBufferPointer) {
    // The connection's window is opened at once; each stream's own holds its sender back.
    self.consumedBytes += bytes.count
    self.frameBytes += bytes.count
    if bytes.count > 0 { self.emptyFrames.putBack() }
    self.withStream(id) { stream in
      guard stream.mayHaveBody(bytes.count) else { return self.malformed(id: id) }
      stream.dataReceived(bytes)
    }
  }

  private func dataEnded(id: Int32) {
    self.withStream(id) { stream in
      guard stream.hasWholeBody else { return self.malformed(id: id) }
      if !stream.isClosed { stream.endReceived() }
    }
  }

  func streamClosed(id: Int32, code: UInt32) {
    self.withStream(id) { self.close($0, code: code) }
  }

  /// A response's headers or trailers cannot be sent: the client must not wait for them.
  func responseNotSent(id: Int32) {
    self.withStream(id) { self.reset($0, code: NGHTTP2_INTERNAL_ERROR.rawValue) }
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
      // What was let in ahead counts with it.
      let ahead = self.streams.reduce(0) { max($0, $1.prepaidBytes) }
      guard let window = self.windows.pingAnswered(ahead: ahead) else { return }
      self.tell(streamWindow: window)
    case .keepalive, .shutdown:
      self.delegate.pingAcknowledged(Ping(rawValue: purpose)!)
    case nil:
      // An answer that nobody asked for.
      break
    }
  }
}
