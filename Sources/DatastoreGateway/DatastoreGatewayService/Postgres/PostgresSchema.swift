/// The form of the database, version 3: tables in a schema of our own. An older one becomes version 3
/// when a gateway opens it. Version 2 keeps no past; in version 1 entities have no checksum either,
/// and get it when they are written.
///
/// | table | holds |
/// | --- | --- |
/// | `facts` | `schema_version`; `last_version`: the greatest version that was given |
/// | | `next_id`: the counter of ids; `writer3:...`: the version of one writer's last batch |
/// | | `writer:...`: the same of one that keeps no past |
/// | `collections` | a number for each kind of each partition |
/// | `changes` | the version of the last change in each collection |
/// | `properties` | a number for each property of a collection that was ever indexed |
/// | `entities` | each entity: `google.datastore.v1.Entity`, as ``StoredContent`` has it |
/// | `property_rows` | each indexed value of each entity, in byte order |
/// | `reserved_ids` | keys whose ids must not be allocated |
/// | `past` | what entities were before they changed or went, from `version` until `until`; not logged |
/// | `past_begin` | one row: the earliest moment that `past` is whole for; not logged |
///
/// Paths, values and names stand in their indexes as ``CutKey`` tells; the `long_` columns have those
/// that were cut.
enum PostgresSchema {
  static let name = "millrace_datastore"
  static let version: Int64 = 3

  /// Of the lock under which the schema is made: "MLRS".
  private static let lock: Int64 = 0x4D4C_5253

  private static let statements =
    [
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
    ] + pastStatements

  /// What version 3 has more than version 2. The tables are not logged: they are empty after a crash
  /// of the server, both of them.
  private static let pastStatements = [
    """
    CREATE UNLOGGED TABLE past (
      collection bigint NOT NULL, path bytea NOT NULL, long_path bytea,
      version bigint NOT NULL, until bigint NOT NULL, created bigint NOT NULL,
      content bytea NOT NULL, PRIMARY KEY (collection, path, version))
    """,
    "CREATE INDEX past_ends ON past (collection, until)",
    """
    CREATE UNLOGGED TABLE past_begin (
      one boolean PRIMARY KEY DEFAULT true CHECK (one), version bigint NOT NULL)
      WITH (fillfactor = 20)
    """,
  ]

  /// Makes sure that the database is a store of this form, and makes it one if it is new.
  static func prepare(_ connection: PostgresConnection) throws(StoreFailure) {
    // One that is ready needs no right to write.
    if try self.isReady(connection) { return }
    try self.alone(connection) { () throws(StoreFailure) in
      // Another gateway may have made it while this one waited.
      if try !self.isReady(connection) { try self.create(connection) }
    }
  }

  /// Gives a store of an older form the present one; gateways that are open already go on.
  static func upgrade(_ connection: PostgresConnection) throws(StoreFailure) {
    if try self.form(connection) == self.version { return }
    try self.alone(connection) { () throws(StoreFailure) in
      guard let form = try self.form(connection), form < self.version else { return }
      for statement in self.pastStatements { _ = try connection.run(PostgresQuery(statement)) }
      _ = try connection.run(
        PostgresQuery(
          "UPDATE facts SET value = $1 WHERE name = 'schema_version'", .integer(self.version)))
    }
  }

  /// Changes the schema in a transaction, one gateway after the other.
  private static func alone(
    _ connection: PostgresConnection, _ body: () throws(StoreFailure) -> Void
  ) throws(StoreFailure) {
    do throws(StoreFailure) {
      _ = try connection.run([
        PostgresQuery("BEGIN"),
        PostgresQuery("SELECT pg_advisory_xact_lock($1)", .integer(self.lock)),
      ])
      try body()
      _ = try connection.run(PostgresQuery("COMMIT"))
    } catch {
      connection.rollBack()
      throw error
    }
  }

  private static func form(_ connection: PostgresConnection) throws(StoreFailure) -> Int64? {
    let versions = try connection.run(
      PostgresQuery("SELECT value FROM facts WHERE name = 'schema_version'"))
    return versions.count == 1 ? versions.integer(0, 0) : nil
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
    guard let form = try self.form(connection) else {
      throw StoreFailure(
        .corrupt,
        "\(connection.address): the schema \(self.name) is another program's; it stays as it is")
    }
    guard form <= self.version else {
      throw StoreFailure(
        .other,
        "\(connection.address): this store has form \(form), a newer gateway's; "
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
