import RedisWire
import Testing

/// Reads `text` in pieces of `size` bytes.
func replies(
  _ text: String, pieces size: Int = .max, limits: RedisReplyReader.Limits = .init()
) throws -> [RedisValue] {
  try replies(Array(text.utf8), pieces: size, limits: limits)
}

func replies(
  _ bytes: [UInt8], pieces size: Int = .max, limits: RedisReplyReader.Limits = .init()
) throws -> [RedisValue] {
  let reader = RedisReplyReader(limits: limits)
  var values: [RedisValue] = []
  var offset = 0
  while offset < bytes.count {
    let end = offset + min(size, bytes.count - offset)
    try reader.read(bytes.span.extracting(offset..<end)) { values.append($0) }
    offset = end
  }
  return values
}

@Suite struct ReplyReaderTests {
  static let everyKind =
    "+OK\r\n-ERR no such thing\r\n:-42\r\n$-1\r\n*-1\r\n$0\r\n\r\n"
    + "$5\r\na\r\n\0b\r\n*0\r\n*3\r\n:1\r\n*2\r\n$1\r\nx\r\n$-1\r\n+y\r\n:9223372036854775807\r\n"
  static let everyValue: [RedisValue] = [
    .status("OK"), .error(RedisErrorReply("ERR no such thing")), .integer(-42), .null, .null,
    .bytes([]), .bytes([0x61, 13, 10, 0, 0x62]), .array([]),
    .array([.integer(1), .array([.bytes([0x78]), .null]), .status("y")]), .integer(.max),
  ]

  @Test(arguments: [1, 2, 3, 7, 16, 1_000])
  func everyKindOfReplyIsReadInPiecesOfAnySize(size: Int) throws {
    #expect(try replies(Self.everyKind, pieces: size) == Self.everyValue)
  }

  @Test func aReplyIsInProgressUntilItsLastByte() throws {
    let reader = RedisReplyReader()
    var values: [RedisValue] = []
    let bytes = Array("*2\r\n:1\r\n:2\r\n".utf8)
    try reader.read(bytes.span.extracting(..<(bytes.count - 1))) { values.append($0) }
    #expect(values.isEmpty && reader.isInReply)
    try reader.read(bytes.span.extracting((bytes.count - 1)...)) { values.append($0) }
    #expect(values == [.array([.integer(1), .integer(2)])] && !reader.isInReply)
  }

  @Test(arguments: [
    "hello\r\n", "HTTP/1.1 200 OK\r\n", "%1\r\n+a\r\n+b\r\n", "_\r\n", "\u{0}\u{1}",
    "$-2\r\n", "$x\r\n", "*-2\r\n", ":12a\r\n", "*1\r\n?\r\n", ":99999999999999999999\r\n",
    "*4294967296\r\n", "$5\r\nab\r\n",
  ])
  func whatIsNoReplyEndsWithATypedErrorOrIsWaitedFor(text: String) throws {
    do {
      let values = try replies(text)
      // `$5` with two bytes so far is a reply of which more may come.
      #expect(values.isEmpty && text.hasPrefix("$5"))
    } catch let error as RedisWireError {
      guard case .malformed(let reason) = error else {
        Issue.record("\(text): \(error)")
        return
      }
      #expect(!reason.isEmpty)
    }
  }

