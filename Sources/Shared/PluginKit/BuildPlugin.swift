/// A program that carries out steps of builds.
///
/// ```swift
/// @main struct Greet: BuildPlugin {
///   static let name = "greet"
///   func executeBuildStep(_ context: BuildContext, events: StepEvents) async throws {
///     events.log("hello, \(try context.requiredInput("whom"))\n")
///   }
/// }
/// ```
/// The runner starts the program once and calls it for many steps, one at a time; it ends when its
/// standard input ends. Returning is success; throwing is failure. The task is cancelled when the
/// step is.
public protocol BuildPlugin: Sendable {
  /// What `uses:` says.
  static var name: String { get }
  static var version: String { get }
  /// One sentence for people.
  static var description: String { get }
  static var kind: PluginDescription.Kind { get }
  /// A JSON Schema (2020-12) of the object in `with`.
  static var inputsSchema: String { get }
  /// The runner is to fetch the build's source archive before each step.
  static var wantsSourceArchive: Bool { get }

  init()

  /// Carries out one step.
  func executeBuildStep(_ context: BuildContext, events: StepEvents) async throws
}

extension BuildPlugin {
  public static var version: String { "0.1.0" }
  public static var description: String { "" }
  public static var kind: PluginDescription.Kind { .build }
  public static var inputsSchema: String { #"{"type":"object"}"# }
  public static var wantsSourceArchive: Bool { false }

  /// Serves the runner on standard input and output until the input ends.
  public static func main() async {
    await PluginServer.serve(Self.self)
  }
}

/// What a plugin says of itself.
public struct PluginDescription: Sendable, Hashable {
  public enum Kind: Sendable, Hashable {
    /// A step of a build.
    case build
    /// A message that a build is over.
    case notification
  }
}

/// A failure with a reason that people read. Any other error fails the step with its description.
public struct StepFailure: Error, Sendable, Hashable, CustomStringConvertible {
  public var message: String
  /// The same call may succeed later.
  public var retryable: Bool

  public init(_ message: String, retryable: Bool = false) {
    self.message = message
    self.retryable = retryable
  }

  public var description: String { self.message }
}
