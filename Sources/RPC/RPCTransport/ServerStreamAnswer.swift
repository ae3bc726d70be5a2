import NIOCore
import RPCCompression
import RPCCore
import RPCHTTP2

/// What a writer writes to.
extension ServerStream: OutboundStream {
  /// Of the one response. On the loop; a writer knows by itself.
  @usableFromInline
  var compression: Compression {
    guard !self.isPlain, let context = self.context else { return .identity }
    return context.responseCompression
  }
  @usableFromInline var maximumMessageBytes: Int { largestMessageBytes }
  @usableFromInline var outboundBytes: Int { self.outboundCount }

  @usableFromInline
  func reserveOutbound(_ count: Int) -> UnsafeMutableRawPointer? {
    self.isFinished ? nil : self.reserveOutboundBytes(count)
  }

  @usableFromInline
  func take(_ bytes: UnsafeRawBufferPointer) {
    if !self.isFinished { self.appendOutboundBytes(bytes) }
  }

  @usableFromInline
  func take(_ array: [UInt8]) {
    if !self.isFinished { self.appendOutboundBytes(array) }
  }

  @usableFromInline
  func outboundAppended() {
    guard !self.isFinished else { return }
    if self.outboundCount >= Self.smallestHeld || self.call.heldBytes > 0 { self.countHeld() }
    guard !self.isFinished, !self.isClosed else { return }
    if self.call.headersSent {
      self.connection.withSession { $0.outboundGrew(self) }
    } else {
      self.sendHeaders()
    }
    self.connection.needsFlush()
  }
}

/// The server's answer: messages, trailers, and what is told of the call when it is over.
extension ServerStream {
  /// Ends the call with its one response.
  @inlinable
  func finish(with response: some RPCMessage) {
    guard !self.isFinished else { return }
    do throws(RPCError) {
      try self.encode(response)
    } catch {
      return self.fail(error)
    }
    self.finish()
  }

  /// Takes the one response before the call ends: interceptors may still want to say something else.
  @inlinable
  func hold(_ response: some RPCMessage) throws(RPCError) {
    guard !self.isFinished else { return }
    try self.encode(response)
    self.responseHeld()
  }

  @usableFromInline
  func responseHeld() {
    self.outboundIsHeld = true
    _ = self.makesRoomForResponse()
  }

  @inlinable
  @inline(__always)
  func encode(_ response: some RPCMessage) throws(RPCError) {
    if self.compressesResponse {
      try self.compress(try encoded(response, limit: self.maximumMessageBytes))
    } else {
      try response.encode(
        reserving: { size throws(RPCError) in try self.reserveResponse(size) },
        parting: { size throws(RPCError) in try self.partResponse(size) })
    }
  }

  /// Asked once for a response: a context is anybody's, and what its headers say must be so.
  @usableFromInline
  var compressesResponse: Bool {
    if self.isPlain { return false }
    let compression = self.compression
    self.call.encoding = compression
    return compression != .identity
  }

  /// Where the one response goes, behind its prefix.
  @usableFromInline
  func reserveResponse(_ size: Int) throws(RPCError) -> UnsafeMutableRawPointer {
    try self.beginResponse(size, room: size)
  }

  /// What takes the parts of the one response.
  @usableFromInline
  func partResponse(_ size: Int) throws(RPCError) -> any MessageSink {
    _ = try self.beginResponse(size, room: 0)
    return self
  }

  /// - Parameter room: What is reserved of it behind its prefix.
  private func beginResponse(
    _ size: Int, room: Int, isCompressed: Bool = false
  ) throws(RPCError) -> UnsafeMutableRawPointer {
    guard size <= self.maximumMessageBytes else { throw tooLarge(size, self.maximumMessageBytes) }
    let target = self.reserveOutboundBytes(room + MessageDeframer.prefixBytes)
    writePrefix(size, isCompressed: isCompressed, to: target)
    self.call.responseBytes = size
    return target + MessageDeframer.prefixBytes
  }

  @usableFromInline
  func compress(_ response: [UInt8]) throws(RPCError) {
    let small = response.withUnsafeBytes {
      MessageCodec.compress($0, self.call.encoding ?? .identity)
    }
    _ = try self.beginResponse(small.count, room: 0, isCompressed: true)
    self.take(small)
  }

  /// Somebody has something else to say than the response.
  private func dropResponse() {
    guard self.call.responseBytes != nil, !self.call.headersSent else { return }
    self.call.responseBytes = nil
    self.clearOutbound()
  }

  /// Ends the call well, behind the responses that were sent.
  @usableFromInline
  func finish() {
    guard !self.isFinished, self.makesRoomForResponse() else { return }
    self.call.code = .ok
    self.call.writer?.transfer(to: self)
    // What was transferred may have been too much.
    guard !self.isFinished else { return }
    if self.isPlain {
      self.end()
      guard !self.isClosed else { return }
      if !self.call.headersSent { self.sendHeaders() }
      self.connection.withSession { $0.endOutbound(self, trailers: Self.plainTrailers) }
      return self.connection.needsFlush()
    }
    if !self.call.headersSent { self.sendHeaders() }
    var trailers = HeaderFields()
    trailers.add("grpc-status", "0")
    if let metadata = self.context?.trailingMetadata { trailers.add(metadata) }
    self.finish(trailers: trailers)
  }

  /// Ends the call before its handler: the client broke a rule, or the deadline passed. The handler
  /// is told, for ``closed(code:)`` leaves alone who has a status already.
  @usableFromInline
  func breakOff(_ error: RPCError) {
    guard !self.isFinished else { return }
    self.fail(error)
    self.tellHandler(error)
  }

