import RPCCore
import Testing

@Suite struct ChannelMachineTests {
  private static let a = ListenAddress.tcp(host: "10.0.0.1", port: 1)
  private static let b = ListenAddress.tcp(host: "10.0.0.2", port: 1)
  private static let c = ListenAddress.tcp(host: "10.0.0.3", port: 1)

  private static func policy(_ balancing: LoadBalancing = .pickFirst) -> ChannelMachine.Policy {
    var policy = ChannelMachine.Policy()
    policy.balancing = balancing
    policy.backoff = .init(initial: .seconds(1), multiplier: 2, maximum: .seconds(5), jitter: 0.5)
    return policy
  }

  /// A machine that a call has woken and that knows its addresses.
  private static func machine(
    _ addresses: [ListenAddress], _ balancing: LoadBalancing = .pickFirst
  ) -> (ChannelMachine, [ChannelMachine.Effect]) {
    var machine = ChannelMachine(Self.policy(balancing))
    let admission = machine.callArrived(waitsForReady: false)
    #expect(admission == .wait([.setTimer(.resolve, after: .seconds(1)), .resolve]))
    let effects = machine.resolved(addresses, callsAreWaiting: true)
    return (machine, effects)
  }

  @Test func theFirstCallConnectsAndTheNextOnesWaitWithIt() {
    var (machine, effects) = Self.machine([Self.a])
    #expect(effects == [.connect(1, Self.a)])
    let answer1 = machine.callArrived(waitsForReady: false)
    #expect(answer1 == .wait([]))
    let answer2 = machine.connected(1)
    #expect(answer2 == [.startWaitingCalls])
    let answer3 = machine.callArrived(waitsForReady: false)
    #expect(answer3 == .start(1))
  }

