import Glibc

/// A system call that failed.
struct SystemError: Error, CustomStringConvertible {
  let number: Int32

  static var last: Self { Self(number: errno) }

  /// In the middle of a sentence: "address already in use".
  var description: String {
    let text = String(cString: strerror(self.number))
    return text.prefix(1).lowercased() + text.dropFirst()
  }
}

/// Small files, read as a whole.
enum SystemFile {
  /// The text of a file, or `nil` if it cannot be read or is longer than `limit` bytes.
  static func read(_ path: String, limit: Int) -> String? {
    guard let bytes = try? self.bytes(path, limit: limit) else { return nil }
    return String(decoding: bytes, as: UTF8.self)
  }

  /// The bytes of a file.
  ///
  /// - Throws: ``SystemError``; `EFBIG` for a file of more than `limit` bytes.
  static func bytes(_ path: String, limit: Int) throws(SystemError) -> [UInt8] {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw .last }
    defer { close(descriptor) }
    var bytes = [UInt8](repeating: 0, count: limit + 1)
    var count = 0
    while count <= limit {
      let read = bytes.withUnsafeMutableBytes {
        Glibc.read(descriptor, $0.baseAddress! + count, $0.count - count)
      }
      if read < 0, errno == EINTR { continue }
      if read < 0 { throw .last }
      if read == 0 { break }
      count += read
    }
    guard count <= limit else { throw SystemError(number: EFBIG) }
    bytes.removeSubrange(count...)
    return bytes
  }

  /// Makes a directory and those above it, readable by their owner only.
  static func makeDirectory(_ path: String) throws(SystemError) {
    var end = path.startIndex
    repeat {
      end = path[end...].dropFirst().firstIndex(of: "/") ?? path.endIndex
      if mkdir(String(path[..<end]), 0o700) != 0, errno != EEXIST {
        let error = SystemError.last
        // A directory above may be unwritable and there.
        guard access(String(path[..<end]), F_OK) == 0 else { throw error }
      }
    } while end < path.endIndex
    let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else { throw .last }
    close(descriptor)
  }
}
