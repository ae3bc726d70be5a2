import RPCCore
import Testing

@Suite struct MessageDeframerTests {
  private func frames(_ bytes: [UInt8], chunk: Int, limit: Int = 1 << 20) throws -> [[UInt8]] {
    var deframer = MessageDeframer(limit: limit)
    var messages: [[UInt8]] = []
    var start = 0
    while start < bytes.count {
      let end = min(start + chunk, bytes.count)
      try bytes[start..<end].withUnsafeBytes { part in
        try deframer.append(part) { message, _ in
          messages.append(Array(message))
          return true
        }
      }
      start = end
    }
    let isAtBoundary = deframer.isAtBoundary
    #expect(isAtBoundary)
    return messages
  }

  @Test(arguments: [1, 2, 3, 4, 5, 6, 7, 100])
  func messagesAreTheSameHoweverTheyAreCut(chunk: Int) throws {
    let bytes: [UInt8] = [0, 0, 0, 0, 3, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 9]
    #expect(try self.frames(bytes, chunk: chunk) == [[1, 2, 3], [], [9]])
  }

  @Test func aPartOfAMessageIsNoBoundary() throws {
    var deframer = MessageDeframer(limit: 10)
    try [UInt8]([0, 0, 0, 0, 2, 7]).withUnsafeBytes { try deframer.append($0) { _, _ in true } }
    let isAtBoundary = deframer.isAtBoundary
    #expect(!isAtBoundary)
  }

  @Test func aLengthBeyondTheLimitIsRefusedBeforeItsBytesCome() {
    #expect(throws: MessageDeframer.Failure.tooLarge(size: 4_294_967_295, limit: 10)) {
      try self.frames([0, 255, 255, 255, 255], chunk: 5, limit: 10)
    }
  }

  @Test func theFlagSaysWhetherAMessageIsCompressed() throws {
    var deframer = MessageDeframer(limit: 10)
    var flags: [Bool] = []
    try [UInt8]([1, 0, 0, 0, 1, 7, 0, 0, 0, 0, 0]).withUnsafeBytes { bytes in
      try deframer.append(bytes) { _, isCompressed in
        flags.append(isCompressed)
        return true
      }
    }
    #expect(flags == [true, false])
  }

  @Test(arguments: [1, 4, 6, 13, 100])
  func whatIsNotWantedYetIsKeptAsItIs(chunk: Int) throws {
    var deframer = MessageDeframer(limit: 10)
    let bytes: [UInt8] = [0, 0, 0, 0, 1, 7, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 8, 9, 0, 0]
    var messages: [[UInt8]] = []
    for start in stride(from: 0, to: bytes.count, by: chunk) {
      try bytes[start..<min(start + chunk, bytes.count)].withUnsafeBytes { part in
        // One at a time.
        if messages.isEmpty {
          try deframer.append(part) { message, _ in
            messages.append(Array(message))
            return false
          }
        } else {
          deframer.keep(part)
        }
      }
    }
    #expect(messages == [[7]])
    var heldBytes = deframer.heldBytes
    #expect(heldBytes == 14)
    for count in 2...3 {
      try deframer.resume { message, _ in
        messages.append(Array(message))
        return false
      }
      #expect(messages.count == count)
    }
    #expect(messages == [[7], [], [8, 9]])
    // The beginning of a prefix.
    try deframer.resume { _, _ in true }
    heldBytes = deframer.heldBytes
    #expect(heldBytes == 0)
    let isAtBoundary = deframer.isAtBoundary
    #expect(!isAtBoundary)
    deframer.reset()
    let isClean = deframer.isAtBoundary
    #expect(isClean)
  }

  @Test(arguments: [1, 2, 5, 6, 100])
  func theOneMessageOfAStreamIsHeld(chunk: Int) throws {
    for message in [[UInt8](), [1, 2, 3]] {
      var deframer = MessageDeframer(limit: 10)
      // Twice: a stream is used again.
      for _ in 0..<2 {
        var bytes = ([1, 0, 0, 0, UInt8(message.count)] + message)[...]
        while !bytes.isEmpty {
          try Array(bytes.prefix(chunk)).withUnsafeBytes { try deframer.hold($0) }
          bytes = bytes.dropFirst(chunk)
        }
        let isAtBoundary = deframer.isAtBoundary
        #expect(isAtBoundary)
        let held = deframer.withHeld { message, isCompressed in
          #expect(isCompressed)
          return Array(message)
        }
        #expect(held == message)
        deframer.reset()
      }
    }
  }

  @Test func aSecondMessageWhereOneIsHeldIsRefused() {
    var deframer = MessageDeframer(limit: 10)
    #expect(throws: MessageDeframer.Failure.secondMessage) {
      try [UInt8]([0, 0, 0, 0, 1, 7, 0]).withUnsafeBytes { try deframer.hold($0) }
    }
  }

  @Test func aPartOfAMessageIsNotHeld() throws {
    var deframer = MessageDeframer(limit: 10)
    try [UInt8]([0, 0, 0, 0, 2, 7]).withUnsafeBytes { try deframer.hold($0) }
    let held: Void? = deframer.withHeld { _, _ in }
    let isAtBoundary = deframer.isAtBoundary
    #expect(held == nil && !isAtBoundary)
  }

  @Test func flagsOtherThanZeroAndOneAreRefused() {
    #expect(throws: MessageDeframer.Failure.badFlag(7)) {
      try self.frames([7, 0, 0, 0, 0], chunk: 5)
    }
  }
}

