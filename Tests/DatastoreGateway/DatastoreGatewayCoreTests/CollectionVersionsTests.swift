import DatastoreGatewayCore
import Testing

private func name(_ index: Int) -> CollectionName {
  CollectionName(bytes: [UInt8(index >> 8), UInt8(index & 0xff)])
}

@Suite struct CollectionVersionsTests {
  @Test func whatIsNotKnownIsAsOldAsTheBeginning() {
    var versions = CollectionVersions(since: 100, span: .microseconds(50))
    #expect(versions.hasChanged(name(1), since: 99))
    #expect(!versions.hasChanged(name(1), since: 100))
    versions.changed(name(1), at: 110)
    #expect(versions.hasChanged(name(1), since: 109))
    #expect(!versions.hasChanged(name(1), since: 110))
    #expect(!versions.hasChanged(name(2), since: 100))
  }

  @Test func aPrefixIsChangedWithWhatIsBelow() {
    var versions = CollectionVersions(since: 100, span: .microseconds(50))
    versions.changed(name(0x0203), at: 120)
    #expect(versions.change(below: [2], since: 119)?.collection == name(0x0203))
    #expect(versions.change(below: [2], since: 120) == nil)
    #expect(versions.change(below: [3], since: 100) == nil)
    #expect(versions.change(below: [3], since: 99) != nil)
  }

  /// No change that a living transaction may ask for is forgotten, and none is told that did not happen.
  @Test func oldChangesAreForgottenWhereThereAreMany() {
    let span: Int64 = 1_000
    var versions = CollectionVersions(since: 0, span: .microseconds(span), atMost: 100)
    var truth: [Int: Int64] = [:]
    var most = 0
    for version in 1...20_000 as ClosedRange<Int64> {
      let index = Int(version) % 7_000
      versions.changed(name(index), at: version)
      truth[index] = version
      most = max(most, versions.count)
      guard version % 97 == 0 else { continue }
      for asked in [index, (index + 6_500) % 7_000, (index + 500) % 7_000] {
        for since in [version - 1, version - 400, version - span + 1] where since >= 0 {
          let happened = truth[asked] ?? 0 > since
          #expect(versions.hasChanged(name(asked), since: since) == happened)
        }
      }
    }
    // Twice those of the span, and what has come since.
    #expect(most <= 2 * Int(span) + 1)
  }

  @Test func fewAreKeptHoweverOld() {
    var versions = CollectionVersions(since: 0, span: .microseconds(10), atMost: 100)
    versions.changed(name(0), at: 5)
    for index in 1...99 { versions.changed(name(index), at: 1_000 + Int64(index)) }
    #expect(!versions.hasChanged(name(0), since: 5))
    #expect(versions.count == 100)
  }
}
