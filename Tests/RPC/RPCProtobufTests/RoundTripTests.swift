import RPC
import RPCCore
import RPCProtobuf
import Testing

/// What Python's protobuf encodes is what we decode, and what we encode again is the same bytes:
/// the vectors have at most one entry in each map.
@Suite struct RoundTripTests {
  private func agree<M: RPCMessage>(
    _ bytes: [UInt8], _ message: M, sourceLocation: SourceLocation = #_sourceLocation
  ) throws {
    #expect(try M(decoding: bytes) == message, sourceLocation: sourceLocation)
    #expect(message.encoded() == bytes, sourceLocation: sourceLocation)
  }

  @Test func everyScalarTypeIsUnderstood() throws {
    var message = EverythingV1.Everything()
    message.aDouble = 1.5
    message.aFloat = -2.25
    message.anInt64 = .min
    message.aUint64 = .max
    message.anInt32 = -1
    message.aFixed64 = 7
    message.aFixed32 = .max
    message.aBool = true
    message.aString = "zwölf\0 nach 🕛"
    message.someBytes = [0, 0xff, 0x80]
    message.aUint32 = 300
    message.anSfixed32 = -5
    message.anSfixed64 = -6
    message.anSint32 = .min
    message.anSint64 = .min
    message.aColour = .negative
    message.aPoint = .init(x: -1, y: 1)
    message.time = .init(seconds: 1_795_526_820, nanos: 500_000_000)
    message.last = "end"
    try self.agree(Vectors.scalars, message)
  }

  @Test func everyRepeatedTypeIsUnderstood() throws {
    var message = EverythingV1.Everything()
    message.doubles = [0, -0.5, 1e300]
    message.floats = [0.5]
    message.int64s = [-1, 0, .max]
    message.uint64s = [.max]
    message.int32s = [.min, 0, 150]
    message.fixed64s = [1, 2]
    message.fixed32s = [3]
    message.bools = [true, false, true]
    message.strings = ["", "a", Swift.String(repeating: "ß", count: 100)]
    message.byteStrings = [[], Array("xyz".utf8)]
    message.uint32s = [0, .max]
    message.sfixed32s = [-1]
    message.sfixed64s = [-1]
    message.sint32s = [-1, 1, .min]
    message.sint64s = [.min]
    message.colours = [.red, .last, .negative, .unspecified]
    message.points = [.init(), .init(x: 7)]
    message.unpacked = [1, -1, 300]
    message.unpackedColours = [.colour3d]
    try self.agree(Vectors.repeated, message)
  }

  @Test func aFieldThatIsSetToItsDefaultIsThereToo() throws {
    var message = EverythingV1.Everything()
    message.maybeDouble = 0
    message.maybeInt64 = 0
    message.maybeBool = false
    message.maybeString = ""
    message.maybeBytes = []
    message.maybeColour = .unspecified
    message.maybePoint = .init()
    message.only = ""
    try self.agree(Vectors.present, message)
    #expect(EverythingV1.Everything().encoded().isEmpty)
  }

  @Test func everyMapIsUnderstood() throws {
    var message = EverythingV1.Everything()
    message.byInt32 = [-1: "minus"]
    message.byInt64 = [.min: [0x62]]
    message.byUint32 = [0: 0.5]
    message.byUint64 = [.max: true]
    message.bySint32 = [-7: .darkBlue]
    message.bySint64 = [-8: .init(x: 1)]
    message.byFixed32 = [9: 1.25]
    message.byFixed64 = [10: 11]
    message.bySfixed32 = [-12: -13]
    message.bySfixed64 = [-14: 15]
    message.byBool = [true: -16]
    message.byString = ["inner": .init(aString: "deep", byBool: [false: 1])]
    #expect(try EverythingV1.Everything(decoding: Vectors.maps) == message)
    // Python writes keys and values that are zero, protobuf-c leaves them out: the same message.
    #expect(try EverythingV1.Everything(decoding: message.encoded()) == message)
  }

  @Test func aOneofHoldsItsMemberEvenAtItsDefault() throws {
    try self.agree(
      Vectors.choice, EverythingV1.Everything(choice: .inner(.init(choice: .buildID(0)))))
  }

  @Test func wellKnownTypesAreUnderstood() throws {
    var b = GoogleProtobuf.Struct()
    b.fields = ["b": .init(kind: .stringValue("c"))]
    let list = GoogleProtobuf.ListValue(
      values: [
        .init(kind: .numberValue(1)), .init(kind: .nullValue(.nullValue)),
        .init(kind: .structValue(b)),
      ])
    let json = GoogleProtobuf.Value(
      kind: .structValue(
        .init(fields: ["a": .init(kind: .listValue(list)), "d": .init(kind: .boolValue(true))])))
    let message = EverythingV1.Everything(anyJSON: json)
    #expect(try EverythingV1.Everything(decoding: Vectors.json) == message)
    #expect(try EverythingV1.Everything(decoding: message.encoded()) == message)
  }

