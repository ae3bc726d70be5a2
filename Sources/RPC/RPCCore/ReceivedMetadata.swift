import Synchronization

/// What a server sent beside the messages of one call, for callers of methods that return no stream.
///
///     let received = ReceivedMetadata()
///     let reply = try await greeter.sayHello(
///       HelloRequest(name: "you"), options: CallOptions(receivedMetadata: received))
///     let region = received.initial["region"]
///
/// Of several attempts it holds what the one sent that counted. For one call at a time: each call
/// that it is given to begins by emptying it.
public final class ReceivedMetadata: Sendable {
  private let state = Mutex((initial: Metadata(), trailing: Metadata()))

  /// To be given to a call, by ``CallOptions/receivedMetadata``.
  public init() {}

  /// What came before the response; empty until then, and if the server sent nothing but a status.
  public var initial: Metadata { self.state.withLock { $0.initial } }

  /// What came with the status, also with that of an error; empty until then.
  public var trailing: Metadata { self.state.withLock { $0.trailing } }

  package func callBegan() {
    self.state.withLock { $0 = (Metadata(), Metadata()) }
  }

  package func responseBegan(_ metadata: Metadata) {
    self.state.withLock { $0.initial = metadata }
  }

  package func callEnded(_ metadata: Metadata) {
    self.state.withLock { $0.trailing = metadata }
  }
}
