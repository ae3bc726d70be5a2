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
  #expect(firstMistake(wide)?.message.contains("a matrix of 10000 legs") == true)
  let many = (0..<10).map {
    "  j\($0): {strategy: {matrix: {a: \(axis), b: [1, 2]}}, steps: [{run: x}]}\n"
  }.joined()
  #expect(firstMistake("jobs:\n" + many)?.message.contains("2000 jobs") == true)
  let steps = Array(repeating: "{run: x}", count: 101).joined(separator: ",")
  #expect(firstMistake("jobs: {a: {steps: [\(steps)]}}")?.message.contains("101 steps") == true)
}

@Test
func oneThousandMistakesAreBounded() {
  let keys = (0..<1_000).map { "zz\($0): 1\n" }.joined()
  do {
    _ = try PipelineFile.read(Array((keys + "jobs: {a: {steps: [{run: x}]}}").utf8))
    Issue.record("it was read")
  } catch {
    #expect(error.mistakes.count == PipelineMistakes.maximumCount)
    #expect(error.mistakes.last?.message.contains("951 more mistakes") == true)
  }
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
