import DequeModule
import Domain

/// What entities were before their last changes, as far back as memory is given for it: so that a
/// store which keeps only what is can be read as it was.
///
/// The writer calls ``replaced(at:version:content:until:)`` for each entity that a commit changes or removes,
/// before readers can see the commit, and ``undone(after:)`` if the commit fails. Readers ask with
/// the moment that they read at, and with the store's version that their own view has: what a
/// later commit replaced is still there in that view.
package struct PastTable: Sendable {
  /// What an entity was for a while.
  package struct Past: Sendable {
    package var version: StoredVersion
    /// The version of the commit that replaced it.
    package var until: Int64
    /// As it was stored.
    package var content: [UInt8]

    package init(version: StoredVersion, until: Int64, content: [UInt8]) {
      self.version = version
      self.until = until
      self.content = content
    }
  }

  private struct Place: Sendable {
    var address: EntityAddress
    var until: Int64
    var bytes: Int
  }

  /// The earliest version that can be read.
  package private(set) var first: Int64
  package private(set) var bytes = 0
  private let maximumBytes: Int
  private let maximumAge: Duration
  /// Of each entity in order of time.
  private var pasts: [CollectionName: [PathBytes: Deque<Past>]] = [:]
  /// In order of time; what lies before `head` is gone.
  private var places: [Place] = []
  private var head = 0

  /// What a place takes besides content and path, about.
  private static let placeBytes = 256

  /// - Parameter version: The store's, of which nothing earlier is known.
  package init(version: Int64, maximumBytes: Int, maximumAge: Duration) {
    self.first = version
    self.maximumBytes = maximumBytes
    self.maximumAge = maximumAge
  }

  package mutating func replaced(
    at address: EntityAddress, version: StoredVersion, content: [UInt8], until: Int64
  ) {
    let bytes = content.count + address.path.bytes.count + Self.placeBytes
    self.pasts[address.collection, default: [:]][address.path, default: []].append(
      Past(version: version, until: until, content: content))
    self.places.append(Place(address: address, until: until, bytes: bytes))
    self.bytes += bytes
    let oldest = until - self.maximumAge.microseconds
    while self.head < self.places.count,
      self.bytes > self.maximumBytes || self.places[self.head].until < oldest
    {
      self.forgetFirst()
    }
    if self.head * 2 > self.places.count {
      self.places.removeFirst(self.head)
      self.head = 0
    }
  }

  private mutating func forgetFirst() {
    let place = self.places[self.head]
    self.head += 1
    self.bytes -= place.bytes
    self.first = max(self.first, place.until)
    self.remove(at: place.address) { $0.removeFirst() }
  }

  private mutating func remove(
    at address: EntityAddress, _ body: (inout Deque<Past>) -> Void
  ) {
    guard var pasts = self.pasts[address.collection]?[address.path] else { return }
    self.pasts[address.collection]?[address.path] = nil
    body(&pasts)
    if !pasts.isEmpty {
      self.pasts[address.collection]?[address.path] = pasts
    } else if self.pasts[address.collection]?.isEmpty == true {
      self.pasts[address.collection] = nil
    }
  }

  /// Commits after a version did not happen.
  package mutating func undone(after version: Int64) {
    while self.places.count > self.head, let place = self.places.last, place.until > version {
      self.places.removeLast()
      self.bytes -= place.bytes
      self.remove(at: place.address) { $0.removeLast() }
    }
  }

  /// What replaced what up to this version is not known.
  package mutating func lost(upTo version: Int64) {
    self.first = max(self.first, version)
  }

  /// Whether the store can be read as it was at a version.
  package func isKept(_ version: Int64) -> Bool { version >= self.first }

  /// What one entity was at a moment, where it has changed since.
  ///
  /// - Parameter visible: The version of the reader's view.
  package func entity(
    at address: EntityAddress, moment: Int64, visible: Int64
  ) -> Past? {
    self.pasts[address.collection]?[address.path]
      .flatMap { Self.past(in: $0, moment: moment, visible: visible) }
  }

  /// The same of all entities of a collection.
  package func entities(
    of collection: CollectionName, moment: Int64, visible: Int64
  ) -> [(path: PathBytes, past: Past)] {
    var found: [(path: PathBytes, past: Past)] = []
    for (path, pasts) in self.pasts[collection] ?? [:] {
      if let past = Self.past(in: pasts, moment: moment, visible: visible) {
        found.append((path, past))
      }
    }
    return found
  }

  private static func past(in pasts: Deque<Past>, moment: Int64, visible: Int64) -> Past? {
    // The first that was replaced after the moment.
    var (place, end) = (0, pasts.count)
    while place < end {
      let middle = (place + end) / 2
      if pasts[middle].until <= moment { place = middle + 1 } else { end = middle }
    }
    guard place < pasts.count else { return nil }
    let past = pasts[place]
    return past.version.version <= moment && past.until <= visible ? past : nil
  }
}
