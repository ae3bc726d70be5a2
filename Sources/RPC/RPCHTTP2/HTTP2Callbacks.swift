import CNghttp2

/// nghttp2's callbacks, shared by all sessions: each finds its session and hands on what happened.
final class HTTP2Callbacks: @unchecked Sendable {
  // Safe: made once, never changed afterwards, and nghttp2 only reads it.
  static let shared = HTTP2Callbacks()

  let pointer: OpaquePointer

  static func session(_ userData: UnsafeMutableRawPointer?) -> HTTP2Session {
    Unmanaged<HTTP2Session>.fromOpaque(userData!).takeUnretainedValue()
  }

  private init() {
    var callbacks: OpaquePointer?
    precondition(nghttp2_session_callbacks_new(&callbacks) == 0, "libnghttp2: out of memory")
    self.pointer = callbacks!

    nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks) { _, header, userData in
      HTTP2Callbacks.session(userData).frameBegan(
        type: header!.pointee.type, flags: header!.pointee.flags, length: header!.pointee.length)
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
      HTTP2Callbacks.session(userData).headersBegan(
        id: header.stream_id, isRequest: isRequest)
      return 0
    }

    nghttp2_session_callbacks_set_on_header_callback(callbacks) {
      _, frame, name, nameCount, value, valueCount, _, userData in
      HTTP2Callbacks.session(userData).headerReceived(
        id: frame!.pointee.hd.stream_id,
        name: UnsafeBufferPointer(start: name, count: nameCount),
        value: UnsafeBufferPointer(start: value, count: valueCount))
      return 0
    }

    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks) {
      _, _, id, bytes, count, userData in
      HTTP2Callbacks.session(userData).dataReceived(
        id: id, UnsafeRawBufferPointer(start: bytes, count: count))
      return 0
    }

    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks) { _, frame, userData in
      let header = frame!.pointee.hd
      let session = HTTP2Callbacks.session(userData)
      let isEnd = header.flags & UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) != 0
      let isAcknowledgement = header.flags & UInt8(NGHTTP2_FLAG_ACK.rawValue) != 0
      switch UInt32(header.type) {
      case NGHTTP2_HEADERS.rawValue:
        session.headersEnded(id: header.stream_id, endOfStream: isEnd)
      case NGHTTP2_DATA.rawValue:
        if isEnd { session.dataEnded(id: header.stream_id) }
      case NGHTTP2_SETTINGS.rawValue:
        if isAcknowledgement {
          session.settingsAcknowledged()
        } else {
          session.settingsReceived()
        }
      case NGHTTP2_PING.rawValue:
        if isAcknowledgement {
          session.pingAcknowledged(frame!.pointee.ping.opaque_data.7)
        } else {
          session.pingReceived()
        }
      case NGHTTP2_GOAWAY.rawValue:
        session.goAwayReceived(
          lastStreamID: frame!.pointee.goaway.last_stream_id,
          code: frame!.pointee.goaway.error_code,
          text: String(
            decoding: UnsafeBufferPointer(
              start: frame!.pointee.goaway.opaque_data,
              count: frame!.pointee.goaway.opaque_data_len), as: UTF8.self))
      default:
        break
      }
      return 0
    }

    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks) { _, id, code, userData in
      HTTP2Callbacks.session(userData).streamClosed(id: id, code: code)
      return 0
    }

    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks) { _, frame, userData in
      let header = frame!.pointee.hd
      let isReset = header.type == UInt8(NGHTTP2_RST_STREAM.rawValue)
      HTTP2Callbacks.session(userData).frameSent(
        type: header.type, resetCode: isReset ? frame!.pointee.rst_stream.error_code : 0)
      if header.flags & UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) != 0,
        header.type == UInt8(NGHTTP2_HEADERS.rawValue)
          || header.type == UInt8(NGHTTP2_DATA.rawValue)
      {
        HTTP2Callbacks.session(userData).endOfStreamSent(id: header.stream_id)
      }
      return 0
    }

    nghttp2_session_callbacks_set_on_frame_not_send_callback(callbacks) {
      _, frame, _, userData in
      let header = frame!.pointee.hd
      if header.type == UInt8(NGHTTP2_HEADERS.rawValue),
        frame!.pointee.headers.cat == NGHTTP2_HCAT_REQUEST
      {
        HTTP2Callbacks.session(userData).requestNotSent(id: header.stream_id)
      }
      return 0
    }
  }

  deinit {
    nghttp2_session_callbacks_del(self.pointer)
  }
}
