import CNghttp2
import RPCCore

/// What goes out: frames as nghttp2 makes them, and DATA straight from the streams' queues.
extension HTTP2Session {
  struct Output {
    /// Where ``HTTP2Session/produce(into:)`` writes: what is left of it.
    var region = UnsafeMutableRawBufferPointer(start: nil, count: 0)
    /// Bytes of nghttp2's that found no room, valid until it is asked for more.
    var pending = UnsafeRawBufferPointer(start: nil, count: 0)
    /// A DATA frame waits for a region with more room.
    var isOutOfRoom = false
    var isDrained = true
    /// What nghttp2 says is wrong with what came, until it says with which frame.
    var fault: String?
    /// Our first SETTINGS have not gone out.
    var isSilent = true
    var turns = BodyTurns()
  }

  /// Nothing is left to send, for now.
  package var isDrained: Bool { self.output.isDrained }

  /// What ``produce(into:)`` needs at least: a DATA frame as large as any that we send.
  package static let minimumRegionBytes = 16_384 + frameHeaderBytes
  private static let frameHeaderBytes = 9

  /// Fills a region with what is to be sent now.
  ///
  /// - Parameter region: At least ``minimumRegionBytes``.
  /// - Returns: How many bytes; after them there is more unless ``isDrained``.
  package func produce(into region: UnsafeMutableRawBufferPointer) throws(Failure) -> Int {
    self.output.region = region
    defer { self.output.region = UnsafeMutableRawBufferPointer(start: nil, count: 0) }
    self.output.isDrained = false
    self.takePending()
    while self.output.pending.isEmpty {
      if self.output.turns.isAwaited { _ = self.passesTurn() }
      var bytes: UnsafePointer<UInt8>?
      self.output.isOutOfRoom = false
      let count = nghttp2_session_mem_send(self.session, &bytes)
      guard count >= 0 else { throw Failure(count, during: "sending") }
      if count == 0 {
        if !self.output.isOutOfRoom, self.output.turns.isAwaited, self.passesTurn() { continue }
        self.output.isDrained = !self.output.isOutOfRoom
        break
      }
      if self.output.isSilent {
        self.output.isSilent = false
        if self.role == .server { self.tellStreamLimit(in: bytes, count: count) }
      }
      self.output.pending = UnsafeRawBufferPointer(start: bytes, count: count)
      self.takePending()
    }
    return region.count - self.output.region.count
  }

  /// Gives the next large body its turn, if the one before has had its own, or waits for its window. While
  /// the connection's window is shut, nobody's turn would be of use.
  private func passesTurn() -> Bool {
    guard nghttp2_session_get_remote_window_size(self.session) > 0 else { return false }
    if let holder = self.output.turns.holder,
      nghttp2_session_get_stream_remote_window_size(self.session, holder.id) > 0
    {
      return false
    }
    guard let next = self.output.turns.pass() else { return false }
    _ = nghttp2_session_resume_data(self.session, next.id)
    return true
  }

  /// Moves what nghttp2 has made into the region, as far as there is room.
  private func takePending() {
    let count = min(self.output.pending.count, self.output.region.count)
    guard count > 0 else { return }
    self.output.region.copyMemory(
      from: UnsafeRawBufferPointer(rebasing: self.output.pending[..<count]))
    self.output.region = UnsafeMutableRawBufferPointer(rebasing: self.output.region[count...])
    self.output.pending = UnsafeRawBufferPointer(rebasing: self.output.pending[count...])
  }

  /// Writes a DATA frame straight from the stream's queue into the region.
  ///
  /// - Returns: What nghttp2 takes from `send_data_callback`.
  func dataSent(id: Int32, header: UnsafePointer<UInt8>, count: Int) -> Int32 {
    guard self.output.region.count >= Self.frameHeaderBytes + count else {
      self.output.isOutOfRoom = true
      return NGHTTP2_ERR_WOULDBLOCK.rawValue
    }
    let frame = self.output.region
    var isSent = false
    self.withStream(id) { stream in
      frame.copyMemory(
        from: UnsafeRawBufferPointer(start: header, count: Self.frameHeaderBytes))
      stream.outbound.move(count, into: frame.baseAddress! + Self.frameHeaderBytes)
      stream.drainedBytes += count
      self.bodyBytesSent += count
      self.output.region = UnsafeMutableRawBufferPointer(
        rebasing: frame[(Self.frameHeaderBytes + count)...])
      if count > 0 { stream.outboundDrained(remaining: stream.outbound.count) }
      isSent = true
    }
    return isSent ? 0 : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE.rawValue
  }

  /// How many streams nghttp2 lets a peer begin beyond what the peer is told.
  static let streamsBeyondTheLimit = 10_000

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
    guard self.output.turns.admits(stream) else { return Int(NGHTTP2_ERR_DEFERRED.rawValue) }
    let count = min(stream.outbound.count, limit)
    self.output.turns.goesOut(count, of: stream)
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
    case .trailers, .constantTrailers:
      flags.pointee |= NGHTTP2_DATA_FLAG_EOF.rawValue | NGHTTP2_DATA_FLAG_NO_END_STREAM.rawValue
      guard self.submitTrailers(of: stream) == 0 else {
        return Int(NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE.rawValue)
      }
    }
    return count
  }

  /// Hands the stream's trailers to nghttp2.
  func submitTrailers(of stream: HTTP2Stream) -> Int32 {
    defer { stream.ending = .sent }
    switch stream.ending {
    case .trailers(let box):
      return box.fields.withNameValues { list, count in
        nghttp2_submit_trailer(self.session, stream.id, list, count)
      }
    case .constantTrailers(let list, let count):
      return nghttp2_submit_trailer(self.session, stream.id, list, count)
    case .open, .endStream, .sent: return 0
    }
  }
}
