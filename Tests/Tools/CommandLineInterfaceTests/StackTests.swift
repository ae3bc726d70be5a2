import CommandLineInterface
import Testing

@Suite struct Stack {
  @Test func everyAddressOfAStackIsItsOwn() {
    let plan = StackPlan(
      data: "/data", programs: "/bin", socket: "/data/redis.sock", basePort: 7_101,
      runners: StackPlan.maximumRunners, drainGraceSeconds: 10)
    let addresses = plan.processes.flatMap { [$0.address, $0.admin] }.filter { !$0.isEmpty }
    #expect(Set(addresses).count == addresses.count)
    #expect(plan.processes.count == 5 + StackPlan.maximumRunners)
  }

  @Test func servicesHaveTheirUsualPorts() {
    let plan = StackPlan(
      data: "/data", programs: "/bin", socket: "/data/redis.sock", basePort: 7_101, runners: 1,
      drainGraceSeconds: 10)
    let ports = Dictionary(
      uniqueKeysWithValues: plan.processes.map { ($0.name, "\($0.address) \($0.admin)") })
    #expect(ports["scheduler"] == "127.0.0.1:7101 127.0.0.1:7201")
    #expect(ports["executor-allocator"] == "127.0.0.1:7102 127.0.0.1:7202")
    #expect(ports["plugin-runner-1"] == "127.0.0.1:7103 127.0.0.1:7203")
    #expect(ports["datastore-gateway"] == "127.0.0.1:7104 127.0.0.1:7204")
    #expect(ports["content-cache"] == "127.0.0.1:7105 127.0.0.1:7205")
  }

  @Test func runnersEndFirstAndTheStoresLast() {
    let plan = StackPlan(
      data: "/data", programs: "/bin", socket: "/data/redis.sock", basePort: 7_101, runners: 2,
      drainGraceSeconds: 10)
    #expect(
      plan.drainOrder == [
        "plugin-runner-1", "plugin-runner-2", "scheduler", "executor-allocator", "content-cache",
        "datastore-gateway", "redis",
      ])
    #expect(Set(plan.drainOrder) == Set(plan.processes.map(\.name)))
  }

  @Test func aPathThatIsTooLongForASocketIsAvoided() {
    let long = "/" + String(repeating: "d", count: 100)
    #expect(StackPlan.socketPath(data: "/data", fallback: "/run") == "/data/redis.sock")
    #expect(StackPlan.socketPath(data: long, fallback: "/run") == "/run/redis.sock")
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

  @Test func artifactsStayInTheirDirectory() {
    #expect(
      ArtifactPaths.choose([
        ("a", "bin/lua"), ("a", "../x"), ("a", "/etc/passwd"), ("a", "b//c"), ("a", "."),
      ]) == ["bin/lua", nil, nil, nil, nil])
  }

  @Test func artifactsOfOnePathAreKeptApart() {
    #expect(
      ArtifactPaths.choose([("t (a/b)", "bin/lua"), ("t (c)", "bin/lua"), ("..", "x")])
        == ["t (a_b)/bin/lua", "t (c)/bin/lua", "_/x"])
  }
}
