import RPC
import RPCCompression
import RPCCore
import RPCHTTP2
import RPCProtobuf

/// A part of the library that reads what strangers send. Whatever the bytes are, it must neither
/// trap nor read beyond them, and what it accepts must come back the same.
///
/// Driven by `make fuzz` (libFuzzer, in the package `Fuzz`), and by a test that replays the corpus.
public enum FuzzTarget: String, CaseIterable, Sendable {
  /// A client's bytes to a server's HTTP/2 session, behind the preface.
  case serverFrames = "server-frames"
  /// A server's bytes to a client's session that has a request open.
  case clientFrames = "client-frames"
  /// One header block, as a request's and as a response's.
  case headerBlock = "header-block"
  /// A body: length-prefixed messages, compressed or not.
  case messageFraming = "message-framing"
  /// Protobuf; the first byte chooses the type.
  case message
  /// The value of `grpc-timeout`.
  case timeout
  /// The value of `grpc-status-details-bin`, and of `grpc-message`.
  case statusDetails = "status-details"

  /// Runs the target on some bytes. A defect traps.
  public func run(_ bytes: UnsafeRawBufferPointer) {
    switch self {
    case .serverFrames: SessionHarness(.server).feed(bytes)
    case .clientFrames: SessionHarness(.client).feed(bytes)
    case .headerBlock: runHeaderBlock(bytes)
    case .messageFraming: runFraming(bytes)
    case .message: runMessage(bytes)
    case .timeout: runTimeout(bytes)
    case .statusDetails: runStatusDetails(bytes)
    }
  }
}

// MARK: - Sessions

/// A session whose streams take everything and answer a little.
private final class SessionHarness: HTTP2SessionDelegate {
  private static let preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)

  private let role: HTTP2Session.Role
  private var session: HTTP2Session?
  /// How many there were. None is kept: the session alone keeps them, as long as it should.
  private var streams = 0

  init(_ role: HTTP2Session.Role) {
    self.role = role
  }

  func feed(_ bytes: UnsafeRawBufferPointer) {
    let session = HTTP2Session(
      self.role, configuration: HTTP2Session.Configuration(), delegate: self)
    self.session = session
    defer {
      session.abandonStreams(code: 8)
      self.session = nil
    }
    do {
      switch self.role {
      case .server: try Self.preface.withUnsafeBytes { try session.receive($0) }
      case .client: self.openRequest(session)
      }
      try self.drain(session)
      // In two parts, so that frames are cut somewhere.
      let half = bytes.count / 2
      try session.receive(UnsafeRawBufferPointer(rebasing: bytes[..<half]))
      try self.drain(session)
      try session.receive(UnsafeRawBufferPointer(rebasing: bytes[half...]))
      try self.drain(session)
    } catch {
      // The connection would be closed.
    }
  }

  private func openRequest(_ session: HTTP2Session) {
    let stream = StreamHarness(self)
    self.streams += 1
    var fields = HeaderFields()
    fields.add(":method", "POST")
    fields.add(":scheme", "http")
    fields.add(":path", "/a.B/C")
    fields.add(":authority", "x")
    session.submitRequest(fields, on: stream)
    session.endOutbound(stream)
  }

  private func drain(_ session: HTTP2Session) throws {
    try withUnsafeTemporaryAllocation(byteCount: 1 << 16, alignment: 16) { region in
      var left = 1 << 22
      repeat { left -= try session.produce(into: region) } while left > 0 && !session.isDrained
    }
  }

  func answer(_ stream: StreamHarness) {
    guard self.role == .server, let session = self.session, !stream.isClosed, !stream.hasAnswered
    else { return }
    stream.hasAnswered = true
    var fields = HeaderFields()
    fields.add(":status", "200")
    session.submitResponse(fields, on: stream)
    stream.outbound.reserve(64).initializeMemory(as: UInt8.self, repeating: 7, count: 64)
    var trailers = HeaderFields()
    trailers.add("grpc-status", "0")
    session.endOutbound(stream, trailers: trailers)
  }

  func consume(_ count: Int, _ stream: HTTP2Stream) { self.session?.consume(count, on: stream) }

  func streamBegan() -> HTTP2Stream? {
    guard self.streams < 100 else { return nil }
    self.streams += 1
    return StreamHarness(self)
  }

  func settingsReceived() {}
  func goAwayReceived(lastStreamID: Int32, code: UInt32, text: String) {}
  func pingReceived() {}
  func pingAcknowledged(_ purpose: HTTP2Session.Ping) {}
  func streamNumbersRanOut() {}
  func peerWentTooFar(_ what: String) { self.session?.terminate(code: 0xb, what) }
}

