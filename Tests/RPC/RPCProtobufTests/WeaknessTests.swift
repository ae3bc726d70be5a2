import RPC
import RPCCore
import RPCProtobuf
import Testing

/// What libprotobuf-c 1.4.1 does wrong, and must not do here. Each is named as the fault.
@Suite struct WeaknessTests {
  /// A field with a length, for messages built by hand.
  private func field(_ number: Int, _ content: [UInt8]) -> [UInt8] {
    self.varint(number << 3 | 2) + self.varint(content.count) + content
  }

  private func varint(_ value: Int) -> [UInt8] {
    var rest = UInt64(bitPattern: Int64(value))
    var bytes: [UInt8] = []
    while rest >= 0x80 {
      bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
      rest >>= 7
    }
    return bytes + [UInt8(rest)]
  }

  private func nested(_ depth: Int, _ number: Int) -> [UInt8] {
    var bytes: [UInt8] = []
    for _ in 0..<depth { bytes = self.field(number, bytes) }
    return bytes
  }

  private func failure<M: RPCMessage>(_ type: M.Type, _ bytes: [UInt8]) -> MessageDecodingError? {
    do throws(MessageDecodingError) {
      _ = try M(decoding: bytes)
      return nil
    } catch {
      return error
    }
  }

  // MARK: - Nesting

