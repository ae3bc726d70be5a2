import CNghttp2
import RPCCore

/// The header list of the request before.
///
/// Whoever makes many calls on a connection mostly sends the same list, most of it as indices of what it has
/// sent before (RFC 7541, section 6.1), and for the same entry nghttp2 hands on the same two buffers: their
/// addresses tell, as long as they are held on to. As long as the fields that come are those of the list, in
/// their order, there is nothing to do; at the first that is not, what came before it is told. What is another
/// for each call by its nature (``tellsEachTime(_:)``) is told by itself.
struct HeaderMemory: ~Copyable {
  private struct Field {
    var name: OpaquePointer
    var value: OpaquePointer
  }

  /// What is remembered of a list; of a longer one, or a larger one, nothing is.
  private static let maximumFields = 24
  private static let maximumBytes = 4 << 10
  /// Lists that were others, one after the other, before it is given up for a while.
  private static let maximumMisses = 16
  private static let pause = 1_024

  /// The list of the request before, whole.
  private var fields: [Field] = []
  /// What it says.
  private(set) var request = RequestRules.Request()
  /// The list that comes, where it is another.
  private var coming: [Field] = []
  private var comingBytes = 0
  /// So many of the fields that came are those of the list before.
  private var count = 0
  private var isComparing = false
  private(set) var isRecording = false
  private var isRequest = false
  private var misses = 0

  /// Forgets everything. The buffers are the session's memory: to be called before that goes.
  mutating func clear() {
    Self.letGo(self.fields)
    self.fields = []
    self.forgetComing()
    self.isComparing = false
    self.isRecording = false
  }

  /// A list begins.
  mutating func begin(isRequest: Bool) {
    self.forgetComing()
    self.count = 0
    self.isRequest = isRequest
    guard isRequest, self.misses < Self.maximumMisses else {
      if isRequest { self.misses += 1 }
      if self.misses > Self.maximumMisses + Self.pause { self.misses = 0 }
      self.isComparing = false
      self.isRecording = false
      return
    }
    self.isComparing = !self.fields.isEmpty
    self.isRecording = !self.isComparing
  }

  /// Whether the list is still the one before, with this field.
  @inline(__always)
  mutating func isAsBefore(_ name: OpaquePointer, _ value: OpaquePointer) -> Bool {
    guard self.isComparing, self.count < self.fields.count else { return false }
    let field = self.fields[self.count]
    guard Self.isSame(field.name, name), Self.isSame(field.value, value) else { return false }
    self.count += 1
    return true
  }

  @inline(__always)
  private static func isSame(_ one: OpaquePointer, _ other: OpaquePointer) -> Bool {
    one == other || self.hasSameBytes(one, other)
  }

  /// What comes as a literal, `:path` from whoever uses nghttp2, has a buffer of its own each time.
  private static func hasSameBytes(_ one: OpaquePointer, _ other: OpaquePointer) -> Bool {
    let (one, other) = (nghttp2_rcbuf_get_buf(one), nghttp2_rcbuf_get_buf(other))
    return UnsafeBufferPointer(start: one.base, count: one.len)
      .equals(UnsafeBufferPointer(start: other.base, count: other.len))
  }

  /// Whether a pseudo-field comes next if the list is still the one before.
  var expectsPseudoField: Bool {
    guard self.isComparing, self.count < self.fields.count else { return false }
    let name = nghttp2_rcbuf_get_buf(self.fields[self.count].name)
    return name.len > 0 && name.base[0] == UInt8(ascii: ":")
  }

  /// `grpc-timeout` is what is left of the time that the caller has.
  static func tellsEachTime(_ name: OpaquePointer) -> Bool {
    let name = nghttp2_rcbuf_get_buf(name)
    return UnsafeBufferPointer(start: name.base, count: name.len).equals("grpc-timeout")
  }

  /// Whether what came whole is the list before.
  var isWholeAsBefore: Bool { self.isComparing && self.count == self.fields.count }

  /// The list is another: calls `body` with the fields that came and were not told.
  mutating func differ(_ body: (_ name: OpaquePointer, _ value: OpaquePointer) -> Void) {
    guard self.isComparing else { return }
    self.isComparing = false
    self.isRecording = true
    self.misses += 1
    for field in self.fields[..<self.count] {
      self.record(field.name, field.value)
      body(field.name, field.value)
    }
  }

  /// A field of a list that is another.
  mutating func record(_ name: OpaquePointer, _ value: OpaquePointer) {
    guard self.isRecording else { return }
    self.comingBytes += nghttp2_rcbuf_get_buf(name).len + nghttp2_rcbuf_get_buf(value).len
    guard self.coming.count < Self.maximumFields, self.comingBytes <= Self.maximumBytes else {
      self.isRecording = false
      return self.forgetComing()
    }
    nghttp2_rcbuf_incref(name)
    nghttp2_rcbuf_incref(value)
    self.coming.append(Field(name: name, value: value))
  }

  /// The list has come whole.
  ///
  /// - Parameter isKnown: Whoever was told of it knows it again.
  mutating func end(isKnown: Bool, _ request: RequestRules.Request) {
    if self.isWholeAsBefore {
      self.misses = 0
      return
    }
    // Trailers are nobody's.
    guard self.isRequest else { return }
    // Whatever is known from now on, it is not that one.
    Self.letGo(self.fields)
    self.fields.removeAll(keepingCapacity: true)
    if isKnown, self.isRecording {
      swap(&self.fields, &self.coming)
      self.request = request
    }
    self.forgetComing()
  }

  private mutating func forgetComing() {
    self.comingBytes = 0
    guard !self.coming.isEmpty else { return }
    Self.letGo(self.coming)
    self.coming.removeAll(keepingCapacity: true)
  }

  private static func letGo(_ fields: [Field]) {
    for field in fields {
      nghttp2_rcbuf_decref(field.name)
      nghttp2_rcbuf_decref(field.value)
    }
  }
}
