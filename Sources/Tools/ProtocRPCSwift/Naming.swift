/// How names of protos become names of Swift and of protobuf-c.
package enum Naming {
  /// Words that are written in capitals when they are not the first of a name.
  private static let acronyms: Set<String> = [
    "id", "url", "cpu", "sha", "uri", "json", "http", "gql", "oom",
  ]

  private static let keywords: Set<String> = [
    "Any", "Protocol", "Self", "Type", "as", "associatedtype", "await", "break", "case", "catch",
    "class",
    "continue", "default", "defer", "deinit", "do", "else", "enum", "extension", "fallthrough",
    "false", "fileprivate", "for", "func", "guard", "if", "import", "in", "init", "inout",
    "internal", "is", "let", "nil", "operator", "precedencegroup", "private", "protocol", "public",
    "repeat", "rethrows", "return", "self", "static", "struct", "subscript", "super", "switch",
    "throw", "throws", "true", "try", "typealias", "var", "where", "while",
  ]

  /// Members that every message has already.
  private static let takenMembers: Set<String> = [
    "unknownFields", "hashValue", "self", "init", "bridge", "messageName", "Type",
  ]

  /// `created_at` to `createdAt`, `build_id` to `buildID`.
  package static func member(_ name: String) -> String {
    let words = name.split(separator: "_").map(String.init)
    guard let first = words.first else { return "field" }
    var result = Self.lowerFirst(first)
    for word in words.dropFirst() {
      result += Self.acronyms.contains(word) ? word.uppercased() : Self.upperFirst(word)
    }
    if Self.takenMembers.contains(result) { return result + "Field" }
    return result
  }

  /// A name as it is declared: in backticks where it is a word of the language.
  package static func quoted(_ name: String) -> String {
    Self.keywords.contains(name) ? "`\(name)`" : name
  }

  /// Words of the language's, and modules that generated code names.
  private static let takenTypes: Set = [
    "Any", "Type", "Protocol", "Self", "Swift", "RPCProtobuf",
  ]

  /// `query_type` to `QueryType`.
  package static func type(_ name: String) -> String {
    let result = name.split(separator: "_").map { Self.upperFirst(String($0)) }.joined()
    return Self.takenTypes.contains(result) ? result + "Message" : result
  }

  /// The case of an enum's value: without the enum's own name in front.
  package static func enumCase(_ value: String, of enumName: String) -> String {
    let prefix = Self.upperSnake(enumName) + "_"
    var name = value
    if value.hasPrefix(prefix) {
      let rest = String(value.dropFirst(prefix.count))
      if let first = rest.first, first.isLetter { name = rest }
    }
    // All capitals are words in capitals; anything else is taken as it is.
    let result = Self.member(name == name.uppercased() ? name.lowercased() : name)
    return ["unrecognized", "rawValue", "allCases"].contains(result) ? result + "Value" : result
  }

  /// `google.protobuf` to `GoogleProtobuf`.
  package static func namespace(_ package: String) -> String {
    let name = package.split(separator: ".").map { Self.type(String($0)) }.joined()
    return name.isEmpty ? "Protos" : name
  }

  package static func lowerFirst(_ text: String) -> String {
    // `URLMap` to `urlMap`, `SubmitBuild` to `submitBuild`.
    let characters = Array(text)
    var count = 0
    while count < characters.count, characters[count].isUppercase { count += 1 }
    guard count > 0 else { return text }
    if count > 1 && count < characters.count && characters[count].isLetter { count -= 1 }
    return String(characters[..<count]).lowercased() + String(characters[count...])
  }

  package static func upperFirst(_ text: String) -> String {
    text.prefix(1).uppercased() + text.dropFirst()
  }

  /// `BuildState` to `BUILD_STATE`.
  static func upperSnake(_ name: String) -> String {
    var result = ""
    let characters = Array(name)
    for (index, character) in characters.enumerated() {
      if character.isUppercase, index > 0 {
        let afterLower = !characters[index - 1].isUppercase && characters[index - 1] != "_"
        let beforeLower =
          index + 1 < characters.count && characters[index + 1].isLowercase
          && characters[index - 1].isUppercase
        if afterLower || beforeLower { result += "_" }
      }
      result += character.uppercased()
    }
    return result
  }

  // MARK: - protobuf-c's own rules

  /// The struct of a message.
  package static func cStruct(_ fullName: String) -> String {
    fullName.split(separator: ".").map { Self.cCamel(String($0)) }.joined(separator: "__")
  }

  /// What the functions of a message begin with.
  package static func cFunction(_ fullName: String) -> String {
    fullName.split(separator: ".").map { Self.cLower(String($0)) }.joined(separator: "__")
  }

  /// The member that says which one of a oneof is set.
  package static func cCase(_ oneof: String) -> String { Self.cLower(oneof) + "_case" }

  /// A field, which has been renamed by `cField` in the descriptor that protobuf-c gets.
  package static func cMember(_ field: String) -> String {
    let name = Self.cField(field).lowercased()
    return Self.cKeywords.contains(name) ? name + "_" : name
  }

  /// The name a field is given before protobuf-c sees it: another one where the struct's own
  /// members, or Swift's, would collide with it.
  package static func cField(_ name: String) -> String {
    let lower = name.lowercased()
    let collides =
      ["base", "init", "self", "type", "protocol"].contains(lower) || lower.hasPrefix("n_")
      || lower.hasSuffix("_case")
    return collides ? name + "_" : name
  }

  private static func cCamel(_ name: String) -> String {
    name.split(separator: "_").map { Self.upperFirst(String($0)) }.joined()
  }

  private static func cLower(_ name: String) -> String {
    var result = ""
    var wasUpper = true
    for character in name {
      let isUpper = character.isUppercase
      if isUpper && !wasUpper { result += "_" }
      result += character.lowercased()
      wasUpper = isUpper
    }
    return result
  }

  private static let cKeywords: Set<String> = [
    "and", "and_eq", "asm", "auto", "bitand", "bitor", "bool", "break", "case", "catch", "char",
    "class", "compl", "const", "const_cast", "continue", "default", "delete", "do", "double",
    "dynamic_cast", "else", "enum", "explicit", "extern", "false", "float", "for", "friend", "goto",
    "if", "inline", "int", "long", "mutable", "namespace", "new", "not", "not_eq", "operator", "or",
    "or_eq", "private", "protected", "public", "register", "reinterpret_cast", "return", "short",
    "signed", "sizeof", "static", "static_cast", "struct", "switch", "template", "this", "throw",
    "true", "try", "typedef", "typeid", "typename", "union", "unsigned", "using", "virtual", "void",
    "volatile", "wchar_t", "while", "xor", "xor_eq",
  ]
}