private final class StreamHarness: HTTP2Stream {
  unowned let session: SessionHarness
  var hasAnswered = false
  private var request: RequestHead? = RequestHead()
  private var response: ResponseHead? = ResponseHead()
  private var deframer = MessageDeframer(limit: 1 << 16)

  init(_ session: SessionHarness) {
    self.session = session
    super.init()
  }

  override func headersBegan() {
    self.request = RequestHead()
    self.response = ResponseHead()
  }

  override func headerReceived(name: UnsafeBufferPointer<UInt8>, value: UnsafeBufferPointer<UInt8>)
  {
    self.request?.receive(name: name, value: value)
    self.response?.receive(name: name, value: value)
  }

  override func headersTooLarge(bytes: Int, limit: Int) { self.session.answer(self) }

  override func dataReceived(_ bytes: UnsafeRawBufferPointer) {
    try? self.deframer.append(bytes) { _, _ in true }
    self.session.consume(bytes.count, self)
  }

  override func endReceived() { self.session.answer(self) }
}

// MARK: - Parts

/// Whether it is a token (RFC 9110, section 5.6.2) in lower case, or such a one behind a colon.
private func isFieldName(_ name: String) -> Bool {
  let token = name.utf8.first == UInt8(ascii: ":") ? name.utf8.dropFirst() : name.utf8[...]
  return !token.isEmpty
    && token.allSatisfy { byte in
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "0")...UInt8(ascii: "9"): true
      default: "!#$%&'*+-.^_`|~".utf8.contains(byte)
      }
    }
}

private func runHeaderBlock(_ bytes: UnsafeRawBufferPointer) {
  guard let fields = HeaderDecoder().decode(Array(bytes)) else { return }
  var request = RequestHead()
  var response = ResponseHead()
  // A session hands on no others: RFC 9113, section 8.2.1.
  for (name, value) in fields where isFieldName(name) {
    Array(name.utf8).withUnsafeBufferPointer { name in
      Array(value.utf8).withUnsafeBufferPointer { value in
        request.receive(name: name, value: value)
        response.receive(name: name, value: value)
      }
    }
  }
  let metadata = request.metadata
  for (name, value) in metadata {
    precondition(metadata.values(for: name).contains(value), "metadata lost \(name)")
    if name.hasSuffix("-bin") { _ = metadata.binary(for: name) }
  }
  let message = StatusMessage.encode(response.message).withUnsafeBufferPointer {
    StatusMessage.decode($0)
  }
  precondition(message == response.message, "a status message came back changed")
}

