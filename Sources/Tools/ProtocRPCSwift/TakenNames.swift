/// The names that a run declares in Swift and in C, where protos that differ become the same.
struct TakenNames {
  /// What a name was made of, for each language.
  private var owners: [String: [String: String]] = [:]

  /// Throws if something in the file would have the name of something else.
  mutating func take(_ file: FileModel) throws(GeneratorError) {
    let namespace = TypeTable.namespace(of: file)
    if TypeTable.typeNames(of: file).contains(namespace) {
      throw GeneratorError(
        "\(file.name): its swift_prefix \(namespace) is the name of a type in it: one needs another name"
      )
    }
    for message in file.messages { try self.take(message, in: namespace) }
    for value in file.enums { try self.take(value, in: namespace) }
    for service in file.services {
      for name in ServiceGenerator.typeNames(of: service) {
        try self.take("\(namespace).\(name)", of: service.fullName, in: "Swift")
      }
      for method in service.methods {
        try self.take(
          "\(service.fullName).\(ServiceGenerator.name(of: method))",
          of: "\(service.fullName).\(method.name)", in: "Swift")
      }
    }
  }

  private mutating func take(
    _ message: MessageModel, in scope: String
  ) throws(GeneratorError) {
    let fullName = message.fullName
    let name = "\(scope).\(Naming.type(message.name))"
    if !message.isMapEntry { try self.take(name, of: fullName, in: "Swift") }
    try self.take(Naming.cStruct(fullName), of: fullName, in: "C")
    try self.take(Naming.cFunction(fullName) + "__init", of: fullName, in: "C")
    for field in message.fields {
      try self.take(
        "\(Naming.cStruct(fullName)).\(Naming.cMember(field.name))",
        of: "\(fullName).\(field.name)", in: "C")
    }
    for oneof in message.oneofs {
      try self.take(
        "\(Naming.cStruct(fullName)).\(Naming.cCase(oneof.name))",
        of: "\(fullName).\(oneof.name)", in: "C")
    }
    for oneof in message.enumOneofs {
      try self.take(
        "\(name).\(message.oneofType(oneof))", of: "\(fullName).\(oneof.name)", in: "Swift")
    }
    for nested in message.messages { try self.take(nested, in: name) }
    for nested in message.enums { try self.take(nested, in: name) }
  }

  private mutating func take(_ value: EnumModel, in scope: String) throws(GeneratorError) {
    try self.take("\(scope).\(Naming.type(value.name))", of: value.fullName, in: "Swift")
  }

  private mutating func take(
    _ name: String, of owner: String, in language: String
  ) throws(GeneratorError) {
    if let other = self.owners[language]?[name], other != owner {
      throw GeneratorError(
        "\(other) and \(owner) would both be \(name) in \(language): one needs another name")
    }
    self.owners[language, default: [:]][name] = owner
  }
}
