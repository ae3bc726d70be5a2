import Glibc

/// Why a dump cannot be read or written.
struct DumpFailure: Error, Hashable, CustomStringConvertible {
  var description: String
}

/// Writes a dump to a file or to standard output.
///
/// A file gets its name when the dump is complete and on the disk; until then it is `NAME.part`. What is there and no
/// file, a pipe or a device, is written as it is.
final class DumpWriter {
  private let path: String?
  private let isFile: Bool
  private let descriptor: Int32
  private var buffer: [UInt8] = DumpRecord.magic
  private(set) var counts = DumpRecord.Counts()
  private(set) var bytes = 0

  private static let bufferBytes = 1 << 20

  /// - Parameter path: "-" for standard output.
  init(to path: String, _ header: DumpRecord.Header) throws(DumpFailure) {
    if path == "-" {
      self.path = nil
      self.isFile = false
      self.descriptor = STDOUT_FILENO
    } else {
      self.path = path
      self.isFile = isFileOrNothing(path)
      let name = self.isFile ? path + ".part" : path
      let creation = self.isFile ? O_CREAT | O_TRUNC : 0
      self.descriptor = open(name, O_WRONLY | creation | O_CLOEXEC, 0o600)
      if self.descriptor < 0 { throw .system("\(name) cannot be written") }
    }
    try self.write(.header(header))
  }

  deinit { if self.path != nil { close(self.descriptor) } }

  func add(_ record: DumpRecord) throws(DumpFailure) {
    switch record {
    case .entity: self.counts.entities += 1
    case .reservation: self.counts.reservations += 1
    case .header, .end: preconditionFailure("The writer itself begins and ends a dump")
    }
    try self.write(record)
  }

  private func write(_ record: DumpRecord) throws(DumpFailure) {
    self.buffer += record.encoded
    if self.buffer.count >= Self.bufferBytes { try self.flush() }
  }

  private func flush() throws(DumpFailure) {
    var rest = self.buffer[...]
    while !rest.isEmpty {
      let count = rest.withUnsafeBytes { Glibc.write(self.descriptor, $0.baseAddress, $0.count) }
      if count < 0 && errno == EINTR { continue }
      if count < 0 { throw .system("\(self.path ?? "standard output") cannot be written") }
      rest = rest.dropFirst(count)
    }
    self.bytes += self.buffer.count
    self.buffer.removeAll(keepingCapacity: true)
  }

  /// All is there: the dump is ended, and its file gets its name.
  func end() throws(DumpFailure) {
    try self.write(.end(self.counts))
    try self.flush()
    guard let path = self.path, self.isFile else { return }
    guard fsync(self.descriptor) == 0 else { throw .system("\(path).part cannot be written") }
    guard rename(path + ".part", path) == 0 else { throw .system("\(path) cannot be written") }
    let end = path.lastIndex(of: "/").map { path.index(after: $0) } ?? path.startIndex
    let folder = open(end == path.startIndex ? "." : String(path[..<end]), O_RDONLY | O_CLOEXEC)
    guard folder >= 0 else { throw .system("the folder of \(path) cannot be read") }
    defer { close(folder) }
    guard fsync(folder) == 0 else { throw .system("the folder of \(path) cannot be written") }
  }
}

/// Whether there is a file of that name, or nothing.
func isFileOrNothing(_ path: String) -> Bool {
  var status = stat()
  return stat(path, &status) != 0 || status.st_mode & S_IFMT == S_IFREG
}

/// Reads a dump from a file or from standard input, record by record, and refuses what is none.
final class DumpReader {
  private let name: String
  private let descriptor: Int32
  private let isOwned: Bool
  private var buffer: [UInt8] = []
  private var head = 0
  private var isAtEndOfFile = false
  private var number = 0
  private(set) var counts = DumpRecord.Counts()
  /// Bytes that were taken.
  private(set) var bytes = 0
  private var isComplete = false

  private static let chunkBytes = 1 << 20

