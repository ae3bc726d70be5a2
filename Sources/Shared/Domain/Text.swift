extension String {
  /// Itself if it takes at most so many bytes, 3 at least; else its beginning and `...` within them.
  package func limited(toBytes limit: Int) -> String {
    guard self.utf8.count > limit else { return self }
    var end = self.utf8.index(self.startIndex, offsetBy: limit - 3)
    while end.samePosition(in: self.unicodeScalars) == nil { self.utf8.formIndex(before: &end) }
    return String(self.unicodeScalars[..<end]) + "..."
  }
}
