import BuildProtos
import Domain
import PipelineSyntax
import RPC
import SchedulerCore
import ServiceRuntime
import Testing

@testable import SchedulerService

@Test(arguments: [
  ("", "k", "project is empty"),
  ("a b", "k", "has the character \" \""),
  ("ä", "k", "has the character"),
  (String(repeating: "p", count: 201), "k", "project has 201 characters"),
  ("p", "", "idempotency_key is empty"),
  ("p", String(repeating: "k", count: 257), "idempotency_key has 257 characters"),
])
func aWrongSubmissionIsToldWhatIsWrong(_ project: String, _ key: String, _ words: String) {
  let request = SchedulerV1.SubmitBuildRequest(project: project, idempotencyKey: key)
  #expect(SubmissionRules.mistake(in: request)?.contains(words) == true)
}

@Test func annotationsHaveABound() {
  var request = SchedulerV1.SubmitBuildRequest(project: "a/b-c_d.E", idempotencyKey: "k")
  #expect(SubmissionRules.mistake(in: request) == nil)
  request.annotations["x"] = String(repeating: "y", count: SubmissionRules.maximumMapBytes)
  #expect(SubmissionRules.mistake(in: request)?.contains("annotations takes") == true)
}

@Test(arguments: [Int32.min, -1_001, 1_001, .max])
func aPriorityOutOfBoundsIsNamed(_ priority: Int32) {
  var request = SchedulerV1.SubmitBuildRequest(
    project: "p", idempotencyKey: "k", priority: priority)
  #expect(
    SubmissionRules.mistake(in: request) == "priority is \(priority), not from -1000 to 1000")
  request.priority = priority < 0 ? -1_000 : 1_000
  #expect(SubmissionRules.mistake(in: request) == nil)
}

@Test func anErrorOfManyMistakesFitsIntoTrailers() throws {
  let mistakes = (1...50).map { line in
    PipelineMistake(
      line: line, column: 1, message: String(repeating: "é%", count: 200), suggestion: "\(line)")
  }
  let path = String(repeating: "p", count: 9_000)
  let error = RPCError(PipelineMistakes(path: path, mistakes: mistakes, count: 70))
  #expect(error.trailerBytes <= 6_000)
  let status = try GoogleRPC.Status(decoding: try #require(error.statusDetails))
  #expect(status.message == error.message)
  let told = try SchedulerV1.PipelineMistakes(decoding: try #require(status.details.first).value)
  #expect(told.mistakes.count >= 2)
  #expect(told.mistakes.last?.message == "and \(71 - told.mistakes.count) more mistakes")
  // Short ones are all there.
  let few = PipelineMistakes(path: "p", mistakes: Array(mistakes.prefix(1)))
  #expect(RPCError(few).message == few.description)
}

@Test func aBuildIsCalledTheSameForEver() {
  // Records in stores are found by it: this must never change.
  let id = SubmissionRules.buildID(project: "lua", key: "k")
  #expect(id.rawValue.utf8.count == 20)
  #expect(id == SubmissionRules.buildID(project: "lua", key: "k"))
  #expect(id == "sb6zayrhjf725mkqsadk")
  #expect(id != SubmissionRules.buildID(project: "luak", key: ""))
}

@Test func aPipelineIsReadOnceAndAWrongOneEachTime() throws {
  let cache = PipelineCache()
  let text = Array("jobs: {a: {steps: [{run: x}]}}".utf8)
  #expect(try cache.pipeline(text, path: "") == cache.pipeline(text, path: "other.yaml"))
  for _ in 0..<2 {
    #expect(throws: (any Error).self) { try cache.pipeline(Array("jobs: 1".utf8), path: "p.yaml") }
  }
}

@Test(arguments: [
  ["default-cpu": "many"], ["default-memory": "0"], ["default-timeout": "0s"],
  ["max-queued-jobs": "0"], ["datastore-project": ""], ["project-limits": "p=jobs:0"],
  ["project-limits": "p=cpu:1+cpu:2"], ["project-limits": "=jobs:1"], ["pool-limits": "p=disk:1"],
  ["pool-limits": "big=jobs:1,big=jobs:2"],
])
func aWrongSettingIsNamed(_ values: [String: String]) throws {
  let error = #expect(throws: SettingError.self) {
    _ = try Configuration(SettingValues(Configuration.settings, values: values))
  }
  #expect(error?.description.contains(try #require(values.keys.first)) == true)
}

@Test func limitsAreRead() throws {
  let values = [
    "project-limits": "git.example/a=jobs:3+cpu:2.5,*=memory:4GiB", "pool-limits": "big=jobs:7",
  ]
  let policy = try Configuration(SettingValues(Configuration.settings, values: values)).policy
  #expect(policy.projectLimits == ["git.example/a": RunningLimit(jobs: 3, cpuMillis: 2_500)])
  #expect(policy.standardProjectLimit == RunningLimit(memory: .gibibytes(4)))
  #expect(policy.poolLimits == ["big": RunningLimit(jobs: 7)])
}

@Test func aBuildIsCalledByItsKeyForEver() {
  // Stored records are found by these.
  #expect(SubmissionRules.buildID(project: "p", key: "k") == "o5xjyzb2cs26shidtj33")
  let first = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"
  #expect(SubmissionRules.buildID(project: "p", key: first) == "01fshe4udgjf547r55i3")
  #expect(SubmissionRules.buildID(project: "q", key: first) == "01fshe4udgdl7ey4rtic")
}

@Test func idsOfTimedKeysSortByThem() {
  let ids = [0, 31, 32, 1_764_000_000_000, 1_764_000_000_001, 1 << 48 - 1].map { time in
    SubmissionRules.buildID(
      project: "p", key: TimeOrderedKey.make(at: Timestamp(microseconds: time * 1_000)))
  }
  #expect(ids == ids.sorted())
  #expect(ids.allSatisfy { $0.rawValue.utf8.count == 20 })
}
