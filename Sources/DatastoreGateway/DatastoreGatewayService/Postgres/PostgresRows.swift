import CPostgres

/// What a statement answered, in PostgreSQL's binary form.
final class PostgresRows {
  private let handle: OpaquePointer
  let count: Int

  /// - Parameter handle: A result of libpq's, which is this object's from now on.
  init(_ handle: OpaquePointer) {
    self.handle = handle
    self.count = Int(PQntuples(handle))
  }

  deinit { PQclear(self.handle) }

  func isNull(_ row: Int, _ column: Int) -> Bool {
    PQgetisnull(self.handle, Int32(row), Int32(column)) != 0
  }

  private func raw(_ row: Int, _ column: Int) -> UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(
      start: PQgetvalue(self.handle, Int32(row), Int32(column)),
      count: Int(PQgetlength(self.handle, Int32(row), Int32(column))))
  }

  /// A `bigint`.
  func integer(_ row: Int, _ column: Int) -> Int64 {
    let raw = self.raw(row, column)
    // Our bug: the statement's column is of another type.
    precondition(raw.count == 8, "Column \(column) has \(raw.count) bytes and is no bigint")
    return Int64(bigEndian: raw.loadUnaligned(as: Int64.self))
  }

  /// What the only row says.
  ///
  /// - Parameter what: For the message, if there is none.
  func onlyInteger(_ what: String, in place: String) throws(StoreFailure) -> Int64 {
    guard self.count == 1 else { throw StoreFailure(.corrupt, "\(place): \(what) is missing") }
    return self.integer(0, 0)
  }

  func flag(_ row: Int, _ column: Int) -> Bool { self.raw(row, column).first == 1 }

  func bytes(_ row: Int, _ column: Int) -> [UInt8] { Array(self.raw(row, column)) }

  /// `nil` for NULL.
  func optionalBytes(_ row: Int, _ column: Int) -> [UInt8]? {
    self.isNull(row, column) ? nil : self.bytes(row, column)
  }

  func text(_ row: Int, _ column: Int) -> String {
    String(decoding: self.raw(row, column), as: UTF8.self)
  }
}
