import Domain
import ExecutorAllocatorCore
import Testing

@Suite struct ScalingTests {
  private static let usage = PoolUsage(
    executors: 3, capacity: Resources(cpuMillis: 12_000, memory: .gibibytes(24), slots: 12),
    leased: Resources(cpuMillis: 5_000, memory: .gibibytes(5), slots: 5))

  /// A round of one page for each.
  private static func round(_ pages: [[PoolName: PoolUsage]], _ allocator: inout Allocator) {
    #expect(allocator.pass(.seconds(5)).contains(.sumUsage(behind: "")))
    for (index, page) in pages.enumerated() {
      let last = index + 1 < pages.count ? "e\(index)" : nil
      let effects = allocator.handle(.usageFound(UsagePage(pools: page, last: last)))
      #expect(effects == (last.map { [.sumUsage(behind: $0)] } ?? []))
    }
  }

  private static func desired(_ allocator: Allocator) -> [PoolName: Int] {
    allocator.state.desiredExecutors(Policy())
  }

  @Test func leasesAndWhatWaitsAreCountedInExecutorsOfThePoolsSize() {
    var allocator = Allocator()
    Self.round([[.standard: Self.usage]], &allocator)
    // 5 CPUs and 5 slots of executors with 4.
    #expect(Self.desired(allocator) == [.standard: 2])
    for request in ["a", "b", "c", "d"] { allocator.demand(request) }
    #expect(Self.desired(allocator) == [.standard: 3])
    // Memory is what counts now: 5 and 4 and 20 GiB of executors with 8.
    let large = Shape(resources: Resources(cpuMillis: 100, memory: .gibibytes(20), slots: 1))
    allocator.demand("large", shape: large)
    #expect(Self.desired(allocator) == [.standard: 4])
  }

  @Test func pagesOfARoundAreSummedUpAndARoundReplacesTheOneBefore() {
    var allocator = Allocator()
    Self.round([[.standard: Self.usage], [.standard: Self.usage, "arm": Self.usage]], &allocator)
    #expect(Self.desired(allocator) == [.standard: 3, "arm": 2])
    // A pool that is gone needs none, and is then forgotten.
    Self.round([[.standard: Self.usage]], &allocator)
    #expect(Self.desired(allocator) == [.standard: 2, "arm": 0])
    Self.round([[.standard: Self.usage]], &allocator)
    #expect(Self.desired(allocator) == [.standard: 2])
  }

  @Test func aPoolWithoutExecutorsIsMeasuredByTheStandardOne() {
    var allocator = Allocator()
    for request in ["a", "b", "c", "d", "e"] { allocator.demand(request) }
    #expect(Self.desired(allocator) == [.standard: 2])
  }

  @Test func whatWaitsAtOtherAllocatorsIsCountedToo() {
    var allocator = Allocator()
    for request in ["a", "b"] { allocator.demand(request) }
    let waiting = Resources(cpuMillis: 2_000, memory: .gibibytes(2), slots: 2)
    #expect(allocator.pass(.seconds(5)).contains(.tellDemand([.standard: waiting])))
    allocator.handle(
      .demandTold(elsewhere: [
        .standard: Resources(cpuMillis: 3_000, memory: .gibibytes(3), slots: 3),
        "arm": Resources(cpuMillis: 500, memory: .gibibytes(20), slots: 1),
      ]))
    #expect(Self.desired(allocator) == [.standard: 2, "arm": 3])
    // What each of them said last is what counts.
    allocator.handle(.demandTold(elsewhere: [:]))
    #expect(Self.desired(allocator) == [.standard: 1])
  }

  @Test func aRoundThatFailsIsBegunAgain() {
    var allocator = Allocator()
    #expect(allocator.pass(.seconds(1)).contains(.sumUsage(behind: "")))
    #expect(!allocator.pass(.seconds(10)).contains(.sumUsage(behind: "")))
    allocator.handle(.usageFailed)
    #expect(allocator.pass(.milliseconds(1)).contains(.sumUsage(behind: "")))
  }
}
