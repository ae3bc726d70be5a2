/// What became of a call, for those who count and measure.
public struct CallSummary: Sendable, Hashable {
  /// `/package.Service/Method`.
  public var method: String
  /// The status that the call ended with.
  public var code: StatusCode
  /// From the call's beginning to its end.
  public var duration: Duration {
    get { .nanoseconds(self.nanoseconds) }
    set { self.nanoseconds = newValue.wholeNanoseconds }
  }
  /// The same, for those who would only take a `Duration`'s 128 bits apart again.
  package var nanoseconds: Int64
  /// Requests on a client, responses on a server.
  public var sentMessages: Int
  /// Messages as they were sent, compressed if they were, without prefixes.
  public var sentBytes: Int
  /// Responses on a client, requests on a server.
  public var receivedMessages: Int
  /// Messages as they came, without prefixes.
  public var receivedBytes: Int
  /// How many of the messages that came were compressed.
  public var receivedCompressedMessages: Int
  /// Attempts that were made; 0: the call was refused before, or waited in vain for a connection. 1 on a server.
  public var attempts: Int

  /// A summary, for tests of what reads them.
  public init(
    method: String, code: StatusCode, duration: Duration, sentMessages: Int = 0,
    sentBytes: Int = 0, receivedMessages: Int = 0, receivedBytes: Int = 0,
    receivedCompressedMessages: Int = 0, attempts: Int = 1
  ) {
    self.init(
      method: method, code: code, nanoseconds: duration.wholeNanoseconds,
      sentMessages: sentMessages, sentBytes: sentBytes, receivedMessages: receivedMessages,
      receivedBytes: receivedBytes, receivedCompressedMessages: receivedCompressedMessages,
      attempts: attempts)
  }

  package init(
    method: String, code: StatusCode, nanoseconds: Int64, sentMessages: Int,
    sentBytes: Int, receivedMessages: Int, receivedBytes: Int,
    receivedCompressedMessages: Int, attempts: Int = 1
  ) {
    self.method = method
    self.code = code
    self.nanoseconds = nanoseconds
    self.sentMessages = sentMessages
    self.sentBytes = sentBytes
    self.receivedMessages = receivedMessages
    self.receivedBytes = receivedBytes
    self.receivedCompressedMessages = receivedCompressedMessages
    self.attempts = attempts
  }
}

extension Duration {
  fileprivate var wholeNanoseconds: Int64 {
    let (seconds, attoseconds) = self.components
    let (whole, isTooMuch) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
    let (sum, overflows) = whole.addingReportingOverflow(attoseconds / 1_000_000_000)
    // 292 years are for ever.
    return isTooMuch || overflows ? (seconds < 0 ? .min : .max) : sum
  }
}
