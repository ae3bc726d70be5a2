import ProtocRPCSwift
import Testing

@Suite struct GeneratorTests {
  private typealias P = ProtoBuilder

  // MARK: - Swift

  @Test func aMessageOfAnotherFileIsNamedWithItsNamespaceAndModule() throws {
    let other = P.file(
      "other/v1/other.proto", package: "other.v1", messages: [P.message("Thing")],
      swiftPrefix: "OtherV1")
    let own = P.file(
      "own.proto", imports: ["other/v1/other.proto"],
      messages: [P.message("Holder", [P.field("thing", 1, .message, type: ".other.v1.Thing")])])
    let files = try P.generate(
      [other, own], generate: ["own.proto"],
      options: "emit=swift,c_module=COwn,import=other/:OtherProtos:COther")
    let text = try #require(files["own.pb.swift"])
    #expect(text.contains("public var thing: OtherV1.Thing?"))
    for module in ["COther", "COwn", "CProtobufC", "OtherProtos", "RPCCore", "RPCProtobuf"] {
      #expect(text.contains("\nimport \(module)\n"))
    }
    #expect(files["other.v1.other.pb.swift"] == nil)
    #expect(try #require(files["Namespaces.pb.swift"]).contains("public enum AB {}"))
  }

  @Test func theLibrarysOwnMessagesAreImportedFromIt() throws {
    let time = P.file(
      "google/protobuf/timestamp.proto", package: "google.protobuf",
      messages: [P.message("Timestamp")])
    let own = P.file(
      "own.proto", imports: ["google/protobuf/timestamp.proto"],
      messages: [P.message("M", [P.field("at", 1, .message, type: ".google.protobuf.Timestamp")])])
    let text = try #require(try P.generate([time, own], generate: ["own.proto"])["own.pb.swift"])
    #expect(text.contains("\nimport RPC\n") && text.contains("\nimport CRPCProtos\n"))
    let inside = try P.generate(
      [time, own], generate: ["own.proto"], options: "emit=swift,module=RPC")
    #expect(!(try #require(inside["own.pb.swift"]).contains("\nimport RPC\n")))
  }

