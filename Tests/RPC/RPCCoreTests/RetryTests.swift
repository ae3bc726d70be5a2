import RPCCore
import Testing

@Suite struct RetryTests {
  private static func failure(
    _ code: StatusCode, _ pushback: RetryState.Pushback = .none, isUnprocessed: Bool = false
  ) -> RetryState.Failure {
    RetryState.Failure(code: code, pushback: pushback, isUnprocessed: isUnprocessed)
  }

  /// Feeds one failure of the only attempt.
  private static func fail(
    _ state: inout RetryState, _ failure: RetryState.Failure,
    _ throttle: inout RetryThrottle?, canReplay: Bool = true, random: Double = 0
  ) -> RetryState.Decision {
    state.failed(
      failure, othersAreOpen: false, canReplay: canReplay, throttle: &throttle, random: random
    )
  }

  @Test func attemptsAreMadeUpToTheirNumberWithGrowingDelays() {
    var throttle: RetryThrottle?
    var state = RetryState(
      .retry(
        RetryPolicy(
          maximumAttempts: 4, initialBackoff: .milliseconds(100),
          maximumBackoff: .milliseconds(150))))
    _ = state.attemptStarted()
    #expect(
      Self.fail(&state, Self.failure(.unavailable), &throttle)
        == .tryAgain(after: .milliseconds(100)))
    _ = state.attemptStarted()
    #expect(
      Self.fail(&state, Self.failure(.unavailable), &throttle, random: 1)
        == .tryAgain(after: .milliseconds(180)))
    _ = state.attemptStarted()
    // The server's word goes before, and the next delay is the first again.
    #expect(
      Self.fail(&state, Self.failure(.unavailable, .after(.seconds(3))), &throttle)
        == .tryAgain(after: .seconds(3)))
    _ = state.attemptStarted()
    #expect(Self.fail(&state, Self.failure(.unavailable), &throttle) == .giveUp)
  }

  @Test func aDelayThatGrowsBeyondAllBoundsIsTheLongest() {
    var throttle: RetryThrottle?
    var state = RetryState(
      .retry(
        RetryPolicy(
          maximumAttempts: 5, initialBackoff: .seconds(1), maximumBackoff: .seconds(1 << 31),
          backoffMultiplier: 1e300)))
    for delay in [Duration.seconds(1), .seconds(1 << 31)] {
      _ = state.attemptStarted()
      #expect(
        Self.fail(&state, Self.failure(.unavailable), &throttle) == .tryAgain(after: delay))
    }
  }

  @Test func othersAreNotTriedAgain() {
    var throttle: RetryThrottle?
    for failure in [
      Self.failure(.invalidArgument), Self.failure(.unavailable, .never),
      Self.failure(.invalidArgument, .after(.zero)),
    ] {
      var state = RetryState(.retry(RetryPolicy(maximumAttempts: 3)))
      _ = state.attemptStarted()
      #expect(Self.fail(&state, failure, &throttle) == .giveUp)
    }
    var state = RetryState(.retry(RetryPolicy(maximumAttempts: 3)))
    _ = state.attemptStarted()
    #expect(
      Self.fail(&state, Self.failure(.unavailable), &throttle, canReplay: false) == .giveUp)
  }

  @Test func noPolicyHasMoreThanFiveAttempts() {
    var throttle: RetryThrottle?
    var state = RetryState(.retry(RetryPolicy(maximumAttempts: 100)))
    var attempts = 0
    repeat {
      _ = state.attemptStarted()
      attempts += 1
    } while Self.fail(&state, Self.failure(.unavailable), &throttle) != .giveUp
    #expect(attempts == 5)
  }

  @Test func whatTheServerHasNotSeenIsTriedAgainWithoutAnyPolicy() {
    var throttle: RetryThrottle?
    var state = RetryState(.none)
    _ = state.attemptStarted()
    let refused = Self.failure(.unavailable, isUnprocessed: true)
    for attempt in 0..<10 {
      let answer = state.failed(
        refused, othersAreOpen: false, canReplay: true, throttle: &throttle, random: 0)
      let delay = attempt < 3 ? Duration.zero : .milliseconds(10 << (attempt - 2))
      #expect(answer == .moveOn(after: delay))
      #expect(state.attempts == 0)
      _ = state.attemptStarted()
    }
    #expect(Self.fail(&state, refused, &throttle) == .giveUp)
    #expect(state.attempts == 1)
  }

  @Test func retriesStopWhileMostCallsFail() {
    var throttle: RetryThrottle? = RetryThrottle(
      RetryThrottling(maximumTokens: 4, tokenRatio: 0.5))
    func attempt() -> RetryState.Decision {
      var state = RetryState(.retry(RetryPolicy(maximumAttempts: 2)))
      _ = state.attemptStarted()
      return Self.fail(&state, Self.failure(.unavailable), &throttle)
    }
    #expect(attempt() != .giveUp)
    #expect(attempt() == .giveUp)
    for _ in 0..<4 { throttle?.succeeded() }
    #expect(attempt() != .giveUp)
  }

  @Test func hedgesFollowEachOtherUntilOneIsFatal() {
    var throttle: RetryThrottle?
    var state = RetryState(
      .hedge(HedgingPolicy(maximumAttempts: 3, delay: .milliseconds(10))))
    let answer1 = state.attemptStarted()
    #expect(answer1 == .milliseconds(10))
    let mayHedge = state.hedgeIsDue(nil)
    #expect(mayHedge)
    let answer2 = state.attemptStarted()
    #expect(answer2 == .milliseconds(10))
    // One has failed: the last is made at once.
    let next = state.failed(
      Self.failure(.unavailable), othersAreOpen: true, canReplay: true, throttle: &throttle,
      random: 0)
    #expect(next == .tryAgain(after: .zero))
    let answer3 = state.attemptStarted()
    #expect(answer3 == nil)
    let waits = state.failed(
      Self.failure(.unavailable), othersAreOpen: true, canReplay: true, throttle: &throttle,
      random: 0)
    #expect(waits == .goOn)
    let fatal = state.failed(
      Self.failure(.invalidArgument), othersAreOpen: true, canReplay: true, throttle: &throttle,
      random: 0)
    #expect(fatal == .giveUp)
  }

  /// Two streams of one connection fail in one read, before any of what follows them can start.
  @Test func twoFailuresBeforeOneStartPlanNoMoreThanTheAttemptsThatAreLeft() {
    var throttle: RetryThrottle?
    var state = RetryState(.hedge(HedgingPolicy(maximumAttempts: 3, delay: .zero)))
    _ = state.attemptStarted()
    let mayHedge = state.hedgeIsDue(nil)
    #expect(mayHedge)
    _ = state.attemptStarted()
    var decisions: [RetryState.Decision] = []
    for _ in 0..<2 {
      decisions.append(
        state.failed(
          Self.failure(.unavailable), othersAreOpen: true, canReplay: true, throttle: &throttle,
          random: 0))
    }
    #expect(decisions == [.tryAgain(after: .zero), .goOn])
    let isDue = state.hedgeIsDue(nil)
    #expect(!isDue)
    // What is planned is made, or gives its place back.
    state.plannedAttemptFell()
    let isDueAgain = state.hedgeIsDue(nil)
    #expect(isDueAgain)
    let next = state.attemptStarted()
    #expect(next == nil)
    #expect(state.attempts == 3)
  }

  /// Two of the three that were refused meet the first, which waits for a connection.
  @Test func aHedgeThatWasRefusedAndFellCanBeMadeOnceMore() {
    var throttle: RetryThrottle?
    var state = RetryState(
      .hedge(HedgingPolicy(maximumAttempts: 3, delay: .milliseconds(10))))
    _ = state.attemptStarted()
    for _ in 0..<2 {
      let mayHedge = state.hedgeIsDue(nil)
      #expect(mayHedge)
      _ = state.attemptStarted()
    }
    for _ in 0..<3 {
      let decision = state.failed(
        Self.failure(.unavailable, isUnprocessed: true), othersAreOpen: true, canReplay: true,
        throttle: &throttle, random: 0)
      #expect(decision == .moveOn(after: .zero))
    }
    for _ in 0..<2 { state.plannedAttemptFell() }
    let nextHedge = state.attemptStarted()
    #expect(nextHedge == .milliseconds(10))
    #expect(state.attempts == 1)
  }

  @Test func theNearestMethodConfigApplies() {
    let config = ServiceConfig(methods: [
      MethodConfig(names: [.init()], timeout: .seconds(1)),
      MethodConfig(names: [.init(service: "a.B")], timeout: .seconds(2)),
      MethodConfig(names: [.init(service: "a.B", method: "C")], timeout: .seconds(3)),
    ])
    #expect(config.method("/a.B/C")?.timeout == .seconds(3))
    #expect(config.method("/a.B/D")?.timeout == .seconds(2))
    #expect(config.method("/x.Y/Z")?.timeout == .seconds(1))
    #expect(ServiceConfig().method("/a.B/C") == nil)
  }
}
