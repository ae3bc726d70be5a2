import Domain
import Testing

private let texts = [
  "", "b1", "0", "00000000000000000000", "zzzzzzzzzzzzzzzzzzzz", "o5xjyzb2cs26shidtj33",
  "01fshe4udgjf547r55i3", "01fshe4udgjf547r55i", "01fshe4udgjf547r55i33", "01FSHE4UDGJF547R55I3",
  "01fshe4udg-f547r55i3", "01fshe4udgjf547r55\u{e9}", "zzzzzzzzzz0000000000",
  "0000000000zzzzzzzzzz",
  "0000000001000000000z", "abcdefghij_lmnopqrst", "00000000000000000001",
]

@Test(arguments: texts) func aBuildIDIsItsText(_ text: String) {
  #expect(BuildID(text).rawValue == text)
  #expect("\(BuildID(text))" == text)
}

@Test func buildIDsAreEqualAndSortedAsTheirTextsAre() {
  for left in texts {
    for right in texts {
      #expect((BuildID(left) == BuildID(right)) == (left == right), "\(left) \(right)")
      #expect((BuildID(left) < BuildID(right)) == (left < right), "\(left) \(right)")
    }
  }
  #expect(Set(texts.map { BuildID($0) }).count == texts.count)
}

@Test func anyTwentyLettersAndDigitsComeBack() {
  var generator = SystemRandomNumberGenerator()
  let digits = Array("0123456789abcdefghijklmnopqrstuvwxyz")
  for _ in 0..<2_000 {
    let text = String((0..<20).map { _ in digits.randomElement(using: &generator)! })
    #expect(BuildID(text).rawValue == text)
  }
}

@Test func aBuildIDTakesSixteenBytes() {
  #expect(MemoryLayout<BuildID>.stride == 16)
  #expect(MemoryLayout<BuildID?>.stride == 16)
}
