import RPCCore
import Testing

@Suite struct ConnectivityTests {
  private typealias Machine = ConnectivityStateMachine
  private static let backoff = Machine.Backoff(
    initial: .seconds(1), multiplier: 2, maximum: .seconds(5), jitter: 0.5)

  @Test func theFirstCallConnectsAndTheNextOnesWaitWithIt() {
    var machine = Machine()
    #expect({ machine.callArrived(waitsForReady: false) }() == .wait(.connect))
    #expect({ machine.callArrived(waitsForReady: false) }() == .wait(.none))
    #expect({ machine.connected() }() == .startWaitingCalls)
    #expect({ machine.callArrived(waitsForReady: false) }() == .start)
  }

  @Test func delaysGrowToTheirBoundAndStray() {
    var machine = Machine(backoff: Self.backoff)
    _ = machine.callArrived(waitsForReady: true)
    var delays: [Duration] = []
    for _ in 0..<5 {
      if case .failWaitingCalls(let delay) = machine.connectFailed(random: 0) {
        delays.append(delay)
      }
      #expect({ machine.timerFired(callsAreWaiting: true) }() == .connect)
    }
    #expect(delays == [1, 2, 4, 5, 5].map { .seconds($0) })
    #expect({ machine.connectFailed(random: 1) }() == .failWaitingCalls(retryAfter: .seconds(7.5)))
  }

  @Test func whileBackingOffOnlyCallsThatWaitForReadyWait() {
    var machine = Machine(backoff: Self.backoff)
    _ = machine.callArrived(waitsForReady: false)
    _ = machine.connectFailed(random: 0)
    #expect({ machine.callArrived(waitsForReady: false) }() == .fail)
    #expect({ machine.callArrived(waitsForReady: true) }() == .wait(.none))
    #expect({ machine.timerFired(callsAreWaiting: true) }() == .connect)
    // Still failing, as far as anybody knows.
    #expect({ machine.callArrived(waitsForReady: false) }() == .fail)
    #expect({ machine.connected() }() == .startWaitingCalls)
  }

  @Test func withoutCallsTheNextOneTriesAtOnce() {
    var machine = Machine(backoff: Self.backoff)
    _ = machine.callArrived(waitsForReady: false)
    _ = machine.connectFailed(random: 0)
    #expect({ machine.timerFired(callsAreWaiting: false) }() == .none)
    #expect({ machine.callArrived(waitsForReady: false) }() == .wait(.connect))
  }

  @Test func aLostConnectionIsMadeAgainWhenItIsNeeded() {
    var machine = Machine()
    _ = machine.callArrived(waitsForReady: false)
    _ = machine.connected()
    #expect({ machine.connectionLost(callsAreWaiting: false) }() == .none)
    #expect({ machine.callArrived(waitsForReady: false) }() == .wait(.connect))
  }

  @Test func aClosedChannelRefusesAndIgnoresWhatComesLate() {
    var machine = Machine()
    _ = machine.callArrived(waitsForReady: false)
    machine.shutDown()
    #expect({ machine.connected() }() == .none)
    #expect({ machine.timerFired(callsAreWaiting: true) }() == .none)
    #expect({ machine.callArrived(waitsForReady: true) }() == .refuse)
  }
}
