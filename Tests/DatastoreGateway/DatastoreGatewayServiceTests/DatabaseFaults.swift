@testable import DatastoreGatewayService

extension TestDatabase {
  /// What a check finds to be wrong.
  func faults() throws -> [String] {
    try StoreCheck.run(PostgresSnapshot(try self.address)).faults
  }
}
