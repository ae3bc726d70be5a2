import Domain
import SchedulerCore

/// Builds of one job each, mixed as a farm's are: projects, sizes, labels, priorities.
struct Requests {
  static let projects = (0..<200).map { ProjectID("git.example/team-\($0 % 20)/app-\($0)") }
  private static let sizes: [(cpu: String, memory: String)] = [
    ("500m", "512MiB"), ("1", "1GiB"), ("1", "2GiB"), ("2", "4GiB"), ("4", "4GiB"),
  ]

  /// As the service's cache has them: one value for all that say the same.
  private let pipelines: [Pipeline]
  private let legs: [[Pipeline.Leg]]

  init() {
    self.pipelines = (0..<50).map { Self.pipeline($0) }
    self.legs = self.pipelines.map {
      // Written above: they can be expanded.
      // swift-format-ignore: NeverUseForceTry
      try! $0.expanded(standard: SchedulerCore.Policy().standardResources)
    }
  }

  /// A pipeline of its own, with texts of its own.
  static func pipeline(_ number: Int) -> Pipeline {
    let size = Self.sizes[number % Self.sizes.count]
    var job = Pipeline.Job(
      key: "build",
      steps: [
        Pipeline.Step(name: "check out the sources", action: .uses("checkout")),
        Pipeline.Step(
          name: "build", action: .run("./configure --quiet && make -j4 all check # \(number)"),
          environment: ["CFLAGS": "-O2 -g"]),
      ])
    job.cpu = size.cpu
    job.memory = size.memory
    job.labels = number % 10 == 9 ? ["gpu"] : []
    return Pipeline(name: "build and test", jobs: [job])
  }

  /// Twenty letters and digits, as the scheduler calls builds.
  private static func id(_ number: Int) -> BuildID {
    BuildID("b" + String(String(Int.max / 2 + number, radix: 36).suffix(12)) + "0123456")
  }

  func submission(_ number: Int) -> Submission {
    let kind = number % self.pipelines.count
    return Submission(
      id: Self.id(number), project: Self.projects[number % 200],
      pipeline: self.pipelines[kind], legs: self.legs[kind],
      source: .git(url: "https://git.example/app-\(number % 200).git", revision: "main"),
      priority: number % 50 == 0 ? 5 : 0,
      annotations: ["commit": "0123456789abcdef0123456789abcdef\(number)"],
      fingerprint: Fingerprint("abcdefghijklmnopqrst"))
  }

  /// The record of a build that waits, as it comes out of the store: nothing of it is shared.
  static func record(_ number: Int) -> BuildRecord {
    let pipeline = Self.pipeline(number % 50)
    // swift-format-ignore: NeverUseForceTry
    let legs = try! pipeline.expanded(standard: SchedulerCore.Policy().standardResources)
    var record = BuildRecord(
      id: Self.id(number), project: Self.projects[number % 200],
      name: pipeline.name, createdAt: Timestamp(microseconds: Int64(number)),
      source: .git(url: "https://git.example/app-\(number % 200).git", revision: "main"),
      priority: number % 50 == 0 ? 5 : 0,
      annotations: ["commit": "0123456789abcdef0123456789abcdef\(number)"],
      pipeline: pipeline, jobs: legs.map { JobRecord($0) },
      fingerprint: Fingerprint("abcdefghijklmnopqrst"), owner: "another")
    record.jobs[0].state = .queued
    record.revision = Revision.stride
    return record
  }
}
