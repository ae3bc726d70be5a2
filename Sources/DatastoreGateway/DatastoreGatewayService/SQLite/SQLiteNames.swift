import CSQLite
import DatastoreGatewayCore

/// The numbers of collections and properties in one file, as one connection has come to know them.
/// They never change once they are committed.
struct SQLiteNames {
  private struct PropertyName: Hashable {
    var collection: Int64
    var name: Name
  }

  private var collections: [CollectionName: Int64] = [:]
  private var properties: [PropertyName: Int64] = [:]

  /// Names that are kept in memory; with more, all are forgotten and learnt again.
  private static let maximumNames = 100_000

  mutating func forget() {
    self.collections.removeAll()
    self.properties.removeAll()
  }

  /// `nil` if nothing was ever stored there.
  mutating func collection(
    _ name: CollectionName, on connection: SQLiteConnection
  ) throws(StoreFailure) -> Int64? {
    if let id = self.collections[name] { return id }
    let id = try connection.with("SELECT id FROM collections WHERE name = ?") {
      (statement) throws(StoreFailure) -> Int64? in
      try statement.bind(1, name.bytes)
      return try statement.step() ? statement.integer(0) : nil
    }
    if self.collections.count >= Self.maximumNames { self.collections.removeAll() }
    self.collections[name] = id
    return id
  }

  mutating func property(
    _ name: Name, of collection: Int64, on connection: SQLiteConnection
  ) throws(StoreFailure) -> Int64? {
    let key = PropertyName(collection: collection, name: name)
    if let id = self.properties[key] { return id }
    let id = try connection.with("SELECT id FROM properties WHERE collection = ? AND name = ?") {
      (statement) throws(StoreFailure) -> Int64? in
      statement.bind(1, collection)
      try statement.bind(2, Array(name.text.utf8))
      return try statement.step() ? statement.integer(0) : nil
    }
    if self.properties.count >= Self.maximumNames { self.properties.removeAll() }
    self.properties[key] = id
    return id
  }

  /// As ``collection(_:on:)``, and made if there is none.
  mutating func collectionForWriting(
    _ name: CollectionName, on connection: SQLiteConnection
  ) throws(StoreFailure) -> Int64 {
    if let id = try self.collection(name, on: connection) { return id }
    let id = try connection.with("INSERT INTO collections (name) VALUES (?)") {
      (statement) throws(StoreFailure) -> Int64 in
      try statement.bind(1, name.bytes)
      _ = try statement.step()
      return connection.lastInsertedRow
    }
    self.collections[name] = id
    return id
  }

  mutating func propertyForWriting(
    _ name: Name, of collection: Int64, on connection: SQLiteConnection
  ) throws(StoreFailure) -> Int64 {
    if let id = try self.property(name, of: collection, on: connection) { return id }
    let id = try connection.with("INSERT INTO properties (collection, name) VALUES (?, ?)") {
      (statement) throws(StoreFailure) -> Int64 in
      statement.bind(1, collection)
      try statement.bind(2, Array(name.text.utf8))
      _ = try statement.step()
      return connection.lastInsertedRow
    }
    self.properties[PropertyName(collection: collection, name: name)] = id
    return id
  }
}
