/// A text that is told apart byte by byte: kinds, names and properties.
///
/// A `String` takes canonically equivalent texts for equal ("é" in one scalar or two) and orders
/// them so; Datastore does not.
package struct Name: Hashable, Sendable, Comparable {
  package let text: String

  package init(_ text: String) {
    self.text = text
  }

  package var isEmpty: Bool { self.text.isEmpty }
  /// Its length as limits count it.
  package var byteCount: Int { self.text.utf8.count }
  /// `__x__`: Datastore's own.
  package var isReserved: Bool {
    self.byteCount >= 4 && self.text.utf8.starts(with: "__".utf8)
      && self.text.utf8.suffix(2).elementsEqual("__".utf8)
  }

  package static func == (left: Self, right: Self) -> Bool {
    left.text.utf8.elementsEqual(right.text.utf8)
  }

  package static func < (left: Self, right: Self) -> Bool {
    left.text.utf8.lexicographicallyPrecedes(right.text.utf8)
  }

  package func hash(into hasher: inout Hasher) {
    var text = self.text
    text.withUTF8 { hasher.combine(bytes: UnsafeRawBufferPointer($0)) }
  }
}

extension Name: CustomStringConvertible {
  package var description: String { self.text }
}

extension Name: ExpressibleByStringLiteral {
  package init(stringLiteral value: String) {
    self.init(value)
  }
}
