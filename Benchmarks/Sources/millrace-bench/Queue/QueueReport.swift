/// What a measurement of a queue found. Encoded, it is what `--output json` prints.
struct QueueReport: Encodable, Sendable {
  var count: Int
  /// Builds answered each second while the queue was empty, on the way, and when it was nearly full.
  var emptyPerSecond = 0.0
  var fillingPerSecond = 0.0
  var fullPerSecond = 0.0
  /// The most that the scheduler has had resident.
  var memoryBytes: Int64 = 0
  /// Until a second one, started then, answers for every project: it takes half of them.
  var joinSeconds = 0.0
  /// From the death of the first until the second answers for all.
  var takeOverSeconds = 0.0
  /// The same of a third that is started when there is nobody else: it takes all.
  var restartSeconds = 0.0
  var restartedMemoryBytes: Int64 = 0
  /// Calls that were told to come back.
  var refusals = 0
  var problems: [String] = []

  init(count: Int) {
    self.count = count
  }

  /// For people.
  var text: String {
    func tenths(_ value: Double) -> String { "\((value * 10).rounded() / 10)" }
    func mebibytes(_ bytes: Int64) -> String { "\(bytes >> 20) MiB" }
    let ratio = self.fullPerSecond / max(self.emptyPerSecond, 0.1)
    return """
      queued      \(self.count) builds of one job; \(self.refusals) times refused
      submitted   \(Int(self.emptyPerSecond))/s to an empty queue, \(Int(self.fullPerSecond))/s to a full one \
      (\((ratio * 100).rounded() / 100)), \(Int(self.fillingPerSecond))/s on the way
      memory      \(mebibytes(self.memoryBytes)) of the scheduler
      joined      a second one serves all calls after \(tenths(self.joinSeconds)) s
      taken over  after the first was killed: \(tenths(self.takeOverSeconds)) s
      restarted   one for all, when there was none: \(tenths(self.restartSeconds)) s, \
      \(mebibytes(self.restartedMemoryBytes))

      """
  }
}
