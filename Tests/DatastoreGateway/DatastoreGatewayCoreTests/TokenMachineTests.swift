import DatastoreGatewayCore
import Testing

private struct Refused: Error, Hashable {}

private typealias Machine = TokenMachine<Int, Refused>

@Suite struct TokenMachines {
  @Test func oneFetchServesAllWhoWait() {
    var machine = Machine()
    #expect(machine.needed(by: 1, at: .zero).words == "fetch")
    #expect(machine.needed(by: 2, at: .seconds(1)).words == "wait")
    #expect(machine.fetched("a", lifetime: .seconds(3_600), at: .seconds(2)) == [1, 2])
    #expect(machine.needed(by: 3, at: .seconds(3)).words == "use a")
  }

  @Test func aTokenNearItsEndIsUsedAndRenewedOnce() {
    var machine = Machine()
    _ = machine.needed(by: 1, at: .zero)
    _ = machine.fetched("a", lifetime: .seconds(3_600), at: .zero)
    #expect(machine.needed(by: 2, at: .seconds(3_374)).words == "use a")
    #expect(machine.needed(by: 3, at: .seconds(3_376)).words == "use a, fetch")
    #expect(machine.needed(by: 4, at: .seconds(3_377)).words == "use a")
    #expect(machine.fetched("b", lifetime: .seconds(3_600), at: .seconds(3_380)) == [])
    #expect(machine.needed(by: 5, at: .seconds(3_380)).words == "use b")
  }

  @Test func aTokenThatHasEndedIsNotUsed() {
    var machine = Machine()
    _ = machine.needed(by: 1, at: .zero)
    _ = machine.fetched("a", lifetime: .seconds(100), at: .zero)
    #expect(machine.needed(by: 2, at: .seconds(89)).words == "use a, fetch")
    // The renewal is under way still: whoever comes now waits for it.
    #expect(machine.needed(by: 3, at: .seconds(91)).words == "wait")
    #expect(machine.fetched("b", lifetime: .seconds(100), at: .seconds(92)) == [3])
    #expect(machine.needed(by: 4, at: .seconds(500)).words == "fetch")
  }

  @Test func aFailureIsToldToAllAndForAMomentAfterwards() {
    var machine = Machine()
    _ = machine.needed(by: 1, at: .zero)
    _ = machine.needed(by: 2, at: .zero)
    #expect(machine.failed(Refused(), at: .seconds(5)) == [1, 2])
    #expect(machine.needed(by: 3, at: .milliseconds(5_900)).words == "fail")
    #expect(machine.needed(by: 4, at: .seconds(6)).words == "fetch")
  }

  @Test func aFailedRenewalLeavesTheTokenInUse() {
    var machine = Machine()
    _ = machine.needed(by: 1, at: .zero)
    _ = machine.fetched("a", lifetime: .seconds(1_000), at: .zero)
    #expect(machine.needed(by: 2, at: .seconds(800)).words == "use a, fetch")
    #expect(machine.failed(Refused(), at: .seconds(801)) == [])
    #expect(machine.needed(by: 3, at: .milliseconds(801_500)).words == "use a")
    #expect(machine.needed(by: 4, at: .seconds(802)).words == "use a, fetch")
  }

  @Test func aTokenThatAServerRefusedIsNotUsedAgain() {
    var machine = Machine()
    _ = machine.needed(by: 1, at: .zero)
    _ = machine.fetched("a", lifetime: .seconds(1_000), at: .zero)
    machine.refused("a")
    #expect(machine.needed(by: 2, at: .seconds(1)).words == "fetch")
    #expect(machine.fetched("b", lifetime: .seconds(1_000), at: .seconds(2)) == [2])
    // One that was made with the old token ends late.
    machine.refused("a")
    #expect(machine.needed(by: 3, at: .seconds(3)).words == "use b")
  }
}

extension TokenMachine.Effect {
  fileprivate var words: String {
    switch self {
    case .use(let token): "use \(token)"
    case .useAndFetch(let token): "use \(token), fetch"
    case .fetch: "fetch"
    case .wait: "wait"
    case .fail: "fail"
    }
  }
}
