/// Entities that were looked up, kept in memory for lookups of the same, absent ones among them.
///
/// It never says what is not so: a commit takes out what it changes (``changing(_:as:)``) before anybody
/// can see the commit, and what a reader finds is kept only if no commit has changed it that the reader
/// did not see. So all that it has is stored at one moment, which is now.
///
/// What was not asked for since the hand last passed makes room for others (Corbató's clock, "A Paging
/// Experiment with the Multics System", 1968).
package struct EntityCache: Sendable {
  /// An entity as it is stored.
  package struct Stored: Hashable, Sendable {
    package var content: [UInt8]
    package var version: StoredVersion

    package init(content: [UInt8], version: StoredVersion) {
      self.content = content
      self.version = version
    }
  }

  private struct Entry: Sendable {
    var address: EntityAddress
    var stored: Stored?
    var bytes: Int
    var wasFound = false
  }

  /// A version of the store at which all that is here was stored.
  package private(set) var version: Int64 = 0
  package private(set) var bytes = 0
  private let maximumBytes: Int
  private var entries: [Entry] = []
  private var places: [EntityAddress: Int] = [:]
  private var hand = 0
  /// The last commits' versions, each at those places that the hashes of what it changed fall on. Some
  /// share a place: then what nobody has changed is not kept, once.
  private var changes = [Int64](repeating: 0, count: Self.changePlaces)

  private static let changePlaces = 4_096

  /// What an entry takes besides content and path, about.
  private static let entryBytes = 256

  /// What is larger is not kept: it would take the room of many.
  private var maximumEntryBytes: Int { self.maximumBytes / 64 }

  /// - Parameter maximumBytes: 0 for one that keeps nothing.
  package init(maximumBytes: Int) {
    self.maximumBytes = maximumBytes
  }

  /// What is stored at all of these addresses, `nil` for nothing, as of one moment; no answer if one of
  /// them is not known here.
  package mutating func found(_ addresses: [EntityAddress]) -> [Stored?]? {
    var found: [Stored?] = []
    found.reserveCapacity(addresses.count)
    for address in addresses {
      guard let place = self.places[address] else { return nil }
      self.entries[place].wasFound = true
      found.append(self.entries[place].stored)
    }
    return found
  }

  /// Keeps what a reader has found.
  ///
  /// - Parameter version: The store's, of the reader's view.
  package mutating func read(_ stored: Stored?, at address: EntityAddress, version: Int64) {
    let bytes =
      (stored?.content.count ?? 0) + address.collection.bytes.count + address.path.bytes.count
      + Self.entryBytes
    guard bytes <= self.maximumEntryBytes, self.places[address] == nil,
      self.changes[Self.changePlace(of: address)] <= version
    else { return }
    self.version = max(self.version, version)
    self.makeRoom(for: bytes)
    self.bytes += bytes
    self.places[address] = self.entries.count
    self.entries.append(Entry(address: address, stored: stored, bytes: bytes))
  }

  /// Takes out what a commit changes, before anybody can see the commit.
  ///
  /// - Parameter version: The commit's, or that of the last of several that become visible together.
  package mutating func changing(_ addresses: some Sequence<EntityAddress>, as version: Int64) {
    for address in addresses {
      self.changes[Self.changePlace(of: address)] = version
      if let place = self.places[address] { self.remove(at: place) }
    }
  }

  private static func changePlace(of address: EntityAddress) -> Int {
    Int(truncatingIfNeeded: UInt(bitPattern: address.hashValue) % UInt(Self.changePlaces))
  }

  private mutating func makeRoom(for bytes: Int) {
    while self.bytes + bytes > self.maximumBytes {
      if self.hand >= self.entries.count { self.hand = 0 }
      if self.entries[self.hand].wasFound {
        self.entries[self.hand].wasFound = false
        self.hand += 1
      } else {
        self.remove(at: self.hand)
      }
    }
  }

  /// The last entry moves into the place.
  private mutating func remove(at place: Int) {
    let removed = self.entries[place]
    self.bytes -= removed.bytes
    self.places[removed.address] = nil
    let last = self.entries.removeLast()
    if place < self.entries.count {
      self.entries[place] = last
      self.places[last.address] = place
    }
  }
}
