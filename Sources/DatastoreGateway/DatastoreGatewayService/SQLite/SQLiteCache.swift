import DatastoreGatewayCore
import Synchronization

/// What lookups found, for the threads that look up and the one that writes.
final class SQLiteCache: Sendable {
  private let cache: Mutex<EntityCache>
  private let file: String

  init(maximumBytes: Int, file: String) {
    self.file = file
    self.cache = Mutex(EntityCache(maximumBytes: maximumBytes))
  }

  var bytes: Int { self.cache.withLock { $0.bytes } }

  /// The answer to a lookup, if all of it is here and goes into one answer. To none of no keys: it asks
  /// for the store's version.
  func answer(_ addresses: [EntityAddress], maximumBytes: Int) -> LookupAnswer? {
    if addresses.isEmpty { return nil }
    let (found, version) = self.cache.withLock { ($0.found(addresses), $0.version) }
    guard let found, found.reduce(0, { $0 + ($1?.content.count ?? 0) }) < maximumBytes else {
      return nil
    }
    return LookupAnswer(
      entities: found.map { stored in
        stored.map { StoredEntity(content: $0.content, version: $0.version, place: self.file) }
      }, count: found.count, version: version)
  }

  /// Keeps what a reader has found.
  func read(_ addresses: [EntityAddress], _ answer: LookupAnswer) {
    self.cache.withLock { cache in
      for (address, stored) in zip(addresses, answer.entities) {
        cache.read(
          stored.map { EntityCache.Stored(content: $0.content, version: $0.version) },
          at: address, version: answer.version)
      }
    }
  }

  /// The writer, before anybody can see what it has changed.
  func changing(_ addresses: [EntityAddress], as version: Int64) {
    self.cache.withLock { $0.changing(addresses, as: version) }
  }
}
