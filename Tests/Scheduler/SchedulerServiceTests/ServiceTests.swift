import BuildProtos
import RPC
import Testing

@Suite(.timeLimit(.minutes(1))) struct ServiceTests {
  @Test func aBuildRunsToItsEnd() async throws {
    try await World.with { world in
      try await world.withScheduler { scheduler in
        let build = try #require(try await scheduler.submit("k").build)
        #expect(build.project == "lua" && build.jobs.map(\.id) == ["a"])
        let job = try await world.runner.offered.next()
        #expect(job.buildID == build.id && job.attemptID == "\(build.id)/a/1")
        #expect(job.leaseID == "lease-1" && job.fencingToken == 1)
        #expect(job.steps.map(\.action) == [.run("make")])
        world.runner.tell(job.attemptID, .accepted(.init(executorID: "e1")))
        world.runner.tell(job.attemptID, .step(.init(index: 0, name: "make", state: .running)))
        let running = try await scheduler.watched(build.id) {
          $0.jobs[0].attempts.last?.steps.isEmpty == false
        }
        #expect(running.state == .running && running.startedAt != nil)
        world.runner.finish(job.attemptID, .succeeded)
        let finished = try await scheduler.finished(build.id)
        #expect(finished.outcome == .succeeded && finished.finishedAt != nil)
        #expect(finished.jobs[0].attempts.map(\.outcome) == [.succeeded])
        #expect(try await world.allocator.releases.next() == "lease-1")
      }
    }
  }

  @Test func aNewerBuildOfItsGroupEndsTheOneThatRuns() async throws {
    let pipeline = """
      concurrency: {group: deploy, cancel-in-progress: true}
      jobs: {a: {steps: [{run: make}]}}
      """
    try await World.with { world in
      try await world.withScheduler { scheduler in
        let first = try #require(try await scheduler.submit("1", pipeline).build)
        let job = try await world.runner.offered.next()
        world.runner.tell(job.attemptID, .accepted(.init(executorID: "e1")))
        _ = try await scheduler.watched(first.id) { $0.state == .running }
        let second = try #require(try await scheduler.submit("2", pipeline).build)
        let ended = try await scheduler.finished(first.id)
        #expect(ended.outcome == .cancelled)
        #expect(
          ended.message == "build \(second.id) of the same concurrency group came later")
        // The newer one begins when the older one's job is gone from its executor.
        #expect(try await world.runner.stopped.next().attemptID == job.attemptID)
        let state = try await scheduler.getBuild(SchedulerV1.GetBuildRequest(buildID: second.id))
          .build
        #expect(state?.state == .queued)
        world.runner.finish(job.attemptID, .cancelled)
        let next = try await world.runner.offered.next()
        #expect(next.buildID == second.id)
        world.runner.finish(next.attemptID, .succeeded)
        #expect(try await scheduler.finished(second.id).outcome == .succeeded)
      }
    }
  }

  @Test func theSameKeyIsTheSameBuildWhateverHappensBetween() async throws {
    try await World.with { world in
      let first = try await world.withScheduler { scheduler in
        let first = try await scheduler.submit("k")
        #expect(!first.existed)
        #expect(try await scheduler.submit("k").existed)
        return try #require(first.build)
      }
      try await world.withScheduler { scheduler in
        let again = try await scheduler.submit("k")
        #expect(again.existed && again.build?.id == first.id)
        #expect(try await scheduler.submit("k", project: "zlib").build?.id != first.id)
      }
    }
  }

  @Test func everyMistakeOfAPipelineIsInTheDetails() async throws {
    try await World.with { world in
      try await world.withScheduler { scheduler in
        let error = await failure {
          try await scheduler.submit("k", "jobs:\n  a:\n    stepz: []\n  b:\n    needs: [c]\n")
        }
        #expect(error?.code == .invalidArgument)
        let status = try GoogleRPC.Status(decoding: try #require(error?.statusDetails))
        let mistakes = try SchedulerV1.PipelineMistakes(
          decoding: try #require(status.details.first).value)
        #expect(mistakes.path == "millrace.yaml")
        #expect(mistakes.mistakes.contains { $0.line == 3 && $0.message.contains("stepz") })
        #expect(mistakes.mistakes.contains { $0.line == 5 && $0.message.contains("c") })
      }
    }
  }

  @Test(arguments: ["__key__", "a\u{0}b", "no-such-build", "\u{7f}"])
  func anIdThatNoBuildCanHaveIsNotFound(_ id: String) async throws {
    try await World.with { world in
      try await world.withScheduler { scheduler in
        let failures = [
          await failure { _ = try await scheduler.getBuild(.init(buildID: id)) },
          await failure { _ = try await scheduler.cancelBuild(.init(buildID: id)) },
          await failure { _ = try await scheduler.retryBuild(.init(buildID: id)) },
          await failure {
            for try await _ in try await scheduler.watchBuild(.init(buildID: id)) {}
          },
        ]
        #expect(failures.map { $0?.code } == Array(repeating: .notFound, count: 4))
      }
    }
  }

  /// Names take nearly all that a new record may have, and attempts repeat them.
  private static var longNames: String {
    "jobs:\n"
      + (0..<4).map { job in
        let values = (0..<250).map { "\($0)-" + String(repeating: "x", count: 190) }
        return "  j\(job):\n    name: n\n    steps: [{run: x}]\n    strategy: {matrix: {v: "
          + "[\(values.joined(separator: ","))]}}\n"
      }.joined()
  }

  @Test func aBuildWhoseRecordBecomesTooLargeFailsAndIsStoredSo() async throws {
    try await World.with { world in
      let id = try await world.withScheduler { scheduler in
        let build = try #require(try await scheduler.submit("k", Self.longNames).build)
        #expect(build.jobs.count == 1_000)
        let finished = try await scheduler.finished(build.id)
        #expect(finished.outcome == .failed)
        #expect(finished.message.hasPrefix("its record cannot be stored: the record of build"))
        let again = try await scheduler.cancelBuild(.init(buildID: build.id)).build
        #expect(again?.outcome == .failed)
        return build.id
      }
      try await world.withScheduler { scheduler in
        let stored = try await scheduler.getBuild(.init(buildID: id)).build
        #expect(stored?.outcome == .failed)
      }
    }
  }

  @Test func aJobThatKeepsMoreThanTheRecordHasRoomForFails() async throws {
    try await World.with { world in
      let build = try await world.withScheduler { scheduler in
        let build = try #require(try await scheduler.submit("k").build)
        let job = try await world.runner.offered.next()
        world.runner.tell(job.attemptID, .accepted(.init(executorID: "e1")))
        // Nothing bounds how it calls itself: a runner of somebody's own.
        for index in 0..<3 {
          world.runner.tell(
            job.attemptID,
            .artifact(
              .init(
                name: "x\(index)", path: String(repeating: "p", count: 140_000),
                digest: .init(hash: "00", sizeBytes: 1))))
        }
        world.runner.finish(job.attemptID, .succeeded)
        return try await scheduler.finished(build.id)
      }
      #expect(build.outcome == .failed)
      #expect(build.message.contains("was not kept"))
      #expect(build.jobs[0].attempts[0].artifacts.count == 2)
    }
  }

  @Test func aNewSchedulerAttachesToWhatRuns() async throws {
    try await World.with { world in
      let (build, attempt) = try await world.withScheduler { scheduler in
        let build = try #require(try await scheduler.submit("k").build)
        let job = try await world.runner.offered.next()
        world.runner.tell(job.attemptID, .accepted(.init(executorID: "e1")))
        return (build.id, job.attemptID)
      }
      try await world.withScheduler { scheduler in
        let attached = try await world.runner.attached.next()
        #expect(attached.attemptID == attempt && attached.afterSequence == 0)
        #expect(try await world.allocator.holds.next().leaseID == "lease-1")
        world.runner.finish(attempt, .failed, message: "no")
        let finished = try await scheduler.finished(build)
        #expect(finished.outcome == .failed && finished.jobs[0].attempts.count == 1)
        #expect(finished.message == "job a: no")
      }
    }
  }

  @Test func whatItsRunnerForgotRunsAgain() async throws {
    try await World.with { world in
      try await world.withScheduler { scheduler in
        let build = try #require(try await scheduler.submit("k").build)
        let first = try await world.runner.offered.next()
        world.runner.tell(first.attemptID, .accepted(.init(executorID: "e1")))
        _ = try await scheduler.watched(build.id) { $0.state == .running }
        world.runner.forgetAll()
        let second = try await world.runner.offered.next()
        #expect(second.attempt == 2 && second.fencingToken > first.fencingToken)
        world.runner.finish(second.attemptID, .succeeded)
        let attempts = try await scheduler.finished(build.id).jobs[0].attempts
        #expect(attempts.map(\.outcome) == [.executorLost, .succeeded])
      }
    }
  }

  @Test func aLostLeaseIsALostExecutor() async throws {
    try await World.with { world in
      try await world.withScheduler { scheduler in
        let build = try #require(try await scheduler.submit("k").build)
        let first = try await world.runner.offered.next()
        world.runner.tell(first.attemptID, .accepted(.init(executorID: "e1")))
        _ = try await scheduler.watched(build.id) { $0.state == .running }
        try await world.allocator.say(
          .lost(.init(leaseID: first.leaseID, executorID: "e1", message: "e1 is silent")))
        let second = try await world.runner.offered.next()
        world.runner.finish(second.attemptID, .succeeded)
        let attempts = try await scheduler.finished(build.id).jobs[0].attempts
        #expect(attempts.map(\.outcome) == [.executorLost, .succeeded])
        #expect(attempts[0].message == "e1 is silent")
      }
    }
  }

  @Test func aCancellationIsFinalAtOnceAndStopsTheRunner() async throws {
    try await World.with { world in
      try await world.withScheduler { scheduler in
        let build = try #require(try await scheduler.submit("k").build)
        let job = try await world.runner.offered.next()
        let cancelled = try await scheduler.cancelBuild(
          .init(buildID: build.id, reason: "no need")
        ).build
        #expect(cancelled?.state == .finished && cancelled?.outcome == .cancelled)
        #expect(cancelled?.message == "no need")
        let stop = try await world.runner.stopped.next()
        #expect(stop.attemptID == job.attemptID && stop.outcome == .cancelled)
        world.runner.finish(job.attemptID, .cancelled)
        #expect(try await world.allocator.releases.next() == job.leaseID)
        let again = try await scheduler.cancelBuild(.init(buildID: build.id)).build
        #expect(again?.outcome == .cancelled)
      }
    }
  }

  @Test func whatDidNotSucceedIsRetried() async throws {
    try await World.with { world in
      try await world.withScheduler { scheduler in
        let build = try #require(try await scheduler.submit("k").build)
        let first = try await world.runner.offered.next()
        #expect(
          await failure { _ = try await scheduler.retryBuild(.init(buildID: build.id)) }?.code
            == .failedPrecondition)
        world.runner.finish(first.attemptID, .failed)
        _ = try await scheduler.finished(build.id)
        _ = try await scheduler.retryBuild(.init(buildID: build.id))
        let second = try await world.runner.offered.next()
        world.runner.finish(second.attemptID, .succeeded)
        let finished = try await scheduler.finished(build.id)
        #expect(finished.outcome == .succeeded && finished.jobs[0].attempts.count == 2)
        #expect(
          await failure {
            _ = try await scheduler.retryBuild(.init(buildID: build.id, jobIds: ["z"]))
          }?.code == .invalidArgument)
      }
    }
  }

  @Test func whatNoExecutorCanEverRunIsRejected() async throws {
    try await World.with { world in
      world.allocator.grants(false)
      try await world.withScheduler { scheduler in
        let build = try #require(try await scheduler.submit("k").build)
        let demand = try await world.allocator.demands.next()
        try await world.allocator.say(
          .unsatisfiable(.init(requestID: demand.requestID, reason: "0 of 2 executors match")))
        let finished = try await scheduler.finished(build.id)
        #expect(finished.outcome == .rejected)
        #expect(finished.jobs[0].message == "0 of 2 executors match")
      }
    }
  }

  @Test func aStreamThatIsLostIsOpenedAgainWithAllThatIsWanted() async throws {
    try await World.with { world in
      world.allocator.grants(false)
      try await world.withScheduler { scheduler in
        let build = try #require(try await scheduler.submit("k").build)
        let demand = try await world.allocator.demands.next()
        world.allocator.grants(true)
        world.allocator.endStream()
        #expect(try await world.allocator.demands.next().requestID == demand.requestID)
        let job = try await world.runner.offered.next()
        world.runner.finish(job.attemptID, .succeeded)
        #expect(try await scheduler.finished(build.id).outcome == .succeeded)
      }
    }
  }

  @Test func aListHasPagesWithTheNewestFirst() async throws {
    try await World.with { world in
      world.allocator.grants(false)
      try await world.withScheduler { scheduler in
        var ids: [String] = []
        for number in 0..<5 {
          ids.append(try #require(try await scheduler.submit("k\(number)").build).id)
        }
        try await scheduler.submit("other", project: "zlib")
        _ = try await scheduler.cancelBuild(.init(buildID: ids[0]))
        var listed: [String] = []
        var token = ""
        var pages = 0
        repeat {
          let page = try await scheduler.listBuilds(
            .init(project: "lua", pageSize: 2, pageToken: token))
          #expect(page.builds.count <= 2)
          listed += page.builds.map(\.id)
          token = page.nextPageToken
          pages += 1
        } while !token.isEmpty && pages < 10
        #expect(listed == ids.reversed())
        let active = try await scheduler.listBuilds(.init(project: "lua", active: true))
        #expect(active.builds.map(\.id) == Array(ids.dropFirst().reversed()))
        #expect(try await scheduler.listBuilds(.init()).builds.count == 6)
        for wrong in ["xyz", "0", "00ff00"] {
          #expect(
            await failure { _ = try await scheduler.listBuilds(.init(pageToken: wrong)) }?.code
              == .invalidArgument)
        }
        #expect(
          await failure { _ = try await scheduler.listBuilds(.init(pageSize: 1_001)) }?.code
            == .invalidArgument)
      }
    }
  }

  @Test func anUnknownBuildIsNotFound() async throws {
    try await World.with { world in
      try await world.withScheduler { scheduler in
        for id in ["nobody", String(repeating: "x", count: 5_000)] {
          #expect(
            await failure { _ = try await scheduler.getBuild(.init(buildID: id)) }?.code
              == .notFound)
          #expect(
            await failure { _ = try await scheduler.cancelBuild(.init(buildID: id)) }?.code
              == .notFound)
          #expect(await failure { _ = try await scheduler.finished(id) }?.code == .notFound)
        }
        #expect(
          await failure { _ = try await scheduler.getBuild(.init()) }?.code == .invalidArgument)
      }
    }
  }

  @Test func aFullQueueSaysWhenToComeBack() async throws {
    try await World.with { world in
      world.allocator.grants(false)
      try await world.withScheduler(["max-queued-jobs": "2"]) { scheduler in
        try await scheduler.submit("1")
        try await scheduler.submit("2")
        let error = await failure { try await scheduler.submit("3") }
        #expect(error?.code == .resourceExhausted && error?.retryDelay == .seconds(5))
      }
    }
  }
}
