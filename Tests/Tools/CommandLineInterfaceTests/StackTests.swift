import CommandLineInterface
import Testing

@Suite struct Stack {
  private let machine = Machine(processors: 8, memoryBytes: 40_000_000_000)

  private func plan(runners: Int) -> StackPlan {
    StackPlan(
      data: "/data", programs: "/bin", socket: "/tmp/redis.sock", basePort: 7_101,
      runners: runners, machine: self.machine, drainGraceSeconds: 10)
  }

  @Test func everyAddressOfAStackIsItsOwn() {
    let plan = self.plan(runners: StackPlan.maximumRunners)
    let addresses = plan.processes.flatMap { [$0.address, $0.admin] }.filter { !$0.isEmpty }
    #expect(Set(addresses).count == addresses.count)
    #expect(plan.processes.count == 5 + StackPlan.maximumRunners)
  }

  @Test func servicesHaveTheirUsualPorts() {
    let plan = self.plan(runners: 1)
    let ports = Dictionary(
      uniqueKeysWithValues: plan.processes.map { ($0.name, "\($0.address) \($0.admin)") })
    #expect(ports["scheduler"] == "127.0.0.1:7101 127.0.0.1:7201")
    #expect(ports["executor-allocator"] == "127.0.0.1:7102 127.0.0.1:7202")
    #expect(ports["plugin-runner-1"] == "127.0.0.1:7103 127.0.0.1:7203")
    #expect(ports["datastore-gateway"] == "127.0.0.1:7104 127.0.0.1:7204")
    #expect(ports["content-cache"] == "127.0.0.1:7105 127.0.0.1:7205")
  }

  @Test func runnersEndFirstAndTheStoresLast() {
    let plan = self.plan(runners: 2)
    #expect(
      plan.drainOrder == [
        "plugin-runner-1", "plugin-runner-2", "scheduler", "executor-allocator", "content-cache",
        "datastore-gateway", "redis",
      ])
    #expect(Set(plan.drainOrder) == Set(plan.processes.map(\.name)))
  }

  @Test func theSocketsPathIsShortAndEachStacksOwn() {
    let long = "/" + String(repeating: "d", count: 1_000)
    let paths = ["/data", long, long + "x"].map {
      StackPlan.socketDirectory(data: $0, user: .max)
    }
    #expect(Set(paths).count == 3)
    // sockaddr_un has room for 107 bytes.
    #expect(paths.allSatisfy { ($0 + "/redis.sock").utf8.count <= 107 })
    // Where the sandbox of steps has a directory of its own.
    #expect(paths.allSatisfy { $0.hasPrefix("/tmp/") })
  }

  @Test(arguments: [
    (2, ["--cpu", "4", "--memory", "18000000000", "--slots", "4"]),
    (3, ["--cpu", "2.5", "--memory", "12000000000", "--slots", "3"]),
    (64, ["--cpu", "1", "--memory", "1073741824", "--slots", "1"]),
  ])
  func runnersShareTheMachine(runners: Int, flags: [String]) {
    #expect(self.machine.flags(ofEachOf: runners) == flags)
    let plan = self.plan(runners: runners)
    for process in plan.processes where process.name.hasPrefix("plugin-runner") {
      #expect(process.arguments.suffix(flags.count) == flags[...])
    }
  }

  @Test func whatTheStackKeepsIsHiddenFromSteps() {
    for process in self.plan(runners: 2).processes where process.name.hasPrefix("plugin-runner") {
      #expect(process.arguments.contains("--hidden"))
      #expect(process.arguments.contains("/data"))
    }
  }

  @Test func aSingleRunnerHasTheMachine() {
    #expect(self.machine.flags(ofEachOf: 1) == [])
  }

  @Test func aChildThatKeepsEndingIsStartedLessOften() {
    var policy = RestartPolicy()
    let delays = (0..<8).map { _ in policy.ended(after: .seconds(1)) }
    #expect(
      delays == [
        .milliseconds(200), .milliseconds(400), .milliseconds(800), .milliseconds(1_600),
        .milliseconds(3_200), .milliseconds(6_400), .seconds(10), .seconds(10),
      ])
  }

  @Test func aChildThatWasWellIsBackAtOnce() {
    var policy = RestartPolicy()
    for _ in 0..<5 { _ = policy.ended(after: .zero) }
    let delay = policy.ended(after: RestartPolicy.wellAfter)
    #expect(delay == RestartPolicy.shortestDelay)
  }

  private func places(_ files: [(job: String, path: String, content: String)]) -> [String?] {
    ArtifactPaths.choose(
      files.map { ArtifactPaths.Kept(job: $0.job, path: $0.path, content: $0.content) })
  }

  @Test func artifactsStayInTheirDirectory() {
    #expect(
      self.places([
        ("a", "bin/lua", "1"), ("a", "../x", "2"), ("a", "/etc/passwd", "3"), ("a", "b//c", "4"),
        ("a", ".", "5"),
      ]) == ["bin/lua", nil, nil, nil, nil])
  }

  @Test func artifactsOfOnePathAreKeptApart() {
    #expect(
      self.places([
        ("t (a/b)", "bin/lua", "1"), ("t (c)", "bin/lua", "2"), ("..", "x", "3"),
        ("t (a_b)", "x", "4"),
      ]) == ["t (a_b)/bin/lua", "t (c)/bin/lua", "_/x", "t (a_b)_/x"])
  }

  @Test func whatOneJobKeptTwiceIsKeptTwice() {
    #expect(
      self.places([("a", "out", "1"), ("a", "log", "2"), ("a", "out", "3"), ("a", "out", "4")])
        == ["a/out", "a/log", "a#2/out", "a#3/out"])
    #expect(self.places([("a", "out", "1"), ("a", "out", "1")]) == ["out", "out"])
  }

  @Test func aFileAndADirectoryOfOneNameAreKeptApart() {
    #expect(
      self.places([("a", "out/x", "1"), ("b", "out", "2")]) == ["a/out/x", "b/out"])
    #expect(
      self.places([("a", "out", "1"), ("a", "out/x/y", "2")]) == ["a/out", "a#2/out/x/y"])
  }
}
