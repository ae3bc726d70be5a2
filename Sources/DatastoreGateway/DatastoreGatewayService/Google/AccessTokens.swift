import DatastoreGatewayCore
import RPC
import Synchronization

/// The access token of a store at Google's, one for all calls.
final class AccessTokens: ClientInterceptor {
  private typealias Waiter = CheckedContinuation<String, any Error>

  private let source: TokenSource
  private let machine = Mutex(TokenMachine<Waiter, TokenSource.Failure>())
  private let clock = ContinuousClock()
  private let begin: ContinuousClock.Instant

  init(_ source: TokenSource) {
    self.source = source
    self.begin = self.clock.now
  }

  private var now: Duration { self.clock.now - self.begin }

  /// A token that is good for a call that is made now.
  ///
  /// - Throws: `RPCError`: UNAUTHENTICATED where the token's server refuses the gateway, UNAVAILABLE
  ///   where it does not answer.
  func token() async throws -> String {
    try await withCheckedThrowingContinuation { continuation in
      let now = self.now
      let effect = self.machine.withLock { $0.needed(by: continuation, at: now) }
      switch effect {
      case .use(let token): continuation.resume(returning: token)
      case .useAndFetch(let token):
        continuation.resume(returning: token)
        self.fetch()
      case .fetch: self.fetch()
      case .wait: break
      case .fail(let failure): continuation.resume(throwing: Self.rpcError(failure))
      }
    }
  }

  /// Not a child of the call that needs it: that one may be cancelled, and others wait too. It ends by
  /// itself, for each of its few attempts has a timeout.
  private func fetch() {
    Task {
      let result: Result<TokenSource.Token, TokenSource.Failure>
      do throws(TokenSource.Failure) {
        result = .success(try await self.source.fetch())
      } catch {
        result = .failure(error)
      }
      let now = self.now
      switch result {
      case .success(let token):
        let waiters = self.machine.withLock {
          $0.fetched(token.text, lifetime: token.lifetime, at: now)
        }
        for waiter in waiters { waiter.resume(returning: token.text) }
      case .failure(let failure):
        let waiters = self.machine.withLock { $0.failed(failure, at: now) }
        for waiter in waiters { waiter.resume(throwing: Self.rpcError(failure)) }
      }
    }
  }

  /// Google took this token for none.
  func refused(_ token: String) { self.machine.withLock { $0.refused(token) } }

  static func rpcError(_ failure: TokenSource.Failure) -> RPCError {
    RPCError(failure.isRefusal ? .unauthenticated : .unavailable, failure.description)
  }

  // MARK: - Calls

  func intercept(_ call: inout OutgoingCall) async throws {
    let token = try await self.token()
    call.options.metadata.add("Bearer \(token)", for: "authorization")
    if case .authorizedUser(let user) = self.source.identity, let project = user.quotaProject {
      call.options.metadata.add(project, for: "x-goog-user-project")
    }
    call.onEnd { summary in if summary.code == .unauthenticated { self.refused(token) } }
  }
}
