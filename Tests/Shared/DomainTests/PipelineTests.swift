import Domain
import Testing

private typealias Combination = Pipeline.Combination

private func combination(_ pairs: KeyValuePairs<String, String>) -> Combination {
  Combination(pairs.map { Combination.Entry(name: $0.key, value: $0.value) })
}

private func axes(_ pairs: KeyValuePairs<String, [String]>) -> [Pipeline.Matrix.Axis] {
  pairs.map { Pipeline.Matrix.Axis(name: $0.key, values: $0.value) }
}

private let standard = Resources(cpuMillis: 1_000, memory: .gibibytes(2))

@Test
func aMatrixSpreadsOutInTheOrderOfItsValues() throws {
  let matrix = Pipeline.Matrix(axes: axes(["os": ["a", "b"], "cc": ["x", "y"]]))
  #expect(try matrix.legs().map(\.label) == ["a, x", "a, y", "b, x", "b, y"])
}

@Test
func excludeLeavesOutAndIncludeAddsOrExtends() throws {
  let matrix = Pipeline.Matrix(
    axes: axes(["os": ["a", "b"], "cc": ["x", "y"]]),
    include: [
      combination(["os": "a", "debug": "1"]), combination(["os": "c", "cc": "z"]),
      combination(["all": "yes"]),
    ],
    exclude: [combination(["os": "b", "cc": "y"])])
  #expect(
    try matrix.legs().map(\.label) == ["a, x, 1, yes", "a, y, 1, yes", "b, x, yes", "c, z"])
}

@Test
func includeAloneMakesItsOwnLegs() throws {
  let matrix = Pipeline.Matrix(
    axes: [], include: [combination(["a": "1"]), combination(["a": "2"])])
  #expect(try matrix.legs().map(\.label) == ["1", "2"])
}

@Test
func aMatrixBeyondTheBoundIsRefusedWithoutBeingSpreadOut() {
  let hundred = (0..<100).map(String.init)
  let many = (0..<257).map { combination(["a": "\($0)"]) }
  let wide = Combination((0..<65).map { Combination.Entry(name: "n\($0)", value: "") })
  func excess(_ matrix: Pipeline.Matrix) -> Pipeline.Matrix.Excess? {
    do {
      _ = try matrix.legs()
      return nil
    } catch { return error }
  }
  #expect(
    excess(Pipeline.Matrix(axes: axes(["a": hundred, "b": hundred, "c": hundred])))
      == .legs(10_000))
  #expect(excess(Pipeline.Matrix(axes: axes(["a": hundred, "b": ["1", "2", "3"]]))) == .legs(300))
  #expect(excess(Pipeline.Matrix(axes: [], include: many)) == .entries(257))
  #expect(excess(Pipeline.Matrix(axes: [], exclude: many)) == .entries(257))
  #expect(excess(Pipeline.Matrix(axes: [], include: [wide])) == .names(65))
  #expect(
    excess(Pipeline.Matrix(axes: axes(["a": hundred, "b": ["1", "2"]]), exclude: many.dropLast()))
      == nil)
  let eight = (0..<8).map(String.init)
  let large = Pipeline.Matrix(
    axes: axes(["a": eight, "b": eight, "c": eight]), exclude: many.dropLast())
  #expect(excess(large) == .effort)
}

@Test
func aCycleIsNamed() {
  let graph = PipelineGraph([("a", ["c"]), ("b", ["a"]), ("c", ["b"]), ("d", ["a"])])
  #expect(graph.cycles().map(\.description) == ["a -> c -> b -> a"])
  #expect(PipelineGraph([("a", ["a"])]).cycles().map(\.description) == ["a -> a"])
  #expect(PipelineGraph([("a", []), ("b", ["a", "gone"]), ("c", ["a", "b"])]).cycles().isEmpty)
}

@Test
func aLongChainOfNeedsIsNoTrouble() {
  let jobs = (0..<100_000).map { ("\($0)", $0 == 99_999 ? [] : ["\($0 + 1)"]) }
  #expect(PipelineGraph(jobs).cycles().isEmpty)
}

@Test(
  arguments: [
    ("2", 2_000), ("0.5", 500), ("500m", 500), ("1.25", 1_250), ("0", nil), ("-1", nil),
    ("0m", nil), ("two", nil), ("", nil), ("inf", nil), ("0x10", nil), ("99999999", nil),
  ] as [(String, Int64?)])
func cpuIsReadAsPeopleWriteIt(text: String, expected: Int64?) {
  #expect(PipelineQuantity.cpuMillis(text) == expected)
}

@Test(
  arguments: [
    ("4GiB", 4 << 30), ("512Mi", 512 << 20), ("1.5 GiB", 3 << 29), ("2G", 2_000_000_000),
    ("1024", 1024), ("0", nil), ("GiB", nil), ("4 gigs", nil), ("-1Gi", nil), ("9999999Ti", nil),
  ] as [(String, Int64?)])
func memoryIsReadAsPeopleWriteIt(text: String, expected: Int64?) {
  #expect(PipelineQuantity.memory(text)?.bytes == expected)
}

