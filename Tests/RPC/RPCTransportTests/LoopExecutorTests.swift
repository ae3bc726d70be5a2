import NIOPosix
import Synchronization
import Testing

@testable import RPCTransport

private final class Tally: Sendable {
  let runs = Mutex(0)
}

@Suite(.timeLimit(.minutes(1))) struct LoopExecutorTests {
  // A write that fails has NIO read what is left, from within the flush between two jobs.
  @Test func aDrainWithinADrainRunsNoJobTwice() async {
    let executor = LoopExecutor.of(MultiThreadedEventLoopGroup.singleton.next())
    let tally = Tally()
    await withTaskGroup(of: Void.self) { outer in
      outer.addTask(executorPreference: executor) {
        // Made on the loop, they are due together.
        await withTaskGroup(of: Void.self) { inner in
          for index in 0..<40 {
            inner.addTask(executorPreference: executor) {
              tally.runs.withLock { $0 += 1 }
              if index == 0 { executor.drain() }
            }
          }
        }
      }
    }
    #expect(tally.runs.withLock { $0 } == 40)
  }
}
