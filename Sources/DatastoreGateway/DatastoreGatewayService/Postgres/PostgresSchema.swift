/// The form of the database, version 2: tables in a schema of our own. Version 1 is the same, with
/// entities that have no checksum; it becomes version 2 when a gateway opens it, and entities get
/// their checksums when they are written.
///
/// | table | holds |
/// | --- | --- |
/// | `facts` | `schema_version`; `last_version`: the greatest version that was given |
/// | | `next_id`: the counter of ids; `writer:...`: the version of one writer's last batch |
/// | `collections` | a number for each kind of each partition |
/// | `changes` | the version of the last change in each collection |
/// | `properties` | a number for each property of a collection that was ever indexed |
/// | `entities` | each entity: `google.datastore.v1.Entity`, as ``StoredContent`` has it |
/// | `property_rows` | each indexed value of each entity, in byte order |
/// | `reserved_ids` | keys whose ids must not be allocated |
///
/// Paths, values and names stand in their indexes as ``CutKey`` tells; the `long_` columns have those
/// that were cut.
enum PostgresSchema {
  static let name = "millrace_datastore"
  static let version: Int64 = 2

  /// Of the lock under which the schema is made: "MLRS".
  private static let lock: Int64 = 0x4D4C_5253

  private static let statements = [
    // Rows that change with every batch change in place while their page has room.
    """
    CREATE TABLE facts (name text PRIMARY KEY, value bigint NOT NULL) WITH (fillfactor = 20)
    """,
    """
    CREATE TABLE collections (
      id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name_key bytea NOT NULL UNIQUE,
      name bytea NOT NULL)
    """,
    """
    CREATE TABLE changes (collection bigint PRIMARY KEY, version bigint NOT NULL)
      WITH (fillfactor = 20)
    """,
    """
    CREATE TABLE properties (
      id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, collection bigint NOT NULL,
      name_key bytea NOT NULL, name bytea NOT NULL, UNIQUE (collection, name_key))
    """,
    """
    CREATE TABLE entities (
      collection bigint NOT NULL, path bytea NOT NULL, long_path bytea,
      version bigint NOT NULL, created bigint NOT NULL, content bytea NOT NULL,
      PRIMARY KEY (collection, path)) WITH (fillfactor = 85)
    """,
    """
    CREATE TABLE property_rows (
      property bigint NOT NULL, value bytea NOT NULL, path bytea NOT NULL, long_value bytea,
      long_path bytea, repeated boolean NOT NULL, PRIMARY KEY (property, value, path))
    """,
    """
    CREATE TABLE reserved_ids (
      collection bigint NOT NULL, path bytea NOT NULL, PRIMARY KEY (collection, path))
    """,
    """
    INSERT INTO facts VALUES
      ('schema_version', \(PostgresSchema.version)), ('last_version', 0), ('next_id', 0)
    """,
  ]

  /// Makes sure that the database is a store of this form, and makes it one if it is new.
  static func prepare(_ connection: PostgresConnection) throws(StoreFailure) {
    // One that is ready needs no right to write.
    if try self.isReady(connection) { return }
    do throws(StoreFailure) {
      _ = try connection.run([
        PostgresQuery("BEGIN"),
        PostgresQuery("SELECT pg_advisory_xact_lock($1)", .integer(self.lock)),
      ])
      // Another gateway may have made it while this one waited.
      if try !self.isReady(connection) { try self.create(connection) }
      _ = try connection.run(PostgresQuery("COMMIT"))
    } catch {
      connection.rollBack()
      throw error
    }
  }

  /// Gives a store of an older form the present one; those that are open already go on.
  static func upgrade(_ connection: PostgresConnection) throws(StoreFailure) {
    _ = try connection.run(
      PostgresQuery(
        "UPDATE facts SET value = $1 WHERE name = 'schema_version' AND value < $1",
        .integer(self.version)))
  }

  /// Whether there is a store of a form that is known.
  static func isReady(_ connection: PostgresConnection) throws(StoreFailure) -> Bool {
    let found = try connection.run(
      PostgresQuery(
        """
        SELECT to_regclass('\(self.name).facts') IS NOT NULL,
          (SELECT count(*) FROM pg_class
            WHERE relnamespace = to_regnamespace('\(self.name)')::oid)
        """))
    guard found.flag(0, 0) else {
      if found.integer(0, 1) > 0 {
        throw StoreFailure(
          .corrupt,
          "\(connection.address): the schema \(self.name) is another program's; it stays as it is")
      }
      return false
    }
    let versions = try connection.run(
      PostgresQuery("SELECT value FROM facts WHERE name = 'schema_version'"))
    guard versions.count == 1 else {
      throw StoreFailure(
        .corrupt,
        "\(connection.address): the schema \(self.name) is another program's; it stays as it is")
    }
    guard versions.integer(0, 0) <= self.version else {
      throw StoreFailure(
        .other,
        "\(connection.address): this store has form \(versions.integer(0, 0)), a newer gateway's; "
          + "this one knows forms up to \(self.version)")
    }
    return true
  }

  private static func create(_ connection: PostgresConnection) throws(StoreFailure) {
    let isThere = try connection.run(
      PostgresQuery("SELECT to_regnamespace('\(self.name)') IS NOT NULL"))
    if !isThere.flag(0, 0) {
      _ = try connection.run(PostgresQuery("CREATE SCHEMA \(self.name)"))
    }
    // One by one: each names tables that those before it have made.
    for statement in self.statements { _ = try connection.run(PostgresQuery(statement)) }
  }
}
