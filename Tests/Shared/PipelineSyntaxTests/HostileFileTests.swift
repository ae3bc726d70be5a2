import PipelineSyntax
import Testing

private func firstMistake(_ text: String) -> PipelineMistake? {
  do {
    _ = try PipelineFile.read(Array(text.utf8))
    return nil
  } catch { return error.mistakes.first }
}

@Test
func anOversizedFileIsRefusedUnread() {
  let text = String(repeating: "#", count: PipelineFile.maximumBytes + 1)
  #expect(firstMistake(text)?.message == "the file has 1048577 bytes")
}

@Test
func whatIsNoTextIsRefused() {
  let error = #expect(throws: PipelineMistakes.self) {
    try PipelineFile.read([0x61, 0xFF, 0xFE])
  }
  #expect(error?.mistakes.first?.message == "the file is no UTF-8 text")
}

/// Ten levels of ten aliases: ten thousand million leaves.
private let bomb =
  "x0: &x0 [a, b]\n"
  + (1...10).map { level in
    let aliases = Array(repeating: "*x\(level - 1)", count: 10).joined(separator: ", ")
    return "x\(level): &x\(level) [\(aliases)]\n"
  }.joined()

@Test(arguments: ["jobs: *x10\n", "? *x10\n: 1\n", "? [*x10, *x10]\n: 1\n? [*x10, *x10]\n: 2\n"])
func aBombOfAliasesCostsNoMoreThanItsText(end: String) {
  #expect(firstMistake(bomb + end) != nil)
}

@Test
func aBombWhereverValuesAreReadIsTold() {
  let text = """
    jobs:
      a:
        strategy: {matrix: {v: *x10}}
        env: *x10
        runs-on: *x10
        needs: *x10
        steps: *x10
    """
  #expect(firstMistake(bomb + text) != nil)
}

@Test(arguments: ["[", "- ", "{a: ", "? "])
func deepNestingIsRefused(opening: String) {
  #expect(firstMistake(String(repeating: opening, count: 200_000)) != nil)
}

@Test
func anAnchorThatHoldsItselfIsRefused() {
  #expect(firstMistake("a: &a [*a]\njobs: *a")?.message.contains("names no anchor") == true)
}

@Test
func tooManyJobsLegsAndStepsAreTold() {
  let jobs = (0..<300).map { "  j\($0): {steps: [{run: x}]}\n" }.joined()
  #expect(firstMistake("jobs:\n" + jobs)?.message == "`jobs` has 300 entries")
  let axis = "[\((0..<100).map(String.init).joined(separator: ","))]"
  let wide = "jobs:\n  a:\n    strategy: {matrix: {a: \(axis), b: \(axis)}}\n    steps: [{run: x}]"
  #expect(firstMistake(wide)?.message.contains("a matrix of 10000 legs, more than 256") == true)
  let many = (0..<10).map {
    "  j\($0): {strategy: {matrix: {a: \(axis), b: [1, 2]}}, steps: [{run: x}]}\n"
  }.joined()
  #expect(firstMistake("jobs:\n" + many)?.message.contains("2000 jobs") == true)
  let steps = Array(repeating: "{run: x}", count: 101).joined(separator: ",")
  #expect(firstMistake("jobs: {a: {steps: [\(steps)]}}")?.message.contains("101 steps") == true)
}

@Test
func labelsAndMemoryHaveTheAllocatorsBounds() throws {
  func mistake(_ line: String) -> PipelineMistake? {
    firstMistake("jobs:\n  a:\n    \(line)\n    steps: [{run: x}]\n")
  }
  let label = mistake("runs-on: \(String(repeating: "x", count: 129))")
  #expect(label?.line == 3 && label?.column == 14)
  #expect(label?.suggestion.contains("at most 128 letters") == true)
  #expect(mistake("runs-on: \(String(repeating: "x", count: 128))") == nil)
  #expect(mistake("runs-on: [\((0..<65).map { "l\($0)" }.joined(separator: ","))]")?.line == 3)
  let memory = mistake("resources: {memory: 17TiB}")
  #expect(memory?.line == 3 && memory?.column == 25)
  #expect(memory?.suggestion.contains("at most 16TiB") == true)
  #expect(mistake("resources: {memory: 16TiB}") == nil)
}

