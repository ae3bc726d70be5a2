/// What `--rpc-swift_opt` says.
package struct Options: Equatable {
  package enum Output: Equatable { case c, swift }

  /// Where types of imported files come from that this run does not generate.
  package struct Origin: Equatable {
    /// What the file's path begins with.
    package var prefix: String
    package var swiftModule: String
    package var cModule: String
  }

  package var visibility = "public"
  package var outputs: [Output] = [.c, .swift]
  package var cModule = "CProtos"
  package var module = ""
  package var origins: [Origin] = []
  package var cGenerator = "protoc-gen-c"

  /// The library's own messages, which programs that use it need not generate again.
  static let libraryOrigins = [
    "google/protobuf/", "google/rpc/", "grpc/health/", "grpc/reflection/",
  ].map {
    Origin(prefix: $0, swiftModule: "RPC", cModule: "CRPCProtos")
  }

  package init(_ parameter: String) throws(GeneratorError) {
    for option in parameter.split(separator: ",") {
      let parts = option.split(separator: "=", maxSplits: 1).map(String.init)
      guard parts.count == 2 else {
        throw GeneratorError("option '\(option)' is not of the form name=value")
      }
      let value = parts[1]
      switch parts[0] {
      case "visibility":
        guard ["public", "package", "internal"].contains(value) else {
          throw GeneratorError("visibility is public, package or internal, not '\(value)'")
        }
        self.visibility = value
      case "emit":
        switch value {
        case "c": self.outputs = [.c]
        case "swift": self.outputs = [.swift]
        case "all": self.outputs = [.c, .swift]
        default: throw GeneratorError("emit is c, swift or all, not '\(value)'")
        }
      case "c_module": self.cModule = try Self.moduleName(value, of: "c_module")
      case "module": self.module = try Self.moduleName(value, of: "module")
      case "import":
        let fields = value.split(separator: ":").map(String.init)
        guard fields.count == 3 else {
          throw GeneratorError("import is PATH-PREFIX:SWIFT-MODULE:C-MODULE, not '\(value)'")
        }
        self.origins.append(
          Origin(
            prefix: fields[0], swiftModule: try Self.moduleName(fields[1], of: "import"),
            cModule: try Self.moduleName(fields[2], of: "import")))
      case "protoc_gen_c": self.cGenerator = value
      default:
        throw GeneratorError(
          "unknown option '\(parts[0])'; known: visibility, emit, c_module, module, import, "
            + "protoc_gen_c")
      }
    }
  }

  private static func moduleName(
    _ name: String, of option: String
  ) throws(GeneratorError) -> String {
    let isName =
      name.utf8.allSatisfy { byte in
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
          UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"):
          true
        default: false
        }
      } && name.first?.isNumber == false
    guard isName else {
      throw GeneratorError(
        "\(option): a module's name is letters, digits and _, not '\(name)'")
    }
    return name
  }

  /// Where the types of a file that is not generated in this run come from: nothing if from the
  /// module itself.
  func origin(of file: String) -> Origin? {
    let origin = (self.origins + Self.libraryOrigins).first { file.hasPrefix($0.prefix) }
    return origin.flatMap { $0.swiftModule == self.module ? nil : $0 }
  }
}
