import CPostgres

/// Where a database is, and how messages name it.
package struct PostgresAddress: Sendable, Hashable, CustomStringConvertible {
  /// `postgresql://USER:PASSWORD@HOST:PORT/DATABASE?...` as libpq reads it.
  let text: String
  /// Without the password.
  package let description: String

  /// Whether a text means a PostgreSQL database at all.
  package static func isOne(_ text: String) -> Bool {
    text.hasPrefix("postgresql://") || text.hasPrefix("postgres://")
  }

  package init(_ text: String) throws(StoreFailure) {
    self.text = text
    var message: UnsafeMutablePointer<CChar>?
    guard let options = PQconninfoParse(text, &message) else {
      let why = message.map { String(cString: $0) } ?? "out of memory"
      PQfreemem(message)
      throw StoreFailure(
        .other, "the store's address is none of a PostgreSQL database: \(singleLine(why))")
    }
    defer { PQconninfoFree(options) }
    var values: [String: String] = [:]
    var option = options
    while let keyword = option.pointee.keyword {
      if let value = option.pointee.val {
        values[String(cString: keyword)] = String(cString: value)
      }
      option += 1
    }
    let host = values["host"] ?? values["hostaddr"] ?? "localhost"
    var description = "PostgreSQL at \(host)"
    if let port = values["port"] { description += ":\(port)" }
    if let database = values["dbname"] { description += ", database \(database)" }
    self.description = description
  }
}

/// A message of libpq's as part of one line.
func singleLine(_ text: String) -> String {
  text.split(whereSeparator: \.isNewline)
    .map { $0.drop { $0 == " " || $0 == "\t" } }
    .joined(separator: "; ")
}
