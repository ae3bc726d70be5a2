/// How large a flow-control window must be for a sender to be held back by nothing but the reader:
/// the bandwidth-delay product, found by what arrives between a ping and its answer.
///
/// What all streams bring counts, once it has been read: streams that share a connection wait for each
/// other, and what one of them brings meanwhile says little. A connection that carries little is asked
/// ever more rarely.
package struct WindowEstimator: Sendable, Hashable {
  /// What the sender may have on its way.
  package private(set) var window: Int
  private let initial: Int
  private let maximum: Int
  /// Bytes since the last ping was answered.
  private var idleBytes = 0
  /// How many of those there must be before the next ping.
  private var threshold: Int
  /// Bytes since the ping that is out; nil: none is.
  private var sample: Int?

  /// - Parameters:
  ///   - window: In the beginning, in bytes.
  ///   - maximum: What it never grows beyond.
  package init(window: Int, maximum: Int) {
    self.window = window
    self.initial = window
    self.maximum = maximum
    self.threshold = window / 4
  }

  /// Bytes of any stream were read; true: send a ping now.
  package mutating func read(_ count: Int) -> Bool {
    guard self.window < self.maximum else { return false }
    if let sample = self.sample {
      self.sample = sample + count
      return false
    }
    self.idleBytes += count
    guard self.idleBytes >= self.threshold else { return false }
    self.idleBytes = 0
    self.sample = 0
    return true
  }

  /// There is no room for much: back to what it was in the beginning, which is the answer unless it is
  /// that.
  package mutating func narrow() -> Int? {
    self.sample = nil
    guard self.window > self.initial else { return nil }
    self.window = self.initial
    self.threshold = self.window / 4
    return self.window
  }

  /// The ping was answered; the window if it is another one now.
  ///
  /// - Parameter ahead: What senders may have on their way beside it.
  package mutating func pingAnswered(ahead: Int = 0) -> Int? {
    guard let sample = self.sample else { return nil }
    self.sample = nil
    guard sample >= self.window / 3 * 2 else {
      self.threshold = min(self.threshold * 2, self.maximum)
      return nil
    }
    // However much it was: a peer may take its time with the answer.
    let wider = min(self.window * 2, self.maximum - ahead)
    guard wider > self.window else { return nil }
    self.window = wider
    self.threshold = self.window / 4
    return self.window
  }
}
