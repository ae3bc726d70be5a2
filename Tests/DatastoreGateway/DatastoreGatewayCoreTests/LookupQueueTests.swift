import Testing

@testable import DatastoreGatewayCore

@Suite struct LookupQueueTests {
  @Test func oneThreadTakesWhatComesWhileItIsBusy() {
    var queue = LookupQueue<Int>(maximumThreads: 4, batchCount: 3)
    var wakes = [queue.queued(1)]
    var batches = [queue.batchTaken()]
    wakes += [queue.queued(2), queue.queued(3)]
    batches += [queue.batchTaken(), queue.batchTaken()]
    // It sleeps: the next one needs a thread again.
    wakes.append(queue.queued(4))
    #expect(wakes == [true, false, false, true])
    #expect(batches == [[1], [2, 3], nil])
  }

  @Test func moreThanABatchForEachThreadWakesAnotherUpToTheLimit() {
    var queue = LookupQueue<Int>(maximumThreads: 2, batchCount: 3)
    var wakes: [Int] = []
    for lookup in 1...8 where queue.queued(lookup) { wakes.append(lookup) }
    #expect(wakes == [1, 4])
    var batches: [[Int]?] = []
    for _ in 1...4 { batches.append(queue.batchTaken()) }
    #expect(batches == [[1, 2, 3], [4, 5, 6], [7, 8], nil])
    // One of the two still takes batches.
    let wakesAgain = queue.queued(9)
    let last = queue.batchTaken()
    #expect(!wakesAgain)
    #expect(last == [9])
  }
}
