import BuildProtos
import Glibc
import PluginKit
import RPC
import Synchronization
import Testing

@testable import CorePlugins

/// What a plugin said in its step.
final class Heard: Sendable {
  let value = Mutex((log: "", artifacts: [String]()))

  var events: StepEvents {
    StepEvents { event in
      self.value.withLock { value in
        switch event.event {
        case .log(let log): value.log += String(decoding: log.data, as: UTF8.self)
        case .artifact(let file): value.artifacts.append(file.path)
        default: break
        }
      }
    }
  }

  var log: String { self.value.withLock { $0.log } }
  var artifacts: [String] { self.value.withLock { $0.artifacts } }
}

/// A folder for one test, with a workspace and scratch room.
final class Place {
  let path: String

  init() {
    var template = Array("/tmp/millrace-test-XXXXXX".utf8CString)
    self.path =
      mkdtemp(&template).map { String(cString: $0) } ?? "/nonexistent"
    for name in ["work", "scratch"] { mkdir("\(self.path)/\(name)", 0o755) }
  }

  deinit {
    _ = self.shell("rm -rf \(self.path)")
  }

  /// Runs a command line; its status.
  @discardableResult func shell(_ line: String) -> Int32 {
    var pid: pid_t = 0
    let words = ["sh", "-c", line]
    let variables = ["PATH=/usr/bin:/bin", "HOME=\(self.path)"]
    var argv = words.map { strdup($0) } + [nil]
    var envp = variables.map { strdup($0) } + [nil]
    defer { for string in argv + envp { free(string) } }
    guard posix_spawnp(&pid, "sh", nil, nil, &argv, &envp) == 0 else { return -1 }
    var status: Int32 = 0
    waitpid(pid, &status, 0)
    return status
  }

  func context(_ inputs: [String: String], source: BuildContext.Source? = nil) -> BuildContext {
    BuildContext(
      buildID: "b1", project: "p", inputs: inputs,
      environment: ["PATH": "/usr/bin:/bin", "HOME": self.path], workspace: self.path + "/work",
      scratch: self.path + "/scratch", source: source, idempotencyID: "n1")
  }

  /// For a runner that gives what is here.
  var checkout: Checkout { Checkout(LocalPlaces(roots: [self.path])) }

  func has(_ name: String) -> Bool { access("\(self.path)/work/\(name)", F_OK) == 0 }
}

