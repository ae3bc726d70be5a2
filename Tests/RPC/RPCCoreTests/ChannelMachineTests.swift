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
    // Not before a second is over, however short the delay.
    let early = machine.timerFired(.failedResolution, callsAreWaiting: true)
    #expect(early == [])
    let answer24 = machine.timerFired(.resolve, callsAreWaiting: true)
    #expect(answer24 == [.setTimer(.resolve, after: .seconds(1)), .resolve])
    let answer25 = machine.resolved([Self.a], callsAreWaiting: true)
    #expect(answer25 == [.connect(1, Self.a)])
  }

  @Test func aNameThatLeadsNowhereIsAskedForAsOftenAsItsDelaySays() {
    var machine = ChannelMachine(Self.policy())
    _ = machine.callArrived(waitsForReady: true)
    var delays: [Duration] = []
    for _ in 0..<5 {
      let effects = machine.resolutionFailed("no such host", callsAreWaiting: true, random: 0)
      for case .setTimer(.failedResolution, let delay) in effects { delays.append(delay) }
      // What only holds names back asks for none.
      let held = machine.timerFired(.resolve, callsAreWaiting: true)
      #expect(held == [])
      let again = machine.timerFired(.failedResolution, callsAreWaiting: true)
      #expect(again == [.setTimer(.resolve, after: .seconds(1)), .resolve])
    }
    #expect(delays == [1, 2, 4, 5, 5].map { .seconds($0) })
  }

  /// Where a channel with the addresses a and b is when its name comes to mean others.
  enum Before: CaseIterable {
    case connecting, backoff, connectingAgain, ready, idle, failing

    func machine(_ balancing: LoadBalancing) -> ChannelMachine {
      var (machine, _) = ChannelMachineTests.machine(
        [ChannelMachineTests.a, ChannelMachineTests.b], balancing)
      if self == .connecting { return machine }
      if self == .ready || self == .idle {
        _ = machine.connected(1)
        if self == .idle { _ = machine.lost(1, wasUseful: true, callsAreWaiting: false, random: 0) }
        return machine
      }
      _ = machine.connectFailed(1, "refused", callsAreWaiting: true, random: 0)
      if self == .backoff { return machine }
      _ = machine.connectFailed(2, "refused", callsAreWaiting: true, random: 0)
      if self == .connectingAgain { _ = machine.timerFired(.link(1), callsAreWaiting: true) }
      return machine
    }
  }

  /// Whatever was before, calls reach a server that answers, on whichever address it is.
  @Test(arguments: Before.allCases, [LoadBalancing.pickFirst, .roundRobin])
  func aNameThatMeansOthersLeadsCallsToThem(before: Before, balancing: LoadBalancing) {
    let lists = [
      [Self.a], [Self.b], [Self.b, Self.a], [Self.a, Self.b, Self.c], [Self.c, Self.a], [Self.c],
    ]
    for addresses in lists {
      for callsAreWaiting in [false, true] {
        for answering in addresses {
          var run = Run(
            before.machine(balancing), known: [1: Self.a, 2: Self.b], answering: answering)
          if before == .connectingAgain { run.pending = [.link(2)] }
          if before == .backoff { run.pending = [.link(1)] }
          if before == .failing { run.pending = [.link(1), .link(2)] }
          run.perform(run.machine.resolved(addresses, callsAreWaiting: callsAreWaiting))
          let admission = run.untilCallStarts()
          // It may be ready on one that answered before, if the name still means that one.
          let link = run.known.first { .start($0.key) == admission }?.value
          #expect(
            link.map(addresses.contains) == true,
            "\(before), \(balancing), \(addresses), \(callsAreWaiting): \(admission)")
        }
      }
    }
  }

  /// A machine whose effects are carried out: connections to one address come about, others fail.
  private struct Run {
    var machine: ChannelMachine
    var known: [Int: ListenAddress]
    let answering: ListenAddress
    var pending: [ChannelMachine.Timer] = []
    var connecting: [Int]

    init(_ machine: ChannelMachine, known: [Int: ListenAddress], answering: ListenAddress) {
      self.machine = machine
      self.known = known
      self.answering = answering
      self.connecting = Array(known.keys.sorted())
    }

    mutating func perform(_ effects: [ChannelMachine.Effect]) {
      for effect in effects {
        switch effect {
        case .connect(let link, let address):
          self.known[link] = address
          self.connecting.append(link)
        case .setTimer(let timer, _): self.pending.append(timer)
        default: break
        }
      }
    }

    /// What becomes of calls that do not wait for ready, made one after the other.
    mutating func untilCallStarts() -> ChannelMachine.Admission {
      var admission = ChannelMachine.Admission.refuse
      for _ in 0..<20 {
        admission = self.machine.callArrived(waitsForReady: false)
        var isWaiting = false
        switch admission {
        case .start: return admission
        case .wait(let effects):
          isWaiting = true
          self.perform(effects)
        case .fail, .refuse: break
        }
        let (links, timers) = (self.connecting, self.pending)
        (self.connecting, self.pending) = ([], [])
        for link in links {
          if self.known[link] == self.answering {
            self.perform(self.machine.connected(link) ?? [])
          } else {
            self.perform(
              self.machine.connectFailed(link, "no", callsAreWaiting: isWaiting, random: 0))
          }
        }
        for timer in timers {
          self.perform(self.machine.timerFired(timer, callsAreWaiting: false))
        }
      }
      return admission
    }
  }

  @Test func aFailedAddressThatIsReplacedFailsNoMoreCalls() {
    var (machine, _) = Self.machine([Self.a])
    _ = machine.connectFailed(1, "refused", callsAreWaiting: true, random: 0)
    let moved = machine.resolved([Self.b], callsAreWaiting: false)
    #expect(moved == [.drop(1)])
    let call = machine.callArrived(waitsForReady: false)
    #expect(call == .wait([.connect(2, Self.b)]))
  }

  @Test func callsFailOnceThoseAddressesThatAreLeftHaveAllFailed() {
    for balancing in [LoadBalancing.pickFirst, .roundRobin] {
      var (machine, _) = Self.machine([Self.a, Self.b], balancing)
      _ = machine.connectFailed(1, "refused", callsAreWaiting: true, random: 0)
      let moved = machine.resolved([Self.a], callsAreWaiting: true)
      #expect(moved == [.drop(2), .failWaitingCalls("refused")])
      let call = machine.callArrived(waitsForReady: false)
      #expect(call == .fail("refused"))
      let again = machine.timerFired(.link(1), callsAreWaiting: true)
      #expect(again == [.connect(1, Self.a)])
    }
  }

  @Test func anAddressThatIsAddedIsTriedBesideOneThatIsSilent() {
    var (machine, _) = Self.machine([Self.a])
    let delay = ChannelMachine.Policy().attemptDelay
    let moved = machine.resolved([Self.a, Self.b], callsAreWaiting: true)
    #expect(moved == [.setTimer(.nextAddress, after: delay)])
    // One timer is enough.
    let call = machine.callArrived(waitsForReady: false)
    #expect(call == .wait([]))
    let next = machine.timerFired(.nextAddress, callsAreWaiting: true)
    #expect(next == [.connect(2, Self.b)])
  }

  @Test func aReadyLinkIsKeptWhileTheNameMeansItsAddress() {
    for balancing in [LoadBalancing.pickFirst, .roundRobin] {
      var (machine, _) = Self.machine([Self.a], balancing)
      _ = machine.connected(1)
      let more = machine.resolved([Self.b, Self.a], callsAreWaiting: false)
      #expect(more == (balancing == .pickFirst ? [] : [.connect(2, Self.b)]))
      let call = machine.callArrived(waitsForReady: false)
      #expect(call == .start(1))
      let other = machine.resolved([Self.b], callsAreWaiting: false)
      #expect(other == [.drop(1)])
      let next = machine.callArrived(waitsForReady: false)
      #expect(next == .wait(balancing == .pickFirst ? [.connect(2, Self.b)] : []))
    }
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
    ("ipv6:[fe80::1%eth0]:1", "[fe80::1%eth0]:1"),
  ])
  func textsMeanTargets(text: String, authority: String) throws {
    let target = try ChannelTarget(text)
    #expect(target.authority == authority)
    #expect(target.description == text)
  }

  @Test(arguments: [
    "", "localhost", "dns://8.8.8.8/x:1", "dns:x", "ipv4:1.2.3.4", "localhost:99999",
    "ipv6:[::zz]:80", "ipv6:[a:b]:1", "[localhost]:80", "ipv4:[1.2.3.4]:5", "unix://host/path",
    "unix:///", "unix-abstract:123", "ipv4:127.0.0.010:5", "ipv4:1.2.3.4:5,[::1]:6",
  ])
  func othersAreRefused(text: String) {
    let error = #expect(throws: ListenAddress.ParseError.self) { try ChannelTarget(text) }
    #expect(error?.text == text)
  }
}