  @Test func theErrorStays() {
    let reader = RedisReplyReader()
    for text in ["?", "+OK\r\n"] {
      #expect(throws: RedisWireError.self) {
        let bytes = Array(text.utf8)
        try reader.read(bytes.span) { _ in Issue.record("read on after an error") }
      }
    }
  }

  @Test func aReplyAboveTheLimitIsRefusedWhileItComes() {
    let limits = RedisReplyReader.Limits(replyBytes: 100)
    #expect(throws: RedisWireError.replyTooLarge(limit: 100)) {
      try replies("$1000000\r\n" + String(repeating: "x", count: 200), pieces: 10, limits: limits)
    }
    #expect(throws: RedisWireError.replyTooLarge(limit: 100)) {
      try replies("*50\r\n" + String(repeating: ":1\r\n", count: 49), pieces: 7, limits: limits)
    }
    #expect(throws: RedisWireError.replyTooLarge(limit: 100)) {
      try replies("$200\r\n" + String(repeating: "x", count: 200) + "\r\n", limits: limits)
    }
  }

  @Test func manySmallRepliesAreNoLargeOne() throws {
    let limits = RedisReplyReader.Limits(replyBytes: 100)
    let text = String(repeating: "+OK\r\n", count: 100_000)
    #expect(try replies(text, limits: limits).count == 100_000)
  }

  @Test func anArrayOfMorePartsThanTheLimitIsRefusedAtItsHeader() {
    let limits = RedisReplyReader.Limits(elements: 10)
    #expect(throws: RedisWireError.tooManyElements(limit: 10)) {
      try replies("*11\r\n", limits: limits)
    }
    #expect(throws: RedisWireError.tooManyElements(limit: 10)) {
      try replies("*2\r\n*5\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n*4\r\n", limits: limits)
    }
    // At its default limit too, without reserving room for a number that someone made up.
    #expect(throws: RedisWireError.tooManyElements(limit: 1 << 20)) {
      try replies("*2000000000\r\n")
    }
  }

  @Test func arraysInsideArraysEndAtTheLimit() throws {
    let limits = RedisReplyReader.Limits(depth: 3)
    #expect(try replies("*1\r\n*1\r\n*1\r\n:1\r\n", limits: limits).count == 1)
    #expect(throws: RedisWireError.nestedTooDeep(limit: 3)) {
      try replies("*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n", limits: limits)
    }
    #expect(throws: RedisWireError.self) {
      try replies(String(repeating: "*1\r\n", count: 100_000))
    }
  }

  @Test func numbersAndTextAreReadFromEitherForm() {
    #expect(RedisValue.bytes(Array("1764000000000001".utf8)).number == 1_764_000_000_000_001)
    #expect(RedisValue.integer(7).number == 7)
    #expect(RedisValue.bytes([0x37, 0x20]).number == nil)
    #expect(RedisValue.status("OK").text == "OK")
    #expect(RedisErrorReply("NOSCRIPT No matching script.").code == "NOSCRIPT")
  }
}

@Suite struct ReplyReaderFuzzTests {
  /// SplitMix64: the same numbers from the same seed, everywhere.
  struct Seeded: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
      self.state &+= 0x9e37_79b9_7f4a_7c15
      var z = self.state
      z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
      z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
      return z ^ (z >> 31)
    }
  }

  @Test(arguments: 1...20 as ClosedRange<UInt64>)
  func hostileBytesGiveRepliesOrATypedErrorAndNeverACrash(seed: UInt64) throws {
    var random = Seeded(state: seed)
    let corpus = Array(ReplyReaderTests.everyKind.utf8)
    let spice = Array("*$:+-\r\n0123456789\0%_#,(=~>|".utf8)
    let limits = RedisReplyReader.Limits(replyBytes: 4_096, elements: 512)
    for _ in 0..<2_000 {
      var bytes = corpus
      for _ in 0..<Int.random(in: 1...12, using: &random) {
        let at = Int.random(in: 0..<bytes.count, using: &random)
        switch Int.random(in: 0..<4, using: &random) {
        case 0: bytes[at] = UInt8.random(in: 0...255, using: &random)
        case 1: bytes[at] = spice.randomElement(using: &random)!
        case 2: bytes.insert(spice.randomElement(using: &random)!, at: at)
        default: if bytes.count > 1 { bytes.remove(at: at) }
        }
      }
      let size = Int.random(in: 1...64, using: &random)
      // The same bytes in other pieces are the same replies.
      let inPieces = Result { try replies(bytes, pieces: size, limits: limits) }
      let atOnce = Result { try replies(bytes, limits: limits) }
      switch (inPieces, atOnce) {
      case (.success(let left), .success(let right)): #expect(left == right)
      case (.failure(let left), .failure(let right)):
        #expect(left is RedisWireError && right is RedisWireError)
      default: Issue.record("seed \(seed): \(inPieces) in pieces of \(size), \(atOnce) at once")
      }
    }
  }
}