@Suite struct CheckoutTests {
  @Test func aLocalArchiveIsUnpackedWhenItsDigestIsRight() async throws {
    let place = Place()
    place.shell("mkdir -p \(place.path)/s/top; echo x > \(place.path)/s/top/f")
    place.shell("tar czf \(place.path)/a.tgz -C \(place.path)/s .")
    let hash = try Checkout.sha256(of: place.path + "/a.tgz")
    let heard = Heard()
    try await place.checkout.executeBuildStep(
      place.context(["archive": place.path + "/a.tgz", "sha256": hash, "strip-components": "2"]),
      events: heard.events)
    #expect(place.has("f"))
    let wrong = place.context([
      "archive": place.path + "/a.tgz", "sha256": String(repeating: "0", count: 64),
    ])
    await #expect(throws: StepFailure.self) {
      try await place.checkout.executeBuildStep(wrong, events: heard.events)
    }
  }

  @Test func anArchiveCannotWriteOutsideTheWorkspace() async throws {
    let place = Place()
    // A name that climbs, an absolute one, and a file behind a link that the archive brings.
    place.shell(
      """
      cd \(place.path) && mkdir s && cd s && echo bad > evil && ln -s \(place.path) link &&
      tar -cf ../a.tar --transform 's,^evil$,../../escaped,' -P evil &&
      tar -rf ../a.tar link && rm link && mkdir link && echo bad > link/through &&
      tar -rf ../a.tar link/through
      """)
    try? await place.checkout.executeBuildStep(
      place.context(["archive": place.path + "/a.tar"]), events: Heard().events)
    #expect(access(place.path + "/escaped", F_OK) != 0)
    #expect(access("\(place.path)/../escaped", F_OK) != 0)
    #expect(access(place.path + "/through", F_OK) != 0)
  }

  @Test(arguments: ["archive", "path"]) func linksOfEarlierStepsAreReplacedNotFollowed(
    input: String
  ) async throws {
    let place = Place()
    place.shell(
      """
      cd \(place.path) && mkdir -p s/sub s/whole out && echo new > s/sub/f && echo new > s/top &&
      echo new > s/whole/f && chmod 555 s/whole && echo old > out/f && echo old > kept &&
      tar -cf a.tar -C s sub/f top whole &&
      ln -s \(place.path)/out work/sub && ln -s \(place.path)/kept work/top &&
      mkdir work/whole && echo old > work/whole/g
      """)
    try await place.checkout.executeBuildStep(
      place.context([input: input == "path" ? place.path + "/s" : place.path + "/a.tar"]),
      events: Heard().events)
    #expect(
      place.shell("cd \(place.path) && test $(cat out/f) = old && test $(cat kept) = old") == 0)
    #expect(
      place.shell(
        """
        cd \(place.path)/work && test ! -L sub && test $(cat sub/f) = new && test ! -L top &&
        test $(cat top) = new && test $(cat whole/f whole/g | tr -d '\\n') = newold
        """) == 0)
  }

  @Test func anArchiveIsFetchedFromAURL() async throws {
    let place = Place()
    place.shell("cd \(place.path) && echo x > f && tar czf a.tgz f")
    let server = try FileServer(place.path + "/a.tgz")
    let hash = try Checkout.sha256(of: place.path + "/a.tgz")
    try await place.checkout.executeBuildStep(
      place.context(["url": "http://127.0.0.1:\(server.port)/a.tgz", "sha256": hash]),
      events: Heard().events)
    #expect(place.has("f"))
    #expect(server.requests.first?.hasPrefix("GET /a.tgz ") == true)
  }

  @Test func aFolderOfThisMachineIsCopied() async throws {
    let place = Place()
    place.shell("mkdir -p \(place.path)/s/sub; echo x > \(place.path)/s/sub/f")
    try await place.checkout.executeBuildStep(
      place.context(["path": place.path + "/s", "into": "deep/er"]), events: Heard().events)
    #expect(place.has("deep/er/sub/f"))
  }

  /// Where the runner and what runs beside it keep their own, and what leads there.
  @Test(arguments: [
    ["path": "HERE/data/gateway"], ["path": "HERE/data"], ["path": "HERE"], ["path": "HERE/link"],
    ["path": "HERE/work/link"], ["path": "HERE/work/../data"], ["path": "HERE/data/no-such"],
    ["path": "/proc/self/root/HERE/data"], ["path": "/proc/self"], ["path": "/etc"],
    ["archive": "HERE/data/a.tar"], ["archive": "../data/a.tar"], ["archive": "a.tar"],
    ["archive": "HERE/outside.tar"], ["archive": "/dev/stdin"],
    ["url": "HERE/data/r"], ["url": "file://HERE/data/r"], ["url": "file://HERE/dat%61/r"],
    ["url": "../../data/r"], ["url": "HERE/work/r"], ["url": "HERE/data/r:x"],
  ])
  func whatIsNotGivenOfTheMachineIsRefused(inputs: [String: String]) async throws {
    let place = Place()
    #expect(
      place.shell(
        """
        cd \(place.path) && mkdir -p data/gateway given && echo secret > data/gateway/db &&
        tar -cf data/a.tar -C data gateway && cp data/a.tar outside.tar && ln -s data link &&
        ln -s \(place.path)/data work/link && ln -s \(place.path)/data/a.tar work/a.tar &&
        git init -q data/r && git init -q work/r
        """) == 0)
    let checkout = Checkout(
      LocalPlaces(
        roots: [place.path + "/given", place.path + "/data"], hidden: [place.path + "/data"]))
    let inputs = inputs.mapValues { $0.replacing("HERE", with: place.path) }
    let failure = await #expect(throws: StepFailure.self) {
      try await checkout.executeBuildStep(place.context(inputs), events: Heard().events)
    }
    let said = failure?.message ?? ""
    #expect(said.contains("no step may name") || said.contains("git cannot clone"), "\(said)")
    #expect(place.shell("cd \(place.path)/work && test ! -e db && test ! -e gateway") == 0)
  }

  @Test func aRootThatHoldsWhatIsHiddenIsNotCopiedWhole() async throws {
    let place = Place()
    place.shell(
      "mkdir -p \(place.path)/home/data \(place.path)/home/project; touch \(place.path)/home/project/f"
    )
    let checkout = Checkout(
      LocalPlaces(roots: [place.path + "/home"], hidden: [place.path + "/home/data"]))
    try await checkout.executeBuildStep(
      place.context(["path": place.path + "/home/project"]), events: Heard().events)
    #expect(place.has("f"))
    let next = Place()
    let failure = await #expect(throws: StepFailure.self) {
      try await checkout.executeBuildStep(
        next.context(["path": place.path + "/home"]), events: Heard().events)
    }
    #expect(failure?.message.contains("/home/data is in it, which no step may see") == true)
  }

  @Test func aRunnerWithoutRootsUnpacksWhatStepsHaveMade() async throws {
    let place = Place()
    place.shell("cd \(place.path)/work && mkdir s && touch s/f && tar -cf a.tar -C s . && rm -r s")
    let checkout = Checkout(LocalPlaces(roots: []))
    try await checkout.executeBuildStep(
      place.context(["archive": "a.tar", "into": "sub"]), events: Heard().events)
    #expect(place.has("sub/f"))
    let next = Place()
    let failure = await #expect(throws: StepFailure.self) {
      try await checkout.executeBuildStep(
        next.context(["path": "/etc"]), events: Heard().events)
    }
    #expect(failure?.message.hasSuffix("its --checkout-roots are empty") == true)
  }

  @Test func aRepositoryIsClonedAtItsRevision() async throws {
    let place = Place()
    #expect(
      place.shell(
        """
        cd \(place.path) && git init -q r && cd r && git config user.email a@b &&
        git config user.name a && echo 1 > f && git add f && git commit -qm one &&
        git tag v1 && echo 2 > f && git commit -qam two
        """) == 0)
    try await place.checkout.executeBuildStep(
      place.context(["revision": "v1"], source: .git(url: place.path + "/r", revision: "")),
      events: Heard().events)
    #expect(place.shell("test $(cat \(place.path)/work/f) = 1") == 0)
  }

  /// A `.git` that a step has made, a pipeline's variables and a step's `~/.gitconfig` can all name
  /// programs to run; git runs outside the sandbox.
  @Test func nothingThatAStepOrAPipelineSetsIsRunWithGit() async throws {
    let place = Place()
    let trap = "touch \(place.path)/caught"
    #expect(
      place.shell(
        """
        cd \(place.path) && git init -q r && cd r && git config user.email a@b &&
        git config user.name a && echo 1 > f && echo 'f filter=trap' > .gitattributes &&
        git add . && git commit -qm one && cd .. && printf '#!/bin/sh\\n\(trap)\\n' > trap.sh &&
        chmod 755 trap.sh && mkdir bin && cp trap.sh bin/git && cp trap.sh bin/git-upload-pack &&
        git init -q work && cd work && for hook in post-checkout reference-transaction; do
        cp ../trap.sh .git/hooks/$hook; done && git config core.fsmonitor \(place.path)/trap.sh &&
        git config filter.trap.smudge \(place.path)/trap.sh &&
        cp .git/config ../.gitconfig && printf '[init]\\ntemplateDir = work/.git\\n' >> ../.gitconfig
        """) == 0)
    var context = place.context(["url": place.path + "/r"])
    context.environment.merge([
      "PATH": place.path + "/bin:/usr/bin:/bin", "GIT_EXEC_PATH": place.path + "/bin",
      "GIT_SSH_COMMAND": trap, "GIT_CONFIG_GLOBAL": place.path + "/.gitconfig",
      "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.fsmonitor", "GIT_CONFIG_VALUE_0": trap,
      "LD_PRELOAD": place.path + "/trap.so",
    ]) { _, new in new }
    let heard = Heard()
    try await place.checkout.executeBuildStep(context, events: heard.events)
    #expect(place.shell("test $(cat \(place.path)/work/f) = 1") == 0)
    #expect(access(place.path + "/caught", F_OK) != 0)
    #expect(access(place.path + "/work/.git/hooks/post-checkout", F_OK) != 0)
    #expect(heard.log.contains("replaced the .git that was there"))
    #expect(!heard.log.contains("LD_PRELOAD"))
  }

  @Test func gitGetsTheNetworksVariablesAndTheRunnersPath() throws {
    let place = Place()
    var context = place.context([:])
    context.environment = [
      "PATH": "/step", "HOME": "/step", "LD_PRELOAD": "x", "GIT_SSH_COMMAND": "x", "SECRET": "x",
      "https_proxy": "http://proxy", "MILLRACE_BUILD": "b1",
    ]
    let environment = try Checkout.gitEnvironment(context, isLocal: false)
    #expect(environment["https_proxy"] == "http://proxy")
    #expect(environment["MILLRACE_BUILD"] == "b1")
    #expect(environment["HOME"] == place.path + "/scratch/home")
    #expect(environment["PATH"] != "/step")
    #expect(environment["GIT_ALLOW_PROTOCOL"] == "git:http:https:ssh")
    #expect(["LD_PRELOAD", "GIT_SSH_COMMAND", "SECRET"].allSatisfy { environment[$0] == nil })
  }

  @Test(arguments: [
    (["path": "relative"], "absolute path"), (["path": "/no/such"], "no such folder"),
    (["into": "../x", "path": "/tmp"], "inside the workspace"), (["pth": "/tmp"], "unknown input"),
    (["url": "--upload-pack=x"], "cannot clone"), ([:], "no source"),
    (["archive": "http://localhost/a.tgz"], "needs `sha256`"),
    (["archive": "ftp://localhost/a.tgz"], "http or https"),
    (["archive": "/tmp/a.zip"], "is a zip archive"),
    (["url": "https://localhost/a.zip"], "is a zip archive"),
    (["url": "ext::sh -c touch% /tmp/x"], "cannot clone"),
  ])
  func badInputsHaveOneClearAnswer(inputs: [String: String], message: String) async throws {
    let place = Place()
    let failure = await #expect(throws: StepFailure.self) {
      try await Checkout(LocalPlaces(roots: ["/"])).executeBuildStep(
        place.context(inputs), events: Heard().events)
    }
    #expect(failure?.message.contains(message) == true, "\(failure?.message ?? "")")
  }
}