@Suite struct HeaderValueTests {
  private func decode(_ text: String) -> Duration? {
    Array(text.utf8).withUnsafeBufferPointer { TimeoutHeader.decode($0) }
  }

  @Test(arguments: [
    ("1H", Duration.seconds(3_600)), ("2M", .seconds(120)), ("3S", .seconds(3)),
    ("4m", .milliseconds(4)), ("5u", .microseconds(5)), ("6n", .nanoseconds(6)),
    ("99999999H", .seconds(99_999_999 * 3_600)),
  ])
  func aTimeoutIsRead(text: String, timeout: Duration) {
    #expect(self.decode(text) == timeout)
  }

  @Test(arguments: ["", "1", "S", "-1S", "1 S", "123456789S", "1s", "+1S", "1.5S"])
  func whatIsNoTimeoutIsRefused(text: String) {
    #expect(self.decode(text) == nil)
  }

  @Test(arguments: [
    Duration.nanoseconds(1), .microseconds(999), .milliseconds(1_234), .seconds(98),
    .seconds(100_000), .seconds(400_000_000), .seconds(99_999_999 * 3_600),
  ])
  func aTimeoutIsWrittenWithinEightDigitsAndNeverShortened(timeout: Duration) throws {
    let text = TimeoutHeader.encode(timeout)
    #expect(text.utf8.count <= 9)
    #expect(try #require(self.decode(text)) >= timeout)
  }

  @Test func aTimeoutBeyondWhatAHeaderHoldsIsTheLongest() {
    for timeout in [Duration.seconds(Int64.max), .seconds(Int64.max) * 8] {
      #expect(TimeoutHeader.encode(timeout) == "99999999H")
    }
  }

  @Test func aTimeoutThatHasPassedIsZero() {
    #expect(TimeoutHeader.encode(.seconds(-1)) == "0n")
  }

  @Test(arguments: ["", "plain", "100% sure", "ünïcode ☺ \u{1f608}", "\t\r\n"])
  func aStatusMessageSurvives(message: String) {
    let encoded = StatusMessage.encode(message)
    #expect(encoded.allSatisfy { (0x20...0x7e).contains($0) })
    #expect(encoded.withUnsafeBufferPointer { StatusMessage.decode($0) } == message)
  }

  @Test func aBrokenEscapeIsTakenAsItStands() {
    let decoded = Array("50%zz %4".utf8).withUnsafeBufferPointer { StatusMessage.decode($0) }
    #expect(decoded == "50%zz %4")
  }

  @Test func base64SurvivesAtEveryLength() {
    for count in 0..<50 {
      let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 37 &+ 200) }
      #expect(Base64.decode(Base64.encode(bytes)) == bytes)
    }
  }

  @Test(arguments: [("YQ==", [UInt8(97)]), ("YQ", [97]), ("YWI=", [97, 98]), ("", [])])
  func base64IsReadWithAndWithoutPadding(text: String, bytes: [UInt8]) {
    #expect(Base64.decode(Array(text.utf8)) == bytes)
  }

  @Test(arguments: ["Y", "Y===", "YQ=", "YQ==YQ", "Y*==", "YWJjZ"])
  func whatIsNoBase64IsRefused(text: String) {
    #expect(Base64.decode(Array(text.utf8)) == nil)
  }
}

