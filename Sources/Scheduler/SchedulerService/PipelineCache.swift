import Domain
import PipelineSyntax
import Synchronization

/// Pipelines that were read lately: most builds of a project bring the same text.
final class PipelineCache: Sendable {
  /// Texts that are kept, all in all; the one that was not used for the longest time goes first.
  private static let maximumCount = 256
  private static let maximumBytes = 8 << 20

  private struct State {
    var pipelines: [[UInt8]: (pipeline: Pipeline, used: UInt64)] = [:]
    var bytes = 0
    var clock: UInt64 = 0
  }

  private let state = Mutex(State())

  func knows(_ text: [UInt8]) -> Bool { self.state.withLock { $0.pipelines[text] != nil } }

  /// The pipeline of a text, read if it is not known.
  func pipeline(_ text: [UInt8], path: String) throws(PipelineMistakes) -> Pipeline {
    let known = self.state.withLock { state -> Pipeline? in
      guard state.pipelines[text] != nil else { return nil }
      state.clock += 1
      state.pipelines[text]?.used = state.clock
      return state.pipelines[text]?.pipeline
    }
    if let known { return known }
    let pipeline = try PipelineFile.read(text, path: path.isEmpty ? "millrace.yaml" : path)
    self.state.withLock { state in
      state.clock += 1
      if state.pipelines.updateValue((pipeline, state.clock), forKey: text) == nil {
        state.bytes += text.count
      }
      while state.pipelines.count > Self.maximumCount || state.bytes > Self.maximumBytes,
        let oldest = state.pipelines.min(by: { $0.value.used < $1.value.used })?.key
      {
        state.pipelines[oldest] = nil
        state.bytes -= oldest.count
      }
    }
    return pipeline
  }
}
