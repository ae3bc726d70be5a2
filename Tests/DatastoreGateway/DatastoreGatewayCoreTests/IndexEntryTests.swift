import Testing

@testable import DatastoreGatewayCore

@Suite struct IndexEntryTests {
  private static func entries(_ text: String) -> [IndexEntry] {
    text.split(separator: " ").map { word in
      let isRepeated = word.hasSuffix("*")
      let parts = word.dropLast(isRepeated ? 1 : 0).split(separator: "=")
      return IndexEntry(
        property: Name(String(parts[0])), value: Array(parts[1].utf8), isRepeated: isRepeated)
    }
  }

  @Test(arguments: [
    ("", "", "", ""),
    ("", "a=1 b=2", "", "a=1 b=2"),
    ("a=1 b=2", "", "a=1 b=2", ""),
    ("a=1 b=2", "a=1 b=2", "", ""),
    ("a=1 b=2 d=4", "a=1 b=3 c=1 d=4", "b=2", "b=3 c=1"),
    ("a=2", "a=1 a=3", "a=2", "a=1 a=3"),
    // The same row, but the entity has got a second value of the property.
    ("a=1", "a=1* a=2*", "a=1", "a=1* a=2*"),
    ("a=1* a=2* b=1", "a=2 b=1", "a=1* a=2*", "a=2"),
    ("b=1", "a=9", "b=1", "a=9"),
  ])
  func whatGoesAndWhatComes(before: String, after: String, gone: String, new: String) {
    let differences = Self.entries(before).differences(to: Self.entries(after))
    #expect(differences.gone == Self.entries(gone))
    #expect(differences.new == Self.entries(new))
  }
}
