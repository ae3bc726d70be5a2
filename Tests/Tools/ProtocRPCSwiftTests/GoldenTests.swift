import Glibc
import ProtocRPCSwift
import Testing

/// What the generator makes of `everything.proto` is what is committed, compiled and tested with
/// RPCProtobuf. `make generate` rewrites both the request and the files.
@Suite struct GoldenTests {
  private static let tests = String(
    #filePath.prefix(#filePath.utf8.count - "/Tools/ProtocRPCSwiftTests/GoldenTests.swift".count))

  private func read(_ path: String) throws -> [UInt8] {
    let descriptor = open("\(Self.tests)/\(path)", O_RDONLY)
    try #require(descriptor >= 0, "cannot open \(path)")
    defer { close(descriptor) }
    return Plugin.readAll(descriptor)
  }

  @Test func whatIsGeneratedIsWhatIsCommitted() throws {
    let request = try Request(try self.read("Tools/Golden/everything.request"))
    let files = try Plugin.files(for: request)
    #expect(
      files.map(\.name) == [
        "Namespaces.pb.swift", "testing.everything.v1.everything.pb.swift",
        "testing.everything.v1.everything.rpc.swift",
      ])
    for file in files {
      let committed = try self.read("RPC/RPCProtobufTests/Generated/\(file.name)")
      #expect(
        Array(file.content.utf8) == committed,
        "\(file.name) differs from what is generated now: run `make generate`")
    }
  }

  @Test func theSameRequestMakesTheSameFilesInAnyProcess() throws {
    // Dictionaries iterate in another order in every instance: ten of them show it.
    let bytes = try self.read("Tools/Golden/everything.request")
    let first = Plugin.respond(to: bytes)
    for _ in 0..<10 { #expect(Plugin.respond(to: bytes) == first) }
  }

  @Test func everyGeneratedFileKeepsTheFormatterAway() throws {
    let request = try Request(try self.read("Tools/Golden/everything.request"))
    for file in try Plugin.files(for: request) {
      #expect(file.content.hasPrefix("// swift-format-ignore-file\n"))
      #expect(!file.content.contains("\t") && file.content.hasSuffix("}\n"))
    }
  }
}
