import Glibc
import PluginKit

/// `uses: artifacts`: keeps files of the workspace.
struct Artifacts: BuildPlugin {
  static let name = "artifacts"
  static let version = "1.0.0"
  static let description = "Keeps files of the workspace."
  static let inputsSchema = """
    {"type":"object","required":["path"],"additionalProperties":false,"properties":{\
    "path":{"type":"string"},"name":{"type":"string"},\
    "if-no-files-found":{"enum":["error","warn","ignore"]}}}
    """

  func executeBuildStep(_ context: BuildContext, events: StepEvents) async throws {
    try context.refuseUnknownInputs(["path", "name", "if-no-files-found"])
    let patterns = try context.requiredInput("path").split(separator: "\n")
      .map { $0.trimmingSpaces() }.filter { !$0.isEmpty }
    let name = context.inputs["name"] ?? ""
    let policy = context.inputs["if-no-files-found"] ?? "error"
    guard ["error", "warn", "ignore"].contains(policy) else {
      throw StepFailure("if-no-files-found is \"\(policy)\": it can be error, warn or ignore")
    }
    let (excluding, including) = (
      patterns.filter { $0.hasPrefix("!") }.map { Glob($0.dropFirst()) },
      patterns.filter { !$0.hasPrefix("!") }.map { Glob($0[...]) }
    )
    let files = try FileTree.files(in: context.workspace).filter { path in
      including.contains { $0.matches(path) } && !excluding.contains { $0.matches(path) }
    }
    if files.isEmpty {
      let message = "no file in the workspace matches \(patterns.joined(separator: ", "))"
      if policy == "error" { throw StepFailure(message) }
      if policy == "warn" { events.log("warning: \(message)\n") }
    }
    for file in files {
      events.keepArtifact(name: name.isEmpty ? file : name, path: file)
      events.log("kept \(file)\n")
    }
  }
}

/// A pattern over relative paths: `*` and `?` within a name, `[...]` a set, `**` any folders. One
/// that names a folder means all that is in it.
struct Glob {
  private let parts: [[UInt8]]

  init(_ pattern: Substring) {
    var pattern = pattern
    while pattern.hasPrefix("./") { pattern = pattern.dropFirst(2) }
    self.parts = pattern.split(separator: "/").map { Array($0.utf8) }
  }

  func matches(_ path: String) -> Bool {
    self.matches(self.parts[...], path.split(separator: "/").map { Array($0.utf8) }[...])
  }

  private func matches(_ parts: ArraySlice<[UInt8]>, _ names: ArraySlice<[UInt8]>) -> Bool {
    guard let part = parts.first else {
      return true  // The pattern named a folder above, or all of it.
    }
    if part == Array("**".utf8) {
      let rest = parts.dropFirst()
      if rest.isEmpty { return true }
      return names.indices.contains { self.matches(rest, names[$0...]) }
    }
    guard let name = names.first, Self.matches(part[...], name[...]) else { return false }
    return self.matches(parts.dropFirst(), names.dropFirst())
  }

  /// Within one name, in time proportional to the product of the lengths.
  private static func matches(_ pattern: ArraySlice<UInt8>, _ name: ArraySlice<UInt8>) -> Bool {
    var (pattern, name) = (pattern, name)
    var star: (pattern: ArraySlice<UInt8>, name: ArraySlice<UInt8>)?
    while true {
      if pattern.first == UInt8(ascii: "*") {
        pattern = pattern.dropFirst()
        star = (pattern, name)
      } else if let letter = name.first, let rest = Self.one(pattern, letter) {
        pattern = rest
        name = name.dropFirst()
      } else if name.isEmpty && pattern.isEmpty {
        return true
      } else if let last = star, !last.name.isEmpty {
        let rest = last.name.dropFirst()
        star = (last.pattern, rest)
        (pattern, name) = (last.pattern, rest)
      } else {
        return false
      }
    }
  }

  /// What is left of the pattern if its first element takes the letter.
  private static func one(
    _ pattern: ArraySlice<UInt8>, _ letter: UInt8
  ) -> ArraySlice<UInt8>? {
    guard let first = pattern.first else { return nil }
    switch first {
    case UInt8(ascii: "?"):
      return pattern.dropFirst()
    case UInt8(ascii: "["):
      guard let end = pattern.dropFirst(2).firstIndex(of: UInt8(ascii: "]")) else {
        return letter == first ? pattern.dropFirst() : nil
      }
      var set = pattern[(pattern.startIndex + 1)..<end]
      let negated = set.first == UInt8(ascii: "!")
      if negated { set = set.dropFirst() }
      var found = false
      var index = set.startIndex
      while index < set.endIndex {
        if index + 2 < set.endIndex, set[index + 1] == UInt8(ascii: "-") {
          found = found || (set[index] <= letter && letter <= set[index + 2])
          index += 3
        } else {
          found = found || set[index] == letter
          index += 1
        }
      }
      return found != negated ? pattern[(end + 1)...] : nil
    default:
      return first == letter ? pattern.dropFirst() : nil
    }
  }
}

/// The files of a workspace.
enum FileTree {
  /// Regular files, by relative path, sorted. Links are not followed.
  static func files(in root: String) throws -> [String] {
    var found: [String] = []
    var folders = [""]
    while let folder = folders.popLast() {
      let path = folder.isEmpty ? root : "\(root)/\(folder)"
      guard let stream = opendir(path) else { throw failure("list", path) }
      defer { closedir(stream) }
      while let entry = readdir(stream) {
        let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
          pointer.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
        }
        if name == "." || name == ".." { continue }
        let relative = folder.isEmpty ? name : "\(folder)/\(name)"
        var status = stat()
        guard lstat("\(root)/\(relative)", &status) == 0 else { continue }
        switch status.st_mode & S_IFMT {
        case S_IFDIR: folders.append(relative)
        case S_IFREG: found.append(relative)
        default: break
        }
      }
    }
    return found.sorted()
  }
}

extension Substring {
  fileprivate func trimmingSpaces() -> String {
    var text = self
    while text.last == " " || text.last == "\r" || text.last == "\t" { text.removeLast() }
    return String(text.drop { $0 == " " || $0 == "\t" })
  }
}
