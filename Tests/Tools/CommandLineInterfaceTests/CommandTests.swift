import BuildProtos
import CommandLineInterface
import Glibc
import RPC
import Testing

/// A scheduler that knows every key, and a cache that has every source.
private struct KnowingStack: RPCService {
  var descriptor: ServiceDescriptor { SchedulerV1.schedulerServiceDescriptor }

  func registerMethods(with router: inout Router) {
    router.unary(SchedulerV1.SchedulerMethods.submitBuild) { request, _ in
      guard request.idempotencyKey != "another's" else {
        throw RPCError(.alreadyExists, "the key is of build b0, which is another")
      }
      return SchedulerV1.SubmitBuildResponse(
        build: SchedulerV1.Build(id: "b1", project: request.project), existed: true)
    }
    router.unary(RemoteExecutionV2.ContentAddressableStorageMethods.findMissingBlobs) { _, _ in
      RemoteExecutionV2.FindMissingBlobsResponse()
    }
  }

  /// Submits a directory to such a stack, as `millrace submit` does.
  static func submit(_ directory: String, _ arguments: String...) async throws -> Never {
    let server = RPCServer(services: [Self()])
    let address = "\(try await server.listen(on: ListenAddress("127.0.0.1:0")))"
    await CommandLineInterface.main(
      ["submit", directory, "--scheduler", address, "--cache", address] + arguments)
  }
}

/// Whole commands, each in a process of its own.
@Suite(.timeLimit(.minutes(1))) struct Commands {
  private func errors(_ result: ExitTest.Result?) -> String {
    String(decoding: result?.standardErrorContent ?? [], as: UTF8.self)
  }

  private func output(_ result: ExitTest.Result) -> String {
    String(decoding: result.standardOutputContent, as: UTF8.self)
  }

  private func directory() throws -> TemporaryDirectory {
    let directory = try TemporaryDirectory()
    try directory.write("jobs: {a: {steps: [{run: make}]}}", to: "millrace.yaml")
    return directory
  }

  @Test func wrongUsageIsToldWithTheRightOne() async {
    let result = await #expect(
      processExitsWith: .exitCode(2), observing: [\.standardErrorContent]
    ) {
      await CommandLineInterface.main(["builds", "--wrong"])
    }
    let errors = self.errors(result)
    #expect(errors.contains("Error: Unknown option '--wrong'"))
    #expect(errors.contains("Usage: "))
  }

  @Test(arguments: [
    (["watch", "--output", "json"], "Missing expected argument"),
    (["builds", "--wrong", "--output=json"], "Unknown option '--wrong'"),
    (["builds", "--limit", "0", "--output", "json"], "--limit 0: expected 1 to 100000"),
  ])
  func wrongUsageIsJSONWhereThatIsAskedFor(arguments: [String], message: String) async {
    let result = await #expect(
      processExitsWith: .exitCode(2), observing: [\.standardErrorContent]
    ) { [arguments = arguments as [String]] in
      await CommandLineInterface.main(arguments)
    }
    let lines = self.errors(result).split(separator: "\n")
    #expect(
      lines.contains {
        $0.hasPrefix("{\"error\":\"\(message)") && $0.hasSuffix("\",\"exitCode\":2}")
      }, "\(lines)")
  }

  @Test func aNegativePriorityNeedsNoEqualsSign() async {
    let result = await #expect(
      processExitsWith: .exitCode(2), observing: [\.standardErrorContent]
    ) {
      await CommandLineInterface.main(["submit", "/nonexistent", "--priority", "-15"])
    }
    #expect(
      self.errors(result)
        .contains("millrace: there is no directory /nonexistent\n"))
  }

  @Test func aPipelineHasToBeARegularFile() async throws {
    let directory = try self.directory()
    mkfifo("\(directory.path)/pipe", 0o644)
    for (name, kind) in [("pipe", "a pipe"), (".", "a directory")] {
      let result = await #expect(
        processExitsWith: .exitCode(2), observing: [\.standardErrorContent]
      ) { [path = directory.path as String, name = name as String] in
        await CommandLineInterface.main(["submit", path, "-f", name])
      }
      #expect(
        self.errors(result).contains(
          "\(directory.path)/\(name) is \(kind); a pipeline has to be a regular file\n"))
    }
  }

  @Test func aNamedDirectoryWithoutAStackIsNotPassedOver() async throws {
    let directory = try TemporaryDirectory()
    let result = await #expect(
      processExitsWith: .exitCode(4), observing: [\.standardErrorContent]
    ) { [path = directory.path as String] in
      await CommandLineInterface.main(["builds", "--data", path])
    }
    #expect(
      self.errors(result).contains(
        "there is no \(directory.path)/stack.json; start one with `millrace up --data "
          + "\(directory.path)`\n"))
  }

  @Test func aBuildThatExistedIsTold() async throws {
    let directory = try self.directory()
    defer { withExtendedLifetime(directory) {} }
    let result = try await #require(
      processExitsWith: .exitCode(0),
      observing: [\.standardErrorContent, \.standardOutputContent]
    ) { [path = directory.path as String] in
      try await KnowingStack.submit(path, "--idempotency-key", "k")
    }
    #expect(
      self.errors(result).contains(
        "build b1 already existed: it was submitted before with the idempotency key \"k\"\n"))
    #expect(self.output(result).contains("b1\n"))
  }

  @Test func aBuildThatExistedIsInTheJSONOnly() async throws {
    let directory = try self.directory()
    defer { withExtendedLifetime(directory) {} }
    let result = try await #require(
      processExitsWith: .exitCode(0),
      observing: [\.standardErrorContent, \.standardOutputContent]
    ) { [path = directory.path as String] in
      try await KnowingStack.submit(path, "--idempotency-key", "k", "--output", "json")
    }
    #expect(!self.errors(result).contains("already existed"))
    #expect(self.output(result).contains("\"existed\" : true"))
  }

  @Test func aKeyOfAnotherBuildIsAMistakeOfTheUser() async throws {
    let directory = try self.directory()
    defer { withExtendedLifetime(directory) {} }
    let result = await #expect(
      processExitsWith: .exitCode(2), observing: [\.standardErrorContent]
    ) { [path = directory.path as String] in
      try await KnowingStack.submit(path, "--idempotency-key", "another's")
    }
    #expect(
      self.errors(result)
        .contains("millrace: the key is of build b0, which is another\n"))
  }
}
