import RedisWire
import Testing

@Suite struct CommandTests {
  @Test func aCommandIsWrittenAsAnArrayOfBytes() throws {
    var command = RedisCommand("SET", "key")
    command.append([0, 13, 10, 255])
    command.append(-7)
    command.append("")
    let expected: [UInt8] =
      Array("*5\r\n$3\r\nSET\r\n$3\r\nkey\r\n$4\r\n".utf8) + [0, 13, 10, 255]
      + Array("\r\n$2\r\n-7\r\n$0\r\n\r\n".utf8)
    #expect(try command.formatted() == expected)
    #expect(command.name == "SET")
  }

  @Test func wordsOfNoBytesAreWords() throws {
    #expect(try RedisCommand("").formatted() == Array("*1\r\n$0\r\n\r\n".utf8))
    #expect(throws: RedisWireError.emptyCommand) { try RedisCommand().formatted() }
  }

  @Test func aCommandAboveTheLimitIsRefused() {
    var command = RedisCommand("SET", "key")
    command.append([UInt8](repeating: 0, count: RedisCommand.maximumBytes))
    #expect(throws: RedisWireError.self) { try command.formatted() }
  }

  @Test func whatIsWrittenReadsBackAsTheSameWords() throws {
    let command = RedisCommand((0..<100).map { String(repeating: "é", count: $0) })
    let reader = RedisReplyReader()
    var values: [RedisValue] = []
    let bytes = try command.formatted()
    try reader.read(bytes.span) { values.append($0) }
    #expect(
      values == [.array((0..<100).map { .bytes(Array(String(repeating: "é", count: $0).utf8)) })])
  }

  @Test func descriptionsKeepSecrets() {
    #expect(String(describing: RedisCommand("AUTH", "hunter2")) == "AUTH")
  }
}
