import BuildProtos
import Domain
import Glibc
import NIOCore
import PluginRunnerCore
import Synchronization

/// What one attempt has in the shell: its folders, its log on the way, its running step, its
/// timers. It carries out; the core decides.
final class AttemptRun: Sendable {
  let spec: JobSpec
  /// What a notification speaks of, encoded; not the core's business.
  let build: [UInt8]
  let workspace: Workspace
  let buffer = LogBuffer()
  /// What became of the log.
  let logEnd = Promise<LogAppender.End>()

  private struct State {
    var step: (index: Int, control: StepControl)?
    var timers: [Scheduled<Void>] = []
    var isOver = false
    var hasLog = false
    var watchers: [UInt64: AsyncStream<Void>.Continuation] = [:]
    var lastWatcher: UInt64 = 0
  }

  private let state = Mutex(State())

  init(spec: JobSpec, build: [UInt8], workspaces: String) {
    self.spec = spec
    self.build = build
    self.workspace = Workspace(root: workspaces, attempt: spec.attempt)
  }

  // MARK: The running step

  /// A step begins: orders to end it go to this handle from now on.
  func began(_ index: Int) -> StepControl {
    let control = StepControl()
    self.state.withLock { $0.step = (index, control) }
    self.buffer.stepBegan()
    return control
  }

  /// Asks a step to end, unless it is over.
  func terminate(_ index: Int) {
    guard let control = self.control(index) else { return }
    self.buffer.stepStopped()
    control.terminate()
  }

  /// Ends a step, unless it is over.
  func kill(_ index: Int) {
    guard let control = self.control(index) else { return }
    self.buffer.stepStopped()
    control.kill()
  }

  private func control(_ index: Int) -> StepControl? {
    self.state.withLock { $0.step?.index == index ? $0.step?.control : nil }
  }

  /// Ends the running step now: the runner itself ends.
  func endAtOnce() {
    self.state.withLock { $0.step?.control }?.kill()
    self.buffer.end()
  }

  // MARK: The log

  /// Whether the log is being carried to the cache.
  var hasLog: Bool { self.state.withLock { $0.hasLog } }

  func logBegan() { self.state.withLock { $0.hasLog = true } }

  // MARK: Timers

  /// Keeps a timer, to be cancelled with the attempt.
  func keep(_ timer: Scheduled<Void>) {
    let isOver = self.state.withLock { state in
      if !state.isOver { state.timers.append(timer) }
      return state.isOver
    }
    if isOver { timer.cancel() }
  }

  /// The attempt is over: its timers are void.
  func release() {
    let timers = self.state.withLock { state in
      state.isOver = true
      defer { state.timers = [] }
      return state.timers
    }
    for timer in timers { timer.cancel() }
  }

  // MARK: Watchers

  /// A stream that has an element at once, and whenever the attempt may have new events.
  func watch() -> AsyncStream<Void> {
    AsyncStream(bufferingPolicy: .bufferingNewest(1)) { continuation in
      let id = self.state.withLock { state in
        state.lastWatcher += 1
        state.watchers[state.lastWatcher] = continuation
        return state.lastWatcher
      }
      continuation.yield()
      continuation.onTermination = { [self] _ in
        self.state.withLock { $0.watchers[id] = nil }
      }
    }
  }

  /// Wakes those who stream this attempt's events.
  func wake() {
    for watcher in self.state.withLock({ Array($0.watchers.values) }) { watcher.yield() }
  }

  // MARK: What steps see

  /// The environment of a step: the system's few, the job's own, and what says where it runs.
  func environment(
    own: [String: String], dataDirectory: String
  ) -> [String: String] {
    var environment = Self.systemEnvironment
    environment["HOME"] = self.workspace.home
    environment.merge(own) { _, own in own }
    environment[Leftovers.mark] = dataDirectory
    environment[Leftovers.attemptMark] = self.workspace.folder
    environment["MILLRACE_ATTEMPT"] = self.spec.attempt.rawValue
    environment["MILLRACE_BUILD"] = self.spec.build.rawValue
    environment["MILLRACE_JOB"] = self.spec.job.rawValue
    environment["MILLRACE_PROJECT"] = self.spec.project.rawValue
    environment["MILLRACE_WORKSPACE"] = self.workspace.work
    return environment
  }

  /// What every step and plugin gets of the runner's own environment: where programs are, how text
  /// is written, how the network is reached. Nothing else: the rest may be secret.
  static let systemEnvironment: [String: String] = {
    var environment = ["CI": "true", "MILLRACE": "true"]
    let names = [
      "PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR",
      "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
      "PIP_INDEX_URL", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO",
    ]
    for name in names {
      if let value = getenv(name) { environment[name] = String(cString: value) }
    }
    environment["PATH"] = environment["PATH"] ?? "/usr/local/bin:/usr/bin:/bin"
    return environment
  }()
}
