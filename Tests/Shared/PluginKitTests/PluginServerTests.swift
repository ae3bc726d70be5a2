import BuildProtos
import Glibc
import RPC
import Testing

@testable import PluginKit

/// Says what it was told, fails when it is told to, waits when it is told to.
private struct Parrot: BuildPlugin {
  static let name = "parrot"

  func executeBuildStep(_ context: BuildContext, events: StepEvents) async throws {
    events.log(try context.requiredInput("say"))
    events.setOutput("said", to: context.inputs["say"] ?? "")
    events.keepArtifact(name: "a", path: "b")
    if context.inputs["wait"] != nil {
      // Only cancellation ends it.
      let (never, continuation) = AsyncStream.makeStream(of: Never.self)
      for await _ in never {}
      continuation.finish()
      try Task.checkCancellation()
    }
    if let failure = context.inputs["fail"] { throw StepFailure(failure, retryable: true) }
  }
}

/// The runner's end of a plugin that is served in this process.
private struct Host {
  let input: Int32
  private var messages: AsyncStream<PluginV1.PluginMessage>.AsyncIterator
  let served: Task<Void, Never>

  init() {
    var (down, up): ([Int32], [Int32]) = ([0, 0], [0, 0])
    #expect(pipe(&down) == 0)
    #expect(pipe(&up) == 0)
    let (input, output) = (down[0], up[1])
    self.input = down[1]
    let (stream, continuation) = AsyncStream.makeStream(of: PluginV1.PluginMessage.self)
    let reading = up[0]
    Threads.start("host") {
      var reader = MessageFrames.Reader(reading)
      while let message = try? reader.next(PluginV1.PluginMessage.self) {
        continuation.yield(message)
      }
      continuation.finish()
    }
    self.messages = stream.makeAsyncIterator()
    self.served = Task {
      await PluginServer.serve(Parrot.self, input: input, output: output)
      close(output)
    }
  }

  func send(_ id: UInt64, _ call: PluginV1.HostMessage.Call) throws {
    try MessageFrames.write(
      MessageFrames.frame(PluginV1.HostMessage(callID: id, call: call)), to: self.input)
  }

  mutating func next() async -> PluginV1.PluginMessage? { await self.messages.next() }

  mutating func events(of id: UInt64) async -> [PluginV1.StepEvent.Event?] {
    var events: [PluginV1.StepEvent.Event?] = []
    while let message = await self.next() {
      #expect(message.callID == id)
      guard case .stepEvent(let event) = message.answer else { continue }
      events.append(event.event)
      if case .finished? = event.event { break }
    }
    return events
  }
}

@Suite struct PluginServerTests {
  @Test func aPluginDescribesItself() async throws {
    var host = Host()
    try host.send(1, .describe(PluginV1.DescribeRequest(contractVersion: 1)))
    let answer = await host.next()
    guard case .describe(let description)? = answer?.answer else {
      Issue.record("no description: \(String(describing: answer))")
      return
    }
    #expect(description.name == "parrot")
    #expect(description.contractVersion == 1)
    close(host.input)
    await host.served.value
  }

  @Test func aStepsEventsComeInOrderAndItsEndLast() async throws {
    var host = Host()
    try host.send(7, .executeBuildStep(PluginV1.BuildContext(inputs: ["say": "hello"])))
    #expect(
      await host.events(of: 7) == [
        .log(PluginV1.LogOutput(data: Array("hello".utf8))),
        .output(PluginV1.StepOutput(name: "said", value: "hello")),
        .artifact(PluginV1.ArtifactFile(name: "a", path: "b")),
        .finished(PluginV1.StepFinished(succeeded: true)),
      ])
    close(host.input)
    await host.served.value
  }

  @Test func aFailureSaysWhyAndWhetherAnotherTryHelps() async throws {
    var host = Host()
    try host.send(
      1, .executeBuildStep(PluginV1.BuildContext(inputs: ["say": "x", "fail": "no luck"])))
    #expect(
      await host.events(of: 1).last
        == .finished(PluginV1.StepFinished(message: "no luck", retryable: true)))
    try host.send(2, .executeBuildStep(PluginV1.BuildContext()))
    #expect(
      await host.events(of: 2) == [
        .finished(
          PluginV1.StepFinished(
            message: "the input \"say\" is missing; give it under `with:`"))
      ])
    close(host.input)
    await host.served.value
  }

  @Test func aCancelledStepEndsAndTheNextOneRuns() async throws {
    var host = Host()
    try host.send(
      1, .executeBuildStep(PluginV1.BuildContext(inputs: ["say": "x", "wait": "yes"])))
    try host.send(1, .cancel(PluginV1.CancelRequest(reason: "stop")))
    #expect(
      await host.events(of: 1).last == .finished(PluginV1.StepFinished(message: "cancelled")))
    try host.send(2, .executeBuildStep(PluginV1.BuildContext(inputs: ["say": "y"])))
    #expect(await host.events(of: 2).last == .finished(PluginV1.StepFinished(succeeded: true)))
    close(host.input)
    await host.served.value
  }

  @Test func theEndOfTheInputEndsThePlugin() async throws {
    let host = Host()
    try host.send(
      1, .executeBuildStep(PluginV1.BuildContext(inputs: ["say": "x", "wait": "yes"])))
    close(host.input)
    await host.served.value
  }
}
