import ArgumentParser
import BuildProtos
import RPC

/// Tells why a build waits.
struct ExplainCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "explain",
    abstract: "Tells what a build waits for, where it stands, and how long it may yet take.")

  @Argument(help: "The build's id.")
  var build: String

  @OptionGroup var global: GlobalOptions

  func run() async throws {
    let stack = try Connections(self.global)
    let response = try await Connections.call(stack.scheduler) { channel in
      try await SchedulerV1.SchedulerClient(channel).explainBuild(
        SchedulerV1.ExplainBuildRequest(buildID: self.build),
        options: CallOptions(timeout: Connections.timeout))
    }
    guard let build = response.build else {
      throw CommandFailure(.infrastructure, "the scheduler answered without a build")
    }
    switch self.global.output {
    case .json: Terminal.print(JSONText.document(ExplanationReport(response, build)))
    case .text:
      for line in ExplanationReport.lines(response, build, at: currentTime()) {
        Terminal.print(line)
      }
    }
  }
}
