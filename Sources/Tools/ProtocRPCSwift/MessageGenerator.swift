extension MessageModel {
  /// The oneofs that become enums: one with a single field is an optional property.
  var enumOneofs: [OneofModel] {
    self.oneofs.enumerated().filter { index, _ in
      self.fields.count { $0.oneof == index } > 1
    }.map(\.element)
  }

  /// The nested enum of a oneof; another name if the message has a type of that name.
  func oneofType(_ oneof: OneofModel) -> String {
    let name = Naming.type(oneof.name)
    let taken =
      self.messages.map { Naming.type($0.name) } + self.enums.map { Naming.type($0.name) }
      + ["CMessage"]
    return taken.contains(name) ? name + "Oneof" : name
  }
}

/// Makes a Swift struct of a proto's message, and its way to and from the C struct.
struct MessageGenerator {
  var model: MessageModel
  var types: TypeTable
  var visibility: String

  /// A member of the struct: a field, or a oneof with several.
  private enum Member {
    case field(FieldModel)
    /// A field that says whether it was set: the only one of its oneof.
    case optional(FieldModel, oneof: String)
    case oneof(OneofModel, [FieldModel])
  }

  private var members: [Member] {
    var seen: Set<Int> = []
    return self.model.fields.compactMap { field in
      guard let index = field.oneof else { return .field(field) }
      guard seen.insert(index).inserted else { return nil }
      let oneof = self.model.oneofs[index]
      let fields = self.model.fields.filter { $0.oneof == index }
      return fields.count == 1 ? .optional(field, oneof: oneof.name) : .oneof(oneof, fields)
    }
  }

  private var key: String { ".\(self.model.fullName)" }

  // MARK: - Names and types

  private func known(_ name: String) -> String { self.types.known(name) }

  private func scalar(_ kind: FieldModel.Kind) -> String {
    switch kind {
    case .double: self.known("Double")
    case .float: self.known("Float")
    case .int64, .sint64, .sfixed64: self.known("Int64")
    case .uint64, .fixed64: self.known("UInt64")
    case .int32, .sint32, .sfixed32: self.known("Int32")
    case .uint32, .fixed32: self.known("UInt32")
    case .bool: self.known("Bool")
    case .string: self.known("String")
    case .bytes: "[\(self.known("UInt8"))]"
    case .message, .enum, .group: ""
    }
  }

  /// The type of one value of a field.
  private func element(_ field: FieldModel) throws(GeneratorError) -> String {
    switch field.kind {
    case .message, .enum: try self.types[field.typeName].swiftName
    case .group:
      throw GeneratorError("\(self.model.fullName).\(field.name): groups are not supported")
    default: self.scalar(field.kind)
    }
  }

  private func mapEntry(
    _ field: FieldModel
  ) throws(GeneratorError) -> (key: FieldModel, value: FieldModel)? {
    guard field.kind == .message, field.isRepeated,
      let entry = try self.types[field.typeName].message, entry.isMapEntry,
      let key = entry.fields.first(where: { $0.number == 1 }),
      let value = entry.fields.first(where: { $0.number == 2 })
    else { return nil }
    return (key, value)
  }

  private func isIndirect(_ field: FieldModel) -> Bool {
    field.kind == .message && !field.isRepeated && self.types.holds(field.typeName, self.key)
  }

  private func memberName(_ member: Member) -> String {
    switch member {
    case .field(let field), .optional(let field, _): Naming.member(field.name)
    case .oneof(let oneof, _): Naming.member(oneof.name)
    }
  }

  private func memberType(_ member: Member) throws(GeneratorError) -> String {
    switch member {
    case .field(let field):
      if let (key, value) = try self.mapEntry(field) {
        return "[\(try self.element(key)): \(try self.element(value))]"
      }
      let element = try self.element(field)
      if field.isRepeated { return "[\(element)]" }
      return field.kind == .message ? "\(element)?" : element
    case .optional(let field, _):
      return "\(try self.element(field))?"
    case .oneof(let oneof, _):
      return "\(self.model.oneofType(oneof))?"
    }
  }

  private func memberDefault(_ member: Member) throws(GeneratorError) -> String {
    guard case .field(let field) = member else { return "nil" }
    if field.isRepeated { return try self.mapEntry(field) == nil ? "[]" : "[:]" }
    switch field.kind {
    case .message: return "nil"
    case .enum: return ".\(try self.types[field.typeName].firstCase)"
    case .string: return "\"\""
    case .bytes: return "[]"
    case .bool: return "false"
    default: return "0"
    }
  }

  private func comment(_ member: Member) -> String {
    switch member {
    case .field(let field), .optional(let field, _): field.comment
    case .oneof(let oneof, _): oneof.comment
    }
  }