  /// Ends the call with its handler's error, behind the responses that were sent.
  @usableFromInline
  func fail(_ error: RPCError) {
    guard !self.isFinished else { return }
    self.dropResponse()
    self.call.code = error.code
    self.call.writer?.transfer(to: self)
    // What was transferred may have been too much.
    guard !self.isFinished else { return }
    // What the handler wanted to say first is said first; without it one header list is enough.
    if !self.call.headersSent, self.context?.initialMetadata.isEmpty == false { self.sendHeaders() }
    let isOnly = !self.call.headersSent
    var trailers = Self.trailers(error, isOnly: isOnly)
    if let metadata = self.context?.trailingMetadata { trailers.add(metadata) }
    if isOnly {
      self.finish(trailersOnly: self.bounded(trailers, isOnly: true))
    } else {
      self.finish(trailers: trailers)
    }
  }

  private static func trailers(_ error: RPCError, isOnly: Bool) -> HeaderFields {
    var trailers = HeaderFields()
    if isOnly {
      trailers.add(":status", "200")
      trailers.add("content-type", "application/grpc")
    }
    trailers.add("grpc-status", String(error.code.rawValue))
    if !error.message.isEmpty {
      trailers.add("grpc-message", bytes: StatusMessage.encode(error.message))
    }
    trailers.add(error.metadata)
    return trailers
  }

  /// The trailers, or, where they or the headers are more than can be sent, an error that says so.
  private func bounded(_ trailers: consuming HeaderFields, isOnly: Bool) -> HeaderFields {
    let size = trailers.size
    if size > HeaderFields.maximumSize { self.call.refusal = Self.tooMuch("trailers", size) }
    guard let refusal = self.call.refusal else { return trailers }
    self.call.code = refusal.code
    return Self.trailers(refusal, isOnly: isOnly)
  }

  private static func tooMuch(_ what: String, _ size: Int) -> RPCError {
    RPCError(
      .resourceExhausted,
      "the response's \(what) of \(size) bytes are larger than the limit of "
        + "\(HeaderFields.maximumSize)")
  }

  /// Whatever a handler threw, as a status.
  @usableFromInline
  func fail(_ error: any Error) {
    switch error {
    case let error as RPCError: self.fail(error)
    case is CancellationError: self.fail(RPCError(.cancelled, "the handler was cancelled"))
    default: self.fail(RPCError(.unknown, "\(error)"))
    }
  }

  func deadlinePassed() {
    self.breakOff(RPCError(.deadlineExceeded, "the deadline passed while the call was served"))
  }

  private func finish(trailers: consuming HeaderFields) {
    self.end()
    guard let session = self.connection.session, !self.isClosed else { return }
    if !self.call.headersSent { self.sendHeaders() }
    session.endOutbound(self, trailers: self.bounded(trailers, isOnly: false))
    self.connection.needsFlush()
  }

  func finish(trailersOnly fields: borrowing HeaderFields) {
    self.end()
    guard let session = self.connection.session, !self.isClosed else { return }
    session.submitTrailersOnly(fields, on: self)
    self.connection.needsFlush()
  }

  private func end() {
    self.call.phase = .finished
    self.executor.timers.stop(self.deadlineTimer)
    self.call.writer?.close(RPCError(.cancelled, "the call is over"))
    self.openWindow()
  }

  /// What most responses say.
  private static let plainHeaders = ConstantHeaderFields([
    (":status", "200"), ("content-type", "application/grpc"),
  ])
  private static let plainTrailers = ConstantHeaderFields([("grpc-status", "0")])

  func sendHeaders() {
    self.call.headersSent = true
    self.call.contextInPlace?._withUnsafeGuaranteedRef { $0.answerBegins() }
    guard !self.isClosed else { return }
    if self.isPlain {
      return self.connection.withSession { $0.submitResponse(Self.plainHeaders, on: self) }
    }
    var fields = HeaderFields()
    fields.add(":status", "200")
    fields.add("content-type", "application/grpc")
    let compression = self.call.encoding ?? self.compression
    if compression != .identity { fields.add("grpc-encoding", compression.header) }
    if let metadata = self.context?.initialMetadata {
      var all = HeaderFields()
      all.add(metadata)
      if all.size <= HeaderFields.maximumSize {
        fields.add(metadata)
      } else {
        self.call.refusal = Self.tooMuch("headers", all.size)
      }
    }
    self.connection.withSession { $0.submitResponse(fields, on: self) }
  }

  /// Tells those who want to know what became of the call.
  func summarize(isEarly: Bool) {
    // Without a code it was HTTP, and no call.
    guard let route = self.call.route, let code = self.call.code else { return }
    let isAwaited = self.call.contextInPlace != nil && (isEarly || !self.isPlain)
    guard isAwaited || self.call.isObserved else { return }
    let context = self.context
    // It ended before its handler could begin.
    if context == nil { self.forEachObserver { $0.callBegan() } }
    var sent = self.call.writer?.sent ?? (messages: 0, bytes: 0)
    if let responseBytes = self.call.responseBytes {
      sent.messages += 1
      sent.bytes += responseBytes
    }
    let summary = CallSummary(
      method: route._withUnsafeGuaranteedRef { $0.path }, code: code,
      nanoseconds: (.now() - self.call.began).nanoseconds, sentMessages: sent.messages,
      sentBytes: sent.bytes, receivedMessages: self.call.received.messages,
      receivedBytes: self.call.received.bytes,
      receivedCompressedMessages: self.call.received.compressed)
    if isEarly { context?.endedEarly(summary) }
    self.forEachObserver { $0.callEnded(summary) }
    for observer in context?.takeObservers() ?? [] { observer(summary) }
  }
}
