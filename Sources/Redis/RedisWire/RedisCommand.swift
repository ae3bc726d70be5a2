import CHiredis

/// A command: its name and arguments, each of them bytes that may hold anything.
package struct RedisCommand: Hashable, Sendable {
  /// Bytes of one command, with its framing. Redis itself refuses an argument above 512 MiB; no
  /// script of ours is near this.
  package static let maximumBytes = 16 << 20

  /// The words one behind another, and where each ends: one allocation instead of one for each.
  private var storage: [UInt8] = []
  private var ends: [Int] = []

  package init(_ words: String...) {
    for word in words { self.append(word) }
  }

  package init(_ words: [String]) {
    for word in words { self.append(word) }
  }

  package mutating func append(_ word: String) {
    self.storage.append(contentsOf: word.utf8)
    self.ends.append(self.storage.count)
  }

  package mutating func append(_ bytes: [UInt8]) {
    self.storage.append(contentsOf: bytes)
    self.ends.append(self.storage.count)
  }

  package mutating func append(_ number: Int64) {
    self.append(String(number))
  }

  /// The first word, for messages to people.
  package var name: String {
    String(decoding: self.storage.prefix(self.ends.first ?? 0), as: UTF8.self)
  }

  /// The command as it goes to Redis, made by hiredis' formatter.
  package func formatted() throws(RedisWireError) -> [UInt8] {
    guard !self.ends.isEmpty else { throw .emptyCommand }
    // hiredis answers the size as an `int`; a `$`, up to 20 digits and two line ends for each word.
    let most = self.storage.count + 25 * (self.ends.count + 1)
    guard most <= Self.maximumBytes else {
      throw .commandTooLarge(bytes: most, limit: Self.maximumBytes)
    }
    var result: [UInt8]?
    self.storage.withUnsafeBytes { bytes in
      // An empty storage has no address, but words of no bytes need one that is not null.
      let start =
        bytes.baseAddress ?? UnsafeRawPointer(bitPattern: MemoryLayout<UInt>.alignment)!
      var begin = 0
      var words: [UnsafePointer<CChar>?] = []
      var lengths: [Int] = []
      words.reserveCapacity(self.ends.count)
      lengths.reserveCapacity(self.ends.count)
      for end in self.ends {
        words.append((start + begin).assumingMemoryBound(to: CChar.self))
        lengths.append(end - begin)
        begin = end
      }
      var formatted: sds?
      let size = redisFormatSdsCommandArgv(&formatted, Int32(words.count), &words, lengths)
      guard size >= 0, let formatted else { return }
      result = Array(UnsafeRawBufferPointer(start: formatted, count: Int(size)))
      redisFreeSdsCommand(formatted)
    }
    guard let result else { throw .outOfMemory }
    return result
  }
}

extension RedisCommand: CustomStringConvertible {
  /// The name only: arguments may be secrets.
  package var description: String { self.name }
}