  // MARK: - The struct

  func write(to text: inout SwiftText, in scope: String) throws(GeneratorError) {
    let name = Naming.type(self.model.name)
    let members = self.members
    let names = members.map { self.memberName($0) }
    guard Set(names).count == names.count else {
      throw GeneratorError(
        "\(self.model.fullName): two fields have the same name in Swift: \(names)")
    }
    try text.block("extension \(scope)") { (text) throws(GeneratorError) in
      text.document(self.model.comment, fallback: "`\(self.model.fullName)`.")
      let conformance = self.known("ProtobufMessage")
      try text.block("\(self.visibility) struct \(name): \(conformance)") {
        (text) throws(GeneratorError) in
        for member in members { try self.declare(member, &text) }
        if !members.isEmpty { text.line() }
        let unknown = self.known("UnknownFields")
        text.line("\(self.visibility) var unknownFields: \(unknown)")
      }
    }
    text.line()
    try self.writeInitializers(&text, "\(scope).\(name)", members)
    for case .oneof(let oneof, let fields) in members {
      text.line()
      try self.writeOneof(oneof, fields, &text, in: "\(scope).\(name)")
    }
    text.line()
    try self.writeBridge(&text, "\(scope).\(name)", members)
  }

  /// In an extension, for the struct to keep the initializer of all of its members that Swift makes: with that, a
  /// message is made where it belongs, and with one of ours it is copied there.
  private func writeInitializers(
    _ text: inout SwiftText, _ name: String, _ members: [Member]
  ) throws(GeneratorError) {
    let v = self.visibility
    let unknown = "unknownFields: \(self.known("UnknownFields"))()"
    try text.block("extension \(name)") { (text) throws(GeneratorError) in
      try text.block("\(v) init()") { (text) throws(GeneratorError) in
        var values: [String] = []
        for member in members {
          values.append("\(self.label(member)): \(try self.memberDefault(member))")
        }
        text.call("self.init", values + [unknown])
      }
      guard !members.isEmpty else { return }
      text.line()
      text.line("\(v) init(")
      for (index, member) in members.enumerated() {
        let comma = index + 1 < members.count ? "," : ""
        text.line(
          "  \(Naming.quoted(self.memberName(member))): \(try self.memberType(member)) = "
            + "\(try self.memberDefault(member))\(comma)")
      }
      text.block(")") { text in
        text.call(
          "self.init",
          members.map {
            "\(self.label($0)): \(self.wrap($0, Naming.quoted(self.memberName($0))))"
          } + [unknown])
      }
    }
  }

  /// What a member is stored as.
  private func stored(_ member: Member) -> String {
    guard let field = self.indirectField(member) else { return self.memberName(member) }
    return "indirect\(Naming.upperFirst(Naming.member(field.name)))"
  }

  /// As a label of an argument, where other keywords are words like any.
  private func label(_ member: Member) -> String {
    let name = self.stored(member)
    return name == "inout" ? Naming.quoted(name) : name
  }

  private func wrap(_ member: Member, _ value: String) -> String {
    self.indirectField(member) == nil ? value : "\(value).map { .value($0) }"
  }

  private func indirectField(_ member: Member) -> FieldModel? {
    switch member {
    case .field(let field), .optional(let field, _): self.isIndirect(field) ? field : nil
    case .oneof: nil
    }
  }

  private func declare(_ member: Member, _ text: inout SwiftText) throws(GeneratorError) {
    let type = try self.memberType(member)
    let quoted = Naming.quoted(self.memberName(member))
    text.document(self.comment(member))
    guard let field = self.indirectField(member) else {
      text.line("\(self.visibility) var \(quoted): \(type)")
      return
    }
    let stored = "indirect\(Naming.upperFirst(Naming.member(field.name)))"
    text.block("\(self.visibility) var \(quoted): \(type)") { text in
      text.line("get { self.\(stored)?.value }")
      text.line("set { self.\(stored) = newValue.map { .value($0) } }")
    }
    let indirect = self.known("Indirect")
    text.line("private var \(stored): \(indirect)<\(type.dropLast())>?")
  }

  private func writeOneof(
    _ oneof: OneofModel, _ fields: [FieldModel], _ text: inout SwiftText, in scope: String
  ) throws(GeneratorError) {
    try text.block("extension \(scope)") { (text) throws(GeneratorError) in
      text.document(
        oneof.comment, fallback: "`\(self.model.fullName).\(oneof.name)`: one of these.")
      try text.block(
        "\(self.visibility) enum \(self.model.oneofType(oneof)): \(self.known("Sendable")), \(self.known("Hashable"))"
      ) { (text) throws(GeneratorError) in
        for field in fields {
          text.document(field.comment)
          let indirect = self.isIndirect(field) ? "indirect " : ""
          text.line("\(indirect)case \(self.caseName(field))(\(try self.element(field)))")
        }
      }
    }
  }

