import DatastoreGatewayCore
import Testing

@Suite struct PropertyPaths {
  @Test(arguments: [
    ("a", ["a"]), ("a.b", ["a", "b"]), ("_a1.B", ["_a1", "B"]), ("`a.b`", ["a.b"]),
    ("a.`b c`.d", ["a", "b c", "d"]), ("`a\\`b\\\\`", ["a`b\\"]), ("`ü`", ["ü"]),
    ("__key__", ["__key__"]),
  ])
  func aPathIsItsNames(text: String, names: [String]) throws {
    #expect(try PropertyPath(text, policy: Policy()).names == names.map { Name($0) })
  }

  @Test(arguments: [
    "", ".", "a.", ".a", "a..b", "a b", "1a", "ü", "`", "``", "`a", "`a`b", "a`b`", "`a\\",
    "__x__", "a.__key__",
  ])
  func whatIsNoPathIsRefused(text: String) {
    #expect(throws: GatewayError.self) { try PropertyPath(text, policy: Policy()) }
  }

  @Test func aNameHasALimit() throws {
    #expect(throws: Never.self) {
      try PropertyPath(String(repeating: "a", count: 1_500), policy: Policy())
    }
    #expect(throws: GatewayError.self) {
      try PropertyPath(String(repeating: "a", count: 1_501), policy: Policy())
    }
  }

  /// What is deeper than any entity can be is refused before anything goes down there.
  @Test func aPathHasALimit() throws {
    let names = Array(repeating: "a", count: Policy().maximumNesting + 1)
    #expect(try PropertyPath(names.joined(separator: "."), policy: Policy()).names.count == 21)
    #expect(throws: GatewayError.self) {
      try PropertyPath((names + ["a"]).joined(separator: "."), policy: Policy())
    }
    #expect(throws: GatewayError.self) {
      try PropertyPath(
        Array(repeating: "a", count: 100_000).joined(separator: "."), policy: Policy())
    }
  }
}
