/// The form of the file, version 2. Version 1 is the same, with entities that have no checksum; it
/// becomes version 2 when it is opened, and entities get their checksums when they are written.
///
/// | table | holds |
/// | --- | --- |
/// | `facts` | `last_version`: the greatest version that was given; `next_id`: the counter of ids |
/// | `collections` | a number for each kind of each partition (``CollectionName``) |
/// | `properties` | a number for each property of a collection that was ever indexed |
/// | `entities` | each entity: `google.datastore.v1.Entity`, as ``StoredContent`` has it |
/// | `property_rows` | each indexed value of each entity, in byte order |
/// | `reserved_ids` | keys whose ids must not be allocated |
///
/// The unique index of `entities` is the index of each kind by key, too.
enum SQLiteSchema {
  /// "MLRS", in the file's header.
  static let applicationID: Int64 = 0x4D4C_5253
  static let version: Int64 = 2

  private static let statements = [
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "INSERT INTO facts VALUES ('last_version', 0), ('next_id', 0)",
    "CREATE TABLE collections (id INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE)",
    """
    CREATE TABLE properties (
      id INTEGER PRIMARY KEY, collection INTEGER NOT NULL, name BLOB NOT NULL,
      UNIQUE (collection, name))
    """,
    """
    CREATE TABLE entities (
      id INTEGER PRIMARY KEY, collection INTEGER NOT NULL, path BLOB NOT NULL,
      version INTEGER NOT NULL, created INTEGER NOT NULL, content BLOB NOT NULL,
      UNIQUE (collection, path))
    """,
    """
    CREATE TABLE property_rows (
      property INTEGER NOT NULL, value BLOB NOT NULL, path BLOB NOT NULL,
      entity INTEGER NOT NULL, repeated INTEGER NOT NULL,
      PRIMARY KEY (property, value, path)) WITHOUT ROWID
    """,
    """
    CREATE TABLE reserved_ids (
      collection INTEGER NOT NULL, path BLOB NOT NULL,
      PRIMARY KEY (collection, path)) WITHOUT ROWID
    """,
    "PRAGMA application_id = \(SQLiteSchema.applicationID)",
    "PRAGMA user_version = \(SQLiteSchema.version)",
  ]

  /// Makes sure that the file is a store of this form, and makes it one if it is new.
  static func prepare(_ connection: SQLiteConnection) throws(StoreFailure) {
    try connection.execute("BEGIN IMMEDIATE")
    do throws(StoreFailure) {
      try self.prepareInTransaction(connection)
      try connection.execute("COMMIT")
    } catch {
      try? connection.execute("ROLLBACK")
      throw error
    }
  }

  private static func prepareInTransaction(
    _ connection: SQLiteConnection
  ) throws(StoreFailure) {
    let application = try connection.integer("PRAGMA application_id")
    let version = try connection.integer("PRAGMA user_version")
    let tables = try connection.integer("SELECT COUNT(*) FROM sqlite_schema")
    if application == 0 && version == 0 && tables == 0 {
      for statement in self.statements { try connection.execute(text: statement) }
      return
    }
    try self.expect(connection)
    if version < self.version {
      try connection.execute(text: "PRAGMA user_version = \(self.version)")
    }
  }

  /// Makes sure that the file is a store of this form.
  static func expect(_ connection: SQLiteConnection) throws(StoreFailure) {
    let application = try connection.integer("PRAGMA application_id")
    let version = try connection.integer("PRAGMA user_version")
    guard application == self.applicationID else {
      throw StoreFailure(
        .corrupt, "\(connection.path): this is a database of another program; it stays as it is")
    }
    guard version <= self.version else {
      throw StoreFailure(
        .other,
        "\(connection.path): this store has form \(version), a newer gateway's; this one knows "
          + "forms up to \(self.version)")
    }
  }
}