@Suite struct MetadataTests {
  @Test func namesAreComparedWithoutCase() {
    let metadata: Metadata = ["X-Trace": "a", "x-trace": "b"]
    #expect(metadata["x-TRACE"] == "a")
    #expect(metadata.values(for: "x-trace") == ["a", "b"])
    #expect(metadata["x-other"] == nil)
  }

  @Test func bytesTravelUnderABinaryName() {
    var metadata = Metadata()
    metadata.add(binary: [0, 1, 255], for: "k-bin")
    #expect(metadata.binary(for: "k-bin") == [0, 1, 255])
    #expect(metadata["k-bin"] == "AAH/")
  }

  @Test func aNameCanBeTakenOut() {
    var metadata: Metadata = ["a": "1", "b": "2", "a": "3"]
    metadata.removeAll(for: "A")
    #expect(metadata == ["b": "2"])
  }

  @Test func whatHeadersCannotCarryIsReplaced() {
    let metadata: Metadata = ["a": "line\nbreak"]
    #expect(metadata["a"] == "line?break")
  }

  @Test func aRetryDelayTravelsAsMetadata() {
    var error = RPCError(.unavailable, "busy", retryDelay: .milliseconds(250))
    #expect(error.metadata["grpc-retry-pushback-ms"] == "250")
    #expect(error.retryDelay == .milliseconds(250))
    error.retryDelay = nil
    #expect(error.metadata.isEmpty)
  }

  @Test func aRetryDelayIsAYearAtMostWhoeverSetsIt() {
    let year = Duration.seconds(31_536_000)
    #expect(RPCError(.unavailable, "busy", retryDelay: .seconds(Int64.max) * 8).retryDelay == year)
    for text in [
      "31536000001", "9223372036999", "9223372036854775807", "9223372036854775808",
      "99999999999999999999999",
    ] {
      let error = RPCError(
        .unavailable, "busy", metadata: ["grpc-retry-pushback-ms": "\(text)"])
      #expect(error.retryDelay == year)
    }
    for text in ["-1", "x", "", "1.5", "+1", "-99999999999999999999999"] {
      let error = RPCError(
        .unavailable, "busy", metadata: ["grpc-retry-pushback-ms": "\(text)"])
      #expect(error.retryDelay == nil)
    }
  }
}

@Suite struct ListenAddressTests {
  @Test(arguments: [
    ("127.0.0.1:80", ListenAddress.tcp(host: "127.0.0.1", port: 80)),
    ("[::1]:0", .tcp(host: "::1", port: 0)), ("host:65535", .tcp(host: "host", port: 65_535)),
    ("unix:/run/a.sock", .unix(path: "/run/a.sock")), ("unix:a", .unix(path: "a")),
    ("unix:///run/a.sock", .unix(path: "/run/a.sock")),
    ("[fe80::1%eth0]:80", .tcp(host: "fe80::1%eth0", port: 80)),
    ("[::ffff:1.2.3.4]:80", .tcp(host: "::ffff:1.2.3.4", port: 80)),
  ])
  func anAddressIsRead(text: String, address: ListenAddress) throws {
    #expect(try ListenAddress(text) == address)
  }

  @Test(arguments: [
    ("", "no port"), ("host", "no port"), ("host:", "the port \"\""), (":80", "host is empty"),
    ("host:65536", "65536"), ("host:http", "http"), ("::1:80", "square brackets"),
    ("unix:", "path is empty"), ("unix:" + String(repeating: "x", count: 108), "108 bytes"),
    ("[localhost]:80", "\"localhost\" in square brackets is no address of IPv6"),
    ("[1.2.3.4]:80", "\"1.2.3.4\" in square brackets"), ("[]:80", "\"\" in square brackets"),
    ("[a:b]:80", "\"a:b\" is no address of IPv6"), ("[::zz]:80", "\"::zz\" is no address"),
    ("[::1%]:80", "\"::1%\" is no address"), ("[::1]", "there is no port"),
    ("unix://host/path", "on no other host (host); expected unix:PATH or unix:///PATH"),
    ("unix:///", "the path \"/\" is a folder's"), ("unix:/run/", "\"/run/\" is a folder's"),
    ("unix://", "the path is empty"), ("unix-abstract:123", "unix-abstract: is not supported"),
  ])
  func whatIsNoAddressIsToldWhy(text: String, reason: String) {
    let error = #expect(throws: ListenAddress.ParseError.self) { try ListenAddress(text) }
    #expect(error?.description.contains(reason) == true)
  }
}
