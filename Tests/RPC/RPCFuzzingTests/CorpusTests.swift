import RPCFuzzing
import Testing

#if canImport(Glibc)
  import Glibc
#endif

/// Replays what the fuzzer has found worth keeping, and some bytes that nobody had to search for.
@Suite struct CorpusTests {
  private static let corpus =
    String(#filePath.dropLast("Tests/RPC/RPCFuzzingTests/CorpusTests.swift".count)) + "Fuzz/corpus/"

  @Test(arguments: FuzzTarget.allCases)
  func everyInputIsTakenWithoutHarm(target: FuzzTarget) throws {
    var count = 0
    for name in Self.files(in: Self.corpus + target.rawValue) {
      try Self.bytes(of: "\(Self.corpus)\(target.rawValue)/\(name)").withUnsafeBytes {
        target.run($0)
      }
      count += 1
    }
    #expect(count > 0, "there is no corpus for \(target.rawValue)")
    for size in [0, 1, 9, 100, 5_000] {
      for byte in [0, 1, 0x7f, 0x80, 0xff] as [UInt8] {
        [UInt8](repeating: byte, count: size).withUnsafeBytes { target.run($0) }
      }
    }
  }

  private static func files(in folder: String) -> [String] {
    guard let directory = opendir(folder) else { return [] }
    defer { closedir(directory) }
    var names: [String] = []
    while let entry = readdir(directory) {
      // In place: an entry ends behind its name, and a copy of the whole field would read on.
      let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
        String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
      }
      if !name.hasPrefix(".") { names.append(name) }
    }
    return names.sorted()
  }

  private static func bytes(of path: String) throws -> [UInt8] {
    let file = try #require(fopen(path, "r"))
    defer { fclose(file) }
    var bytes = [UInt8](repeating: 0, count: 1 << 20)
    let count = fread(&bytes, 1, bytes.count, file)
    return Array(bytes[..<count])
  }
}
