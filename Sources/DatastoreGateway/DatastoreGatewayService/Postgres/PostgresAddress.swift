import CPostgres

/// Where a database is, and how messages name it.
package struct PostgresAddress: Sendable, Hashable, CustomStringConvertible {
  /// Without the password.
  package let description: String
  /// All that it says but where the hosts are.
  let parameters: [Parameter]
  /// For each of its hosts, in their order, what tells libpq to go there alone: libpq tries one behind the other
  /// too, but leaves it to its caller to give up on one that does not answer.
  let hosts: [[Parameter]]
  /// How long one host may take to let us in (`connect_timeout`); nil: not said.
  let connectTimeout: Duration?

  /// A parameter of a connection, as libpq calls it.
  struct Parameter: Sendable, Hashable {
    var keyword: String
    var value: String
  }

  /// Whether a text means a PostgreSQL database at all.
  package static func isOne(_ text: String) -> Bool {
    text.hasPrefix("postgresql://") || text.hasPrefix("postgres://")
  }

  /// - Parameter text: `postgresql://USER:PASSWORD@HOST:PORT/DATABASE?...` as libpq reads it.
  package init(_ text: String) throws(StoreFailure) {
    var message: UnsafeMutablePointer<CChar>?
    guard let options = PQconninfoParse(text, &message) else {
      // Its message quotes what it does not understand, a password perhaps.
      PQfreemem(message)
      throw StoreFailure(
        .other,
        "the store's address is none of a PostgreSQL database: libpq does not understand it (special "
          + "characters, a password's too, are to be percent-encoded)")
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
    let ports = values["port"]?.split(separator: ",") ?? []
    guard !host.contains("@"), ports.allSatisfy({ UInt16($0) != nil }) else {
      // Parts of a password, perhaps.
      throw StoreFailure(
        .other,
        "the store's address is none of a PostgreSQL database: its host has an \"@\" or its port is no "
          + "number (special characters of a user's name or a password are to be percent-encoded)")
    }
    self.hosts = Self.hosts(values)
    self.parameters = values.filter { !Self.places.contains($0.key) }
      .map { Parameter(keyword: $0.key, value: $0.value) }.sorted { $0.keyword < $1.keyword }
    self.connectTimeout = values["connect_timeout"].flatMap { Int($0) }
      .flatMap { $0 > 0 ? .seconds($0) : nil }
    var description = "PostgreSQL at \(host)"
    if let port = values["port"] { description += ":\(port)" }
    if let database = values["dbname"] { description += ", database \(database)" }
    self.description = description
  }

  private static let places = ["host", "hostaddr", "port"]

  private static func hosts(_ values: [String: String]) -> [[Parameter]] {
    let lists = Self.places.map { keyword in
      let parts = values[keyword]?.split(separator: ",", omittingEmptySubsequences: false) ?? []
      return (keyword: keyword, parts: parts.map { String($0) })
    }
    let count = lists.map(\.parts.count).max() ?? 0
    return (0..<max(1, count)).map { number in
      // One port is every host's. What is empty is as if it were not there.
      lists.compactMap { keyword, parts in
        let part = parts.count == 1 ? parts[0] : number < parts.count ? parts[number] : ""
        return part.isEmpty ? nil : Parameter(keyword: keyword, value: part)
      }
    }
  }
}

/// A message of libpq's as part of one line.
func singleLine(_ text: String) -> String {
  text.split(whereSeparator: \.isNewline)
    .map { $0.drop { $0 == " " || $0 == "\t" } }
    .joined(separator: "; ")
}
