import Glibc

/// A service's data directory, held by this process alone until it ends.
package enum DataDirectory {
  /// Why a directory cannot be used.
  package struct Failure: Error, Sendable, Hashable, CustomStringConvertible {
    package let description: String
  }

  /// Makes the directory if it is not there, and locks it.
  ///
  /// The kernel gives the lock back when the process ends, however it ends; the descriptor is not
  /// inherited by children.
  ///
  /// - Parameter mayBeReadOnly: Whether a directory on a file system that takes no writes will do. It is
  ///   locked too, if it ever was: it may become writable.
  package static func claim(_ path: String, mayBeReadOnly: Bool = false) throws(Failure) {
    do {
      try SystemFile.makeDirectory(path)
    } catch {
      throw Failure(description: "the data directory \(path) cannot be made: \(error)")
    }
    let lockPath = path + "/.lock"
    var descriptor = open(lockPath, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
    let isReadOnly = descriptor < 0 && errno == EROFS && mayBeReadOnly
    if isReadOnly {
      descriptor = open(lockPath, O_RDONLY | O_CLOEXEC)
      if descriptor < 0 && errno == ENOENT { return }
    }
    guard descriptor >= 0 else {
      throw Failure(description: "the data directory \(path) cannot be used: \(SystemError.last)")
    }
    guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
      let holder = SystemFile.read(lockPath, limit: 32) ?? ""
      close(descriptor)
      throw Failure(
        description:
          "the data directory \(path) is used by process \(holder.isEmpty ? "?" : holder)"
      )
    }
    if isReadOnly { return }
    let text = "\(getpid())"
    ftruncate(descriptor, 0)
    _ = text.withCString { write(descriptor, $0, strlen($0)) }
  }
}
