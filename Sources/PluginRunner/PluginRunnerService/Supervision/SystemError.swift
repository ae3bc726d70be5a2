import Glibc

/// A system call that failed: what was tried, on what, and why.
package struct SystemError: Error, Hashable, Sendable, CustomStringConvertible {
  package var action: String
  package var path: String
  package var code: Int32

  package init(_ action: String, _ path: String, code: Int32 = errno) {
    self.action = action
    self.path = path
    self.code = code
  }

  package var description: String {
    "cannot \(self.action) \(self.path): \(String(cString: strerror(self.code)))\(self.name)"
  }

  /// The names that people search for.
  private var name: String {
    switch self.code {
    case ENOSPC: " (ENOSPC)"
    case EDQUOT: " (EDQUOT)"
    case EACCES: " (EACCES)"
    case ENOENT: " (ENOENT)"
    case EMFILE: " (EMFILE)"
    case EROFS: " (EROFS)"
    default: ""
    }
  }
}
