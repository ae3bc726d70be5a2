/// A file as it stands in an archive.
package struct ArchiveEntry: Hashable, Sendable {
  /// What kind of file it is.
  package enum Kind: Hashable, Sendable {
    case file(size: Int64, executable: Bool)
    case symbolicLink(target: BytePath)
    case directory
  }

  /// Relative to the archive's root.
  package var path: BytePath
  package var kind: Kind

  package init(path: BytePath, kind: Kind) {
    self.path = path
    self.kind = kind
  }
}

/// The headers of a tar archive in the pax form of POSIX.1-2001, "pax, ustar Interchange Format".
///
/// Deterministic: owner, group and time are the same for all, so that the same tree gives the same
/// archive on every machine, and is uploaded once.
package enum TarHeader {
  /// Everything in an archive is a multiple of this.
  package static let blockBytes = 512
  /// 2001-09-09T01:46:40Z: in no one's future, and not so old that tools warn of it.
  private static let modificationTime: Int64 = 1_000_000_000
  /// The largest number of eleven octal digits.
  private static let maximumOctal: Int64 = 0o77_777_777_777

  /// The blocks before an entry's bytes.
  package static func blocks(_ entry: ArchiveEntry) -> [UInt8] {
    let (size, mode, type, link): (Int64, Int64, Character, [UInt8]) =
      switch entry.kind {
      case .file(let size, let executable): (size, executable ? 0o755 : 0o644, "0", [])
      case .symbolicLink(let target): (0, 0o777, "2", target.bytes)
      case .directory: (0, 0o755, "5", [])
      }
    var path = entry.path.bytes
    if entry.kind == .directory, path.last != UInt8(ascii: "/") { path.append(UInt8(ascii: "/")) }
    // What does not fit a field goes into a record of its own, before the header.
    var records: [(String, [UInt8])] = []
    if path.count > 100 { records.append(("path", path)) }
    if link.count > 100 { records.append(("linkpath", link)) }
    if size > self.maximumOctal { records.append(("size", Array("\(size)".utf8))) }
    // Values are UTF-8 unless this says otherwise: POSIX.1-2008, pax, "hdrcharset".
    if records.contains(where: { String(validating: $0.1, as: UTF8.self) == nil }) {
      records.insert(("hdrcharset", Array("BINARY".utf8)), at: 0)
    }
    var blocks: [UInt8] = []
    if !records.isEmpty {
      let body = records.flatMap { self.record($0.0, $0.1) }
      blocks += self.header(
        path: Array("pax_header".utf8), mode: 0o644, size: Int64(body.count), type: "x", link: [])
      blocks += body
      blocks += self.padding(after: Int64(body.count))
    }
    blocks += self.header(
      path: path, mode: mode, size: min(size, self.maximumOctal), type: type, link: link)
    return blocks
  }

  /// Zeros up to the next block.
  package static func padding(after size: Int64) -> [UInt8] {
    [UInt8](
      repeating: 0,
      count: Int((Int64(self.blockBytes) - size % Int64(self.blockBytes)) % Int64(self.blockBytes)))
  }

  /// Two blocks of zeros.
  package static let end = [UInt8](repeating: 0, count: 2 * blockBytes)

  private static func header(
    path: [UInt8], mode: Int64, size: Int64, type: Character, link: [UInt8]
  ) -> [UInt8] {
    var block = [UInt8](repeating: 0, count: self.blockBytes)
    func put(_ bytes: some Sequence<UInt8>, at offset: Int) {
      for (index, byte) in bytes.enumerated() { block[offset + index] = byte }
    }
    put(path.prefix(100), at: 0)
    put(self.octal(mode, 7), at: 100)
    put(self.octal(0, 7), at: 108)
    put(self.octal(0, 7), at: 116)
    put(self.octal(size, 11), at: 124)
    put(self.octal(self.modificationTime, 11), at: 136)
    put("        ".utf8, at: 148)
    put(String(type).utf8, at: 156)
    put(link.prefix(100), at: 157)
    put("ustar\u{0}00".utf8, at: 257)
    put("root".utf8, at: 265)
    put("root".utf8, at: 297)
    // Of all bytes, with the sum's own field as spaces.
    put(self.octal(block.reduce(0) { $0 + Int64($1) }, 6), at: 148)
    block[154] = 0
    block[155] = 0x20
    return block
  }

  private static func octal(_ number: Int64, _ digits: Int) -> [UInt8] {
    let text = String(number, radix: 8)
    return Array(String(repeating: "0", count: digits - text.count).utf8) + Array(text.utf8)
  }

  /// `LENGTH KEY=VALUE\n`, where the length counts itself.
  private static func record(_ key: String, _ value: [UInt8]) -> [UInt8] {
    let rest = Array(" \(key)=".utf8) + value + [0x0a]
    var length = rest.count
    while "\(length)".utf8.count + rest.count != length {
      length = "\(length)".utf8.count + rest.count
    }
    return Array("\(length)".utf8) + rest
  }
}