  /// - Parameter path: "-" for standard input.
  init(from path: String) throws(DumpFailure) {
    self.isOwned = path != "-"
    self.name = self.isOwned ? path : "standard input"
    self.descriptor = self.isOwned ? open(path, O_RDONLY | O_CLOEXEC) : STDIN_FILENO
    if self.descriptor < 0 { throw .system("\(path) cannot be read") }
    guard try self.fill(DumpRecord.magic.count),
      self.take(DumpRecord.magic.count) == DumpRecord.magic
    else { throw DumpFailure(description: "\(self.name) is no dump of a datastore-gateway") }
  }

  deinit { if self.isOwned { close(self.descriptor) } }

  /// The next record, `nil` behind the last.
  func next() throws(DumpFailure) -> DumpRecord? {
    if self.isComplete {
      guard try self.fill(1) else { return nil }
      throw self.wrong("something stands behind the end")
    }
    self.number += 1
    guard try self.fill(DumpRecord.headBytes) else { throw self.truncated() }
    let head = self.take(DumpRecord.headBytes)
    let length = Int(Self.number(head[0..<4]))
    guard length <= DumpRecord.maximumBytes else {
      throw self.wrong("it claims to have \(length) bytes, more than any may")
    }
    guard try self.fill(length) else { throw self.truncated() }
    let payload = self.take(length)
    guard payload.crc32 == Self.number(head[4..<8]) else {
      throw self.wrong("its checksum is wrong: the dump is damaged")
    }
    let record: DumpRecord
    do throws(DumpRecord.Mistake) {
      record = try DumpRecord(payload: payload)
    } catch {
      throw self.wrong(error.description)
    }
    switch record {
    case .header:
      if self.number != 1 { throw self.wrong("a second header") }
    case .entity: self.counts.entities += 1
    case .reservation: self.counts.reservations += 1
    case .end(let counts):
      guard counts == self.counts else {
        throw self.wrong(
          "it tells of \(counts.entities) entities and \(counts.reservations) reserved keys, and "
            + "\(self.counts.entities) and \(self.counts.reservations) were there")
      }
      self.isComplete = true
    }
    if self.number == 1, case .header = record { return record }
    if self.number == 1 { throw self.wrong("the header is missing") }
    return record
  }

  private static func number(_ bytes: ArraySlice<UInt8>) -> UInt32 {
    bytes.reduce(0) { $0 << 8 | UInt32($1) }
  }

  private func wrong(_ why: String) -> DumpFailure {
    DumpFailure(description: "\(self.name), record \(self.number): \(why)")
  }

  private func truncated() -> DumpFailure {
    DumpFailure(
      description:
        "\(self.name) is cut off in record \(self.number), behind \(self.counts.entities) entities")
  }

  /// - Returns: Whether there are so many bytes.
  private func fill(_ count: Int) throws(DumpFailure) -> Bool {
    while self.buffer.count - self.head < count {
      if self.isAtEndOfFile { return false }
      self.buffer.removeFirst(self.head)
      self.head = 0
      let size = max(Self.chunkBytes, count)
      let filled = self.buffer.count
      self.buffer += Array(repeating: 0, count: size)
      let read = self.buffer.withUnsafeMutableBytes {
        Glibc.read(self.descriptor, $0.baseAddress! + filled, size)
      }
      self.buffer.removeLast(size - max(read, 0))
      if read < 0 && errno == EINTR { continue }
      if read < 0 { throw .system("\(self.name) cannot be read") }
      if read == 0 { self.isAtEndOfFile = true }
    }
    return true
  }

  private func take(_ count: Int) -> [UInt8] {
    defer {
      self.head += count
      self.bytes += count
    }
    return Array(self.buffer[self.head..<(self.head + count)])
  }
}

extension DumpFailure {
  fileprivate static func system(_ what: String) -> Self {
    Self(description: "\(what): \(String(cString: strerror(errno)))")
  }
}
