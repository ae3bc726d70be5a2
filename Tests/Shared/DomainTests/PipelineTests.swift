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
  let matrix = Pipeline.Matrix(axes: axes(["a": hundred, "b": hundred, "c": hundred]))
  #expect(throws: Pipeline.Matrix.TooManyLegs.self) { try matrix.legs() }
  let tight = Pipeline.Matrix(axes: axes(["a": hundred, "b": ["1", "2", "3"]]))
  let error = #expect(throws: Pipeline.Matrix.TooManyLegs.self) { try tight.legs() }
  #expect(error?.count == 300)
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
