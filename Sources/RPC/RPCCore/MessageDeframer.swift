/// Cuts a stream's bytes into gRPC messages: a flag, a length of four bytes, and the message.
///
/// See "Length-Prefixed-Message" in `doc/PROTOCOL-HTTP2.md` of the gRPC project. A message that
/// lies whole in one chunk is handed on without a copy. Memory that is touched grows with the bytes that came,
/// not with the length that was claimed.
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
  /// What came behind a message after which no other was wanted.
  private var backlog = ByteQueue()

  /// - Parameter limit: The largest message that is accepted, in bytes.
  package init(limit: Int) {
    self.limit = limit
  }

  /// Whether the bytes so far end with a whole message.
  package var isAtBoundary: Bool { self.prefixCount == 0 && self.backlog.isEmpty }

  /// What is kept here until the rest of its message comes, or until it is wanted.
  package var heldBytes: Int { self.body.count + self.backlog.count }

  /// What has yet to come of the message that has begun; 0 where its prefix is not known, or it is
  /// whole.
  package var missingBytes: Int {
    self.prefixCount == Self.prefixBytes ? self.size - self.body.count : 0
  }

  /// Whether bytes wait for ``resume(receive:)``.
  package var hasBacklog: Bool { !self.backlog.isEmpty }

  /// Forgets what came, for a stream that begins anew.
  package mutating func reset() {
    self.prefix = 0
    self.prefixCount = 0
    self.isHolding = false
    self.body.clear()
    self.backlog.clear()
  }

  /// Takes the next bytes and calls `receive` with each message that they complete, and whether it
  /// is compressed. The pointer is valid during the call only.
  ///
  /// - Parameter receive: Says whether it wants another. If not, what follows is kept as it is, and
  ///   not taken apart before ``resume(receive:)``: it may be a bomb.
  package mutating func append(
    _ bytes: UnsafeRawBufferPointer,
    receive: (_ message: UnsafeRawBufferPointer, _ isCompressed: Bool) -> Bool
  ) throws(Failure) {
    guard self.backlog.isEmpty else { return self.backlog.append(bytes) }
    var rest = bytes[...]
    try self.cut(&rest, receive)
    if !rest.isEmpty { self.backlog.append(UnsafeRawBufferPointer(rebasing: rest)) }
  }

  /// Keeps the next bytes for ``resume(receive:)``.
  package mutating func keep(_ bytes: UnsafeRawBufferPointer) { self.backlog.append(bytes) }

  /// Goes on with what was kept.
  package mutating func resume(
    receive: (_ message: UnsafeRawBufferPointer, _ isCompressed: Bool) -> Bool
  ) throws(Failure) {
    var backlog = ByteQueue()
    swap(&backlog, &self.backlog)
    let taken = backlog.withBytes { bytes -> Result<Int, Failure> in
      var rest = bytes[...]
      do throws(Failure) {
        try self.cut(&rest, receive)
        return .success(bytes.count - rest.count)
      } catch {
        return .failure(error)
      }
    }
    backlog.drop(try taken.get())
    swap(&backlog, &self.backlog)
  }

  /// Hands on the messages of `rest`, as long as they are wanted, and keeps the beginning of one.
  @inline(__always)
  private mutating func cut(
    _ rest: inout UnsafeRawBufferPointer.SubSequence,
    _ receive: (_ message: UnsafeRawBufferPointer, _ isCompressed: Bool) -> Bool
  ) throws(Failure) {
    while try self.takePrefix(&rest) {
      let wantsMore: Bool
      if self.body.isEmpty, rest.count >= self.size {
        let message = UnsafeRawBufferPointer(rebasing: rest.prefix(self.size))
        rest = rest.dropFirst(self.size)
        wantsMore = receive(message, self.isCompressed)
      } else {
        guard self.gather(&rest) else { return }
        wantsMore = self.body.withBytes { receive($0, self.isCompressed) }
        self.body.clear()
      }
      self.prefix = 0
      self.prefixCount = 0
      guard wantsMore else { return }
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
    if self.prefixCount == 0, rest.count >= Self.prefixBytes {
      // Mostly it has come whole.
      let start = rest.startIndex
      let size = rest.loadUnaligned(fromByteOffset: 1, as: UInt32.self)
      self.prefix = UInt64(rest[start]) << 32 | UInt64(UInt32(bigEndian: size))
      self.prefixCount = Self.prefixBytes
      rest = rest.dropFirst(Self.prefixBytes)
      try self.beginMessage()
    }
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
