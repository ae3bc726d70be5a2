import ContentCacheCore
import Domain
import Glibc
import Synchronization

/// Blobs on the disk, each in a file that is named by its digest: `blobs/ab/cdef...`.
///
/// A blob is written under a temporary name, made durable and then renamed, so that a name is
/// never there without all of its bytes. Two that write the same blob replace it by itself. Every
/// call blocks.
package final class BlobStore: Sendable {
  /// Why a blob cannot be stored or read.
  package enum Failure: Error, Hashable, Sendable, CustomStringConvertible {
    case missing(Digest)
    /// The bytes are other ones.
    case mismatch(expected: Digest, actual: Digest)
    case outOfSpace(path: String, digest: Digest)
    case file(FileError)

    package var description: String {
      switch self {
      case .missing(let digest): "there is no blob \(digest)"
      case .mismatch(let expected, let actual):
        "the data's digest is \(actual), not \(expected)"
      case .outOfSpace(let path, let digest):
        "no space left on the device of \(path) for blob \(digest)"
      case .file(let error): error.description
      }
    }
  }

  /// `DATA/blobs`.
  package let directory: String
  private let temporary: String
  private let counter = Atomic<Int>(0)

  /// Opens the store in a data directory, and removes what an earlier process left half-written.
  ///
  /// The caller holds the directory's lock.
  package init(dataDirectory: String) throws(FileError) {
    self.directory = dataDirectory + "/blobs"
    self.temporary = dataDirectory + "/temporary"
    try Path.makeDirectories(self.temporary)
    for name in try Path.names(in: self.temporary) {
      try Path.remove("\(self.temporary)/\(name)")
    }
    for number in 0..<256 {
      try Path.makeDirectories("\(self.directory)/\(hexadecimal([UInt8(number)]))")
    }
  }

  /// Where a blob's file is, or would be.
  package func path(of digest: Digest) -> String {
    "\(self.directory(of: digest))/\(digest.hash.dropFirst(2))"
  }

  /// Whether the blob is there in its full size.
  package func contains(_ digest: Digest) throws(Failure) -> Bool {
    if digest == .empty { return true }
    do {
      return try Path.size(self.path(of: digest)) == digest.size
    } catch {
      throw .file(error)
    }
  }

  /// Stores a blob whose bytes are all here.
  package func put(_ bytes: [UInt8], as digest: Digest) throws(Failure) {
    let actual = ContentHash.digest(of: bytes)
    guard actual == digest else { throw .mismatch(expected: digest, actual: actual) }
    if try self.contains(digest) { return }
    let file = try self.begin(digest)
    do {
      try file.write(bytes[...], at: 0)
    } catch {
      throw self.discarded(file, digest, error)
    }
    try self.keep(file, as: digest)
  }

  /// A new file for a blob's bytes, for ``keep(_:as:)`` or ``discard(_:)``.
  package func begin(_ digest: Digest) throws(Failure) -> File {
    let number = self.counter.add(1, ordering: .relaxed).newValue
    let path = "\(self.temporary)/\(number)"
    do {
      return try File(path, O_RDWR | O_CREAT | O_EXCL)
    } catch {
      throw error.isOutOfSpace ? .outOfSpace(path: path, digest: digest) : .file(error)
    }
  }

  /// The file has all the blob's bytes, whose digest the caller has checked.
  package func keep(_ file: File, as digest: Digest) throws(Failure) {
    do {
      try file.synchronize()
      try Path.move(file.path, to: self.path(of: digest))
      try Path.synchronize(directory: self.directory(of: digest))
    } catch {
      throw self.discarded(file, digest, error)
    }
  }

  /// Makes a durable file of another place a blob too, whose digest the caller has checked.
  package func adopt(_ path: String, as digest: Digest) throws(Failure) {
    do {
      try Path.link(path, to: self.path(of: digest))
      try Path.synchronize(directory: self.directory(of: digest))
    } catch {
      throw error.isOutOfSpace ? .outOfSpace(path: error.path, digest: digest) : .file(error)
    }
  }

  /// The file is not wanted.
  package func discard(_ file: File) {
    // A file that cannot be removed now is removed by the next start.
    try? Path.remove(file.path)
  }

  /// Opens a blob for reading.
  package func open(_ digest: Digest) throws(Failure) -> File {
    do {
      let file = try File(self.path(of: digest), O_RDONLY)
      guard try file.size() == digest.size else { throw Failure.missing(digest) }
      return file
    } catch let error as FileError {
      throw error.number == ENOENT ? .missing(digest) : .file(error)
    } catch let error as Failure {
      throw error
    } catch {
      preconditionFailure("opening a blob throws FileError or Failure, not \(error)")
    }
  }

  /// All bytes of a small blob.
  package func read(_ digest: Digest) throws(Failure) -> [UInt8] {
    if digest == .empty { return [] }
    let file = try self.open(digest)
    do {
      return try file.read(Int(digest.size), at: 0)
    } catch {
      throw .file(error)
    }
  }

  /// What a failure of the disk means for a blob whose file is of no use now.
  package func discarded(_ file: File, _ digest: Digest, _ error: FileError) -> Failure {
    self.discard(file)
    return error.isOutOfSpace ? .outOfSpace(path: file.path, digest: digest) : .file(error)
  }

  private func directory(of digest: Digest) -> String {
    "\(self.directory)/\(digest.hash.prefix(2))"
  }
}
