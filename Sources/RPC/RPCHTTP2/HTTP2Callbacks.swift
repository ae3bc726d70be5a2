import CNghttp2

/// nghttp2's callbacks, shared by all sessions: each finds its session and hands on what happened.
final class HTTP2Callbacks: @unchecked Sendable {
  // Safe: made once, never changed afterwards, and nghttp2 only reads them.
  static let server = HTTP2Callbacks(.server)
  static let client = HTTP2Callbacks(.client)

  let pointer: OpaquePointer

  /// Calls `body` with the session that a callback is for; whoever called nghttp2 keeps it.
  @inline(__always)
  static func withSession<Result>(
    _ userData: UnsafeMutableRawPointer?, _ body: (HTTP2Session) -> Result
  ) -> Result {
    Unmanaged<HTTP2Session>.fromOpaque(userData!)._withUnsafeGuaranteedRef(body)
  }

  private init(_ role: HTTP2Session.Role) {
    var callbacks: OpaquePointer?
    precondition(nghttp2_session_callbacks_new(&callbacks) == 0, "libnghttp2: out of memory")
    self.pointer = callbacks!

    nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks) { _, header, userData in
      HTTP2Callbacks.withSession(userData) {
        $0.frameBegan(
          type: header!.pointee.type, flags: header!.pointee.flags, length: header!.pointee.length)
      }
      return 0
    }

    // A frame of a type that nghttp2 does not know is thrown away once it has been counted.
    nghttp2_session_callbacks_set_unpack_extension_callback(callbacks) { _, _, _, _ in
      NGHTTP2_ERR_CANCEL.rawValue
    }

    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks) { _, frame, userData in
      let header = frame!.pointee.hd
      guard header.type == UInt8(NGHTTP2_HEADERS.rawValue) else { return 0 }
      let isRequest = frame!.pointee.headers.cat == NGHTTP2_HCAT_REQUEST
      HTTP2Callbacks.withSession(userData) {
        $0.headersBegan(id: header.stream_id, isRequest: isRequest)
      }
      return 0
    }

    nghttp2_session_callbacks_set_on_header_callback2(callbacks) {
      _, frame, name, value, _, userData in
      let goesOn = HTTP2Callbacks.withSession(userData) {
        $0.headerReceived(id: frame!.pointee.hd.stream_id, name: name!, value: value!)
      }
      // The rest of the list is read for HPACK's table alone.
      return goesOn ? 0 : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE.rawValue
    }

    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks) {
      _, _, id, bytes, count, userData in
      HTTP2Callbacks.withSession(userData) {
        $0.dataReceived(id: id, UnsafeRawBufferPointer(start: bytes, count: count))
      }
      return 0
    }

    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks) { _, frame, userData in
      HTTP2Callbacks.withSession(userData) { $0.frameReceived(frame!) }
      return 0
    }

    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks) { _, id, code, userData in
      HTTP2Callbacks.withSession(userData) { $0.streamClosed(id: id, code: code) }
      return 0
    }

    if role == .client {
      nghttp2_session_callbacks_set_before_frame_send_callback(callbacks) { _, frame, userData in
        let header = frame!.pointee.hd
        if header.type == UInt8(NGHTTP2_HEADERS.rawValue) {
          HTTP2Callbacks.withSession(userData) { $0.requestLeaves(id: header.stream_id) }
        }
        return 0
      }
    }

    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks) { _, frame, userData in
      let header = frame!.pointee.hd
      let isReset = header.type == UInt8(NGHTTP2_RST_STREAM.rawValue)
      let isEnd =
        header.flags & UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) != 0
        && (header.type == UInt8(NGHTTP2_HEADERS.rawValue)
          || header.type == UInt8(NGHTTP2_DATA.rawValue))
      HTTP2Callbacks.withSession(userData) { session in
        session.frameSent(
          type: header.type, id: header.stream_id, length: header.length, flags: header.flags,
          resetCode: isReset ? frame!.pointee.rst_stream.error_code : 0)
        if isEnd { session.endOfStreamSent(id: header.stream_id) }
        if header.type == UInt8(NGHTTP2_GOAWAY.rawValue) {
          session.goAwaySent(frame!.pointee.goaway)
        }
      }
      return 0
    }

    nghttp2_session_callbacks_set_error_callback2(callbacks) { _, _, text, count, userData in
      let bytes = UnsafeRawBufferPointer(start: text, count: count)
      HTTP2Callbacks.withSession(userData) { $0.faultFound(bytes) }
      return 0
    }

    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks) {
      _, frame, code, userData in
      let id = frame!.pointee.hd.stream_id
      HTTP2Callbacks.withSession(userData) { $0.invalidFrameReceived(id: id, failure: code) }
      return 0
    }

    nghttp2_session_callbacks_set_send_data_callback(callbacks) {
      _, frame, header, count, _, userData in
      HTTP2Callbacks.withSession(userData) {
        $0.dataSent(id: frame!.pointee.hd.stream_id, header: header!, count: count)
      }
    }

    nghttp2_session_callbacks_set_on_frame_not_send_callback(callbacks) {
      _, frame, _, userData in
      let header = frame!.pointee.hd
      guard header.type == UInt8(NGHTTP2_HEADERS.rawValue) else { return 0 }
      let isRequest = frame!.pointee.headers.cat == NGHTTP2_HCAT_REQUEST
      HTTP2Callbacks.withSession(userData) { session in
        if isRequest {
          session.requestNotSent(id: header.stream_id)
        } else {
          session.responseNotSent(id: header.stream_id)
        }
      }
      return 0
    }
  }

  deinit {
    nghttp2_session_callbacks_del(self.pointer)
  }
}
