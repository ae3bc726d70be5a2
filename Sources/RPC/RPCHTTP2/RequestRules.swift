import CNghttp2
import RPCCore

/// Whether a header list is that of an HTTP request, or of a request's trailers: RFC 9113, section 8.
///
/// nghttp2 knows these rules, too, and would look at every byte of every field. A list that comes again
/// (``HeaderMemory``) need not be looked at again, so that a server looks for itself. What bytes a name
/// and a value may have is still asked of nghttp2.
struct RequestRules {
  private struct Seen: OptionSet {
    var rawValue: UInt8
    static let method = Seen(rawValue: 1)
    static let scheme = Seen(rawValue: 1 << 1)
    static let path = Seen(rawValue: 1 << 2)
    static let authority = Seen(rawValue: 1 << 3)
    static let host = Seen(rawValue: 1 << 4)
  }

  private var isRequest = true
  private var seen: Seen = []
  /// A field that is no pseudo-field has come: there may be no pseudo-field behind it.
  var hasRegularFields = false
  private var isConnect = false
  private var isOptions = false
  private var isHTTP = false
  private var isPathAbsolute = false
  private var isPathAsterisk = false
  private var contentLength: Int?

  /// What a request's header list says that is of use behind it.
  struct Request {
    /// The body's, in bytes, where it is said.
    var contentLength: Int?
    var hasHost = false
  }

  init() {}

  /// For the trailers of a request.
  init(trailersOf request: Request) {
    self.isRequest = false
    self.contentLength = request.contentLength
    if request.hasHost { self.seen = .host }
  }

  /// What a list that is whole says.
  var request: Request {
    // nghttp2 looks at no CONNECT's, for there it means nothing (RFC 9110, section 9.3.6).
    Request(
      contentLength: self.isConnect ? nil : self.contentLength,
      hasHost: self.seen.contains(.host))
  }

  /// Whether the list may have this field behind those before; if not, the request is malformed.
  mutating func accept(
    _ name: UnsafeBufferPointer<UInt8>, _ value: UnsafeBufferPointer<UInt8>
  ) -> Bool {
    if name.first == UInt8(ascii: ":") { return self.acceptPseudoField(name, value) }
    self.hasRegularFields = true
    guard nghttp2_check_header_name(name.baseAddress, name.count) != 0 else { return false }
    if name.equals("host") {
      return self.note(.host, value, nghttp2_check_authority(value.baseAddress, value.count))
    }
    guard nghttp2_check_header_value_rfc9113(value.baseAddress, value.count) != 0 else {
      return false
    }
    switch name.count {
    case 2 where name.equals("te"):
      return value.equalsIgnoringCase("trailers")
    case 14 where name.equals("content-length"):
      guard self.contentLength == nil, let length = Self.decimal(value) else { return false }
      self.contentLength = length
      return true
    // Section 8.2.2: what belongs to a connection.
    case 10 where name.equals("connection") || name.equals("keep-alive"),
      16 where name.equals("proxy-connection"), 17 where name.equals("transfer-encoding"),
      7 where name.equals("upgrade"):
      return false
    default:
      return true
    }
  }

  private mutating func acceptPseudoField(
    _ name: UnsafeBufferPointer<UInt8>, _ value: UnsafeBufferPointer<UInt8>
  ) -> Bool {
    guard self.isRequest, !self.hasRegularFields else { return false }
    switch name.count {
    case 7 where name.equals(":method"):
      self.isConnect = value.equals("CONNECT")
      self.isOptions = value.equals("OPTIONS")
      return self.note(.method, value, nghttp2_check_method(value.baseAddress, value.count))
    case 7 where name.equals(":scheme"):
      self.isHTTP = value.equalsIgnoringCase("http") || value.equalsIgnoringCase("https")
      return self.note(.scheme, value, Self.isScheme(value) ? 1 : 0)
    case 5 where name.equals(":path"):
      self.isPathAbsolute = value.first == UInt8(ascii: "/")
      self.isPathAsterisk = value.equals("*")
      return self.note(.path, value, nghttp2_check_path(value.baseAddress, value.count))
    case 10 where name.equals(":authority"):
      return self.note(.authority, value, nghttp2_check_authority(value.baseAddress, value.count))
    default:
      // A response's, or `:protocol`, for which a server would have asked (RFC 8441).
      return false
    }
  }

  /// A field that there may be once, with a value.
  private mutating func note(
    _ field: Seen, _ value: UnsafeBufferPointer<UInt8>, _ isFit: Int32
  ) -> Bool {
    isFit != 0 && !value.isEmpty && self.seen.insert(field).inserted
  }

  /// Whether the list, which has come whole, has all that it must have.
  func isWhole(endOfStream: Bool) -> Bool {
    guard self.isRequest else { return endOfStream }
    if self.isConnect {
      return self.seen.contains(.authority) && self.seen.isDisjoint(with: [.scheme, .path])
    }
    guard self.seen.isSuperset(of: [.method, .scheme, .path]),
      !self.seen.isDisjoint(with: [.authority, .host])
    else { return false }
    return !self.isHTTP || self.isPathAbsolute || self.isOptions && self.isPathAsterisk
  }

  /// RFC 3986, section 3.1.
  private static func isScheme(_ value: UnsafeBufferPointer<UInt8>) -> Bool {
    func isLetter(_ byte: UInt8) -> Bool {
      (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
    }
    guard let first = value.first, isLetter(first) else { return false }
    return value.allSatisfy {
      isLetter($0) || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0)
        || $0 == UInt8(ascii: "+") || $0 == UInt8(ascii: "-") || $0 == UInt8(ascii: ".")
    }
  }

  /// RFC 9110, section 8.6.
  private static func decimal(_ value: UnsafeBufferPointer<UInt8>) -> Int? {
    guard value.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }) else {
      return nil
    }
    return Int(String(decoding: value, as: UTF8.self))
  }
}