  @Test func commentsBecomeDocumentation() throws {
    let file = P.file(
      "own.proto",
      messages: [P.message("M", [P.field("a", 1, .string)])],
      comments: [[4, 0]: " What it is.\n\n More.\n", [4, 0, 2, 0]: " A field.\n"])
    let text = try #require(try P.generate([file])["own.pb.swift"])
    #expect(
      text.contains("  /// What it is.\n  ///\n  /// More.\n  public struct M: ProtobufMessage {"))
    #expect(text.contains("    /// A field.\n    public var a: String\n"))
  }

  @Test func visibilityIsAsAskedFor() throws {
    let file = P.file("own.proto", messages: [P.message("M", [P.field("a", 1, .string)])])
    let text = try #require(
      try P.generate([file], options: "emit=swift,visibility=package")["own.pb.swift"])
    #expect(!text.contains("public ") && text.contains("package var a: String"))
  }

  @Test func valuesWhoseNamesDifferOnlyInCapitalsAreKeptApart() throws {
    let cow = P.enumeration("Cow", [("QUIET", 0), ("MOO", 1), ("moo", 1), ("mOO", 2)])
    let text = try #require(try P.generate([P.file("own.proto", enums: [cow])])["own.pb.swift"])
    #expect(text.contains("    case moo\n    case moo2\n"))
    // The other name of 1 is the same in Swift.
    #expect(!text.contains("static var moo"))
    #expect(text.contains("{ [.quiet, .moo, .moo2] }"))
  }

  @Test func aMessageThatHoldsItselfThroughAnotherHasAnIndirection() throws {
    let file = P.file(
      "own.proto",
      messages: [
        P.message("A", [P.field("b", 1, .message, type: ".a.b.B")]),
        P.message(
          "B",
          [
            P.field("a", 1, .message, type: ".a.b.A", oneof: 0),
            P.field("text", 2, .string, oneof: 0),
            P.field("leaf", 3, .message, type: ".a.b.Leaf"),
          ], oneofs: ["kind"]),
        P.message("Leaf"),
      ])
    let text = try #require(try P.generate([file])["own.pb.swift"])
    #expect(text.contains("private var indirectB: Indirect<AB.B>?"))
    #expect(text.contains("indirect case a(AB.A)"))
    #expect(text.contains("    case text(String)"))
    #expect(text.contains("public var leaf: AB.Leaf?"))
  }

  @Test func everyShapeOfCallHasItsSignature() throws {
    let file = P.file(
      "own.proto", messages: [P.message("Q"), P.message("S")],
      services: [
        P.service(
          "TalkService",
          [
            ("Get", ".a.b.Q", ".a.b.S", 0), ("Send", ".a.b.Q", ".a.b.S", 1),
            ("Watch", ".a.b.Q", ".a.b.S", 2), ("Talk", ".a.b.Q", ".a.b.S", 3),
          ]),
        P.service("Store", [("Import", ".a.b.Q", ".a.b.S", 0)]),
      ], swiftPrefix: "N")
    let text = try #require(try P.generate([file])["own.rpc.swift"])
    for line in [
      "public protocol TalkService: RPCService {", "public struct TalkClient: Sendable {",
      "public protocol StoreService: RPCService {", "public enum TalkMethods {",
      "_ request: N.Q, context: ServerContext\n    ) async throws -> N.S",
      "_ requests: RequestStream<N.Q>, context: ServerContext\n    ) async throws -> N.S",
      "_ request: N.Q, responses: ResponseWriter<N.S>, context: ServerContext\n    ) async throws\n",
      "_ requests: RequestStream<N.Q>, responses: ResponseWriter<N.S>, context: ServerContext",
      "router.bidirectional(N.TalkMethods.talk) {", ">(\"/a.b.TalkService/Watch\")",
      ") async throws -> ResponseStream<N.S> {",
      ") async throws -> ClientStreamingCall<N.Q, N.S> {",
      ") async throws -> BidirectionalCall<N.Q, N.S> {", "func `import`(",
      "public static let talkServiceDescriptor = ServiceDescriptor(",
    ] {
      #expect(text.contains(line), "\(line)")
    }
  }

  // MARK: - Refusals

  /// The error that protoc is answered with.
  private func refusal(_ request: [UInt8]) throws -> String? {
    try WireMessage(Plugin.respond(to: request)).string(1)
  }

  @Test func proto2IsRefusedWithTheReason() throws {
    for syntax in ["proto2", nil] {
      let file = P.file("old.proto", syntax: syntax, messages: [P.message("M")])
      let text = try #require(try self.refusal(P.request([file])))
      #expect(text.contains("old.proto: syntax \"proto2\" is not supported"))
    }
  }

  @Test func proto2MayBeAmongTheImportsThatAreNotUsed() throws {
    let old = P.file("old.proto", package: "old", syntax: nil, messages: [P.message("M")])
    let new = P.file("new.proto", imports: ["old.proto"], messages: [P.message("N")])
    #expect(try self.refusal(P.request([old, new], generate: ["new.proto"])) == nil)
  }

  @Test(arguments: [
    ("emit=java", "emit is c, swift or all, not 'java'"),
    ("visibility=open", "visibility is public, package or internal, not 'open'"),
    ("colour=red", "unknown option 'colour'"), ("emit", "'emit' is not of the form name=value"),
    ("import=a:b", "import is PATH-PREFIX:SWIFT-MODULE:C-MODULE, not 'a:b'"),
    ("c_module=9bad", "c_module: a module's name is letters, digits and _, not '9bad'"),
    ("module=has space", "module: a module's name is letters, digits and _, not 'has space'"),
    ("import=a/:B:C-D", "import: a module's name is letters, digits and _, not 'C-D'"),
  ])
  func aWrongOptionIsNamed(option: String, reason: String) throws {
    #expect(try #require(try self.refusal(P.request([], options: option))).contains(reason))
  }

  @Test func twoFieldsOfOneSwiftNameAreRefused() throws {
    let file = P.file(
      "own.proto",
      messages: [P.message("M", [P.field("build_id", 1, .string), P.field("buildID", 2, .string)])])
    #expect(try #require(try self.refusal(P.request([file]))).contains("a.b.M: two fields"))
  }

  @Test func namesThatAreTheSameInSwiftOrCAreRefused() throws {
    let oneofs = P.message(
      "M",
      [
        P.field("a", 1, .string, oneof: 0), P.field("b", 2, .string, oneof: 0),
        P.field("c", 3, .string, oneof: 1), P.field("d", 4, .string, oneof: 1),
      ], oneofs: ["kind", "Kind"])
    let files: [(WireMessage, String)] = [
      (
        P.file("own.proto", messages: [P.message("Foo"), P.message("foo")]),
        "a.b.Foo and a.b.foo would both be AB.Foo in Swift"
      ),
      (
        P.file(
          "own.proto", messages: [P.message("Foo")], enums: [P.enumeration("foo", [("ZERO", 0)])]),
        "a.b.Foo and a.b.foo would both be AB.Foo in Swift"
      ),
      (
        P.file("own.proto", messages: [P.message("FOO"), P.message("Foo")]),
        "a.b.FOO and a.b.Foo would both be a__b__foo__init in C"
      ),
      (
        P.file(
          "own.proto", messages: [P.message("M", [], nested: [P.message("N"), P.message("n")])]),
        "a.b.M.N and a.b.M.n would both be AB.M.N in Swift"
      ),
      (
        P.file(
          "own.proto", messages: [P.message("Q"), P.message("TalkClient")],
          services: [P.service("Talk", [("Get", ".a.b.Q", ".a.b.Q", 0)])]),
        "a.b.TalkClient and a.b.Talk would both be AB.TalkClient in Swift"
      ),
      (
        P.file(
          "own.proto", messages: [P.message("Q")],
          services: [
            P.service("Talk", [("Get", ".a.b.Q", ".a.b.Q", 0), ("get", ".a.b.Q", ".a.b.Q", 0)])
          ]),
        "a.b.Talk.Get and a.b.Talk.get would both be a.b.Talk.get in Swift"
      ),
      (
        P.file("own.proto", messages: [oneofs]),
        "a.b.M.kind and a.b.M.Kind would both be A__B__M.kind_case in C"
      ),
    ]
    for (file, reason) in files {
      let text = try #require(try self.refusal(P.request([file])), "\(reason)")
      #expect(text == reason + ": one needs another name")
    }
  }

  @Test func aOneofThatIsNamedLikeATypeDoesNotHideIt() throws {
    let fields = [P.field("a", 1, .string, oneof: 0), P.field("b", 2, .string, oneof: 0)]
    let file = P.file(
      "own.proto",
      messages: ["arena", "string", "c_message"].enumerated().map { index, name in
        P.message("M\(index)", fields, oneofs: [name])
      })
    let text = try #require(try P.generate([file])["own.pb.swift"])
    #expect(text.contains("_ arena: RPCProtobuf.Arena)"))
    #expect(text.contains("case a(Swift.String)"))
    #expect(text.contains("public var cMessage: CMessageOneof?"))
  }

  /// `User.Address` within a `struct User` would be looked for in that.
  @Test func aNamespaceIsNotCalledLikeATypeInIt() throws {
    let address = P.field("address", 1, .message, type: ".user.Address")
    let choice = [P.field("a", 2, .string, oneof: 0), P.field("b", 3, .string, oneof: 0)]
    let files = [
      P.file(
        "own.proto", package: "user",
        messages: [P.message("Address"), P.message("User", [address])]),
      P.file(
        "own.proto", package: "user",
        messages: [P.message("Address"), P.message("M", [address] + choice, oneofs: ["user"])]),
      P.file(
        "own.proto", package: "user",
        messages: [P.message("Address"), P.message("M", [address], nested: [P.message("User")])]),
    ]
    for file in files {
      let made = try P.generate([file])
      #expect(made["own.pb.swift"]?.contains("var address: UserProtos.Address?") == true)
      #expect(made["Namespaces.pb.swift"]?.contains("enum UserProtos") == true)
    }
    let other = P.file(
      "own.proto", package: "user",
      messages: [P.message("Address"), P.message("Person", [address])])
    let text = try #require(try P.generate([other])["own.pb.swift"])
    #expect(text.contains("var address: User.Address?"))
  }

  @Test func protosWithoutAPackageAreCalledThat() throws {
    let file = P.file("own.proto", package: "", messages: [P.message("M")])
    let text = try #require(try P.generate([file])["Namespaces.pb.swift"])
    #expect(text.contains("/// The messages and services of protos without a package.\n"))
  }

  @Test func aMissingGeneratorForCIsExplained() throws {
    let file = P.file("own.proto", messages: [P.message("M")])
    let text = try #require(
      try self.refusal(P.request([file], options: "emit=c,protoc_gen_c=/nonexistent/generator")))
    #expect(text.contains("cannot run '/nonexistent/generator'"))
    #expect(text.contains("protobuf-c-compiler"))
  }

  @Test func aRequestThatIsCutOffIsRefused() throws {
    let request = P.request([P.file("own.proto", messages: [P.message("M")])])
    for count in [1, 5, request.count - 1] {
      #expect(try #require(try self.refusal(Array(request.prefix(count)))).contains("cut off"))
    }
  }

  // MARK: - C

  @Test func descriptorsAreChangedToWhatProtobufCTreatsRightly() throws {
    let entry = P.message(
      "TagsEntry", [P.field("key", 1, .string), P.field("value", 2, .string)], isMapEntry: true)
    let file = P.file(
      "own.proto",
      messages: [
        P.message(
          "M",
          [
            P.field("text", 1, .string), P.field("state", 2, .enum, type: ".a.b.State"),
            P.field("flag", 3, .bool), P.field("maybe", 4, .int32, oneof: 0, optional: true),
            P.field("tags", 5, .message, type: ".a.b.M.TagsEntry", repeated: true),
            P.field("base", 6, .sint64), P.field("data", 7, .bytes),
          ], oneofs: ["_maybe"], nested: [entry])
      ],
      enums: [P.enumeration("State", [("STATE_UNSPECIFIED", 0)])],
      services: [P.service("S", [("Get", ".a.b.M", ".a.b.M", 0)])])
    let changed = try CDescriptors.file(file)
    #expect(changed.allBytes(5).isEmpty && changed.allBytes(6).isEmpty)
    let message = try #require(try changed.messages(4).first)
    let fields = try message.messages(2)
    let kinds = fields.map { FieldModel.Kind(rawValue: $0.number(5) ?? 0) }
    #expect(kinds == [.bytes, .int32, .uint64, .int32, .message, .sint64, .bytes])
    #expect(fields.map { $0.string(1) }.last == "data")
    #expect(fields[5].string(1) == "base_")
    #expect(fields[1].string(6) == nil)
    #expect(fields.allSatisfy { $0.number(17) == nil && $0.string(10) == nil })
    // The oneof that protoc made for `optional` tells presence.
    #expect(fields[3].number(9) == 0 && message.allBytes(8).count == 1)
    let nested = try #require(try message.messages(3).first)
    #expect(nested.allBytes(7).isEmpty)
    #expect(try nested.messages(2).map { $0.number(5) } == [12, 12])
  }

  @Test func packingIsKept() throws {
    var field = P.field("numbers", 1, .int32, repeated: true)
    var options = WireMessage()
    options.set(2, .varint(0))
    options.set(3, .varint(1))
    field.set(8, .bytes(options.encoded))
    let file = P.file("own.proto", messages: [P.message("M", [field])])
    let changed = try CDescriptors.file(file).messages(4)[0].messages(2)[0].message(8)
    #expect(changed?.number(2) == 0)
    #expect(changed?.number(3) == nil)
  }

  // MARK: - The wire

  @Test func whatTheGeneratorDoesNotKnowStaysAsItIs() throws {
    let bytes: [UInt8] = [
      0x08, 0x96, 0x01, 0x12, 0x02, 0x68, 0x69, 0x1d, 1, 2, 3, 4, 0x21, 1, 2, 3, 4, 5, 6, 7, 8,
    ]
    let message = try WireMessage(bytes)
    #expect(message.number(1) == 150)
    #expect(message.string(2) == "hi")
    #expect(message.encoded == bytes)
  }

  @Test func repeatedNumbersMayBePacked() throws {
    #expect(try WireMessage([0x0a, 0x03, 0x04, 0x80, 0x01]).numbers(1) == [4, 128])
    #expect(try WireMessage([0x08, 0x04, 0x08, 0x05]).numbers(1) == [4, 5])
  }
}