@Test
func oneThousandMistakesAreBounded() {
  let keys = (0..<1_000).map { "zz\($0): 1\n" }.joined()
  do {
    _ = try PipelineFile.read(Array((keys + "jobs: {a: {steps: [{run: x}]}}").utf8))
    Issue.record("it was read")
  } catch {
    #expect(error.mistakes.count == PipelineMistakes.maximumCount)
    #expect(error.mistakes.last?.message == "and 951 more mistakes")
  }
}

/// Files of about 160 KB that ask for far more work than they have text.
enum LaboriousFile: CaseIterable, Sendable {
  case includes, manyMatrices, wideIncludes, mistakes, expressions, references, aliases, cycles

  static let size = 160_000

  var text: String {
    let axis = "[\((0..<32).map(String.init).joined(separator: ","))]"
    func repeated(_ line: (Int) -> String) -> String {
      var text = ""
      var number = 0
      while text.utf8.count < Self.size {
        text += line(number)
        number += 1
      }
      return text
    }
    func matrices(_ lines: String) -> String {
      "jobs:\n  a:\n    steps: [{run: x}]\n    strategy:\n      matrix:\n        x: \(axis)\n"
        + "        y: \(axis)\n        z: [1, 2, 3, 4]\n\(lines)"
    }
    switch self {
    case .includes:
      return matrices("        include:\n" + repeated { "        - {x: \($0 % 32), w: 1}\n" })
    case .wideIncludes:
      return "jobs: {a: {steps: [{run: x}], strategy: {matrix: {x: \(axis), include: [{"
        + repeated { "n\($0): 1," } + "}]}}}}"
    case .manyMatrices:
      let entries = (0..<32).map { "{x: \($0), w: 1}" }.joined(separator: ",")
      return "jobs:\n"
        + (0..<256).map {
          "  j\($0): {steps: [{run: x}], strategy: {matrix: {x: \(axis), y: \(axis), "
            + "include: [\(entries)]}}}\n"
        }.joined()
    case .mistakes: return repeated { "zz\($0)zzzzzzzzzzzzzzzzzzz: 1\n" }
    case .expressions:
      return "jobs: {a: {steps: [{run: \"\(repeated { "${{ matrx.a\($0) }} " })\"}]}}"
    case .references:
      return "jobs: {a: {steps: [\(repeated { "{run: x, if: 'stepz.a\($0).outcome'}," })]}}"
    case .aliases:
      let steps = "[\(Array(repeating: "*s", count: 100).joined(separator: ","))]"
      return "e: &e\n" + (0..<5_000).map { "  A\($0): x\n" }.joined()
        + "s: &s {run: x, env: *e}\nt: &t \(steps)\njobs:\n"
        + (0..<256).map { "  j\($0): {steps: *t}\n" }.joined()
    case .cycles:
      let keys = (0..<130).map { "j\($0)" }.joined(separator: ",")
      return "jobs:\n"
        + (0..<256).map { "  j\($0): {needs: [\(keys)], steps: [{run: x}]}\n" }.joined()
    }
  }
}

/// Each takes some tenths of a second in a debug build, nearly all of it to parse the YAML; without
/// bounds, minutes and more.
@Test(.timeLimit(.minutes(1)), arguments: LaboriousFile.allCases)
func aFileThatAsksForMuchWorkIsRefusedSoon(_ file: LaboriousFile) {
  #expect(firstMistake(file.text) != nil)
}

@Test
func garbageNeverCrashesTheReader() {
  var random = Seeded(state: 0x5EED)
  let pieces = [
    "jobs:", "\n", " ", "  ", "- ", "a:", "steps:", "run", ": ", "[", "]", "{", "}", "&a ", "*a",
    "'", "\"", "|", ">", "${{", "}}", "#", "?", ",", "!", "%", "@", "\t", "é", "\u{0}", "\u{FEFF}",
    "needs", "matrix.x", "<<",
  ]
  for _ in 0..<3_000 {
    let text = (0..<Int.random(in: 1...30, using: &random))
      .map { _ in pieces.randomElement(using: &random)! }.joined()
    _ = firstMistake(text)
  }
}

/// SplitMix64: the same numbers in every run.
private struct Seeded: RandomNumberGenerator {
  var state: UInt64

  mutating func next() -> UInt64 {
    self.state &+= 0x9E37_79B9_7F4A_7C15
    var value = self.state
    value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
    value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
    return value ^ (value >> 31)
  }
}