private func runFraming(_ bytes: UnsafeRawBufferPointer) {
  let limit = 1 << 16
  func parts(_ size: Int) -> [UnsafeRawBufferPointer] {
    stride(from: 0, to: bytes.count, by: size).map {
      UnsafeRawBufferPointer(rebasing: bytes[$0..<min($0 + size, bytes.count)])
    }
  }
  /// - Parameter isSlow: Whether the reader takes one message at a time.
  func messages(cutAt size: Int, isSlow: Bool = false) -> [[UInt8]] {
    var deframer = MessageDeframer(limit: limit)
    var messages: [[UInt8]] = []
    func receive(_ message: UnsafeRawBufferPointer, _ isCompressed: Bool) -> Bool {
      messages.append(Array(message))
      return !isSlow
    }
    do {
      for part in parts(size) { try deframer.append(part, receive: receive) }
      while deframer.hasBacklog {
        let before = deframer.heldBytes
        try deframer.resume(receive: receive)
        if deframer.heldBytes == before { break }
      }
    } catch {
      // What came before it counts.
    }
    return messages
  }
  let whole = messages(cutAt: max(1, bytes.count))
  precondition(messages(cutAt: 7).starts(with: whole), "messages depend on how they are cut")
  precondition(
    messages(cutAt: 7, isSlow: true).starts(with: whole), "messages depend on who reads them")
  var single = MessageDeframer(limit: limit)
  do {
    for part in parts(7) { try single.hold(part) }
    single.withHeld { message, _ in
      precondition(whole == [Array(message)], "a single message came otherwise than in a stream")
    }
  } catch {
    // Or a second one begins behind it.
  }
  for message in whole {
    for compression in Compression.allCases {
      message.withUnsafeBytes { bytes in
        if let plain = try? MessageCodec.decompress(bytes, compression, limit: limit) {
          precondition(plain.count <= limit || compression == .identity, "a bomb")
        }
      }
    }
  }
}

private func runMessage(_ bytes: UnsafeRawBufferPointer) {
  guard let type = bytes.first else { return }
  let body = UnsafeRawBufferPointer(rebasing: bytes.dropFirst())
  switch type % 6 {
  case 0: roundTrip(GoogleProtobuf.Struct.self, body)
  case 1: roundTrip(ReflectionV1.ServerReflectionResponse.self, body)
  case 2: roundTrip(GoogleRPC.BadRequest.self, body)
  case 3: roundTrip(GoogleProtobuf.DoubleValue.self, body)
  case 4: roundTrip(GoogleRPC.ErrorInfo.self, body)
  default: roundTrip(HealthV1.HealthListResponse.self, body)
  }
}

private func roundTrip<Message: ProtobufMessage>(
  _ type: Message.Type, _ bytes: UnsafeRawBufferPointer
) {
  guard let message = try? Message(decoding: bytes) else { return }
  let encoded = message.encoded()
  guard let again = try? Message(decoding: encoded) else {
    preconditionFailure("\(Message.messageName) cannot read what it wrote")
  }
  // By their bytes: NaN is not itself. Maps are in any order, so only the number is compared.
  precondition(again.encoded().count == encoded.count, "\(Message.messageName) came back changed")
}

private func runTimeout(_ bytes: UnsafeRawBufferPointer) {
  guard let timeout = TimeoutHeader.decode(bytes.bindMemory(to: UInt8.self)) else { return }
  let text = Array(TimeoutHeader.encode(timeout).utf8)
  let again = text.withUnsafeBufferPointer { TimeoutHeader.decode($0) }
  precondition(again.map { $0 >= timeout } ?? false, "a timeout became shorter: \(timeout)")
}

private func runStatusDetails(_ bytes: UnsafeRawBufferPointer) {
  var error = RPCError(.internalError, StatusMessage.decode(bytes.bindMemory(to: UInt8.self)))
  let name = Array("grpc-status-details-bin".utf8)
  name.withUnsafeBufferPointer { name in
    error.metadata.add(wireName: name, value: bytes.bindMemory(to: UInt8.self))
  }
  for detail in error.details {
    _ = detail.unpack(GoogleRPC.BadRequest.self)
    _ = detail.unpack(GoogleRPC.RetryInfo.self)
  }
  if let details = error.statusDetails {
    error.statusDetails = details
    precondition(error.statusDetails == details, "base64 came back changed")
  }
  _ = error.retryDelay
  _ = StatusMessage.encode(error.message)
}
