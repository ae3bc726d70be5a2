import BuildProtos

/// All that a plugin may know of the step it runs.
public struct BuildContext: Sendable {
  /// Where the build's source comes from.
  public enum Source: Sendable, Hashable {
    /// A tar archive with this SHA-256; fetched to `sourceArchive` if the plugin wants it.
    case archive(sha256: String, size: Int64)
    case git(url: String, revision: String)
  }

  public var buildID: String
  public var jobID: String
  public var stepID: String
  /// Counts the attempts at the job, from 1.
  public var attempt: Int
  public var project: String
  /// The step's `with`.
  public var inputs: [String: String]
  /// The environment that a script of this step would have.
  public var environment: [String: String]
  /// Absolute path of the job's workspace.
  public var workspace: String
  /// Absolute path of a folder that is the step's alone and is removed after it.
  public var scratch: String
  public var source: Source?
  /// Absolute path of the source archive, when there is one and the plugin asked for it.
  public var sourceArchive: String?
  /// For notification plugins: an encoded `millrace.scheduler.v1.Build`.
  public var build: [UInt8]
  /// Stable over repetitions of this call.
  public var idempotencyID: String

  public init(
    buildID: String = "", jobID: String = "", stepID: String = "", attempt: Int = 1,
    project: String = "", inputs: [String: String] = [:], environment: [String: String] = [:],
    workspace: String = "", scratch: String = "", source: Source? = nil,
    sourceArchive: String? = nil, build: [UInt8] = [], idempotencyID: String = ""
  ) {
    self.buildID = buildID
    self.jobID = jobID
    self.stepID = stepID
    self.attempt = attempt
    self.project = project
    self.inputs = inputs
    self.environment = environment
    self.workspace = workspace
    self.scratch = scratch
    self.source = source
    self.sourceArchive = sourceArchive
    self.build = build
    self.idempotencyID = idempotencyID
  }

  /// An input that must be there and not be empty.
  public func requiredInput(_ name: String) throws -> String {
    guard let value = self.inputs[name], !value.isEmpty else {
      throw StepFailure("the input \"\(name)\" is missing; give it under `with:`")
    }
    return value
  }

  init(_ message: PluginV1.BuildContext) {
    self.init(
      buildID: message.buildID, jobID: message.jobID, stepID: message.stepID,
      attempt: Int(message.attempt), project: message.project, inputs: message.inputs,
      environment: message.env, workspace: message.workspace, scratch: message.scratch,
      source: message.source?.origin.map { origin in
        switch origin {
        case .archive(let digest): .archive(sha256: digest.hash, size: digest.sizeBytes)
        case .git(let git): .git(url: git.url, revision: git.revision)
        }
      },
      sourceArchive: message.sourceArchive.isEmpty ? nil : message.sourceArchive,
      build: message.build, idempotencyID: message.idempotencyID)
  }
}
