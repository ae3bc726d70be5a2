extension String {
  /// Words that are looked at for a suggestion, and characters of a word that can be misspelt: a
  /// suggestion is a courtesy, and comparing takes the product of the words' lengths.
  private static let maximumWords = 100
  private static let maximumLength = 32

  /// The one of `words` that is so near that it was probably meant.
  package func nearest(in words: [String]) -> String? {
    guard self.utf8.count <= 4 * Self.maximumLength else { return nil }
    let own = self.lowercased()
    var best: (word: String, distance: Int)?
    for word in words.prefix(Self.maximumWords) where word.count <= Self.maximumLength {
      // Half of a word wrong is another word.
      let limit = Swift.max(1, Swift.min(3, word.count / 2))
      guard abs(own.count - word.count) <= limit else { continue }
      let distance = own.editDistance(to: word.lowercased())
      if distance <= limit, distance < best?.distance ?? .max { best = (word, distance) }
    }
    return best?.word
  }

  /// Characters to insert, remove, replace or swap with their neighbour to make `other` of it.
  func editDistance(to other: String) -> Int {
    let (left, right) = (Array(self.prefix(64)), Array(other.prefix(64)))
    if left.isEmpty || right.isEmpty { return Swift.max(left.count, right.count) }
    var beforeLast: [Int] = []
    var last = Array(0...right.count)
    for row in 1...left.count {
      var current = [row] + Array(repeating: 0, count: right.count)
      for column in 1...right.count {
        let same = left[row - 1] == right[column - 1]
        current[column] = Swift.min(
          last[column] + 1, current[column - 1] + 1, last[column - 1] + (same ? 0 : 1))
        if row > 1, column > 1, left[row - 1] == right[column - 2],
          left[row - 2] == right[column - 1]
        {
          current[column] = Swift.min(current[column], beforeLast[column - 2] + 1)
        }
      }
      beforeLast = last
      last = current
    }
    return last[right.count]
  }
}
