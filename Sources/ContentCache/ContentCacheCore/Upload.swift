import Domain

/// One upload of a blob, over as many streams as it takes.
///
///     idle --writerOpened--> writing --finishReceived--> finishing --> (stored or discarded)
///     writing --writerClosed--> idle            writing --writerOpened--> writing (the newer one)
///
/// The shell opens a writer for each stream, tells of each chunk before it stores it, and of its
/// bytes once they are stored. A stream that comes while another one is still open takes over: the
/// client has lost the older one, and its end of it may take minutes to be noticed.
package struct Upload: Hashable, Sendable {
  /// A stream's right to write, until a newer one is opened.
  package struct Writer: Hashable, Sendable {
    fileprivate let number: Int
  }

  /// What to do with a chunk.
  package enum Effect: Hashable, Sendable {
    /// Store the chunk without its first `skipping` bytes, which are there already.
    case store(skipping: Int)
    /// Store it, then check the digest and keep the blob.
    case finish(skipping: Int)
  }

  /// Why a chunk is refused.
  package enum Refusal: Error, Hashable, Sendable, CustomStringConvertible {
    /// Another stream goes on with this upload.
    case superseded
    case gap(offset: Int64, committed: Int64)
    case tooLong(end: Int64, size: Int64)
    case tooShort(end: Int64, size: Int64)

    package var description: String {
      switch self {
      case .superseded: "another stream has taken this upload over"
      case .gap(let offset, let committed):
        "the chunk begins at byte \(offset), but \(committed) bytes are there: ask for "
          + "QueryWriteStatus and go on from its committed_size"
      case .tooLong(let end, let size):
        "the data reaches to byte \(end), beyond the blob's size of \(size)"
      case .tooShort(let end, let size):
        "the upload was finished at byte \(end) of \(size)"
      }
    }
  }

  private enum State: Hashable, Sendable {
    case idle(since: Duration)
    case writing
    case finishing
  }

  package let digest: Digest
  /// Bytes that are stored.
  package private(set) var committed: Int64 = 0
  private var state: State
  private var newest = 0

  package init(_ digest: Digest, now: Duration) {
    self.digest = digest
    self.state = .idle(since: now)
  }

  /// Since when no stream writes; nil while one does.
  package var idleSince: Duration? {
    if case .idle(let since) = self.state { since } else { nil }
  }

  /// A stream begins to write.
  package mutating func writerOpened() -> Writer {
    self.newest += 1
    self.state = .writing
    return Writer(number: self.newest)
  }

  /// A chunk has come; `finish` when nothing follows it.
  package mutating func chunkReceived(
    by writer: Writer, offset: Int64, count: Int, finish: Bool
  ) throws(Refusal) -> Effect {
    guard writer.number == self.newest else { throw .superseded }
    guard offset >= 0, offset <= self.committed else {
      throw .gap(offset: offset, committed: self.committed)
    }
    let (end, overflow) = offset.addingReportingOverflow(Int64(count))
    guard !overflow, end <= self.digest.size else {
      throw .tooLong(end: overflow ? .max : end, size: self.digest.size)
    }
    // A client that resumes may repeat what was stored after it last asked.
    let skipping = Int(min(Int64(count), self.committed - offset))
    guard finish else { return .store(skipping: skipping) }
    guard max(end, self.committed) == self.digest.size else {
      throw .tooShort(end: end, size: self.digest.size)
    }
    self.state = .finishing
    return .finish(skipping: skipping)
  }

  /// Bytes of a chunk are stored.
  package mutating func stored(_ count: Int) {
    self.committed += Int64(count)
    precondition(self.committed <= self.digest.size, "more was stored than a chunk was allowed")
  }

  /// The stream is over. The upload stays, to be resumed.
  package mutating func writerClosed(_ writer: Writer, now: Duration) {
    // The end of a stream that was superseded says nothing about the upload.
    guard writer.number == self.newest else { return }
    self.state = .idle(since: now)
  }
}
