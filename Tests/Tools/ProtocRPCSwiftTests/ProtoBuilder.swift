import ProtocRPCSwift

/// Descriptors as protoc would hand them over, built by hand.
enum ProtoBuilder {
  static func file(
    _ name: String, package: String = "a.b", syntax: String? = "proto3", imports: [String] = [],
    messages: [WireMessage] = [], enums: [WireMessage] = [], services: [WireMessage] = [],
    swiftPrefix: String? = nil, comments: [[UInt8]: String] = [:]
  ) -> WireMessage {
    var file = WireMessage()
    file.set(1, name)
    file.set(2, package)
    for name in imports { file.add(3, .bytes(Array(name.utf8))) }
    for message in messages { file.add(4, .bytes(message.encoded)) }
    for value in enums { file.add(5, .bytes(value.encoded)) }
    for service in services { file.add(6, .bytes(service.encoded)) }
    if let swiftPrefix {
      var options = WireMessage()
      options.set(39, swiftPrefix)
      file.set(8, .bytes(options.encoded))
    }
    if !comments.isEmpty {
      var info = WireMessage()
      for (path, text) in comments {
        var location = WireMessage()
        location.set(1, .bytes(path))
        location.set(3, text)
        info.add(1, .bytes(location.encoded))
      }
      file.set(9, .bytes(info.encoded))
    }
    if let syntax { file.set(12, syntax) }
    return file
  }

  static func message(
    _ name: String, _ fields: [WireMessage] = [], oneofs: [String] = [],
    nested: [WireMessage] = [], isMapEntry: Bool = false
  ) -> WireMessage {
    var message = WireMessage()
    message.set(1, name)
    for field in fields { message.add(2, .bytes(field.encoded)) }
    for inner in nested { message.add(3, .bytes(inner.encoded)) }
    for oneof in oneofs {
      var wire = WireMessage()
      wire.set(1, oneof)
      message.add(8, .bytes(wire.encoded))
    }
    if isMapEntry {
      var options = WireMessage()
      options.set(7, .varint(1))
      message.set(7, .bytes(options.encoded))
    }
    return message
  }

  static func field(
    _ name: String, _ number: UInt64, _ kind: FieldModel.Kind, type: String? = nil,
    repeated: Bool = false, oneof: UInt64? = nil, optional: Bool = false
  ) -> WireMessage {
    var field = WireMessage()
    field.set(1, name)
    field.set(3, .varint(number))
    field.set(4, .varint(repeated ? 3 : 1))
    field.set(5, .varint(UInt64(kind.rawValue)))
    if let type { field.set(6, type) }
    if let oneof { field.set(9, .varint(oneof)) }
    field.set(10, "jsonName")
    if optional { field.set(17, .varint(1)) }
    return field
  }

  static func enumeration(_ name: String, _ values: [(String, UInt64)]) -> WireMessage {
    var wire = WireMessage()
    wire.set(1, name)
    for (name, number) in values {
      var value = WireMessage()
      value.set(1, name)
      value.set(2, .varint(number))
      wire.add(2, .bytes(value.encoded))
    }
    return wire
  }

  static func service(
    _ name: String, _ methods: [(name: String, input: String, output: String, streams: UInt64)]
  ) -> WireMessage {
    var service = WireMessage()
    service.set(1, name)
    for method in methods {
      var wire = WireMessage()
      wire.set(1, method.name)
      wire.set(2, method.input)
      wire.set(3, method.output)
      wire.set(5, .varint(method.streams & 1))
      wire.set(6, .varint(method.streams >> 1))
      service.add(2, .bytes(wire.encoded))
    }
    return service
  }

  static func request(
    _ files: [WireMessage], generate: [String]? = nil, options: String = "emit=swift"
  ) -> [UInt8] {
    var request = WireMessage()
    for name in generate ?? files.compactMap({ $0.string(1) }) {
      request.add(1, .bytes(Array(name.utf8)))
    }
    request.set(2, options)
    for file in files { request.add(15, .bytes(file.encoded)) }
    return request.encoded
  }

  /// The generated files by name.
  static func generate(
    _ files: [WireMessage], generate: [String]? = nil, options: String = "emit=swift"
  ) throws -> [String: String] {
    let request = try Request(self.request(files, generate: generate, options: options))
    return Dictionary(
      uniqueKeysWithValues: try Plugin.files(for: request).map { ($0.name, $0.content) })
  }
}
