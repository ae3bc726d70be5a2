/// A path as the kernel has it: bytes other than zero, which need not be UTF-8.
package struct BytePath: Hashable, Sendable {
  package let bytes: [UInt8]

  package init(_ bytes: some Sequence<UInt8>) {
    self.bytes = Array(bytes)
  }

  package init(_ text: String) {
    self.bytes = Array(text.utf8)
  }

  /// Of a file in this directory; the empty path is where others begin.
  package func appending(_ name: BytePath) -> BytePath {
    self.bytes.isEmpty ? name : BytePath(self.bytes + [UInt8(ascii: "/")] + name.bytes)
  }

  /// As system calls want it.
  package var cString: [CChar] { self.bytes.map { CChar(bitPattern: $0) } + [0] }
}

extension BytePath: Comparable {
  package static func < (left: Self, right: Self) -> Bool {
    left.bytes.lexicographicallyPrecedes(right.bytes)
  }
}

extension BytePath: ExpressibleByStringLiteral {
  package init(stringLiteral text: String) {
    self.init(text)
  }
}

extension BytePath: CustomStringConvertible {
  /// For people; what is not UTF-8 is not told apart.
  package var description: String { String(decoding: self.bytes, as: UTF8.self) }
}