  @Test(arguments: [2, 3, 4, 6])
  func nestingIsBounded(number: Int) throws {
    #expect(self.failure(EverythingV1.Tree.self, self.nested(100, number)) == nil)
    let error = self.failure(EverythingV1.Tree.self, self.nested(101, number))
    #expect(error == MessageDecodingError(.nestedTooDeep, in: "testing.everything.v1.Tree"))
    #expect(
      self.failure(EverythingV1.Tree.self, self.nested(50_000, number))?.reason == .nestedTooDeep)
  }

  @Test func nestingInListsIsBounded() {
    #expect(self.failure(EverythingV1.Chain.self, self.nested(100, 1)) == nil)
    #expect(self.failure(EverythingV1.Chain.self, self.nested(101, 1))?.reason == .nestedTooDeep)
    #expect(
      self.failure(EverythingV1.Chain.self, self.nested(100_000, 1))?.reason == .nestedTooDeep)
  }

  @Test func nestingInMapsIsBounded() {
    var bytes: [UInt8] = []
    for _ in 0..<2_000 { bytes = self.field(5, self.field(2, bytes)) }
    #expect(self.failure(EverythingV1.Tree.self, bytes)?.reason == .nestedTooDeep)
  }

  @Test func nestingInJSONIsBounded() {
    var bytes: [UInt8] = []
    for _ in 0..<5_000 { bytes = self.field(6, self.field(1, bytes)) }
    #expect(self.failure(GoogleProtobuf.Value.self, bytes)?.reason == .nestedTooDeep)
  }

  @Test func nestingBehindARepeatedSubmessageIsBounded() {
    // Odd at the top, so that the bytes are rewritten.
    let bytes = self.field(2, []) + self.field(2, self.nested(5_000, 2))
    #expect(self.failure(EverythingV1.Tree.self, bytes)?.reason == .nestedTooDeep)
  }

  @Test func nestingInUnknownFieldsIsNoConcern() throws {
    let bytes = self.field(900, self.nested(5_000, 2))
    let tree = try EverythingV1.Tree(decoding: bytes)
    #expect(tree.encoded() == bytes)
  }

  // MARK: - Strings

  @Test func aNULDoesNotEndAString() throws {
    let tree = try EverythingV1.Tree(decoding: self.field(1, [0x61, 0, 0x62]))
    #expect(tree.label == "a\0b")
    #expect(tree.encoded() == self.field(1, [0x61, 0, 0x62]))
  }

  @Test(arguments: [[0xff], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0x61, 0xe2, 0x82]] as [[UInt8]])
  func aStringThatIsNotUTF8IsRefused(utf8: [UInt8]) {
    #expect(
      self.failure(EverythingV1.Tree.self, self.field(1, utf8))
        == MessageDecodingError(.invalidUTF8, in: "testing.everything.v1.Tree.label"))
    #expect(
      self.failure(EverythingV1.Everything.self, self.field(29, utf8))?.name
        == "testing.everything.v1.Everything.strings")
    #expect(
      self.failure(EverythingV1.Everything.self, self.field(61, self.field(2, utf8)))?.name
        == "testing.everything.v1.Everything.by_int32")
    #expect(
      self.failure(EverythingV1.Everything.self, self.field(82, utf8))?.name
        == "testing.everything.v1.Everything.source_url")
    // Bytes may be anything.
    #expect(self.failure(EverythingV1.Everything.self, self.field(10, utf8)) == nil)
  }

  // MARK: - Unknown fields

  @Test func anUnknownFieldsTagIsAsShortAsItCanBe() throws {
    // Field 900, whose tag would do with two bytes of its three.
    let unknown = [0xa2, 0xb8, 0x00, 0x01, 0x61] as [UInt8]
    let short = self.field(900, [0x61])
    // Alone, and behind what has the message rewritten.
    #expect(try EverythingV1.Tree(decoding: unknown).encoded() == short)
    let odd = self.field(2, []) + self.field(2, []) + unknown
    #expect(try EverythingV1.Tree(decoding: odd).unknownFields.bytes == short)
  }

  // MARK: - A submessage sent twice

  @Test func aSubmessageThatIsSentTwiceIsMerged() throws {
    let bytes =
      self.field(17, [0x08, 0x02]) + self.field(9, [0x61]) + self.field(17, [0x10, 0x04])
    let message = try EverythingV1.Everything(decoding: bytes)
    #expect(message.aPoint == .init(x: 1, y: 2))
    #expect(message.aString == "a")
  }

  @Test func aLaterValueReplacesAnEarlierOneWhenMerged() throws {
    let bytes = self.field(17, [0x08, 0x02, 0x10, 0x06]) + self.field(17, [0x08, 0x04])
    #expect(try EverythingV1.Everything(decoding: bytes).aPoint == .init(x: 2, y: 3))
  }

  @Test func mergingGoesAllTheWayDown() throws {
    let first = EverythingV1.Tree(
      label: "first", left: .init(label: "l", children: [.init(label: "1")], named: ["a": .init()]))
    let second = EverythingV1.Tree(
      left: .init(left: .init(label: "ll"), children: [.init(label: "2")], named: ["b": .init()]))
    let merged = try EverythingV1.Tree(decoding: first.encoded() + second.encoded())
    #expect(
      merged
        == EverythingV1.Tree(
          label: "first",
          left: .init(
            label: "l", left: .init(label: "ll"), children: [.init(label: "1"), .init(label: "2")],
            named: ["a": .init(), "b": .init()])))
  }

  @Test func aMessageOfAOneofThatIsSentTwiceIsMerged() throws {
    let bytes = self.field(86, [0x08, 0x02]) + self.field(86, [0x10, 0x04])
    let message = try EverythingV1.Everything(decoding: bytes)
    #expect(message.choice == .point(.init(x: 1, y: 2)))
  }

  @Test func aMemberBetweenEndsTheMerging() throws {
    let bytes =
      self.field(86, [0x08, 0x02]) + self.field(82, [0x75]) + self.field(86, [0x10, 0x04])
    let message = try EverythingV1.Everything(decoding: bytes)
    #expect(message.choice == .point(.init(y: 2)))
  }

  @Test func theLastMemberOfAOneofCounts() throws {
    let bytes = self.field(86, [0x08, 0x02]) + self.field(86, []) + self.field(82, [0x75])
    #expect(try EverythingV1.Everything(decoding: bytes).choice == .sourceURL("u"))
  }

  @Test func aTypeWithOneofAndMapMayBeSentTwice() throws {
    let one = EverythingV1.Everything(
      byString: ["k": .init(aString: "v")], choice: .inner(.init(choice: .buildID(4))))
    let two = EverythingV1.Everything(choice: .inner(.init(byBool: [true: 1])))
    let merged = try EverythingV1.Everything(decoding: one.encoded() + two.encoded())
    #expect(
      merged
        == EverythingV1.Everything(
          byString: ["k": .init(aString: "v")],
          choice: .inner(.init(byBool: [true: 1], choice: .buildID(4)))))
  }

  @Test func aMapsValueThatIsSentTwiceIsMerged() throws {
    let entry =
      self.field(1, [0x6b]) + self.field(2, self.field(1, [0x61]))
      + self.field(2, self.field(2, []))
    let tree = try EverythingV1.Tree(decoding: self.field(5, entry))
    #expect(tree.named == ["k": .init(label: "a", left: .init())])
  }

  @Test func aKeyThatIsSentTwiceHasItsLastValue() throws {
    let bytes =
      self.field(61, [0x08, 0x01, 0x12, 0x01, 0x61])
      + self.field(61, [0x08, 0x01, 0x12, 0x01, 0x62])
    #expect(try EverythingV1.Everything(decoding: bytes).byInt32 == [1: "b"])
  }

  @Test func aMapEntryWithoutKeyOrValueHasDefaults() throws {
    let message = try EverythingV1.Everything(decoding: self.field(66, []) + self.field(72, []))
    #expect(message.bySint64 == [0: .init()])
    #expect(message.byString == ["": .init()])
  }

  @Test func manyRepetitionsCostNoMoreThanTheirSize() throws {
    var bytes: [UInt8] = []
    for _ in 0..<200_000 { bytes += self.field(17, [0x08, 0x02]) }
    #expect(try EverythingV1.Everything(decoding: bytes).aPoint == .init(x: 1))
  }

  // MARK: - Unknown groups and fields

  @Test func anUnknownGroupIsKept() throws {
    let inside = self.field(1, [0x61]) + [0x08, 0x01, 0x13, 0x14]
    let group: [UInt8] = [0xa3, 0x06] + inside + [0xa4, 0x06]
    let bytes = self.field(1, [0x61]) + group
    let tree = try EverythingV1.Tree(decoding: bytes)
    #expect(tree.label == "a")
    #expect(tree.unknownFields.bytes == group)
    #expect(tree.encoded() == bytes)
    #expect(try EverythingV1.Tree(decoding: tree.encoded()) == tree)
  }

  @Test func anUnknownGroupInASubmessageIsKeptThere() throws {
    let group: [UInt8] = [0xa3, 0x06, 0xa4, 0x06]
    let tree = try EverythingV1.Tree(decoding: self.field(4, group))
    #expect(tree.children.first?.unknownFields.bytes == group)
    #expect(tree.encoded() == self.field(4, group))
  }

  @Test(
    arguments: [
      [0xa3, 0x06], [0xa4, 0x06], [0xa3, 0x06, 0xac, 0x06], [0xa3, 0x06, 0x0a, 0x05, 0xa4, 0x06],
    ] as [[UInt8]])
  func aGroupThatDoesNotEndIsRefused(bytes: [UInt8]) {
    #expect(self.failure(EverythingV1.Tree.self, bytes)?.reason == .malformed)
    #expect(self.failure(EverythingV1.Point.self, bytes)?.reason == .malformed)
  }

  @Test func groupsInGroupsAreBounded() {
    func groups(_ depth: Int) -> [UInt8] {
      [UInt8](repeating: 0x0b, count: depth) + [UInt8](repeating: 0x0c, count: depth)
    }
    #expect(self.failure(EverythingV1.Chain.self, groups(100)) == nil)
    #expect(self.failure(EverythingV1.Chain.self, groups(101))?.reason == .malformed)
    #expect(self.failure(EverythingV1.Chain.self, groups(100_000))?.reason == .malformed)
  }

  @Test func aFieldOfAnotherWireTypeIsUnknown() throws {
    // `x` as bytes, `y` as fixed64.
    let bytes: [UInt8] = [0x0a, 0x01, 0x05, 0x11, 1, 2, 3, 4, 5, 6, 7, 8]
    let point = try EverythingV1.Point(decoding: bytes)
    #expect(point.x == 0)
    #expect(point.encoded() == bytes)
  }

  @Test func aBoolOfAnotherWireTypeIsUnknown() throws {
    // libprotobuf-c itself takes any wire type for a bool.
    for bytes in [self.field(8, [1]), [0x45, 1, 0, 0, 0], [0x41, 1, 0, 0, 0, 0, 0, 0, 0]] {
      let message = try EverythingV1.Everything(decoding: bytes)
      #expect(!message.aBool)
      #expect(message.encoded() == bytes)
    }
    // Any varint but zero is true, however large.
    #expect(try EverythingV1.Everything(decoding: [0x40, 0x80, 0x80, 0x80, 0x80, 0x10]).aBool)
  }

  @Test func unknownFieldsSurvive() throws {
    let unknown = self.field(20, [1, 2]) + [0xd8, 0x3e, 0x07] + [0xdd, 0x3e, 1, 2, 3, 4]
    let bytes = self.field(9, [0x61]) + unknown
    let message = try EverythingV1.Everything(decoding: bytes)
    #expect(message.unknownFields.bytes == unknown)
    #expect(message.encoded() == bytes)
    let outer = try EverythingV1.Everything(decoding: self.field(87, bytes))
    #expect(outer.choice == .inner(message))
    #expect(outer.encoded() == self.field(87, bytes))
  }

  @Test func anEncodedMessageGoesOutAsTheFieldItStandsFor() throws {
    for size in [0, 1, 200, 70_000] {
      let message = EverythingV1.Everything(aString: String(repeating: "x", count: size))
      var outer = EverythingV1.Everything()
      outer.unknownFields = UnknownFields(message: message.encoded(), as: 87)
      #expect(outer.encoded() == self.field(87, message.encoded()))
      #expect(try EverythingV1.Everything(decoding: outer.encoded()).choice == .inner(message))
    }
  }

  @Test func theWrappersOwnNumberMayBeUsed() throws {
    // 19999 is the number that unknown groups are wrapped in on their way through C.
    let own = self.field(19999, [0xff, 0xff, 0xff])
    #expect(try EverythingV1.Tree(decoding: own).encoded() == own)
    let withGroup = own + [0xa3, 0x06, 0xa4, 0x06]
    #expect(try EverythingV1.Tree(decoding: withGroup).encoded() == withGroup)
  }

  // Each would be a field of its own that libprotobuf-c keeps, and they would have no room.
  @Test func groupsWithoutNumberAreOneUnknownField() throws {
    let groups = (0..<200_000).flatMap { _ in [0xa3, 0x06, 0xa4, 0x06] as [UInt8] }
    #expect(try EverythingV1.Tree(decoding: groups).encoded() == groups)
    // With a field between each two of them.
    let mixed = (0..<20_000).flatMap { _ in [0xa3, 0x06, 0xa4, 0x06, 0xf8, 0x06, 0] as [UInt8] }
    #expect(try EverythingV1.Tree(decoding: mixed).encoded() == mixed)
  }

  // MARK: - Malformed bytes

  @Test func fieldNumberZeroIsRefused() {
    #expect(self.failure(EverythingV1.Point.self, [0x00, 0x01])?.reason == .malformed)
    #expect(self.failure(EverythingV1.Tree.self, [0x02, 0x00])?.reason == .malformed)
  }

  @Test func everyTruncationIsRefusedOrAWholeMessage() {
    for vector in [Vectors.scalars, Vectors.repeated, Vectors.maps, Vectors.tree, Vectors.json] {
      for count in 0..<vector.count {
        let error = self.failure(EverythingV1.Everything.self, Array(vector.prefix(count)))
        #expect(error == nil || error?.reason == .malformed || error?.reason == .invalidUTF8)
      }
    }
    #expect(self.failure(EverythingV1.Tree.self, [0x0a, 0x05, 0x61])?.reason == .malformed)
    #expect(self.failure(EverythingV1.Tree.self, [0x0a])?.reason == .malformed)
    #expect(self.failure(EverythingV1.Point.self, [0x08])?.reason == .malformed)
    #expect(self.failure(EverythingV1.Point.self, [0x08, 0x80])?.reason == .malformed)
  }

  @Test(
    arguments: [
      [0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], [0x0a, 0xff, 0xff, 0xff, 0xff, 0x07],
      [0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
      [0x12, 0x80, 0x80, 0x80, 0x80, 0x08],
    ] as [[UInt8]])
  func aHugeLengthIsRefusedWithoutMemory(bytes: [UInt8]) {
    #expect(self.failure(EverythingV1.Tree.self, bytes)?.reason == .malformed)
    #expect(self.failure(EverythingV1.Everything.self, bytes)?.reason == .malformed)
  }

  @Test func aVarintOfElevenBytesIsRefused() {
    let bytes = [0x08] + [UInt8](repeating: 0xff, count: 10) + [0x01]
    #expect(self.failure(EverythingV1.Point.self, bytes)?.reason == .malformed)
  }

  @Test func memoryIsBoundedByTheSizeOfTheBytes() {
    // Two bytes for each message, several hundred in memory.
    let count = 2_000_000
    var bytes: [UInt8] = []
    bytes.reserveCapacity(3 * count)
    for _ in 0..<count { bytes += [0x92, 0x05, 0x00] }
    // Field 82 is a string of a oneof: cheap, and fine.
    #expect(self.failure(EverythingV1.Everything.self, bytes) == nil)
    // Trees in a list are not.
    let trees = (0..<count).flatMap { _ in [0x22, 0x00] as [UInt8] }
    #expect(self.failure(EverythingV1.Tree.self, trees)?.reason == .tooMuchMemory)
  }

  @Test(arguments: [1, 1_000, 100_000]) func whatAMessageTakesIsTold(count: Int) throws {
    let bytes = (0..<count).flatMap { _ in [0x22, 0x00] as [UInt8] }
    var memory = 0
    let tree = try bytes.withUnsafeBytes { bytes throws(MessageDecodingError) in
      try EverythingV1.Tree(decoding: bytes, taking: &memory)
    }
    let least = tree.children.count * MemoryLayout<EverythingV1.Tree>.stride
    #expect(memory >= least)
    // Pointers and headers of C structs, and room for a list to grow.
    #expect(memory < 8 * least + 4_096)
  }

  @Test func aMessageTakesAtLeastItsBytes() throws {
    let bytes = self.field(9, [UInt8](repeating: 0x61, count: 100_000))
    var memory = 0
    _ = try bytes.withUnsafeBytes { bytes throws(MessageDecodingError) in
      try EverythingV1.Everything(decoding: bytes, taking: &memory)
    }
    #expect(memory >= bytes.count && memory < bytes.count + 4_096)
  }

  @Test func eachStringTakesAnAllocation() throws {
    let count = 1_000
    let bytes = (0..<count).flatMap { _ in self.field(29, [UInt8](repeating: 0x61, count: 16)) }
    var memory = 0
    let message = try bytes.withUnsafeBytes { bytes throws(MessageDecodingError) in
      try EverythingV1.Everything(decoding: bytes, taking: &memory)
    }
    #expect(message.strings.count == count)
    // A `String`, and 32 bytes before the text.
    #expect(memory > count * (16 + 32 + 16))
  }

  @Test func packedAndUnpackedAreTakenEitherWay() throws {
    let unpackedForPacked: [UInt8] = [0xc8, 0x01, 0x05, 0xca, 0x01, 0x02, 0x06, 0x07]
    #expect(try EverythingV1.Everything(decoding: unpackedForPacked).int32s == [5, 6, 7])
    let packedForUnpacked = self.field(38, [0x01, 0x02])
    #expect(try EverythingV1.Everything(decoding: packedForUnpacked).unpacked == [1, 2])
  }

  @Test func aListMayComeInPieces() throws {
    let between = self.field(9, [0x61])
    let bytes =
      self.field(29, [0x62]) + self.field(37, [0x08, 0x02]) + self.field(25, [1, 2]) + between
      + self.field(25, [3]) + self.field(37, []) + self.field(29, [0x63]) + self.field(29, [])
    let message = try EverythingV1.Everything(decoding: bytes)
    #expect(message.strings == ["b", "c", ""])
    #expect(message.points == [.init(x: 1), .init()])
    #expect(message.int32s == [1, 2, 3])
    #expect(message.aString == "a")
  }

  @Test func numbersOfTenBytesAreCutToTheirType() throws {
    let ones = [UInt8](repeating: 0xff, count: 9) + [0x01]
    let bytes = [0x28] + ones + [0x70] + ones + [0x58] + ones + self.field(25, ones + [5])
    let message = try EverythingV1.Everything(decoding: bytes)
    #expect(message.anInt32 == -1)
    #expect(message.anSint32 == Int32.min)
    #expect(message.aUint32 == UInt32.max)
    #expect(message.int32s == [-1, 5])
  }

  @Test func aTagOfMoreThanFiveBytesIsRefusedWhateverIsBehindIt() {
    let tag: [UInt8] = [0xa8, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00]
    for rest in [[UInt8](), [0xc8, 0xbb, 0x01, 0x01]] {
      #expect(
        self.failure(EverythingV1.Everything.self, tag + [5] + rest)?.reason == .malformed)
    }
    // A list's, before or behind one as it ought to be.
    let long: [UInt8] = [0xea, 0x81, 0x80, 0x80, 0x80, 0x00, 1, 0x61]
    for list in [long, self.field(29, [0x62]) + long, long + self.field(29, [0x62])] {
      #expect(self.failure(EverythingV1.Everything.self, list)?.reason == .malformed)
    }
  }

  @Test func packedNumbersThatAreCutOffAreRefused() {
    #expect(
      self.failure(EverythingV1.Everything.self, self.field(25, [0x80]))?.reason == .malformed)
    #expect(
      self.failure(EverythingV1.Everything.self, self.field(26, [1, 2, 3]))?.reason == .malformed)
  }

  // To Swift's String they are the same, and a dictionary would keep the value of one of them.
  @Test func keysThatOnlyLookTheSameAreRefused() throws {
    func entry(_ key: String) -> [UInt8] {
      self.field(1, self.field(1, Array(key.utf8)) + self.field(2, [0x20, 1]))
    }
    let (one, two) = ("\u{e9}", "e\u{301}")
    #expect(
      self.failure(GoogleProtobuf.Struct.self, entry(one) + entry(two))
        == MessageDecodingError(.equivalentKeys, in: "google.protobuf.Struct.fields"))
    // The last one of a key counts.
    let twice = try GoogleProtobuf.Struct(decoding: entry(two) + entry(two))
    #expect(twice.fields.keys.map { Array($0.utf8) } == [Array(two.utf8)])
  }

  @Test func minusZeroIsNotZero() throws {
    let original = EverythingV1.Everything(
      aDouble: -0.0, aFloat: -0.0, byUint32: [1: -0.0], byFixed32: [1: -0.0])
    let message = try EverythingV1.Everything(decoding: original.encoded())
    #expect(message.unknownFields.isEmpty)
    #expect(message.byUint32[1]?.sign == .minus)
    #expect(message.byFixed32[1]?.sign == .minus)
    #expect(message.aDouble.sign == .minus)
    #expect(message.aFloat.sign == .minus)
  }
}
