/// A `.proto` file as protoc hands it over.
package struct FileModel {
  package var name: String
  package var package: String
  package var dependencies: [String]
  package var messages: [MessageModel]
  package var enums: [EnumModel]
  package var services: [ServiceModel]
  package var syntax: String
  package var swiftPrefix: String?
  package var hasExtensions: Bool
  /// The comment above `package`.
  package var comment: String
  /// The descriptor itself, without comments.
  package var serialized: [UInt8]
  package var wire: WireMessage
}

package struct MessageModel {
  package var name: String
  package var fullName: String
  package var fields: [FieldModel]
  package var oneofs: [OneofModel]
  package var messages: [MessageModel]
  package var enums: [EnumModel]
  package var isMapEntry: Bool
  package var comment: String
}

package struct OneofModel {
  package var name: String
  package var comment: String
}

package struct FieldModel {
  package enum Kind: Int {
    case double = 1
    case float, int64, uint64, int32, fixed64, fixed32, bool, string, group, message
    case bytes, uint32, `enum`, sfixed32, sfixed64, sint32, sint64
  }

  package var name: String
  package var number: Int
  package var kind: Kind
  package var isRepeated: Bool
  package var isRequired: Bool
  /// With the leading dot, for messages and enums.
  package var typeName: String
  package var oneof: Int?
  package var comment: String
  package var isDeprecated: Bool
}

package struct EnumModel {
  package struct Value {
    package var name: String
    package var number: Int
    package var comment: String
  }

  package var name: String
  package var fullName: String
  package var values: [Value]
  package var comment: String
}

package struct ServiceModel {
  package struct Method {
    package var name: String
    package var input: String
    package var output: String
    package var streamsRequests: Bool
    package var streamsResponses: Bool
    package var comment: String

    var isUnary: Bool { !self.streamsRequests && !self.streamsResponses }
  }

  package var name: String
  package var fullName: String
  package var methods: [Method]
  package var comment: String
}

// Field numbers below are those of google/protobuf/descriptor.proto.

extension FileModel {
  package init(_ wire: WireMessage) throws(GeneratorError) {
    self.name = wire.string(1) ?? ""
    self.package = wire.string(2) ?? ""
    self.dependencies = wire.strings(3)
    self.syntax = wire.string(12) ?? "proto2"
    self.swiftPrefix = try wire.message(8)?.string(39)
    self.hasExtensions = !wire.allBytes(7).isEmpty
    var comments: [[Int]: String] = [:]
    for location in try wire.message(9)?.messages(1) ?? [] {
      let text = [location.string(3), location.string(4)].compactMap { $0 }.joined(separator: "\n")
      if !text.isEmpty { comments[location.numbers(1)] = text }
    }
    self.comment = comments[[2]] ?? ""
    var serialized = wire
    serialized.remove(9)
    self.serialized = serialized.encoded
    self.wire = wire
    self.messages = []
    for (index, message) in try wire.messages(4).enumerated() {
      self.messages.append(try MessageModel(message, self.package, [4, index], comments))
    }
    self.enums = []
    for (index, value) in try wire.messages(5).enumerated() {
      self.enums.append(try EnumModel(value, self.package, [5, index], comments))
    }
    self.services = []
    for (index, service) in try wire.messages(6).enumerated() {
      self.services.append(try ServiceModel(service, self.package, [6, index], comments))
    }
  }
}

extension MessageModel {
  init(
    _ wire: WireMessage, _ scope: String, _ path: [Int], _ comments: [[Int]: String]
  ) throws(GeneratorError) {
    self.name = wire.string(1) ?? ""
    self.fullName = scope.isEmpty ? self.name : "\(scope).\(self.name)"
    self.comment = comments[path] ?? ""
    self.isMapEntry = try wire.message(7)?.flag(7) ?? false
    self.fields = []
    for (index, field) in try wire.messages(2).enumerated() {
      guard let kind = FieldModel.Kind(rawValue: field.number(5) ?? 0) else {
        throw GeneratorError("\(self.fullName): a field of unknown type \(field.number(5) ?? 0)")
      }
      self.fields.append(
        FieldModel(
          name: field.string(1) ?? "", number: field.number(3) ?? 0, kind: kind,
          isRepeated: field.number(4) == 3, isRequired: field.number(4) == 2,
          typeName: field.string(6) ?? "", oneof: field.number(9),
          comment: comments[path + [2, index]] ?? "",
          isDeprecated: try field.message(8)?.flag(3) ?? false))
    }
    self.oneofs = []
    for (index, oneof) in try wire.messages(8).enumerated() {
      self.oneofs.append(
        OneofModel(name: oneof.string(1) ?? "", comment: comments[path + [8, index]] ?? ""))
    }
    self.messages = []
    for (index, message) in try wire.messages(3).enumerated() {
      self.messages.append(try MessageModel(message, self.fullName, path + [3, index], comments))
    }
    self.enums = []
    for (index, value) in try wire.messages(4).enumerated() {
      self.enums.append(try EnumModel(value, self.fullName, path + [4, index], comments))
    }
  }
}

extension EnumModel {
  init(
    _ wire: WireMessage, _ scope: String, _ path: [Int], _ comments: [[Int]: String]
  ) throws(GeneratorError) {
    self.name = wire.string(1) ?? ""
    self.fullName = scope.isEmpty ? self.name : "\(scope).\(self.name)"
    self.comment = comments[path] ?? ""
    self.values = []
    for (index, value) in try wire.messages(2).enumerated() {
      self.values.append(
        Value(
          name: value.string(1) ?? "",
          number: Int(Int32(truncatingIfNeeded: value.number(2) ?? 0)),
          comment: comments[path + [2, index]] ?? ""))
    }
  }
}

extension ServiceModel {
  init(
    _ wire: WireMessage, _ scope: String, _ path: [Int], _ comments: [[Int]: String]
  ) throws(GeneratorError) {
    self.name = wire.string(1) ?? ""
    self.fullName = scope.isEmpty ? self.name : "\(scope).\(self.name)"
    self.comment = comments[path] ?? ""
    self.methods = []
    for (index, method) in try wire.messages(2).enumerated() {
      self.methods.append(
        Method(
          name: method.string(1) ?? "", input: method.string(2) ?? "",
          output: method.string(3) ?? "", streamsRequests: method.flag(5),
          streamsResponses: method.flag(6), comment: comments[path + [2, index]] ?? ""))
    }
  }
}
