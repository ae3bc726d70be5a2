/// A file of the answer to protoc.
package struct GeneratedFile: Equatable {
  package var name: String
  package var content: String
}

/// What protoc asks for.
package struct Request {
  package var filesToGenerate: [String]
  package var options: Options
  /// Every file to generate and everything they import, imports first.
  package var files: [FileModel]

  package init(_ bytes: [UInt8]) throws(GeneratorError) {
    let wire = try WireMessage(bytes)
    self.filesToGenerate = wire.strings(1)
    self.options = try Options(wire.string(2) ?? "")
    self.files = []
    for file in try wire.messages(15) { self.files.append(try FileModel(file)) }
  }
}

/// The plugin: a `CodeGeneratorRequest` in, a `CodeGeneratorResponse` out.
package enum Plugin {
  /// Answers protoc. A mistake becomes the answer's `error`, which protoc shows.
  package static func respond(to request: [UInt8]) -> [UInt8] {
    var response = WireMessage()
    // FEATURE_PROTO3_OPTIONAL
    response.set(2, .varint(1))
    do {
      for file in try Self.files(for: try Request(request)) {
        var wire = WireMessage()
        wire.set(1, file.name)
        wire.set(15, file.content)
        response.add(15, .bytes(wire.encoded))
      }
    } catch {
      response.set(1, error.description)
    }
    return response.encoded
  }

  /// Everything that is generated for a request.
  package static func files(for request: Request) throws(GeneratorError) -> [GeneratedFile] {
    try Self.check(request)
    var files: [GeneratedFile] = []
    if request.options.outputs.contains(.c) {
      let generator = CGenerator(
        program: request.options.cGenerator, module: request.options.cModule)
      files += try generator.files(for: request)
    }
    if request.options.outputs.contains(.swift) {
      files += try SwiftGenerator(request).files()
    }
    return files
  }

  /// Refuses what would be generated wrongly, with the reason.
  private static func check(_ request: Request) throws(GeneratorError) {
    for file in request.files where request.filesToGenerate.contains(file.name) {
      guard file.syntax == "proto3" else {
        throw GeneratorError(
          "\(file.name): syntax \"\(file.syntax)\" is not supported, only \"proto3\": groups, "
            + "required fields and closed enums have no counterpart here")
      }
      guard !file.hasExtensions else {
        throw GeneratorError("\(file.name): extensions are not supported")
      }
    }
    var names = TakenNames()
    for file in request.files where request.filesToGenerate.contains(file.name) {
      try names.take(file)
    }
  }
}