  private func caseName(_ field: FieldModel) -> String {
    let name = Naming.member(field.name)
    // `.none` would be taken for Optional's.
    return name == "none" || name == "some" ? name + "Value" : Naming.quoted(name)
  }

  // MARK: - The way to C

  private func writeBridge(
    _ text: inout SwiftText, _ name: String, _ members: [Member]
  ) throws(GeneratorError) {
    let arena = self.known("Arena")
    let source = self.known("DecodingSource")
    let bridge = self.known("MessageBridge")
    let function = Naming.cFunction(self.model.fullName)
    let v = self.visibility
    try text.block("extension \(name)") { (text) throws(GeneratorError) in
      text.line("\(v) typealias CMessage = \(Naming.cStruct(self.model.fullName))")
      text.line()
      text.line("\(v) static let bridge = \(bridge)(\(function)__init)")
      text.line()
      text.line(
        "\(v) static var messageName: \(self.known("String")) { \"\(self.model.fullName)\" }")
      text.line()
      text.line("\(v) init(")
      text.line("  copying message: \(self.known("UnsafePointer"))<CMessage>, _ source: \(source)")
      try text.block(") throws(\(self.known("MessageDecodingError")))") {
        (text) throws(GeneratorError) in
        for member in members { try self.read(member, &text) }
        text.line("let unknownFields = try source.unknownFields(message.pointee.base)")
        text.call(
          "self.init",
          members.map { "\(self.label($0)): \(self.local($0))" } + ["unknownFields: unknownFields"])
      }
      text.line()
      try text.block(
        "\(v) func write(to message: \(self.known("UnsafeMutablePointer"))<CMessage>, _ arena: \(arena))"
      ) { (text) throws(GeneratorError) in
        for member in members { try self.write(member, &text) }
        text.line("arena.unknownFields(self.unknownFields, &message.pointee.base)")
        for case .field(let field) in members
        where !field.isRepeated && (field.kind == .double || field.kind == .float) {
          text.line(
            "arena.minusZero(self.\(Naming.member(field.name)), \(field.number), "
              + "&message.pointee.base)")
        }
      }
    }
  }

  /// One value out of C.
  private func readValue(
    _ field: FieldModel, _ c: String, _ fullName: String
  ) throws(GeneratorError) -> String {
    switch field.kind {
    case .string: "try source.string(\(c), in: \"\(fullName)\")"
    case .bytes: "source.bytes(\(c))"
    case .bool: "\(c) != 0"
    case .enum: "\(try self.element(field))(rawValue: \(c))"
    case .message: "try source.message(\(c)) ?? \(try self.element(field))()"
    default: c
    }
  }

  /// The constant that a member is read into. All of them are read before any is stored: a struct
  /// that is half filled when something throws would be copied and torn down piece by piece.
  private func local(_ member: Member) -> String {
    let name = self.memberName(member)
    return ["message", "source", "entry", "key", "value"].contains(name)
      ? name + "Field" : Naming.quoted(name)
  }

  /// The type that a member is stored as.
  private func storedType(_ member: Member) throws(GeneratorError) -> String {
    let type = try self.memberType(member)
    return self.indirectField(member) == nil
      ? type : "\(self.known("Indirect"))<\(type.dropLast())>?"
  }

  private func read(_ member: Member, _ text: inout SwiftText) throws(GeneratorError) {
    let local = self.local(member)
    let type = try self.storedType(member)
    switch member {
    case .field(let field):
      let c = "message.pointee.\(Naming.cMember(field.name))"
      let count = "message.pointee.n_\(Naming.cMember(field.name))"
      let fullName = "\(self.model.fullName).\(field.name)"
      if let (key, value) = try self.mapEntry(field) {
        text.line("var \(local): \(type) = [:]")
        text.line("\(local).reserveCapacity(\(count))")
        try text.block(
          "for case let entry? in source.entries(\(count), \(c))"
        ) { (text) throws(GeneratorError) in
          text.line("let key = \(try self.readValue(key, "entry.pointee.key", fullName))")
          text.line("let value = \(try self.readValue(value, "entry.pointee.value", fullName))")
          text.line(
            key.kind == .string
              ? "try source.add(value, of: key, to: &\(local), in: \"\(fullName)\")"
              : "\(local).updateValue(value, forKey: key)")
        }
        return
      }
      text.line("let \(local): \(type) = \(try self.readField(field, c, count, fullName))")
    case .optional(let field, let oneof):
      let c = "message.pointee.\(Naming.cMember(field.name))"
      text.line("let \(local): \(type)")
      text.line("if message.pointee.\(Naming.cCase(oneof)).rawValue == \(field.number) {")
      let value =
        self.isIndirect(field)
        ? "try source.indirectMessage(\(c))"
        : field.kind == .message
          ? "try source.message(\(c))"
          : try self.readValue(field, c, "\(self.model.fullName).\(field.name)")
      text.line("  \(local) = \(value)")
      text.line("} else {")
      text.line("  \(local) = nil")
      text.line("}")
    case .oneof(let oneof, let fields):
      text.line("let \(local): \(type)")
      text.line("switch message.pointee.\(Naming.cCase(oneof.name)).rawValue {")
      for field in fields {
        let c = "message.pointee.\(Naming.cMember(field.name))"
        let value = try self.readValue(field, c, "\(self.model.fullName).\(field.name)")
        text.line("case \(field.number): \(local) = .\(self.caseName(field))(\(value))")
      }
      text.line("default: \(local) = nil")
      text.line("}")
    }
  }

