import ArgumentParser

/// What a build of a measurement does: as little as a real step can.
enum NoOpStep: String, ExpressibleByArgument, CaseIterable, Sendable {
  /// `uses: artifacts`, asked for files that there are not. The plugin's process is kept warm, so
  /// no process is started: a workspace, two messages over a pipe, an empty log. The cheapest step
  /// there is, and what is measured is Millrace.
  case plugin
  /// `run: ":"` in `sh`: for each build a supervisor, a sandbox and a shell. What is measured is
  /// for the most part how fast the machine starts processes.
  case shell

  static let help =
    "`plugin` calls a warm plugin that finds nothing to do; `shell` starts sh in a sandbox"

  /// For people who read the result.
  var description: String {
    switch self {
    case .plugin: "uses: artifacts, which finds nothing to keep (a warm process; none is started)"
    case .shell: "run: \":\" in sh (a supervisor, a sandbox and a shell are started)"
    }
  }

  /// With so little asked for, only a runner's slots bound how many jobs it runs at a time: so many
  /// fit into one CPU and 8 GiB.
  static let maximumSlots = 256

  /// The text of the build's millrace.yaml.
  ///
  /// - Parameter pool: Where it is to run; empty is the pool of all that do not say.
  func pipeline(in pool: String) -> String {
    """
    name: no-op
    jobs:
      no-op:
        runs-on: {\(pool.isEmpty ? "" : "pool: \(pool)")}
        resources: {cpu: 1m, memory: 32MiB}
        steps:
          \(self.lines)
    """
  }

  private var lines: String {
    switch self {
    case .plugin: "- {uses: artifacts, with: {path: nothing, if-no-files-found: ignore}}"
    case .shell: "- {run: \":\", shell: sh}"
    }
  }
}
