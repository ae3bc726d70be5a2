import RPCCore
import Testing

@Suite struct ConnectionLifeTests {
  private static func facts(
    isGreeted: Bool = true, openCalls: Int = 0, lastRead: Int = 0, idleSince: Int = 0,
    headersSince: Int? = nil
  ) -> ConnectionLife.Facts {
    ConnectionLife.Facts(
      isGreeted: isGreeted, openCalls: openCalls, lastRead: .seconds(lastRead),
      idleSince: .seconds(idleSince), headersSince: headersSince.map { .seconds($0) })
  }

  @Test func aPeerThatDoesNotGreetIsClosed() {
    var life = ConnectionLife(.init(handshake: .seconds(10)), at: .zero)
    let early = life.check(Self.facts(isGreeted: false), at: .seconds(9))
    #expect(early.actions == [])
    #expect(early.next == .seconds(10))
    let late = life.check(Self.facts(isGreeted: false), at: .seconds(10))
    #expect(late.actions == [.close("HTTP/2 was not greeted with within 10.0 seconds")])
  }

  @Test func aSilentPeerIsPingedAndThenGivenUp() {
    var limits = ConnectionLife.Limits(handshake: .seconds(10))
    limits.keepaliveInterval = .seconds(30)
    limits.keepaliveTimeout = .seconds(5)
    var life = ConnectionLife(limits, at: .zero)
    let calls = Self.facts(openCalls: 1, lastRead: 1)
    let answer1 = life.check(calls, at: .seconds(2))
    #expect(answer1.next == .seconds(31))
    let ping = life.check(calls, at: .seconds(31))
    #expect(ping.actions == [.ping])
    #expect(ping.next == .seconds(36), "the timeout is shorter than the interval")
    // It answers, or says anything else.
    let answer2 = life.check(Self.facts(openCalls: 1, lastRead: 32), at: .seconds(36))
    #expect(answer2.actions == [])
    let answer3 = life.check(Self.facts(openCalls: 1, lastRead: 32), at: .seconds(62))
    #expect(answer3.actions == [.ping])
    let answer4 = life.check(Self.facts(openCalls: 1, lastRead: 32), at: .seconds(67))
    #expect(
      answer4.actions
        == [.close("the peer did not answer a keepalive ping within 5.0 seconds")])
  }

  @Test func withoutCallsNobodyIsPingedUnlessItIsWished() {
    var limits = ConnectionLife.Limits(handshake: .seconds(10))
    limits.keepaliveInterval = .seconds(30)
    var life = ConnectionLife(limits, at: .zero)
    let answer5 = life.check(Self.facts(), at: .seconds(1_000))
    #expect(answer5.actions == [])
    limits.keepaliveWithoutCalls = true
    var other = ConnectionLife(limits, at: .zero)
    let answer6 = other.check(Self.facts(), at: .seconds(1_000))
    #expect(answer6.actions == [.ping])
  }

  @Test func ageAndIdlenessEndAConnectionOnce() {
    var limits = ConnectionLife.Limits(handshake: .seconds(10))
    limits.age = .seconds(100)
    limits.ageGrace = .seconds(20)
    var life = ConnectionLife(limits, at: .zero)
    let calls = Self.facts(openCalls: 1)
    let answer7 = life.check(calls, at: .seconds(99))
    #expect(answer7.next == .seconds(100))
    let left = life.check(calls, at: .seconds(100))
    #expect(left.actions == [.leave("the connection has reached its age of 100.0 seconds")])
    #expect(left.next == .seconds(120))
    let answer8 = life.check(calls, at: .seconds(119))
    #expect(answer8.actions == [])
    let answer9 = life.check(calls, at: .seconds(120))
    #expect(
      answer9.actions
        == [.close("the grace for calls of a connection that is too old is over")])

    limits = .init(handshake: .seconds(10))
    limits.idle = .seconds(60)
    var idle = ConnectionLife(limits, at: .zero)
    let answer10 = idle.check(Self.facts(openCalls: 1), at: .seconds(500))
    #expect(answer10.actions == [])
    let answer11 = idle.check(Self.facts(idleSince: 450), at: .seconds(500))
    #expect(answer11.next == .seconds(510))
    let answer12 = idle.check(Self.facts(idleSince: 450), at: .seconds(510))
    #expect(
      answer12.actions
        == [.leave("the connection was idle for 60.0 seconds")])
  }

  @Test func aHeaderListThatDoesNotEndClosesTheConnection() {
    var limits = ConnectionLife.Limits(handshake: .seconds(10))
    limits.headers = .seconds(5)
    var life = ConnectionLife(limits, at: .zero)
    let answer13 = life.check(Self.facts(headersSince: 3), at: .seconds(5))
    #expect(answer13.actions == [])
    // Not one look later.
    #expect(answer13.next == .seconds(8))
    // Another one since: the first has ended.
    let answer14 = life.check(Self.facts(headersSince: 7), at: .seconds(8))
    #expect(answer14.actions == [] && answer14.next == .seconds(12))
    let answer15 = life.check(Self.facts(headersSince: 7), at: .seconds(12))
    #expect(answer15.actions == [.close("a header list took longer than 5.0 seconds")])
    let answer16 = life.check(Self.facts(), at: .seconds(12))
    #expect(answer16.actions == [] && answer16.next == .seconds(17))
  }

  @Test func pingsThatComeTooOftenAreForgivenTwice() {
    var pings = PingEnforcement(minimumInterval: .seconds(10), permitsWithoutCalls: false)
    var answers: [Bool] = []
    for second in [0, 10, 11, 12, 13] {
      answers.append(pings.pingReceived(hasCalls: true, sent: 0, at: .seconds(second)))
    }
    #expect(answers == [true, true, true, true, false])
    let answer16 = pings.pingReceived(hasCalls: true, sent: 1, at: .seconds(14))
    #expect(answer16)
    // Without calls once in two hours.
    let answer17 = pings.pingReceived(hasCalls: false, sent: 1, at: .seconds(100))
    #expect(answer17)
    let answer18 = pings.pingReceived(hasCalls: false, sent: 1, at: .seconds(200))
    #expect(answer18)
    let answer19 = pings.pingReceived(hasCalls: false, sent: 1, at: .seconds(300))
    #expect(!answer19)
  }

  @Test func aWindowGrowsWhileItHoldsTheSenderBack() {
    var windows = WindowEstimator(window: 64_000, maximum: 300_000)
    let answer20 = windows.read(1_000)
    #expect(!answer20)
    let answer21 = windows.read(15_000)
    #expect(answer21)
    // A ping is out: no other.
    let answer22 = windows.read(60_000)
    #expect(!answer22)
    let answer23 = windows.pingAnswered()
    #expect(answer23 == 128_000)
    let answer24 = windows.read(40_000)
    #expect(answer24)
    // Little came meanwhile: the window is large enough, and is asked for more seldom.
    let answer25 = windows.pingAnswered()
    #expect(answer25 == nil)
    let answer26 = windows.read(40_000)
    #expect(!answer26)
    let answer27 = windows.read(40_000)
    #expect(answer27)
    let answer28 = windows.read(200_000)
    #expect(!answer28)
    let answer29 = windows.pingAnswered()
    #expect(answer29 == 256_000)
    _ = windows.read(64_000)
    _ = windows.read(200_000)
    let last = windows.pingAnswered()
    #expect(last == 300_000)
    let answer30 = windows.read(1 << 30)
    #expect(!answer30)
    // No room: it begins anew.
    let answer31 = windows.narrow()
    #expect(answer31 == 64_000)
    let answer32 = windows.narrow()
    #expect(answer32 == nil)
    let answer33 = windows.read(16_000)
    #expect(answer33)
  }

  @Test func aWindowGrowsStepByStepWhateverThePeerWaitsWith() {
    var windows = WindowEstimator(window: 64_000, maximum: 300_000)
    let asks = windows.read(16_000)
    #expect(asks)
    _ = windows.read(100_000_000)
    let window = windows.pingAnswered()
    #expect(window == 128_000)
  }

  @Test func aBucketGivesItsBurstAndThenWhatTimeBrings() {
    var bucket = TokenBucket(.init(burst: 3, perSecond: 2))
    var second: Int64 = 100
    func take() -> Bool { bucket.take(at: second) }
    #expect([take(), take(), take(), take()] == [true, true, true, false])
    second = 101
    #expect([take(), take(), take()] == [true, true, false])
    bucket.putBack()
    #expect([take(), take()] == [true, false])
  }

  @Test func aBucketWithoutBoundsDoesNotOverflow() {
    var endless = TokenBucket(.init(burst: .max, perSecond: .max))
    endless.putBack(2)
    let isThere = endless.take(at: 0)
    #expect(isThere)
    var quick = TokenBucket(.init(burst: 5, perSecond: .max))
    for _ in 0..<5 { _ = quick.take(at: 0) }
    let isBack = quick.take(at: 3)
    #expect(isBack)
  }
}