  @Test func aMessageMayHoldItself() throws {
    typealias Tree = EverythingV1.Tree
    let tree = Tree(
      label: "root",
      left: Tree(label: "l", right: Tree(other: .next(Tree(label: "n")))),
      children: [Tree(label: "c"), Tree()],
      named: ["x": Tree(other: .wrapped(.init(tree: Tree(), depth: .deep)))])
    try self.agree(Vectors.tree, tree)
    var changed = tree
    changed.left?.right?.label = "changed"
    #expect(tree.left?.right?.label == "")
    #expect(changed.left?.right?.label == "changed")
  }

  @Test func namesThatMeanSomethingElsewhereDoNoHarm() throws {
    var words = EverythingV1.Words(base: "1", initField: "2", selfField: "3", type: "4")
    words.class = "5"
    words.in = "16"
    words.hash = "6"
    words.hashValueField = "8"
    words.unknownFieldsField = "9"
    words.nItems = "10"
    words.items = ["11"]
    words.entries = ["k": "v"]
    words.switch = .case("31")
    try self.agree(Vectors.words, words)
  }

  @Test func aNumberWithoutANameIsKept() throws {
    let message = EverythingV1.Everything(
      aColour: .unrecognized(77), colours: [.red, .unrecognized(-9)])
    try self.agree(message.encoded(), message)
    #expect(EverythingV1.Colour(rawValue: 1) == .crimson)
    #expect(EverythingV1.Colour.allCases.count == 7)
  }

  @Test func theEncodingIsWrittenWhereTheCallerSays() throws {
    struct TooLarge: Error, Equatable { var size: Int }
    let message = EverythingV1.Point(x: 1, y: 2)
    var calls = 0
    let memory = UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 1)
    defer { memory.deallocate() }
    message.encode(reserving: { size in
      calls += 1
      #expect(size == 4)
      return memory
    })
    #expect(calls == 1)
    #expect(Array(UnsafeRawBufferPointer(start: memory, count: 4)) == [0x08, 0x02, 0x10, 0x04])
    do throws(TooLarge) {
      try message.encode(reserving: { (size) throws(TooLarge) in throw TooLarge(size: size) })
      Issue.record("The refusal was lost")
    } catch {
      #expect(error == TooLarge(size: 4))
    }
  }

  @Test func aMessageMayBeEncodedWhileAnotherOneIs() throws {
    let outer = EverythingV1.Everything(aString: "outer", strings: ["a", "b"])
    let inner = EverythingV1.Everything(aString: "inner", strings: ["c"])
    var innerBytes: [UInt8] = []
    var outerBytes: [UInt8] = []
    outer.encode(reserving: { size in
      innerBytes = inner.encoded()
      outerBytes = [UInt8](repeating: 0, count: size)
      return outerBytes.withUnsafeMutableBytes { $0.baseAddress! }
    })
    #expect(try EverythingV1.Everything(decoding: innerBytes) == inner)
    #expect(try EverythingV1.Everything(decoding: outerBytes) == outer)
  }

  @Test func largeMessagesAreNoDifferent() throws {
    let large = EverythingV1.Everything(
      someBytes: [UInt8](repeating: 7, count: 3 << 20),
      int64s: (0..<100_000).map { Int64($0) * 1_000_003 },
      strings: (0..<10_000).map { "string number \($0)" })
    #expect(try EverythingV1.Everything(decoding: large.encoded()) == large)
  }

  @Test func threadsDoNotShareAnArena() async throws {
    try await withThrowingTaskGroup(of: Void.self) { group in
      for thread in 0..<8 {
        group.addTask {
          for round in 0..<500 {
            let message = EverythingV1.Everything(
              aString: "\(thread)/\(round)", strings: (0..<20).map { "\(thread) \(round) \($0)" })
            let decoded = try EverythingV1.Everything(decoding: message.encoded())
            #expect(decoded == message)
          }
        }
      }
      try await group.waitForAll()
    }
  }

  @Test func reflectionKnowsTheFileAndWhatItImports() {
    let service = EverythingV1.everythingServiceDescriptor
    #expect(service.fullName == "testing.everything.v1.EverythingService")
    #expect(service.methods == ["Get", "Watch", "Send", "Talk", "Import"])
    #expect(service.file.symbols.contains("testing.everything.v1.Tree.Wrapper.depth"))
    #expect(service.file.symbols.contains("testing.everything.v1.COLOUR_RED"))
    #expect(
      service.file.closure.map(\.name) == [
        "google/protobuf/struct.proto", "google/protobuf/timestamp.proto",
        "testing/everything/v1/everything.proto",
      ])
    // An encoded FileDescriptorProto begins with the file's name, which is field 1.
    let name = Array(service.file.name.utf8)
    #expect(
      Array(service.file.serialized.prefix(2 + name.count)) == [0x0a, UInt8(name.count)] + name)
  }
}
