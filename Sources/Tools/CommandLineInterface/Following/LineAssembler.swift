/// Bytes to lines, with a bound for lines that do not end.
package struct LineAssembler: Sendable {
  /// A longer line is cut in pieces: a build may print 100 MB without a line's end.
  package static let maximumLineBytes = 32 << 10

  private var rest: [UInt8] = []

  package init() {}

  /// The lines that are whole now, without their ends.
  package mutating func append(_ bytes: ArraySlice<UInt8>) -> [ArraySlice<UInt8>] {
    var lines: [ArraySlice<UInt8>] = []
    var start = bytes.startIndex
    while let end = bytes[start...].firstIndex(of: 0x0a) {
      if self.rest.isEmpty {
        lines.append(contentsOf: Self.pieces(bytes[start..<end]))
      } else {
        self.rest.append(contentsOf: bytes[start..<end])
        lines.append(contentsOf: Self.pieces(self.rest[...]))
        self.rest = []
      }
      start = end + 1
    }
    self.rest.append(contentsOf: bytes[start...])
    while self.rest.count > Self.maximumLineBytes {
      lines.append(Array(self.rest[..<Self.maximumLineBytes])[...])
      self.rest.removeFirst(Self.maximumLineBytes)
    }
    return lines
  }

  /// The last line, if it has no end.
  package mutating func finish() -> ArraySlice<UInt8>? {
    defer { self.rest = [] }
    return self.rest.isEmpty ? nil : self.rest[...]
  }

  private static func pieces(_ line: ArraySlice<UInt8>) -> [ArraySlice<UInt8>] {
    guard line.count > self.maximumLineBytes else { return [line] }
    return stride(from: line.startIndex, to: line.endIndex, by: self.maximumLineBytes).map {
      line[$0..<min($0 + self.maximumLineBytes, line.endIndex)]
    }
  }
}