@Suite struct ArtifactsTests {
  @Test(arguments: [
    ("*.so", ["a.so"]), ("**/*.so", ["a.so", "x/b.so", "x/y/c.so"]), ("x", ["x/b.so", "x/y/c.so"]),
    ("x/**", ["x/b.so", "x/y/c.so"]), ("./a.?o", ["a.so"]),
    ("[ab].so\nx/y/c.so", ["a.so", "x/y/c.so"]),
    ("**/*.so\n!x/y/**", ["a.so", "x/b.so"]), ("**/y/*", ["x/y/c.so"]), ("[!b].so", ["a.so"]),
  ])
  func patternsMeanWhatPeopleExpect(pattern: String, files: [String]) async throws {
    let place = Place()
    place.shell(
      "cd \(place.path)/work && mkdir -p x/y && touch a.so x/b.so x/y/c.so && ln -s /etc/passwd p.so"
    )
    let heard = Heard()
    try await Artifacts().executeBuildStep(
      place.context(["path": pattern]), events: heard.events)
    #expect(heard.artifacts == files)
  }

  @Test func noFileIsAnErrorUnlessTheStepSaysOtherwise() async throws {
    let place = Place()
    let heard = Heard()
    await #expect(throws: StepFailure.self) {
      try await Artifacts().executeBuildStep(place.context(["path": "x"]), events: heard.events)
    }
    try await Artifacts().executeBuildStep(
      place.context(["path": "x", "if-no-files-found": "warn"]), events: heard.events)
    #expect(heard.log == "warning: no file in the workspace matches x\n")
    await #expect(throws: StepFailure.self) {
      try await Artifacts().executeBuildStep(
        place.context(["path": "x", "if-no-files-found": "maybe"]), events: heard.events)
    }
  }
}

