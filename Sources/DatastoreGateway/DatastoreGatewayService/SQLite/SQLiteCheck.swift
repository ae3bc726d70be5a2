import BuildProtos
import DatastoreGatewayCore

/// Whether a store's file is whole: its pages, its entities, and its indexes against its entities.
///
/// Reads one moment of the file; a gateway may go on writing it meanwhile.
package struct SQLiteCheck {
  /// What was looked at, and what is wrong.
  package struct Report: Sendable, Hashable {
    package var entities = 0
    package var indexRows = 0
    /// One sentence each; the first ``SQLiteCheck/listedFaults`` of them.
    package var faults: [String] = []
    package var faultCount = 0

    package var isWhole: Bool { self.faultCount == 0 }

    mutating func add(_ fault: String) {
      self.faultCount += 1
      if self.faults.count < SQLiteCheck.listedFaults { self.faults.append(fault) }
    }
  }

  package static let listedFaults = 100
  private static let progressStep = 100_000

  private let connection: SQLiteConnection
  private let progress: (Report) -> Void
  private var names = SQLiteNames()
  private var report = Report()

  /// Checks the file at `path`.
  ///
  /// - Parameter progress: Told of what was looked at so far, every hundred thousand entities.
  /// - Throws: `StoreFailure`: the file cannot be opened or read, or is no store.
  package static func run(
    path: String, progress: @escaping (Report) -> Void = { _ in }
  ) throws(StoreFailure) -> Report {
    let connection = try SQLiteConnection(path: path, mode: .readOnly, lockPatience: .seconds(10))
    var check = SQLiteCheck(connection: connection, progress: progress)
    try connection.execute("BEGIN")
    do throws(StoreFailure) {
      try check.checkAll()
      try connection.execute("COMMIT")
    } catch {
      try? connection.execute("ROLLBACK")
      throw error
    }
    return check.report
  }

  private init(connection: SQLiteConnection, progress: @escaping (Report) -> Void) {
    self.connection = connection
    self.progress = progress
  }

  private mutating func checkAll() throws(StoreFailure) {
    try SQLiteSchema.expect(self.connection)
    try self.checkPages()
    try self.checkEntities()
    let rows = Int(try self.connection.integer("SELECT COUNT(*) FROM property_rows"))
    // Each row that was found belongs to an entity, so others are there only if there are more.
    if rows != self.report.indexRows { try self.findStrayRows() }
  }

  private mutating func checkPages() throws(StoreFailure) {
    let lines = try self.connection.with("PRAGMA integrity_check") {
      (statement) throws(StoreFailure) -> [String] in
      var lines: [String] = []
      while try statement.step() {
        lines.append(String(decoding: statement.bytes(0), as: UTF8.self))
      }
      return lines
    }
    for line in lines where line != "ok" { self.report.add("SQLite: \(line)") }
  }

  private mutating func checkEntities() throws(StoreFailure) {
    let last = try self.connection.integer("SELECT value FROM facts WHERE name = 'last_version'")
    let statement = try self.connection.take(
      """
      SELECT entities.id, collection, path, version, created, content, name
        FROM entities LEFT JOIN collections ON collections.id = collection ORDER BY entities.id
      """)
    defer { self.connection.giveBack(statement) }
    while try statement.step() {
      self.report.entities += 1
      if self.report.entities.isMultiple(of: Self.progressStep) { self.progress(self.report) }
      let row = statement.integer(0)
      let (version, created) = (statement.integer(3), statement.integer(4))
      if version > last {
        self.report.add("entity \(row) has version \(version), beyond the last one, \(last)")
      }
      if created > version {
        self.report.add("entity \(row) was made at version \(created), behind its own, \(version)")
      }
      let entity: Entity
      do throws(StoreFailure) {
        entity = try DatastoreV1.Entity(stored: statement.bytes(5), in: "entity \(row)")
          .core(in: "entity \(row)")
      } catch {
        self.report.add("\(error)")
        continue
      }
      guard entity.key.isComplete, entity.key.address.path.bytes == statement.bytes(2),
        entity.key.address.collection.bytes == statement.bytes(6)
      else {
        self.report.add("entity \(row) is stored under another key than its own, \(entity.key)")
        continue
      }
      try self.checkRows(of: entity, row, in: statement.integer(1))
    }
  }

  private mutating func checkRows(
    of entity: Entity, _ row: Int64, in collection: Int64
  ) throws(StoreFailure) {
    let path = entity.key.address.path.bytes
    for entry in entity.indexEntries {
      let property = try self.names.property(entry.property, of: collection, on: self.connection)
      let found = try property.map { (property) throws(StoreFailure) -> Bool in
        try self.connection.with(
          """
          SELECT entity, repeated FROM property_rows WHERE property = ? AND value = ? AND path = ?
          """
        ) { (statement) throws(StoreFailure) -> Bool in
          statement.bind(1, property)
          try statement.bind(2, entry.value)
          try statement.bind(3, path)
          return try statement.step() && statement.integer(0) == row
            && (statement.integer(1) != 0) == entry.isRepeated
        }
      }
      if found == true {
        self.report.indexRows += 1
      } else {
        self.report.add("the index of \(entry.property) has no right row for \(entity.key)")
      }
    }
  }

  /// Names rows of indexes that no entity has.
  private mutating func findStrayRows() throws(StoreFailure) {
    let statement = try self.connection.take(
      """
      SELECT properties.name, value, property_rows.path, entity, content
        FROM property_rows LEFT JOIN properties ON properties.id = property
        LEFT JOIN entities ON entities.id = entity
      """)
    defer { self.connection.giveBack(statement) }
    while try statement.step() {
      let property = Name(String(decoding: statement.bytes(0), as: UTF8.self))
      let row = statement.integer(3)
      let content = statement.bytes(4)
      let entity = try? DatastoreV1.Entity(stored: content, in: "").core(in: "")
      let isOwned =
        !content.isEmpty
        && entity.map { entity in
          entity.key.address.path.bytes == statement.bytes(2)
            && entity.indexedValue(of: property, at: statement.bytes(1)) != nil
        } ?? false
      if !isOwned {
        self.report.add(
          "the index of \(property) has a row for entity \(row), which has no such value")
      }
    }
  }
}
