import Domain

extension Artifact {
  /// What it takes in a record: its texts, and at most so much for numbers and lengths.
  var recordBytes: Int {
    self.name.utf8.count + self.path.utf8.count + self.digest.hash.utf8.count + 32
  }
}

extension BuildRecord {
  /// Of its message; of a job's message.
  private static let messageBytes = 1_000
  private static let jobMessageBytes = 100

  /// Whether nothing is left that ``shorten()`` could leave out.
  var isBare: Bool { self.isShortened && self.jobs.allSatisfy(\.attempts.isEmpty) }

  /// Leaves out what a finished build can do without: all attempts but those that still run
  /// somewhere, and the second time those, too. What remains takes hardly more than it did when
  /// the build was submitted.
  mutating func shorten() {
    for index in self.jobs.indices {
      let running = self.jobs[index].attempts.filter(\.isHeld).map(\.withoutDetails)
      self.jobs[index].attempts = self.isShortened ? [] : running
      self.jobs[index].earlierAttempts = 0
      self.jobs[index].message = self.jobs[index].message.limited(toBytes: Self.jobMessageBytes)
    }
    for index in self.notifications.indices { self.notifications[index].message = "" }
    if self.message.isEmpty { self.message = "its record was too large: its attempts are not kept" }
    self.message = self.message.limited(toBytes: Self.messageBytes)
    self.isShortened = true
  }
}

extension AttemptRecord {
  /// Only what it takes to have it stopped.
  fileprivate var withoutDetails: Self {
    var attempt = self
    attempt.message = ""
    attempt.steps = []
    attempt.artifacts = []
    attempt.usage = nil
    return attempt
  }
}
