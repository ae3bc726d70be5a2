import Domain
import Testing

@Test func aNewKeySaysWhenItWasChosenAndSortsByIt() {
  let moments = [0, 1_764_000_000_000, 1_764_000_000_001, 1 << 48 - 1].map {
    Timestamp(microseconds: $0 * 1_000)
  }
  let keys = moments.map { TimeOrderedKey.make(at: $0) }
  #expect(
    keys.map { TimeOrderedKey.milliseconds(of: $0) }
      == [0, 1_764_000_000_000, 1_764_000_000_001, 1 << 48 - 1])
  #expect(keys == keys.sorted())
  #expect(Set((0..<1_000).map { _ in TimeOrderedKey.make(at: moments[1]) }).count == 1_000)
}

/// RFC 9562, appendix A.6, in either case.
@Test(arguments: ["017F22E2-79B0-7CC3-98C4-DC0C0C07398F", "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"])
func theExampleOfTheRFCIsRead(_ key: String) {
  #expect(TimeOrderedKey.milliseconds(of: key) == 0x017f_22e2_79b0)
}

@Test(arguments: [
  "", "k", "017f22e2-79b0-4cc3-98c4-dc0c0c07398f", "017f22e2-79b0-7cc3-78c4-dc0c0c07398f",
  "017f22e2-79b0-7cc3-98c4-dc0c0c07398", "017f22e2-79b0-7cc3-98c4-dc0c0c07398g",
  "017f22e2_79b0-7cc3-98c4-dc0c0c07398f", "+17f22e2-79b0-7cc3-98c4-dc0c0c07398f",
  "017f22e279b0-7cc3-98c4-dc0c0c07398f-", "017f22e2-79b0-7cc3-98c4-dc0c0c0739é",
])
func whatIsNoUUIDOfVersionSevenSaysNoTime(_ key: String) {
  #expect(TimeOrderedKey.milliseconds(of: key) == nil)
}
