import SchedulerCore
import Testing

@Suite struct FingerprintTests {
  /// Of the SHA-256 of "team/app", a NUL and "key-1", as Python's base64.b32encode has it: ids of builds
  /// are made so, and must be the same in every version.
  @Test func itsTextIsBase32() {
    let hash: [UInt8] = [100, 29, 124, 99, 232, 63, 16, 207, 156, 165, 228, 216, 1]
    #expect(Fingerprint(hash: hash).text == "mqoxyy7ih4im7hff4tma")
  }

  @Test func itsTextIsReadAgain() {
    for _ in 0..<1_000 {
      let print = Fingerprint(hash: (0..<32).map { _ in UInt8.random(in: 0...255) })
      #expect(Fingerprint(print.text) == print)
    }
    let ends = ["aaaaaaaaaaaaaaaaaaaa", "77777777777777777777", "baaaaaaaaaaaaaaaaaab"]
    for text in ends { #expect(Fingerprint(text)?.text == text) }
  }

  @Test(arguments: [
    "", "a", "aaaaaaaaaaaaaaaaaaaaa", "Aaaaaaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaaaaa1",
  ])
  func otherTextsAreNone(text: String) {
    #expect(Fingerprint(text) == nil)
  }
}
