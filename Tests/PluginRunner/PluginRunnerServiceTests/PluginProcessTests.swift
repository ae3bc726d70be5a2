import BuildProtos
import Glibc
import PluginKit
import RPC
import Testing

@testable import PluginRunnerService

/// A plugin in a shell: it answers a description, and talks from then on.
enum Talker {
  static let script: String = {
    let description = PluginV1.PluginMessage(
      callID: 1,
      answer: .describe(PluginV1.DescribeResponse(name: "talker", contractVersion: 1)))
    let octal = MessageFrames.frame(description).map { byte in
      let text = String(byte, radix: 8)
      return "\\" + String(repeating: "0", count: 3 - text.utf8.count) + text
    }.joined()
    // What it reads is the description's call and the step's, one byte of each.
    return """
      #!/bin/sh
      head -c 1 > /dev/null
      printf '\(octal)'
      trap '' TERM
      exec 9>&1  # Its answers have not ended.
      exec yes >&2
      """
  }()
}

@Suite struct PluginProcessTests {
  /// A cancellation must not cut a call that the plugin is still reading, nor be lost behind it.
  @Test(.timeLimit(.minutes(1))) func aCancellationFollowsALargeCallWhole() async throws {
    let folder = try TestFolder()
    let (begun, going, done) = (
      try Gate(at: folder.path + "/begun"), try Gate(at: folder.path + "/going"),
      try Gate(at: folder.path + "/done")
    )
    let copy = folder.path + "/copy"
    let context = PluginV1.BuildContext(inputs: ["large": String(repeating: "x", count: 2 << 20)])
    let frames = [
      MessageFrames.frame(PluginV1.HostMessage(callID: 1, call: .executeBuildStep(context))),
      MessageFrames.frame(
        PluginV1.HostMessage(
          callID: 1, call: .cancel(PluginV1.CancelRequest(reason: "enough")))),
    ]
    let rest = frames.joined().count - 1_000
    // It reads a little, waits, and reads what is left, neither more nor less.
    let process = try PluginProcess.start(
      name: "reader",
      SupervisedProcess.Launch(
        supervisor: Programs.supervisor,
        arguments: [
          "bash", "-c",
          """
          dd bs=1 count=1000 of=\(copy) status=none; echo begun > \(begun.path)
          cat \(going.path); head -c \(rest) >> \(copy); echo done > \(done.path); sleep 1000
          """,
        ], environment: ["PATH": "/usr/bin:/bin"]))
    let calling = Task {
      await process.call(
        .executeBuildStep(context),
        listener: PluginProcess.Listener(output: { _ in }, event: { _ in }))
    }
    #expect(await begun.line() == "begun\n")
    process.cancel(reason: "enough")
    Thread.start { close(open(going.path, O_WRONLY)) }
    #expect(await done.line() == "done\n")
    #expect(try readBytes(copy) == Array(frames.joined()))
    process.kill()
    guard case .broken(let why) = await calling.value else {
      Issue.record("the call was answered")
      return
    }
    #expect(why.contains("signal 9"))
  }
}
