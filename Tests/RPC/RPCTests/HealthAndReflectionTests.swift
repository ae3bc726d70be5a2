import RPC
import RPCTesting
import Testing

@Suite struct HealthAndReflectionTests {
  @Test func healthIsCheckedListedAndWatched() async throws {
    let service = HealthService()
    service.set(.notServing, for: "a.B")
    try await withInMemoryServer([service]) { channel in
      let client = HealthV1.HealthClient(channel)
      #expect(try await client.check(HealthV1.HealthCheckRequest()).status == .serving)
      let list = try await client.list(HealthV1.HealthListRequest())
      #expect(list.statuses.mapValues(\.status) == ["": .serving, "a.B": .notServing])
      let error = await #expect(throws: RPCError.self) {
        try await client.check(HealthV1.HealthCheckRequest(service: "none"))
      }
      #expect(error?.code == .notFound)
      let watch = try await client.watch(HealthV1.HealthCheckRequest(service: "late"))
      var iterator = watch.makeAsyncIterator()
      #expect(try await iterator.next()?.status == .serviceUnknown)
      service.set(.serving, for: "late")
      #expect(try await iterator.next()?.status == .serving)
      watch.cancel()
    }
  }

  @Test func watchesEndBehindWhatTheyWereTold() async throws {
    let service = HealthService()
    try await withInMemoryServer([service]) { channel in
      let client = HealthV1.HealthClient(channel)
      let watch = try await client.watch(HealthV1.HealthCheckRequest())
      var statuses = watch.makeAsyncIterator()
      #expect(try await statuses.next()?.status == .serving)
      service.setAll(.notServing)
      service.endWatches()
      #expect(try await statuses.next()?.status == .notServing)
      #expect(try await statuses.next() == nil)
      // One that comes now is told how it is, and ends too.
      let late = try await client.watch(HealthV1.HealthCheckRequest())
      var last = late.makeAsyncIterator()
      #expect(try await last.next()?.status == .notServing)
      #expect(try await last.next() == nil)
    }
  }

  @Test func noConnectionTakesAllWatches() async throws {
    let service = HealthService(maximumWatches: 3, maximumWatchesPerConnection: 2)
    let server = RPCServer(services: [service])
    let (greedy, other) = (server.inMemoryChannel(), server.inMemoryChannel())
    func watch(_ channel: RPCChannel) async throws -> ResponseStream<HealthV1.HealthCheckResponse> {
      let watch = try await HealthV1.HealthClient(channel).watch(HealthV1.HealthCheckRequest())
      var statuses = watch.makeAsyncIterator()
      #expect(try await statuses.next()?.status == .serving)
      return watch
    }
    // Who lets go of a stream leaves its call.
    var kept = [try await watch(greedy), try await watch(greedy)]
    var error = await #expect(throws: RPCError.self) { try await watch(greedy) }
    #expect(error?.code == .resourceExhausted)
    kept.append(try await watch(other))
    error = await #expect(throws: RPCError.self) { try await watch(other) }
    #expect(error?.code == .resourceExhausted)
    // Whoever leaves makes room.
    kept[0].cancel()
    var isServed = false
    while !isServed { isServed = (try? await watch(other)) != nil }
    await greedy.close()
    await other.close()
    await server.shutdown(grace: .zero)
  }

  @Test func bothReflectionsTellOfAService() async throws {
    let reflection = ReflectionService(services: [HealthService()])
    try await withInMemoryServer([HealthService(), reflection, reflection.alpha]) { channel in
      let v1 = try await ReflectionV1.ServerReflectionClient(channel).serverReflectionInfo()
      try await v1.send(
        ReflectionV1.ServerReflectionRequest(messageRequest: .listServices("")))
      try await v1.send(
        ReflectionV1.ServerReflectionRequest(
          messageRequest: .fileContainingSymbol("grpc.health.v1.Health.Check")))
      await v1.finishSending()
      var iterator = v1.responses.makeAsyncIterator()
      guard case .listServicesResponse(let list) = try await iterator.next()?.messageResponse
      else {
        Issue.record("no list of services")
        return
      }
      #expect(list.service.map(\.name).contains("grpc.health.v1.Health"))
      guard case .fileDescriptorResponse(let file) = try await iterator.next()?.messageResponse
      else {
        Issue.record("no file")
        return
      }
      #expect(file.fileDescriptorProto.count == 1)
      let alpha = try await ReflectionV1Alpha.ServerReflectionClient(channel)
        .serverReflectionInfo()
      try await alpha.send(
        ReflectionV1Alpha.ServerReflectionRequest(messageRequest: .listServices("")))
      await alpha.finishSending()
      var answers = 0
      for try await _ in alpha.responses { answers += 1 }
      #expect(answers == 1)
    }
  }

  /// What a server's reflection says to questions, one for each.
  private static func answers(
    _ services: [any RPCService], _ questions: [ReflectionV1.ServerReflectionRequest.MessageRequest]
  ) async throws -> [ReflectionV1.ServerReflectionResponse.MessageResponse?] {
    try await withInMemoryServer(services) { channel in
      let call = try await ReflectionV1.ServerReflectionClient(channel).serverReflectionInfo()
      for question in questions {
        try await call.send(ReflectionV1.ServerReflectionRequest(messageRequest: question))
      }
      await call.finishSending()
      var answers: [ReflectionV1.ServerReflectionResponse.MessageResponse?] = []
      for try await response in call.responses { answers.append(response.messageResponse) }
      return answers
    }
  }

  @Test func reflectionListsWhatTheServerHasAndNoMore() async throws {
    for isBoth in [false, true] {
      let reflection = ReflectionService(services: [HealthService()])
      let alpha: [any RPCService] = isBoth ? [reflection.alpha] : []
      let answers = try await Self.answers(
        [HealthService(), reflection] + alpha, [.listServices("")])
      guard case .listServicesResponse(let list) = answers.first else {
        Issue.record("no list of services")
        return
      }
      #expect(
        list.service.map(\.name) == [
          "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
        ] + (isBoth ? ["grpc.reflection.v1alpha.ServerReflection"] : []))
    }
  }

  @Test func onlyMessagesAreAskedForTheirExtensions() async throws {
    let messages = [
      "grpc.health.v1.HealthCheckRequest", "grpc.health.v1.HealthListResponse.StatusesEntry",
    ]
    let others = [
      "grpc.health.v1.Health", "grpc.health.v1.Health.Check",
      "grpc.health.v1.HealthCheckRequest.service",
      "grpc.health.v1.HealthCheckResponse.ServingStatus",
      "grpc.health.v1.None", "",
    ]
    let answers = try await Self.answers(
      [ReflectionService(services: [HealthService()])],
      (messages + others).map { .allExtensionNumbersOfType($0) })
    try #require(answers.count == messages.count + others.count)
    for (name, answer) in zip(messages, answers) {
      guard case .allExtensionNumbersResponse(let numbers) = answer else {
        Issue.record("no numbers for \(name)")
        continue
      }
      #expect(numbers.baseTypeName == name)
      #expect(numbers.extensionNumber.isEmpty)
    }
    for (name, answer) in zip(others, answers.dropFirst(messages.count)) {
      guard case .errorResponse(let error) = answer else {
        Issue.record("no error for \(name)")
        continue
      }
      #expect(error.errorCode == Int32(StatusCode.notFound.rawValue))
      #expect(error.errorMessage == "there is no message \"\(name)\"")
    }
  }
}
