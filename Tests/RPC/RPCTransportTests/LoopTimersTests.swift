import NIOCore
import NIOEmbedded
import Testing

@testable import RPCTransport

@Suite struct LoopTimersTests {
  private let loop = EmbeddedEventLoop()

  @Test func timersGoOffInTheirOrder() {
    let timers = LoopTimers(self.loop)
    var order: [Int] = []
    for delay in [3, 1, 2, 1] {
      _ = timers.start(in: .milliseconds(delay)) { order.append(delay) }
    }
    self.loop.advanceTime(by: .microseconds(999))
    #expect(order == [])
    self.loop.advanceTime(by: .milliseconds(1))
    #expect(order == [1, 1])
    self.loop.advanceTime(by: .milliseconds(2))
    #expect(order == [1, 1, 2, 3])
  }

  @Test func aTimerThatIsStartedAgainForgetsWhatItWasTo() {
    let timers = LoopTimers(self.loop)
    let timer = LoopTimer()
    var ran: [String] = []
    timers.start(timer, in: .milliseconds(1)) { ran.append("first") }
    timers.start(timer, in: .milliseconds(5)) { ran.append("second") }
    self.loop.advanceTime(by: .milliseconds(2))
    #expect(ran == [] && timer.isRunning)
    self.loop.advanceTime(by: .milliseconds(3))
    #expect(ran == ["second"] && !timer.isRunning)
    timers.stop(timer)
    timers.start(timer, in: .zero) { ran.append("third") }
    self.loop.advanceTime(by: .zero)
    #expect(ran == ["second", "third"])
  }

  @Test func actionsMayStartAndStopTimers() {
    let timers = LoopTimers(self.loop)
    var ran: [String] = []
    let doomed = LoopTimer()
    _ = timers.start(in: .milliseconds(1)) {
      ran.append("first")
      timers.stop(doomed)
      _ = timers.start(in: .milliseconds(1)) { ran.append("next") }
    }
    timers.start(doomed, in: .milliseconds(1)) { ran.append("doomed") }
    self.loop.advanceTime(by: .milliseconds(1))
    #expect(ran == ["first"])
    self.loop.advanceTime(by: .milliseconds(1))
    #expect(ran == ["first", "next"])
  }

  /// Whatever is started, moved and stopped, each timer goes off when it is due, and no other time.
  @Test(arguments: 0..<20 as Range<UInt64>)
  func timersDoWhatTheyAreToldTo(seed: UInt64) {
    var state = seed
    func random(_ range: Range<Int>) -> Int {
      // Knuth's constants for 64 bits.
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return range.lowerBound + Int(state >> 33) % range.count
    }
    let loop = EmbeddedEventLoop()
    let timers = LoopTimers(loop)
    let all = (0..<200).map { _ in LoopTimer() }
    var due: [Int: Int] = [:]
    var wentOff: [Int] = []
    for now in 0..<300 {
      for _ in 0..<20 {
        let index = random(0..<all.count)
        if random(0..<2) == 0 {
          let delay = random(1..<50)
          timers.start(all[index], in: .milliseconds(delay)) { wentOff.append(index) }
          due[index] = now + delay
        } else {
          timers.stop(all[index])
          due[index] = nil
        }
      }
      loop.advanceTime(by: .milliseconds(1))
      let expected = due.filter { $0.value == now + 1 }.map(\.key).sorted()
      #expect(wentOff.sorted() == expected)
      for index in expected { due[index] = nil }
      wentOff = []
    }
    // What is still to go off holds the timers and the loop.
    #expect(throws: Never.self) { try loop.syncShutdownGracefully() }
  }

  // Each due before all others, and the latest stopped first: where a timer is looked for among all,
  // it is a matter of minutes.
  @Test(.timeLimit(.minutes(1))) func aHundredThousandTimersAreStoppedAtOnce() {
    let timers = LoopTimers(self.loop)
    weak var first: LoopTimer?
    do {
      let all = (0..<100_000).map { index in
        timers.start(in: .seconds(1_000_000 - index)) { Issue.record("a stopped timer went off") }
      }
      first = all.first
      for timer in all { timers.stop(timer) }
    }
    var hasGoneOff = false
    _ = timers.start(in: .seconds(2)) { hasGoneOff = true }
    // Not kept for as long as they were to run.
    #expect(first == nil)
    self.loop.advanceTime(by: .seconds(2))
    #expect(hasGoneOff)
  }
}
