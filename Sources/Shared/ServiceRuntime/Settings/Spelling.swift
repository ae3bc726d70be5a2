/// Finds the word that somebody probably meant.
package enum Spelling {
  /// The candidate that is nearest to `word`, if any is near enough to be meant: at most a third of
  /// its letters, and at most three, differ.
  package static func nearest(to word: String, among candidates: [String]) -> String? {
    var best: (candidate: String, distance: Int)?
    for candidate in candidates.sorted() {
      let distance = self.distance(Array(word.utf8), Array(candidate.utf8))
      let allowed = min(3, max(1, candidate.utf8.count / 3))
      if distance <= allowed, distance < best?.distance ?? .max { best = (candidate, distance) }
    }
    return best?.candidate
  }

  /// Insertions, deletions, replacements and swaps of neighbours that make one the other.
  private static func distance(_ left: [UInt8], _ right: [UInt8]) -> Int {
    // Beyond this no candidate is near, and the table would grow with the square.
    guard left.count <= 64, right.count <= 64 else { return .max }
    var beforeLast: [Int] = []
    var last = Array(0...right.count)
    for i in 0..<left.count {
      var row = [i + 1]
      for j in 0..<right.count {
        var cost = min(
          last[j] + (left[i] == right[j] ? 0 : 1), last[j + 1] + 1, row[j] + 1)
        if i > 0, j > 0, left[i] == right[j - 1], left[i - 1] == right[j] {
          cost = min(cost, beforeLast[j - 1] + 1)
        }
        row.append(cost)
      }
      beforeLast = last
      last = row
    }
    return last[right.count]
  }
}
