import RPCCore
import RPCProtobuf
import RPCTransport

extension RPCError {
  /// Makes an error that tells programs more than a sentence: `google.rpc.Status` with details, in
  /// `grpc-status-details-bin`.
  ///
  ///     throw RPCError(
  ///       .invalidArgument, "the name is empty",
  ///       details: GoogleRPC.BadRequest(
  ///         fieldViolations: [.init(field: "name", description: "is empty")]))
  ///
  /// Keep them small: many peers refuse trailers of more than 8 KB.
  public init(
    _ code: StatusCode, _ message: String, details first: some ProtobufMessage,
    _ more: any ProtobufMessage...
  ) {
    self.init(code, message)
    self.details = ([first] + more).map { GoogleProtobuf.AnyMessage(packing: $0) }
  }

  /// What the error says for programs, each a message of any type. Empty: nothing, or bytes that are
  /// no `google.rpc.Status`.
  public var details: [GoogleProtobuf.AnyMessage] {
    get {
      guard let bytes = self.statusDetails, let status = try? GoogleRPC.Status(decoding: bytes)
      else { return [] }
      return status.details
    }
    set {
      self.statusDetails =
        newValue.isEmpty
        ? nil
        : GoogleRPC.Status(
          code: Int32(self.code.rawValue), message: self.message, details: newValue
        ).encoded()
    }
  }

  /// The first detail of a type; nil if there is none, or its bytes are no such message.
  ///
  ///     catch let error as RPCError {
  ///       if let retry = error.detail(GoogleRPC.RetryInfo.self) { ... }
  ///     }
  public func detail<Message: ProtobufMessage>(_ type: Message.Type) -> Message? {
    self.details.lazy.compactMap { $0.unpack(type) }.first
  }
}

extension GoogleProtobuf.AnyMessage {
  /// A message with its type's address.
  public init(packing message: some ProtobufMessage) {
    self.init(
      typeURL: "type.googleapis.com/" + type(of: message).messageName, value: message.encoded())
  }

  /// The message within; nil if it is of another type, or its bytes are no such message.
  public func unpack<Message: ProtobufMessage>(_ type: Message.Type) -> Message? {
    guard self.typeURL.split(separator: "/").last.map(String.init) == Message.messageName else {
      return nil
    }
    return try? Message(decoding: self.value)
  }
}
