import CNghttp2

/// HPACK (RFC 7541) by itself, for peers that are scripted frame by frame. One for each direction of
/// a connection, for it keeps the dynamic table.
package final class HeaderDecoder {
  private let inflater: OpaquePointer

  package init() {
    var inflater: OpaquePointer?
    precondition(nghttp2_hd_inflate_new(&inflater) == 0, "libnghttp2: out of memory")
    self.inflater = inflater!
  }

  deinit {
    nghttp2_hd_inflate_del(self.inflater)
  }

  /// The fields of a whole header block; nil if it is none.
  package func decode(_ block: [UInt8]) -> [(name: String, value: String)]? {
    var fields: [(name: String, value: String)] = []
    var isFine = true
    block.withUnsafeBufferPointer { bytes in
      var rest = bytes[...]
      while isFine {
        var field = nghttp2_nv()
        var flags: Int32 = 0
        let count = nghttp2_hd_inflate_hd2(
          self.inflater, &field, &flags,
          UnsafeBufferPointer(rebasing: rest).baseAddress, rest.count, 1)
        guard count >= 0 else {
          isFine = false
          return
        }
        rest = rest.dropFirst(Int(count))
        if flags & Int32(NGHTTP2_HD_INFLATE_EMIT.rawValue) != 0 {
          fields.append(
            (
              String(
                decoding: UnsafeBufferPointer(start: field.name, count: field.namelen),
                as: UTF8.self),
              String(
                decoding: UnsafeBufferPointer(start: field.value, count: field.valuelen),
                as: UTF8.self)
            ))
        }
        if flags & Int32(NGHTTP2_HD_INFLATE_FINAL.rawValue) != 0 {
          nghttp2_hd_inflate_end_headers(self.inflater)
          return
        }
        if flags & Int32(NGHTTP2_HD_INFLATE_EMIT.rawValue) == 0, rest.isEmpty { return }
      }
    }
    return isFine ? fields : nil
  }
}
