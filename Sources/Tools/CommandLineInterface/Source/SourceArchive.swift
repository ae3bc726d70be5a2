import Crypto
import Glibc

/// A directory as one archive in a temporary file, with its digest.
///
/// Nothing of it is held in memory, whatever its size.
package struct SourceArchive: Sendable {
  package let file: OpenFile
  /// Lower-case hexadecimal SHA-256.
  package let hash: String
  package let size: Int64
  /// How many files, links and empty directories it holds.
  package let entries: Int

  /// Bytes that are copied at a time.
  private static let chunkBytes = 256 << 10

  /// Packs a directory: a tar archive, compressed where there is gzip.
  package static func pack(
    _ directory: String, pipeline: String
  ) async throws -> SourceArchive {
    let entries = try await SourceTree.entries(of: directory, pipeline: pipeline)
    let tar = try Files.temporary()
    for entry in entries { try self.write(entry, of: directory, to: tar) }
    try tar.write(TarHeader.end)
    let file = try await self.compressed(tar) ?? tar
    try file.seek(to: 0)
    var hasher = SHA256()
    var size: Int64 = 0
    while true {
      let bytes = try file.read(self.chunkBytes)
      if bytes.isEmpty { break }
      hasher.update(data: bytes)
      size += Int64(bytes.count)
    }
    return SourceArchive(
      file: file, hash: hexadecimal(hasher.finalize()), size: size, entries: entries.count)
  }

  private static func write(
    _ entry: ArchiveEntry, of directory: String, to tar: OpenFile
  ) throws {
    guard case .file(let size, _) = entry.kind else {
      return try tar.write(TarHeader.blocks(entry))
    }
    let source = try OpenFile(BytePath(directory).appending(entry.path), O_RDONLY)
    try tar.write(TarHeader.blocks(entry))
    var left = size
    while left > 0 {
      let bytes = try source.read(Int(min(left, Int64(self.chunkBytes))))
      guard !bytes.isEmpty else {
        throw CommandFailure(
          .usage, "\(directory)/\(entry.path) became shorter while it was packed; try again")
      }
      try tar.write(bytes)
      left -= Int64(bytes.count)
    }
    try tar.write(TarHeader.padding(after: size))
  }

  /// Nil where there is no gzip. `-n`: no name and no time, so that the same tar gives the same
  /// bytes.
  private static func compressed(_ tar: OpenFile) async throws -> OpenFile? {
    try tar.seek(to: 0)
    let output = try Files.temporary()
    var command = ChildProcess.Command("gzip", ["-n", "-3", "-c"])
    command.input = tar
    command.output = output
    command.errors = try OpenFile("/dev/null", O_WRONLY)
    let end: ProcessEnd
    do {
      end = try await ChildProcess.run(command)
    } catch let error as SystemError where error.number == ENOENT {
      return nil
    }
    guard end == .exited(code: 0) else {
      throw CommandFailure(
        .usage,
        "gzip could not pack the directory (\(end)); is the disk of the temporary files full?")
    }
    return output
  }
}

/// Bytes as lower-case hexadecimal.
func hexadecimal(_ bytes: some Sequence<UInt8>) -> String {
  var text: [UInt8] = []
  for byte in bytes {
    for digit in [byte >> 4, byte & 15] { text.append(digit < 10 ? 0x30 + digit : 0x57 + digit) }
  }
  return String(decoding: text, as: UTF8.self)
}
