import RPC

/// Sends more metadata with every call.
struct MoreMetadata: ClientInterceptor {
  private let fields: [(name: String, value: String)]

  /// Reads `NAME:VALUE;NAME:VALUE`; a value may hold colons.
  init(_ text: String) throws {
    self.fields = try text.split(separator: ";").map { field in
      guard let colon = field.firstIndex(of: ":"), colon > field.startIndex else {
        throw Mismatch("\"\(field)\" is no NAME:VALUE")
      }
      return (String(field[..<colon]), String(field[field.index(after: colon)...]))
    }
  }

  func intercept(_ call: inout OutgoingCall) async throws {
    for (name, value) in self.fields { call.options.metadata.add(value, for: name) }
  }
}
