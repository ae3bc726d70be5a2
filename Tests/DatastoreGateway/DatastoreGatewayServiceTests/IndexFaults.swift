import BuildProtos
import DatastoreGatewayCore
import RPC

@testable import DatastoreGatewayService

extension TestDatabase {
  /// Index rows that the entities of the database do not have, and those that they lack.
  func indexFaults() throws -> Set<String> {
    let schema = PostgresSchema.name
    var expected: Set<String> = []
    for row in try self.execute(
      "SELECT collection, encode(path, 'hex'), encode(content, 'hex') FROM \(schema).entities")
    {
      let entity = try DatastoreV1.Entity(decoding: Self.bytes(row[2]))
      for entry in try entity.indexEntries(in: "the test") {
        let value = CutKey(entry.value, .value).stored
        expected.insert(
          [
            row[0], Self.hexadecimal(Array(entry.property.text.utf8)), Self.hexadecimal(value),
            row[1], entry.isRepeated ? "t" : "f",
          ].joined(separator: " "))
      }
    }
    let stored = try self.execute(
      """
      SELECT collection, encode(name, 'hex'), encode(value, 'hex'), encode(path, 'hex'), repeated
        FROM \(schema).property_rows JOIN \(schema).properties ON id = property
      """)
    return expected.symmetricDifference(stored.map { $0.joined(separator: " ") })
  }

  private static func bytes(_ hexadecimal: String) -> [UInt8] {
    let digits = hexadecimal.utf8.map { $0 < 0x3A ? $0 - 0x30 : $0 - 0x57 }
    return stride(from: 0, to: digits.count, by: 2).map { digits[$0] << 4 | digits[$0 + 1] }
  }

  private static func hexadecimal(_ bytes: [UInt8]) -> String {
    bytes.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
  }
}
