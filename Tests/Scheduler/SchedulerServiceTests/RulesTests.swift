import BuildProtos
import Domain
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
  ["max-queued-jobs": "0"], ["datastore-project": ""],
])
func aWrongSettingIsNamed(_ values: [String: String]) throws {
  let error = #expect(throws: SettingError.self) {
    _ = try Configuration(SettingValues(Configuration.settings, values: values))
  }
  #expect(error?.description.contains(try #require(values.keys.first)) == true)
}
