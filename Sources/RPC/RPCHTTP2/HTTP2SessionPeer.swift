import CNghttp2

/// What a client knows of its server: what it did wrong, in words, and how many streams it takes.
extension HTTP2Session {
  /// Faults are quoted up to this: what the peer sent is in them.
  private static let quotedBytes = 300

  /// nghttp2 says what is wrong with a field or a frame; ``invalidFrameReceived(id:failure:)`` or the
  /// end of the connection follows, unless the field is left out.
  func faultFound(_ text: UnsafeRawBufferPointer) {
    guard self.role == .client else { return }
    self.output.fault = printable(
      String(decoding: text.prefix(Self.quotedBytes), as: UTF8.self))
  }

  /// A frame breaks a rule, and its stream is reset or its connection ended.
  func invalidFrameReceived(id: Int32, failure: Int32) {
    guard self.role == .client else { return }
    // Only of a field does nghttp2 always say more; what it said before may be of one left out.
    let field = failure == NGHTTP2_ERR_HTTP_HEADER.rawValue ? self.output.fault : nil
    self.output.fault = nil
    let fault = field ?? String(cString: nghttp2_strerror(failure))
    self.withStream(id) { stream in
      if stream.fault == nil { stream.fault = fault }
    }
  }

  /// A GOAWAY of ours has gone out.
  func goAwaySent(_ frame: nghttp2_goaway) {
    guard frame.error_code != NGHTTP2_NO_ERROR.rawValue else { return }
    let text = UnsafeBufferPointer(start: frame.opaque_data, count: frame.opaque_data_len)
    self.delegate.goAwaySent(
      code: frame.error_code, text: printable(String(decoding: text, as: UTF8.self)))
  }

}

/// The name of an error code: RFC 9113, section 7.
package func http2ErrorName(_ code: UInt32) -> String {
  let name = String(cString: nghttp2_http2_strerror(code))
  return name == "unknown" ? "error \(code)" : name
}

/// What a peer sent, fit for a message to people: without what moves a terminal's cursor.
package func printable(_ text: String) -> String {
  var scalars = String.UnicodeScalarView()
  for scalar in text.unicodeScalars {
    let isControl = scalar.value < 0x20 || (0x7f..<0xa0).contains(scalar.value)
    scalars.append(isControl ? "\u{fffd}" : scalar)
  }
  return String(scalars)
}