@Test
func everyLegHasItsOwnNameLabelsAndResources() throws {
  let pipeline = Pipeline(jobs: [
    Pipeline.Job(key: "lint", steps: []),
    Pipeline.Job(
      key: "test", name: "Test with ${{ matrix.cc }}", labels: ["${{ matrix.cc }}", "x86"],
      cpu: "${{ matrix.cpu }}", memory: "1Gi",
      matrix: Pipeline.Matrix(axes: axes(["cc": ["gcc", "clang"], "cpu": ["2"]])), steps: []),
  ])
  let legs = try pipeline.expanded(standard: standard)
  #expect(legs.map(\.id) == ["lint", "test (gcc, 2)", "test (clang, 2)"])
  #expect(legs.map(\.name) == ["lint", "Test with gcc", "Test with clang"])
  #expect(legs[2].labels == ["clang", "x86"])
  #expect(legs[2].resources == Resources(cpuMillis: 2_000, memory: .gibibytes(1)))
  #expect(legs[0].resources == standard)
}

@Test
func whatOnlyShowsInALegIsAnErrorOfTheExpansion() {
  func message(_ job: Pipeline.Job) -> String? {
    do {
      _ = try Pipeline(jobs: [job]).expanded(standard: standard)
      return nil
    } catch { return error.message }
  }
  let bad = Pipeline.Matrix(axes: axes(["cpu": ["lots"]]))
  #expect(
    message(Pipeline.Job(key: "a", cpu: "${{ matrix.cpu }}", matrix: bad, steps: []))?
      .contains("\"lots\"") == true)
  let twice = Pipeline.Matrix(axes: axes(["n": ["1", "1"]]))
  #expect(message(Pipeline.Job(key: "a", matrix: twice, steps: []))?.contains("two legs") == true)
  let none = Pipeline.Matrix(
    axes: axes(["n": ["1"]]), exclude: [combination(["n": "1"])])
  #expect(message(Pipeline.Job(key: "a", matrix: none, steps: []))?.contains("all of its") == true)
}

@Test
func anOrderHoldsAllThatIsKnownBeforeTheJobStarts() throws {
  let pipeline = Pipeline(
    environment: ["A": "${{ env.USER }}1", "SHARED": "pipeline"],
    jobs: [
      Pipeline.Job(
        key: "b", matrix: Pipeline.Matrix(axes: axes(["cc": ["gcc"]])),
        environment: ["B": "${{ env.A }}-${{ matrix.cc }}"],
        steps: [
          Pipeline.Step(
            id: "s", name: "with ${{ matrix.cc }}",
            action: .run("echo ${{ env.B }} ${{ steps.x.outputs.y }} ${{ needs.a.result }}"),
            inputs: ["p": "${{ env.C }}"], environment: ["C": "${{ env.B }}!"],
            condition: "needs.a.result == 'success' && steps.x.outcome == 'success'")
        ])
    ])
  let leg = try pipeline.expanded(standard: standard)[0]
  let order = pipeline.order(
    for: leg, environment: ["USER": "me", "SHARED": "submitter"], results: ["a": "success"])
  #expect(order.environment == ["USER": "me", "A": "me1", "SHARED": "pipeline", "B": "me1-gcc"])
  let step = order.steps[0]
  #expect(step.name == "with gcc")
  #expect(step.action == .run("echo me1-gcc ${{ steps.x.outputs.y }} success"))
  #expect(step.environment == ["C": "me1-gcc!"])
  #expect(step.inputs == ["p": "me1-gcc!"])
  #expect(
    try Condition(parsing: step.condition).holds(StatusFacts()) { _ in .string("success") })
}

@Test
func whatAPipelineMayAskForIsWhatAnExecutorCanHave() {
  #expect(PipelineQuantity.memory("16TiB") == Resources.maximumMemory)
  #expect(PipelineQuantity.memory("17TiB") == nil)
  let long = String(repeating: "x", count: ExecutorLabel.maximumBytes)
  #expect(ExecutorLabel.isLabel(long) && !ExecutorLabel.isLabel(long + "x"))
  let job = Pipeline.Job(
    key: "a", labels: ["${{ matrix.l }}"],
    matrix: Pipeline.Matrix(axes: axes(["l": [long + "x"]])), steps: [])
  let error = #expect(throws: Pipeline.ExpansionError.self) {
    try Pipeline(jobs: [job]).expanded(standard: standard)
  }
  #expect(error?.message.contains("at most 128 letters") == true)
}

@Test
func sharesThatNoNumberCanHoldAreTheLargestOnes() {
  let most = Resources(cpuMillis: .max, memory: ByteCount(.max), slots: .max)
  let least = Resources(cpuMillis: .min, memory: ByteCount(.min), slots: .min)
  #expect(most + Resources(cpuMillis: 1, memory: ByteCount(1)) == most)
  #expect(least - Resources(cpuMillis: 1, memory: ByteCount(1)) == least)
  #expect(most - least == most)
  #expect(most + most - most == .none)
}

@Test
func aTextIsCutBetweenItsCharacters() {
  #expect("abcdef".limited(toBytes: 6) == "abcdef")
  #expect("abcdefg".limited(toBytes: 6) == "abc...")
  #expect("aéééé".limited(toBytes: 6) == "aé...")
  #expect("aaéééé".limited(toBytes: 6) == "aa...")
}

@Test
func onlyAFewCyclesAreLookedFor() {
  let jobs = (0..<200).map { ("\($0)", (0..<200).map(String.init)) }
  #expect(PipelineGraph(jobs).cycles().count == PipelineGraph.maximumCycles)
}