  @Test func theNextAddressIsTriedBesideOneThatIsSilent() {
    var (machine, effects) = Self.machine([Self.a, Self.b, Self.c])
    let delay = ChannelMachine.Policy().attemptDelay
    #expect(effects == [.connect(1, Self.a), .setTimer(.nextAddress, after: delay)])
    let answer4 = machine.timerFired(.nextAddress, callsAreWaiting: true)
    #expect(
      answer4 == [
        .connect(2, Self.b), .setTimer(.nextAddress, after: delay),
      ])
    // The second answers: the first is given up, the third is not tried.
    let answer5 = machine.connected(2)
    #expect(answer5 == [.drop(1), .startWaitingCalls])
    let answer6 = machine.timerFired(.nextAddress, callsAreWaiting: false)
    #expect(answer6 == [])
    let answer7 = machine.callArrived(waitsForReady: false)
    #expect(answer7 == .start(2))
    // What it was given up for comes all the same.
    let answer8 = machine.connected(1)
    #expect(answer8 == nil)
  }

  @Test func callsFailOnceEveryAddressHasFailed() {
    var (machine, _) = Self.machine([Self.a, Self.b])
    let first = machine.connectFailed(1, "refused", callsAreWaiting: true, random: 0)
    #expect(first == [.setTimer(.link(1), after: .seconds(1)), .connect(2, Self.b)])
    let second = machine.connectFailed(2, "no route", callsAreWaiting: true, random: 0)
    #expect(
      second == [.setTimer(.link(2), after: .seconds(1)), .failWaitingCalls("no route")])
    let answer9 = machine.callArrived(waitsForReady: false)
    #expect(answer9 == .fail("no route"))
    let answer10 = machine.callArrived(waitsForReady: true)
    #expect(answer10 == .wait([]))
    let answer11 = machine.timerFired(.link(1), callsAreWaiting: true)
    #expect(answer11 == [.connect(1, Self.a)])
    // Still failing, as far as anybody knows.
    let answer12 = machine.callArrived(waitsForReady: false)
    #expect(answer12 == .fail("no route"))
    let answer13 = machine.connected(1)
    #expect(answer13 == [.startWaitingCalls])
    let answer14 = machine.callArrived(waitsForReady: false)
    #expect(answer14 == .start(1))
  }

  @Test func delaysGrowToTheirBoundAndStray() {
    var (machine, _) = Self.machine([Self.a])
    var delays: [Duration] = []
    for _ in 0..<5 {
      let effects = machine.connectFailed(1, "no", callsAreWaiting: true, random: 0)
      for case .setTimer(.link, let delay) in effects { delays.append(delay) }
      let answer15 = machine.timerFired(.link(1), callsAreWaiting: true)
      #expect(answer15.contains(.connect(1, Self.a)))
    }
    #expect(delays == [1, 2, 4, 5, 5].map { .seconds($0) })
    let stray = machine.connectFailed(1, "no", callsAreWaiting: true, random: 1)
    #expect(stray.first == .setTimer(.link(1), after: .seconds(7.5)))
  }

  @Test func withoutCallsTheNextOneTriesAtOnce() {
    var (machine, _) = Self.machine([Self.a])
    _ = machine.connectFailed(1, "no", callsAreWaiting: true, random: 0)
    let answer16 = machine.timerFired(.link(1), callsAreWaiting: false)
    #expect(answer16 == [])
    let answer17 = machine.callArrived(waitsForReady: false)
    #expect(answer17 == .wait([.connect(1, Self.a)]))
  }

  @Test func aLostConnectionIsMadeAgainWhenItIsNeeded() {
    var (machine, _) = Self.machine([Self.a])
    _ = machine.connected(1)
    _ = machine.timerFired(.resolve, callsAreWaiting: false)
    let answer18 = machine.lost(1, wasUseful: false, callsAreWaiting: false, random: 0)
    #expect(
      answer18 == [
        .setTimer(.resolve, after: .seconds(1)), .resolve,
      ])
    let answer19 = machine.callArrived(waitsForReady: false)
    #expect(answer19 == .wait([.connect(1, Self.a)]))
  }

  @Test func callsGoRoundThoseThatAreReady() {
    var (machine, effects) = Self.machine([Self.a, Self.b, Self.c], .roundRobin)
    #expect(effects == [.connect(1, Self.a), .connect(2, Self.b), .connect(3, Self.c)])
    _ = machine.connected(1)
    _ = machine.connected(3)
    var turns: [ChannelMachine.Admission] = []
    for _ in 0..<4 { turns.append(machine.callArrived(waitsForReady: false)) }
    #expect(turns == [.start(1), .start(3), .start(1), .start(3)])
    // A lost one is connected again at once, calls or not.
    let answer20 = machine.lost(1, wasUseful: true, callsAreWaiting: false, random: 0)
    #expect(answer20.contains(.connect(1, Self.a)))
    let answer21 = machine.callArrived(waitsForReady: false)
    #expect(answer21 == .start(3))
  }

  @Test func aServerThatGreetsAndLeavesIsConnectedToMoreAndMoreSeldom() {
    var (machine, _) = Self.machine([Self.a], .roundRobin)
    var delays: [Duration] = []
    for _ in 0..<4 {
      let ready = machine.connected(1)
      #expect(ready == [.startWaitingCalls])
      let effects = machine.lost(1, wasUseful: false, callsAreWaiting: true, random: 0)
      #expect(!effects.contains(.connect(1, Self.a)))
      for case .setTimer(.link, let delay) in effects { delays.append(delay) }
      // Calls are not failed: they wait for the next attempt.
      let admission = machine.callArrived(waitsForReady: false)
      #expect(admission == .wait([]))
      let again = machine.timerFired(.link(1), callsAreWaiting: true)
      #expect(again.contains(.connect(1, Self.a)))
    }
    #expect(delays == [1, 2, 4, 5].map { .seconds($0) })
    // A failure to connect counts with those.
    let failed = machine.connectFailed(1, "no", callsAreWaiting: true, random: 0)
    #expect(failed.contains(.setTimer(.link(1), after: .seconds(5))))
    _ = machine.timerFired(.link(1), callsAreWaiting: true)
    _ = machine.connected(1)
    // One that served begins anew.
    let served = machine.lost(1, wasUseful: true, callsAreWaiting: false, random: 0)
    #expect(served.contains(.connect(1, Self.a)))
    _ = machine.connected(1)
    let effects = machine.lost(1, wasUseful: false, callsAreWaiting: false, random: 0)
    #expect(effects.contains(.setTimer(.link(1), after: .seconds(1))))
  }

  @Test func aNameThatMeansOthersNowDropsThoseThatAreGone() {
    var (machine, _) = Self.machine([Self.a, Self.b], .roundRobin)
    _ = machine.connected(1)
    _ = machine.connected(2)
    let effects = machine.resolved([Self.b, Self.c], callsAreWaiting: false)
    #expect(effects == [.drop(1), .connect(3, Self.c)])
    let answer22 = machine.callArrived(waitsForReady: false)
    #expect(answer22 == .start(2))
  }

  @Test func aNameThatMeansNothingFailsCallsUntilItIsAskedForAgain() {
    var machine = ChannelMachine(Self.policy())
    _ = machine.callArrived(waitsForReady: false)
    let failed = machine.resolutionFailed("no such host", callsAreWaiting: true, random: 0)
    #expect(failed.contains(.failWaitingCalls("no such host")))
    let answer23 = machine.callArrived(waitsForReady: false)
    #expect(answer23 == .fail("no such host"))
    let answer24 = machine.timerFired(.resolve, callsAreWaiting: true)
    #expect(answer24.contains(.resolve))
    let answer25 = machine.resolved([Self.a], callsAreWaiting: true)
    #expect(answer25 == [.connect(1, Self.a)])
  }

  @Test func aClosedChannelRefusesAndIgnoresWhatComesLate() {
    var (machine, _) = Self.machine([Self.a])
    machine.shutDown()
    let answer26 = machine.connected(1)
    #expect(answer26 == nil)
    let answer27 = machine.timerFired(.link(1), callsAreWaiting: true)
    #expect(answer27 == [])
    let answer28 = machine.callArrived(waitsForReady: true)
    #expect(answer28 == .refuse)
  }
}

@Suite struct ChannelTargetTests {
  @Test(arguments: [
    ("localhost:1", "localhost:1"), ("dns:localhost:1", "localhost:1"),
    ("dns:///localhost:1", "localhost:1"), ("ipv4:10.0.0.1:1,10.0.0.2:2", "10.0.0.1:1"),
    ("ipv6:[::1]:1", "[::1]:1"), ("unix:/run/x", "localhost"), ("unix:///run/x", "localhost"),
  ])
  func textsMeanTargets(text: String, authority: String) throws {
    let target = try ChannelTarget(text)
    #expect(target.authority == authority)
    #expect(target.description == text)
  }

  @Test(arguments: [
    "", "localhost", "dns://8.8.8.8/x:1", "dns:x", "ipv4:1.2.3.4", "localhost:99999",
  ])
  func othersAreRefused(text: String) {
    #expect(throws: ListenAddress.ParseError.self) { try ChannelTarget(text) }
  }
}
