/// Cuts a stream's bytes into gRPC messages: a flag, a length of four bytes, and the message.
///
/// See "Length-Prefixed-Message" in `doc/PROTOCOL-HTTP2.md` of the gRPC project. A message that
/// lies whole in one chunk is handed on without a copy. Memory grows with the bytes that came, not
/// with the length that was claimed.
package struct MessageDeframer: ~Copyable {
  package enum Failure: Error, Hashable {
    /// The flag is neither 0 nor 1.
    case badFlag(UInt8)
    case tooLarge(size: Int, limit: Int)
    /// The stream was to bring one message.
    case secondMessage
  }

  /// The flag and the length before each message.
  package static let prefixBytes = 5

  private let limit: Int
  private var prefix: UInt64 = 0
  private var prefixCount = 0
  private var size = 0
  private var isCompressed = false
  private var body = ByteQueue()
  /// A whole message is in `body`, and stays there.
  private var isHolding = false

  /// - Parameter limit: The largest message that is accepted, in bytes.
  package init(limit: Int) {
    self.limit = limit
  }

  /// Whether the bytes so far end with a whole message.
  package var isAtBoundary: Bool { self.prefixCount == 0 }

  /// How much of a message is kept here until the rest comes, or until it is read.
  package var heldBytes: Int { self.body.count }

  /// Forgets what came, for a stream that begins anew.
  package mutating func reset() {
    self.prefix = 0
    self.prefixCount = 0
    self.isHolding = false
    self.body.clear()
  }

  /// Takes the next bytes and calls `receive` with each message that they complete, and whether it
  /// is compressed. The pointer is valid during the call only.
  package mutating func append(
    _ bytes: UnsafeRawBufferPointer,
    receive: (_ message: UnsafeRawBufferPointer, _ isCompressed: Bool) -> Void
  ) throws(Failure) {
    var rest = bytes[...]
    while try self.takePrefix(&rest) {
      if self.body.isEmpty, rest.count >= self.size {
        receive(UnsafeRawBufferPointer(rebasing: rest.prefix(self.size)), self.isCompressed)
        rest = rest.dropFirst(self.size)
      } else {
        guard self.gather(&rest) else { return }
        self.body.withBytes { receive($0, self.isCompressed) }
        self.body.clear()
      }
      self.prefix = 0
      self.prefixCount = 0
    }
  }

  /// Takes the next bytes of a stream that brings one message, and holds on to it.
  ///
  /// - Throws: ``Failure/secondMessage`` when another begins.
  package mutating func hold(_ bytes: UnsafeRawBufferPointer) throws(Failure) {
    var rest = bytes[...]
    while !rest.isEmpty {
      guard !self.isHolding else { throw .secondMessage }
      guard try self.takePrefix(&rest), self.gather(&rest) else { return }
      self.isHolding = true
      self.prefix = 0
      self.prefixCount = 0
    }
  }

  /// Calls `body` with the message that is held, and whether it is compressed; nil if none has come.
  package func withHeld<Result>(
    _ body: (_ message: UnsafeRawBufferPointer, _ isCompressed: Bool) -> Result
  ) -> Result? {
    guard self.isHolding else { return nil }
    return self.body.withBytes { body($0, self.isCompressed) }
  }

  /// Whether a message begins or has begun, and its prefix is known.
  @inline(__always)
  private mutating func takePrefix(_ rest: inout UnsafeRawBufferPointer.SubSequence) throws(Failure)
    -> Bool
  {
    while self.prefixCount < Self.prefixBytes {
      guard let byte = rest.popFirst() else { return false }
      self.prefix = self.prefix << 8 | UInt64(byte)
      self.prefixCount += 1
      if self.prefixCount == Self.prefixBytes { try self.beginMessage() }
    }
    return true
  }

  /// Adds to the message in `body`; whether it is whole now.
  private mutating func gather(_ rest: inout UnsafeRawBufferPointer.SubSequence) -> Bool {
    let part = rest.prefix(self.size - self.body.count)
    self.body.append(UnsafeRawBufferPointer(rebasing: part), of: self.size)
    rest = rest.dropFirst(part.count)
    return self.body.count == self.size
  }

  private mutating func beginMessage() throws(Failure) {
    switch UInt8(truncatingIfNeeded: self.prefix >> 32) {
    case 0: self.isCompressed = false
    case 1: self.isCompressed = true
    case let flag: throw .badFlag(flag)
    }
    self.size = Int(UInt32(truncatingIfNeeded: self.prefix))
    guard self.size <= self.limit else { throw .tooLarge(size: self.size, limit: self.limit) }
  }
}

extension MessageDeframer.Failure {
  /// The status of a call whose peer sent such bytes.
  package var error: RPCError {
    switch self {
    case .badFlag(let flag):
      RPCError(.internalError, "a message begins with the flag \(flag), neither 0 nor 1")
    case .secondMessage:
      RPCError(.unimplemented, "this call takes one request, and got another")
    case .tooLarge(let size, let limit):
      RPCError(
        .resourceExhausted, "a message of \(size) bytes is larger than the limit of \(limit)")
    }
  }
}
