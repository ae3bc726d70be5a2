import Domain

/// A millrace.yaml: text in, a ``Domain/Pipeline`` or every mistake out.
package enum PipelineFile {
  /// A larger file is refused unread.
  package static let maximumBytes = 1 << 20

  /// Reads a pipeline.
  ///
  /// - Parameter path: What to call the file in messages.
  package static func read(
    _ bytes: [UInt8], path: String = "millrace.yaml"
  ) throws(PipelineMistakes) -> Pipeline {
    func refusal(_ mistake: PipelineMistake) -> PipelineMistakes {
      PipelineMistakes(path: path, mistakes: [mistake])
    }
    guard bytes.count <= Self.maximumBytes else {
      throw refusal(
        PipelineMistake(
          line: 1, column: 1, message: "the file has \(bytes.count) bytes",
          suggestion: "at most \(Self.maximumBytes) are read; move scripts into files of their own")
      )
    }
    guard let text = String(validating: bytes, as: UTF8.self) else {
      throw refusal(
        PipelineMistake(
          line: 1, column: 1, message: "the file is no UTF-8 text",
          suggestion: "save it with the encoding UTF-8"))
    }
    let document: YAMLDocument
    do {
      document = try YAMLDocument(parsing: text)
    } catch {
      throw refusal(error.mistake)
    }
    var reader = PipelineReader(text: text, mistakes: document.mistakes)
    let pipeline = reader.pipeline(document.root)
    guard let pipeline, reader.mistakes.isEmpty else {
      throw reader.allMistakes(path: path)
    }
    return pipeline
  }
}
