import CHiredis

/// Makes replies of the bytes of a connection, in whatever pieces they come.
///
/// Feed it each piece with ``read(_:each:)``. After an error it answers every further piece with
/// the same error. It is hiredis' reply reader without its sockets and without its objects: the
/// values are made here, so a hostile array header reserves nothing. hiredis 0.14 knows RESP2,
/// which is what Redis speaks to a client that does not ask for more.
package final class RedisReplyReader {
  /// What one reply may be. The defaults fit this project's scripts with much room.
  package struct Limits: Hashable, Sendable {
    /// Bytes of one reply, with its framing. hiredis keeps a reply's bytes until it is whole, so
    /// this bounds the memory that a peer can take.
    package var replyBytes: Int
    /// Parts of one reply, at all depths: an array header costs its sender a few bytes only.
    package var elements: Int
    /// Arrays inside arrays. hiredis 0.14 itself ends at 7.
    package var depth: Int

    package init(replyBytes: Int = 64 << 20, elements: Int = 1 << 20, depth: Int = 7) {
      self.replyBytes = replyBytes
      self.elements = elements
      self.depth = min(depth, 7)
    }
  }

  private let reader: UnsafeMutablePointer<redisReader>
  private let functions: UnsafeMutablePointer<redisReplyObjectFunctions>
  private let builder: ReplyBuilder
  private let limits: Limits
  /// Bytes fed so far, and how many of them belong to whole replies.
  private var fed = 0
  private var finished = 0
  private var failure: RedisWireError?

  package init(limits: Limits = Limits()) {
    self.limits = limits
    self.builder = ReplyBuilder(limits: limits)
    self.functions = .allocate(capacity: 1)
    self.functions.initialize(to: Self.builderFunctions)
    guard let reader = redisReaderCreateWithFunctions(self.functions) else {
      preconditionFailure("out of memory for a Redis reply reader")
    }
    self.reader = reader
    // Not retained: the builder lives as long as this object, and so as long as the reader.
    self.reader.pointee.privdata = Unmanaged.passUnretained(self.builder).toOpaque()
  }

  deinit {
    redisReaderFree(self.reader)
    self.functions.deinitialize(count: 1)
    self.functions.deallocate()
  }

  /// Whether the last piece ended in the middle of a reply.
  package var isInReply: Bool { self.fed > self.finished }

  /// Takes the next bytes of the connection, and passes on each reply that is whole by now.
  package func read(
    _ bytes: borrowing Span<UInt8>, each: (RedisValue) -> Void
  ) throws(RedisWireError) {
    if let failure = self.failure { throw failure }
    var offset = 0
    while offset < bytes.count {
      // In pieces, so that what hiredis keeps stays near one reply even if a caller hands in more.
      let piece = min(bytes.count - offset, 64 << 10)
      do throws(RedisWireError) {
        try self.feed(bytes.extracting(offset..<offset + piece))
        try self.takeReplies(each)
      } catch {
        self.failure = error
        throw error
      }
      offset += piece
    }
  }

  private func feed(_ bytes: borrowing Span<UInt8>) throws(RedisWireError) {
    let result = bytes.withUnsafeBytes { buffer in
      redisReaderFeed(
        self.reader, buffer.baseAddress?.assumingMemoryBound(to: CChar.self), buffer.count)
    }
    guard result == REDIS_OK else { throw self.readerError() }
    self.fed += bytes.count
  }

  private func takeReplies(_ each: (RedisValue) -> Void) throws(RedisWireError) {
    while true {
      var object: UnsafeMutableRawPointer?
      guard redisReaderGetReply(self.reader, &object) == REDIS_OK else { throw self.readerError() }
      guard object != nil, let value = self.builder.takeResult() else { break }
      let unread = self.reader.pointee.len - self.reader.pointee.pos
      let size = self.fed - unread - self.finished
      guard size <= self.limits.replyBytes else {
        throw .replyTooLarge(limit: self.limits.replyBytes)
      }
      self.finished = self.fed - unread
      each(value)
    }
    guard self.fed - self.finished <= self.limits.replyBytes else {
      throw .replyTooLarge(limit: self.limits.replyBytes)
    }
  }

  private func readerError() -> RedisWireError {
    // A limit of ours reaches hiredis as a missing object, which it takes for a lack of memory.
    if let failure = self.builder.failure { return failure }
    switch self.reader.pointee.err {
    case REDIS_ERR_OOM: return .outOfMemory
    default:
      let text = withUnsafeBytes(of: self.reader.pointee.errstr) { bytes in
        String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
      }
      return .malformed(text)
    }
  }

  /// What hiredis calls for each part of a reply, in the order in which they come. It keeps what
  /// it gets back without looking at it: any address will do, and there is nothing to free.
  private static let builderFunctions = redisReplyObjectFunctions(
    createString: { task, bytes, count in
      guard let task, let builder = ReplyBuilder.of(task) else { return nil }
      let bytes = UnsafeRawBufferPointer(start: bytes, count: count)
      switch task.pointee.type {
      case REDIS_REPLY_STATUS: return builder.add(.status(String(decoding: bytes, as: UTF8.self)))
      case REDIS_REPLY_ERROR:
        return builder.add(.error(RedisErrorReply(String(decoding: bytes, as: UTF8.self))))
      default: return builder.add(.bytes(Array(bytes)))
      }
    },
    createArray: { task, count in
      guard let task, let builder = ReplyBuilder.of(task) else { return nil }
      return builder.beginArray(count: Int(count))
    },
    createInteger: { task, number in
      guard let task, let builder = ReplyBuilder.of(task) else { return nil }
      return builder.add(.integer(number))
    },
    createNil: { task in
      guard let task, let builder = ReplyBuilder.of(task) else { return nil }
      return builder.add(.null)
    },
    freeObject: { _ in })
}

