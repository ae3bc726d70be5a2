import Domain
import Glibc

/// The folders of one attempt, all below one that is removed with it.
package struct Workspace: Sendable, Hashable {
  /// `<data>/workspaces/<name>`.
  package let folder: String

  /// Where steps work.
  package var work: String { self.folder + "/work" }
  /// `/tmp` in a sandbox, `TMPDIR` without one.
  package var temporary: String { self.folder + "/tmp" }
  package var home: String { self.folder + "/home" }
  /// Scripts, step outputs, source archives: the runner's own. Sandboxed steps only read it, but for
  /// the file of their outputs.
  package var scratch: String { self.folder + "/scratch" }
  /// What a plugin has for its step alone: it begins empty.
  package var plugin: String { self.folder + "/plugin" }

  package init(root: String, attempt: AttemptID) {
    self.folder = "\(root)/\(Self.name(of: attempt))"
  }

  /// A file name that is this attempt's alone, and that no build tool stumbles over.
  package static func name(of attempt: AttemptID) -> String {
    let plain = attempt.rawValue.utf8.map { byte -> UInt8 in
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"), UInt8(ascii: "-"):
        byte
      default: UInt8(ascii: "-")
      }
    }
    let hash = fingerprint(attempt.rawValue)
    return String(decoding: plain.prefix(80), as: UTF8.self) + "-" + hash
  }

  /// Makes the folders. Belongs off the event loops.
  package func make() throws(SystemError) {
    try makeFolders(self.folder, mode: 0o755)
    for path in self.parts { try makeFolders(path) }
    chmod(self.temporary, 0o1777)
  }

  /// All that is in it.
  var parts: [String] { [self.work, self.temporary, self.home, self.scratch, self.plugin] }

  /// The absolute path of something in the workspace; nil if it lies outside, links followed.
  package func resolve(_ relative: String) -> String? {
    guard let real = realpath(self.work + "/" + relative, nil) else { return nil }
    defer { free(real) }
    guard let top = realpath(self.work, nil) else { return nil }
    defer { free(top) }
    let (path, root) = (String(cString: real), String(cString: top))
    return path == root || path.hasPrefix(root + "/") ? path : nil
  }
}

/// A short name for a long one: FNV-1a, 64 bits, in hexadecimal.
package func fingerprint(_ text: String) -> String {
  var hash: UInt64 = 0xcbf2_9ce4_8422_2325
  for byte in text.utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
  return String(hash, radix: 16)
}
