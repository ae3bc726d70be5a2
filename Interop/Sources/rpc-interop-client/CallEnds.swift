import RPC
import RPCCore

/// What became of a channel's calls, one after the other.
final class CallEnds: ClientInterceptor {
  private let summaries: AsyncStream<CallSummary>
  private let continuation: AsyncStream<CallSummary>.Continuation

  init() { (self.summaries, self.continuation) = AsyncStream.makeStream() }

  func intercept(_ call: inout OutgoingCall) async throws {
    call.onEnd { [continuation] in continuation.yield($0) }
  }

  /// The end of the next call, also if that has been already.
  func next() async -> CallSummary? {
    await self.summaries.first { _ in true }
  }
}