/// Puts the parts of a reply together as hiredis meets them, outer ones first.
private final class ReplyBuilder {
  private struct OpenArray {
    var missing: Int
    var elements: [RedisValue]
  }

  private let limits: RedisReplyReader.Limits
  private var open: [OpenArray] = []
  private var result: RedisValue?
  private var elements = 0
  private(set) var failure: RedisWireError?
  /// Stands for "an object" towards hiredis, which only compares it with null.
  private let object = UnsafeMutableRawPointer(bitPattern: 1)

  init(limits: RedisReplyReader.Limits) {
    self.limits = limits
  }

  /// The builder of the reader whose task this is.
  static func of(_ task: UnsafePointer<redisReadTask>) -> ReplyBuilder? {
    guard let pointer = task.pointee.privdata else { return nil }
    return Unmanaged<ReplyBuilder>.fromOpaque(pointer).takeUnretainedValue()
  }

  func takeResult() -> RedisValue? {
    defer {
      self.result = nil
      self.elements = 0
    }
    return self.result
  }

  func beginArray(count: Int) -> UnsafeMutableRawPointer? {
    guard count <= self.limits.elements - self.elements else {
      self.failure = .tooManyElements(limit: self.limits.elements)
      return nil
    }
    guard self.open.count < self.limits.depth else {
      self.failure = .nestedTooDeep(limit: self.limits.depth)
      return nil
    }
    self.elements += count
    if count == 0 { return self.add(.array([])) }
    // Nothing is reserved by a number that the peer made up.
    self.open.append(OpenArray(missing: count, elements: []))
    return self.object
  }

  func add(_ value: RedisValue) -> UnsafeMutableRawPointer? {
    var value = value
    while let last = self.open.indices.last {
      self.open[last].elements.append(value)
      self.open[last].missing -= 1
      guard self.open[last].missing == 0 else { return self.object }
      value = .array(self.open.removeLast().elements)
    }
    self.result = value
    return self.object
  }
}
