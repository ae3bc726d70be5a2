import Domain

/// When each collection was last changed, for as long as a transaction may ask: a store with as many namespaces
/// as it has customers has no end of collections.
package struct CollectionVersions: Sendable {
  /// How much older than the newest version what is asked for may be.
  private let span: Int64
  private let atMost: Int
  private var versions: [CollectionName: Int64] = [:]
  /// What has no entry was changed at this version at the latest.
  private var floor: Int64
  /// So many entries are looked through for those that are too old.
  private var nextSearch: Int

  /// - Parameters:
  ///   - floor: The version up to which nothing is known.
  ///   - span: Changes that are so much older than the newest are forgotten when there are many: as many
  ///     versions as may come within a transaction's life. Versions are microseconds.
  ///   - atMost: Entries that are kept however old they are.
  package init(since floor: Int64, span: Duration, atMost: Int = 65_536) {
    self.floor = floor
    self.span = span.microseconds
    self.atMost = atMost
    self.nextSearch = atMost
  }

  package var count: Int { self.versions.count }

  package mutating func changed(_ collection: CollectionName, at version: Int64) {
    self.versions[collection] = version
    guard self.versions.count > self.nextSearch else { return }
    let floor = max(self.floor, version - self.span)
    self.versions = self.versions.filter { $0.value > floor }
    self.floor = floor
    // Each is looked at twice at most for one that comes.
    self.nextSearch = max(self.atMost, self.versions.count * 2)
  }

  /// Whether a collection may have been changed after that version.
  package func hasChanged(_ collection: CollectionName, since version: Int64) -> Bool {
    self.versions[collection] ?? self.floor > version
  }

  /// A collection whose name begins so and that was changed after that version, if one is known.
  package func change(below prefix: [UInt8], since version: Int64) -> Change? {
    let changed = self.versions.first { $0.value > version && $0.key.bytes.starts(with: prefix) }
    if let changed { return Change(collection: changed.key) }
    return self.floor > version ? Change(collection: nil) : nil
  }

  package struct Change: Sendable {
    /// Nil if it is no longer known.
    package let collection: CollectionName?
  }
}
