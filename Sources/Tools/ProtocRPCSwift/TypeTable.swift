/// Every message and enum that a run may refer to, by its full name with the leading dot.
struct TypeTable {
  struct Entry {
    /// Qualified with the namespace: `SchedulerV1.Build`.
    var swiftName: String
    var fullName: String
    var file: String
    var message: MessageModel?
    /// The first value's case, for enums.
    var firstCase = ""
  }

  private(set) var entries: [String: Entry] = [:]
  /// Last components of all Swift names.
  private(set) var shortNames: Set<String> = []

  init(_ files: [FileModel]) {
    for file in files {
      let namespace = Self.namespace(of: file)
      for message in file.messages { self.add(message, in: namespace, file.name) }
      for value in file.enums { self.add(value, in: namespace, file.name) }
    }
  }

  /// The modules of the names that generated code uses unqualified.
  private static let modules: [String: String] = [
    "Arena": "RPCProtobuf", "DecodingSource": "RPCProtobuf", "Indirect": "RPCProtobuf",
    "MessageBridge": "RPCProtobuf", "ProtobufEnum": "RPCProtobuf", "ProtobufMessage": "RPCProtobuf",
    "UnknownFields": "RPCProtobuf", "FileDescriptor": "RPCCore", "MessageDecodingError": "RPCCore",
    "MethodDescriptor": "RPCCore", "ServiceDescriptor": "RPCCore", "CallOptions": "RPCCore",
    "BidirectionalCall": "RPCTransport", "ClientStreamingCall": "RPCTransport",
    "RequestStream": "RPCTransport", "ResponseStream": "RPCTransport",
    "ResponseWriter": "RPCTransport", "Router": "RPCTransport", "RPCChannel": "RPCTransport",
    "RPCService": "RPCTransport", "ServerContext": "RPCTransport",
    "UnaryHandler": "RPCTransport",
  ]

  /// A type of the standard library or of ours, qualified where a proto defines one so named.
  func known(_ name: String) -> String {
    self.shortNames.contains(name) ? "\(Self.modules[name] ?? "Swift").\(name)" : name
  }

  static func namespace(of file: FileModel) -> String {
    if let prefix = file.swiftPrefix, !prefix.isEmpty { return prefix }
    let name = Naming.namespace(file.package)
    return self.typeNames(of: file).contains(name) ? name + "Protos" : name
  }

  /// What the types that are made of a file are called, without what they are in: a namespace of that name
  /// could not be spoken of within such a type.
  static func typeNames(of file: FileModel) -> Set<String> {
    var names = Set(file.enums.map { Naming.type($0.name) })
    names.formUnion(file.services.flatMap { ServiceGenerator.typeNames(of: $0) })
    func add(_ message: MessageModel) {
      names.insert(Naming.type(message.name))
      names.formUnion(message.enums.map { Naming.type($0.name) })
      names.formUnion(message.enumOneofs.map { message.oneofType($0) })
      message.messages.forEach(add)
    }
    file.messages.forEach(add)
    return names
  }

  subscript(name: String) -> Entry {
    get throws(GeneratorError) {
      guard let entry = self.entries[name] else {
        throw GeneratorError("no type \(name) in the request")
      }
      return entry
    }
  }

  /// Whether a message holds another one by value, directly or through others: then a member of
  /// that type needs an indirection.
  func holds(_ start: String, _ goal: String) -> Bool {
    var seen: Set<String> = []
    var open = [start]
    while let next = open.popLast() {
      if next == goal { return true }
      guard seen.insert(next).inserted, let message = self.entries[next]?.message else { continue }
      for field in message.fields where field.kind == .message && !field.isRepeated {
        open.append(field.typeName)
      }
    }
    return false
  }

  private mutating func add(_ message: MessageModel, in scope: String, _ file: String) {
    let short = Naming.type(message.name)
    let name = "\(scope).\(short)"
    self.entries[".\(message.fullName)"] = Entry(
      swiftName: name, fullName: message.fullName, file: file, message: message)
    if !message.isMapEntry { self.shortNames.insert(short) }
    self.shortNames.formUnion(message.enumOneofs.map { message.oneofType($0) })
    for nested in message.messages { self.add(nested, in: name, file) }
    for value in message.enums { self.add(value, in: name, file) }
  }

  private mutating func add(_ value: EnumModel, in scope: String, _ file: String) {
    let short = Naming.type(value.name)
    self.entries[".\(value.fullName)"] = Entry(
      swiftName: "\(scope).\(short)", fullName: value.fullName, file: file, message: nil,
      firstCase: EnumGenerator.cases(of: value)[0])
    self.shortNames.insert(short)
  }
}
