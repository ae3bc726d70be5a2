import CNghttp2
import RPCCore

/// A header list to be sent, built in place and handed to nghttp2, which copies what is not static.
package struct HeaderFields: ~Copyable {
  private enum Text {
    case constant(StaticString)
    case bytes(start: Int, count: Int)

    var count: Int {
      switch self {
      case .constant(let text): text.utf8CodeUnitCount
      case .bytes(_, let count): count
      }
    }
  }

  private var bytes: [UInt8] = []
  private var fields: [(name: Text, value: Text)] = []

  /// What is sent at most, as ``size`` counts: nghttp2 sends 64 KiB, and a peer that uses it ends the
  /// connection at a field that is larger.
  package static let maximumSize = 60 << 10

  package init() {
    // A request's own fields and some metadata: no second allocation for them.
    self.fields.reserveCapacity(12)
    self.bytes.reserveCapacity(256)
  }

  /// The list's size as RFC 9113, section 6.5.2, counts it: 32 bytes for each field on top of its own.
  package var size: Int {
    self.fields.reduce(0) { $0 + 32 + $1.name.count + $1.value.count }
  }

  package mutating func add(_ name: StaticString, _ value: StaticString) {
    self.fields.append((.constant(name), .constant(value)))
  }

  package mutating func add(_ name: StaticString, _ value: String) {
    var value = value
    self.fields.append((.constant(name), value.withUTF8 { self.hold($0) }))
  }

  package mutating func add(_ name: StaticString, bytes value: [UInt8]) {
    self.fields.append((.constant(name), self.hold(value)))
  }

  /// Adds what an application may send; see ``Metadata/mayBeSent(_:_:)``.
  package mutating func add(_ metadata: Metadata) {
    metadata.forEachField { name, value in
      guard Metadata.mayBeSent(name, value) else { return }
      let name = self.hold(name)
      self.fields.append((name, self.hold(value)))
    }
  }

  private mutating func hold(_ text: some Collection<UInt8>) -> Text {
    let start = self.bytes.count
    self.bytes.append(contentsOf: text)
    return .bytes(start: start, count: self.bytes.count - start)
  }

  /// Calls `body` with the list as nghttp2 wants it.
  func withNameValues<Result>(
    _ body: (UnsafePointer<nghttp2_nv>, Int) -> Result
  ) -> Result {
    self.bytes.withUnsafeBufferPointer { bytes in
      withUnsafeTemporaryAllocation(of: nghttp2_nv.self, capacity: self.fields.count) { list in
        for (index, field) in self.fields.enumerated() {
          var flags = NGHTTP2_NV_FLAG_NONE.rawValue
          let name = Self.pointer(
            to: field.name, in: bytes, flag: NGHTTP2_NV_FLAG_NO_COPY_NAME, &flags)
          let value = Self.pointer(
            to: field.value, in: bytes, flag: NGHTTP2_NV_FLAG_NO_COPY_VALUE, &flags)
          list.initializeElement(
            at: index,
            to: nghttp2_nv(
              name: name.baseAddress, value: value.baseAddress, namelen: name.count,
              valuelen: value.count, flags: UInt8(flags)))
        }
        return body(UnsafePointer(list.baseAddress!), self.fields.count)
      }
    }
  }

  private static func pointer(
    to text: Text, in bytes: UnsafeBufferPointer<UInt8>, flag: nghttp2_nv_flag,
    _ flags: inout UInt32
  ) -> UnsafeMutableBufferPointer<UInt8> {
    switch text {
    case .constant(let text):
      flags |= flag.rawValue
      return UnsafeMutableBufferPointer(
        start: UnsafeMutablePointer(mutating: text.utf8Start), count: text.utf8CodeUnitCount)
    case .bytes(let start, let count):
      return UnsafeMutableBufferPointer(
        mutating: UnsafeBufferPointer(rebasing: bytes[start..<start + count]))
    }
  }
}

/// A header list that is the same each time it is sent: made once, neither built nor copied again.
package final class ConstantHeaderFields: @unchecked Sendable {
  // Safe: filled in `init`, only read afterwards, and never freed: streams point there.
  let list: UnsafeMutablePointer<nghttp2_nv>
  let count: Int

  package init(_ fields: [(name: StaticString, value: StaticString)]) {
    self.list = .allocate(capacity: fields.count)
    self.count = fields.count
    let flags = NGHTTP2_NV_FLAG_NO_COPY_NAME.rawValue | NGHTTP2_NV_FLAG_NO_COPY_VALUE.rawValue
    for (index, field) in fields.enumerated() {
      (self.list + index).initialize(
        to: nghttp2_nv(
          name: UnsafeMutablePointer(mutating: field.name.utf8Start),
          value: UnsafeMutablePointer(mutating: field.value.utf8Start),
          namelen: field.name.utf8CodeUnitCount, valuelen: field.value.utf8CodeUnitCount,
          flags: UInt8(flags)))
    }
  }
}
