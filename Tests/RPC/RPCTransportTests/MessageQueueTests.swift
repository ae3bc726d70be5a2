import RPCCore
import Synchronization
import Testing

@testable import RPCTransport

@Suite struct MessageQueueTests {
  @Test func aFullQueueThatGetsMoreBeforeItIsReadDownSaysWhenThereIsRoom() async throws {
    let calls = Mutex(0)
    // What is said of its size, and what it costs to keep it.
    let each = MessageQueue<String>.messageBytes
    let queue = MessageQueue<String>(bound: 100 + 2 * each) { calls.withLock { $0 += 1 } }
    #expect(queue.append("a", bytes: 60))
    #expect(!queue.append("b", bytes: 60))
    #expect(try await queue.next()?.message == "a")
    // Within the bound again, but the loop still waits: what was under way comes in.
    #expect(!queue.append("c", bytes: 10))
    #expect(try await queue.next()?.message == "b")
    // What the reader has taken counts until it asks for more.
    #expect(calls.withLock { $0 } == 0)
    #expect(try await queue.next()?.message == "c")
    #expect(calls.withLock { $0 } == 1)
    #expect(queue.append("d", bytes: 10))
  }

  @Test func aSecondReaderIsToldAndTheFirstReadsOn() async throws {
    let queue = MessageQueue<String> {}
    let first = Task { try await queue.next()?.message }
    while !queue.isBeingRead.load(ordering: .acquiring) { await Task.yield() }
    let error = await #expect(throws: RPCError.self) { _ = try await queue.next() }
    #expect(error?.message == "a stream of messages is read by one task at a time")
    #expect(queue.append("a", bytes: 1))
    #expect(try await first.value == "a")
  }
}
