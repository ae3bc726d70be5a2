import DatastoreGatewayCore
import Domain
import Testing

private func written(_ version: Int64) -> StoredVersion {
  StoredVersion(version: version, createTime: Timestamp(microseconds: 1))
}

private func table(bytes: Int = 1 << 20, age: Duration = .seconds(10)) -> PastTable {
  PastTable(version: 100, maximumBytes: bytes, maximumAge: age)
}

extension PastTable {
  fileprivate mutating func replaced(_ id: Int64, _ from: Int64, until: Int64, bytes: Int = 1) {
    self.replaced(
      at: key(id).address, version: written(from),
      content: Array(repeating: UInt8(truncatingIfNeeded: from), count: bytes), until: until)
  }

  /// The version that an entity had where it has changed since.
  fileprivate func version(_ id: Int64, at moment: Int64, visible: Int64 = .max) -> Int64? {
    self.entity(at: key(id).address, moment: moment, visible: visible)?.version.version
  }
}

@Suite struct PastTables {
  @Test func anEntityIsWhatItWasBetweenTwoCommits() {
    var table = table()
    table.replaced(1, 90, until: 110)
    table.replaced(1, 110, until: 120)
    #expect(table.version(1, at: 100) == 90)
    #expect(table.version(1, at: 109) == 90)
    #expect(table.version(1, at: 110) == 110)
    #expect(table.version(1, at: 119) == 110)
    // What is, is no past; and before it was there is none.
    #expect(table.version(1, at: 120) == nil)
    #expect(table.version(1, at: 89) == nil)
    #expect(table.version(2, at: 100) == nil)
  }

  @Test func aReaderWhoDoesNotSeeACommitSeesWhatItReplaced() {
    var table = table()
    table.replaced(1, 90, until: 110)
    #expect(table.version(1, at: 105, visible: 109) == nil)
    #expect(table.version(1, at: 105, visible: 110) == 90)
  }

  @Test func allOfACollectionAreFound() {
    var table = table()
    table.replaced(1, 90, until: 110)
    table.replaced(2, 95, until: 111)
    table.replaced(3, 109, until: 112)
    let found = table.entities(of: key(1).collection, moment: 100, visible: .max)
    #expect(Set(found.map(\.path)) == [key(1).pathBytes, key(2).pathBytes])
  }

  @Test func whatIsTooMuchOrTooOldIsForgotten() {
    var table = table(bytes: 3_000)
    #expect(!table.isKept(99))
    #expect(table.isKept(100))
    for id in 1...5 as ClosedRange<Int64> {
      table.replaced(id, 90, until: 100 + id, bytes: 700)
    }
    #expect(table.bytes <= 3_000)
    // Room is for three: the first two went.
    #expect(table.first == 102)
    #expect(table.version(2, at: 100) == nil)
    #expect(table.version(3, at: 102) == 90)
    table.replaced(6, 90, until: 10_000_105, bytes: 1)
    #expect(table.first == 104)
    #expect(table.isKept(104))
  }

  @Test func aCommitThatFailedReplacedNothing() {
    var table = table()
    table.replaced(1, 90, until: 110)
    table.replaced(1, 110, until: 120)
    table.replaced(2, 90, until: 120)
    table.undone(after: 110)
    #expect(table.version(1, at: 115) == nil)
    #expect(table.version(2, at: 100) == nil)
    #expect(table.version(1, at: 100) == 90)
    table.replaced(1, 110, until: 130)
    #expect(table.version(1, at: 125) == 110)
    table.undone(after: 0)
    #expect(table.bytes == 0)
  }

  @Test func whatIsNotKnownIsNotTold() {
    var table = table()
    table.lost(upTo: 150)
    #expect(!table.isKept(149))
    #expect(table.isKept(150))
  }
}