  /// A field that is no map out of C.
  private func readField(
    _ field: FieldModel, _ c: String, _ count: String, _ fullName: String
  ) throws(GeneratorError) -> String {
    guard field.isRepeated else {
      if self.isIndirect(field) { return "try source.indirectMessage(\(c))" }
      if field.kind == .message { return "try source.message(\(c))" }
      return try self.readValue(field, c, fullName)
    }
    switch field.kind {
    case .string: return "try source.strings(\(count), \(c), in: \"\(fullName)\")"
    case .bytes: return "source.bytes(\(count), \(c))"
    case .bool: return "source.bools(\(count), \(c))"
    case .enum: return "source.enums(\(count), \(c))"
    case .message: return "try source.messages(\(count), \(c))"
    default: return "source.numbers(\(count), \(c))"
    }
  }

  /// One value into C.
  private func writeValue(_ field: FieldModel, _ value: String) -> String {
    switch field.kind {
    case .string: "arena.string(\(value))"
    case .bytes: "arena.bytes(\(value))"
    case .bool: "\(value) ? 1 : 0"
    case .enum: "\(value).rawValue"
    case .message: "arena.message(\(value))"
    default: value
    }
  }

  private func write(_ member: Member, _ text: inout SwiftText) throws(GeneratorError) {
    let value = "self.\(self.stored(member))"
    switch member {
    case .field(let field):
      let c = "message.pointee.\(Naming.cMember(field.name))"
      let count = "message.pointee.n_\(Naming.cMember(field.name))"
      if let (key, entryValue) = try self.mapEntry(field) {
        let entry = try self.types[field.typeName].fullName
        let initialize = "\(Naming.cFunction(entry))__init"
        text.line(
          "(\(count), \(c)) = arena.entries(\(value), \(initialize)) { entry, key, value in")
        text.line("  entry.pointee.key = \(self.writeValue(key, "key"))")
        text.line("  entry.pointee.value = \(self.writeValue(entryValue, "value"))")
        if entryValue.kind == .double || entryValue.kind == .float {
          text.line("  arena.minusZero(value, 2, &entry.pointee.base)")
        }
        text.line("}")
        return
      }
      guard field.isRepeated else {
        text.line(
          self.isIndirect(field)
            ? "\(c) = arena.indirectMessage(\(value))" : "\(c) = \(self.writeValue(field, value))")
        return
      }
      switch field.kind {
      case .string: text.line("(\(count), \(c)) = arena.strings(\(value))")
      case .bytes: text.line("(\(count), \(c)) = arena.bytes(\(value))")
      case .bool: text.line("(\(count), \(c)) = arena.bools(\(value))")
      case .enum: text.line("(\(count), \(c)) = arena.enums(\(value))")
      case .message: text.line("(\(count), \(c)) = arena.messages(\(value))")
      default: text.line("(\(count), \(c)) = arena.numbers(\(value))")
      }
    case .optional(let field, let oneof):
      let c = "message.pointee.\(Naming.cMember(field.name))"
      text.block("if let value = \(value)") { text in
        text.line("message.pointee.\(Naming.cCase(oneof)) = .init(rawValue: \(field.number))")
        text.line(
          "\(c) = \(self.writeValue(field, self.isIndirect(field) ? "value.value" : "value"))")
      }
    case .oneof(let oneof, let fields):
      text.line("switch \(value) {")
      for field in fields {
        let c = "message.pointee.\(Naming.cMember(field.name))"
        text.line("case .\(self.caseName(field))(let value):")
        text.line(
          "  message.pointee.\(Naming.cCase(oneof.name)) = .init(rawValue: \(field.number))")
        text.line("  \(c) = \(self.writeValue(field, "value"))")
      }
      text.line("case nil: break")
      text.line("}")
    }
  }
}
