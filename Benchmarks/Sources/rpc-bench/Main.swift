import ArgumentParser
import ClosedLoop
import EchoProtos
import NIOCore
import NIOPosix
import RPC

/// A closed-loop client of echo.Echo, as scripts/bench-rpc runs it beside other clients: one line of
/// JSON at its end.
@main
struct RPCBench: AsyncParsableCommand {
  enum Load: String, ExpressibleByArgument, CaseIterable {
    /// Calls in flight, each begun when another has ended.
    case unary
    /// Streams, each sending a message when the one before came back.
    case stream
    /// Streams that send without waiting; counts what comes back.
    case flow
  }

  static let configuration = CommandConfiguration(
    commandName: "rpc-bench", abstract: "Calls echo.Echo in a closed loop and prints the rate.")

  @Argument(help: "HOST:PORT or unix:PATH.")
  var target: String

  @Argument(help: "unary, stream or flow.")
  var load: Load

  @Argument(help: "Calls or streams at the same time.")
  var concurrency: Int

  @Argument(help: "Seconds that are measured, after one that is not.")
  var seconds: Double

  @Option(help: "Bytes of the message's blob.")
  var blob = 16

  @Option(help: "Trust the certificates in this file, and use TLS.")
  var authority: String?

  func run() async throws {
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    let loop = group.next()
    var configuration = RPCChannel.Configuration()
    if let authority = self.authority {
      configuration.tls = ClientTLS(trustRoots: .file(authority), serverName: "localhost")
    }
    let channel = try RPCChannel(to: self.target, configuration: configuration, group: loop)
    let client = Echo.EchoClient(channel)
    let message = Echo.EchoMsg(
      id: 123_456_789, name: "a fairly ordinary name of forty bytes....", score: 3.25, flag: true,
      values: (1...8).map { $0 * 100 }, blob: [UInt8](repeating: 0x62, count: self.blob))
    _ = try await client.unary(
      message, options: CallOptions(timeout: .seconds(10), waitForReady: true))
    let measured = Measured(seconds: self.seconds)
    let load = self.load
    // On the channel's own loop, where a call does not leave its thread.
    await withTaskGroup(of: Void.self) { tasks in
      for _ in 0..<self.concurrency {
        tasks.addTask(executorPreference: loop.callExecutor) {
          do {
            switch load {
            case .unary: try await Self.unary(client, message, measured)
            case .stream: try await Self.stream(client, message, measured)
            case .flow: try await Self.flow(client, message, measured)
            }
          } catch {
            measured.fail(error)
          }
        }
      }
    }
    print(
      measured.json(
        load: load.rawValue, concurrency: self.concurrency, bytes: message.encoded().count))
    await channel.close()
  }

  private static func unary(
    _ client: Echo.EchoClient, _ message: Echo.EchoMsg, _ measured: Measured
  ) async throws {
    var now = ContinuousClock.now
    let options = CallOptions(maximumResponseBytes: 16 << 20)
    while now < measured.end {
      let began = now
      let answer = try await client.unary(message, options: options)
      now = .now
      if answer.id != message.id { throw WrongAnswer() }
      measured.record(from: began, to: now)
    }
  }

  private static func stream(
    _ client: Echo.EchoClient, _ message: Echo.EchoMsg, _ measured: Measured
  ) async throws {
    let call = try await client.stream()
    var answers = call.responses.makeAsyncIterator()
    var now = ContinuousClock.now
    while now < measured.end {
      let began = now
      try await call.send(message)
      guard let answer = try await answers.next(), answer.id == message.id else {
        throw WrongAnswer()
      }
      now = .now
      measured.record(from: began, to: now)
    }
    call.cancel()
  }

  private static func flow(
    _ client: Echo.EchoClient, _ message: Echo.EchoMsg, _ measured: Measured
  ) async throws {
    let call = try await client.stream()
    try await withThrowingTaskGroup(of: Void.self) { tasks in
      tasks.addTask {
        while ContinuousClock.now < measured.end {
          for _ in 0..<16 { try await call.send(message) }
        }
        await call.finishSending()
      }
      for try await _ in call.responses {
        let now = ContinuousClock.now
        measured.record(from: now, to: now)
      }
      try await tasks.waitForAll()
    }
  }
}

private struct WrongAnswer: Error {}
