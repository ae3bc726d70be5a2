import Glibc
import PluginKit

/// What of the executor's machine a step may name: `checkout` goes there outside the sandbox, as the
/// runner's user.
struct LocalPlaces: Sendable {
  /// What it is for, since each has its own dangers.
  enum Use {
    /// A folder, which is copied with all that is in it.
    case folder
    /// One file, which is read.
    case file
    /// A git repository, which names further places to read from.
    case repository
  }

  /// Folders below which all may be named.
  var roots: [String]
  /// Folders that nothing may be named in, whatever the roots say.
  var hidden: [String]

  /// The kernel's own: a way to every process' environment and open files.
  private static let system = ["/proc", "/sys", "/dev"]

  init(roots: [String], hidden: [String] = []) {
    self.roots = roots.map { Self.real($0) ?? $0 }
    self.hidden = hidden.map { Self.real($0) ?? $0 } + Self.system
  }

  /// As the runner says it in its plugins' environment, one a line.
  static var ofThisRunner: LocalPlaces {
    func folders(_ name: String) -> [String] {
      getenv(name).map { String(cString: $0).split(separator: "\n").map(String.init) } ?? []
    }
    return LocalPlaces(
      roots: folders("MILLRACE_CHECKOUT_ROOTS"), hidden: folders("MILLRACE_HIDDEN"))
  }

  /// The path without links. Throws what people are to read, if it may not be named.
  func resolve(
    _ path: String, _ input: String, for use: Use, workspace: String
  ) throws -> String {
    guard let real = Self.real(path) else {
      // Whether something is there is no more told than what it is.
      guard self.isAllowed(path) else { throw self.refusal(path, input) }
      throw StepFailure(
        "\(input) is \"\(path)\": there is no such \(use == .file ? "file" : "folder") on this "
          + "executor")
    }
    var status = stat()
    let wanted = use == .file ? S_IFREG : S_IFDIR
    // What earlier steps made is theirs, but for a repository: it can say that its objects are
    // elsewhere.
    if use != .repository, let own = Self.real(workspace), Self.isIn(real, own) {
      guard stat(real, &status) == 0, status.st_mode & S_IFMT == wanted else {
        throw self.wrongKind(path, input, use)
      }
      return real
    }
    guard self.isAllowed(real) else { throw self.refusal(path, input) }
    if use != .file, let inside = self.hidden.first(where: { Self.isIn($0, real) }) {
      throw StepFailure(
        "\(input) is \"\(path)\", and \(inside) is in it, which no step may see")
    }
    guard stat(real, &status) == 0, status.st_mode & S_IFMT == wanted else {
      throw self.wrongKind(path, input, use)
    }
    return real
  }

  private func isAllowed(_ path: String) -> Bool {
    self.roots.contains { Self.isIn(path, $0) } && !self.hidden.contains { Self.isIn(path, $0) }
  }

  private func refusal(_ path: String, _ input: String) -> StepFailure {
    let roots = self.roots.filter { root in !self.hidden.contains { Self.isIn(root, $0) } }
    return StepFailure(
      "\(input) is \"\(path)\", which no step may name on this executor: "
        + (roots.isEmpty
          ? "its --checkout-roots are empty"
          : "its --checkout-roots are \(roots.joined(separator: ", ")), without "
            + self.hidden.joined(separator: ", ")))
  }

  private func wrongKind(_ path: String, _ input: String, _ use: Use) -> StepFailure {
    StepFailure("\(input) is \"\(path)\", which is no \(use == .file ? "file" : "folder")")
  }

  private static func isIn(_ path: String, _ folder: String) -> Bool {
    folder == "/" || path == folder || path.hasPrefix(folder + "/")
  }

  private static func real(_ path: String) -> String? {
    guard let real = realpath(path, nil) else { return nil }
    defer { free(real) }
    return String(cString: real)
  }
}