@Suite struct WebhookTests {
  /// The example of the Standard Webhooks specification's reference libraries.
  @Test func theSignatureIsTheSpecifications() throws {
    let signature = try Webhook.signature(
      id: "msg_p5jXN8AQM9LWM0D4loKWxJek", timestamp: 1_614_265_330,
      body: Array(#"{"test": 2432232314}"#.utf8),
      secrets: ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
    #expect(signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
  }

  @Test func severalSecretsSignForRotation() throws {
    let signature = try Webhook.signature(
      id: "m", timestamp: 1, body: [], secrets: ["whsec_AAAA", "whsec_BBBB"])
    #expect(signature.split(separator: " ").count == 2)
    #expect(throws: StepFailure.self) {
      _ = try Webhook.signature(id: "m", timestamp: 1, body: [], secrets: ["plain"])
    }
  }

  @Test func theBodyTellsOfTheBuild() throws {
    let build = SchedulerV1.Build(
      id: "b1", project: "p", outcome: .failed,
      finishedAt: GoogleProtobuf.Timestamp(seconds: 1_700_000_000, nanos: 5_000_000))
    var context = Place().context([:])
    context.build = build.encoded()
    let text = String(decoding: try Webhook.body(context, timestamp: 1_700_000_001), as: UTF8.self)
    #expect(
      text == """
        {"data":{"finished_at":"2023-11-14T22:13:20.005Z","id":"b1","jobs":[],"outcome":"failed",\
        "project":"p"},"timestamp":"2023-11-14T22:13:21.000Z","type":"build.finished"}
        """)
  }

  @Test(arguments: [(200, nil), (204, nil), (410, false), (500, true), (404, true), (302, true)])
  func answersAreJudged(code: Int, retryable: Bool?) {
    do {
      try Webhook.judge(Program.Output(status: 0, text: "\(code)"), url: "u")
      #expect(retryable == nil)
    } catch {
      #expect((error as? StepFailure)?.retryable == retryable)
    }
  }

  @Test func anUnreachableReceiverMayBeThereLater() async throws {
    let place = Place()
    let failure = await #expect(throws: StepFailure.self) {
      try await Webhook().executeBuildStep(
        place.context(["url": "http://127.0.0.1:1/hook"]), events: Heard().events)
    }
    #expect(failure?.retryable == true)
    #expect(failure?.message.contains("cannot be reached") == true)
  }
}
