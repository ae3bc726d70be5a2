import Domain

/// The writing side of one log: which bytes of a chunk are new, and when nothing more may come.
///
///     open --sealReceived--> sealing --sealed--> sealed
///
/// The shell tells of each chunk before it writes it and of its bytes once they are written. After
/// a restart it begins again with the size that is on the disk.
package struct LogStream: Hashable, Sendable {
  /// What to do with a chunk.
  package enum Effect: Hashable, Sendable {
    /// Every byte of it was written before.
    case ignore
    /// Write it without its first `skipping` bytes.
    case write(skipping: Int)
  }

  /// Why a chunk is refused.
  package enum Refusal: Error, Hashable, Sendable, CustomStringConvertible {
    case negativeOffset(Int64)
    /// Bytes between are missing.
    case gap(offset: Int64, size: Int64)
    case sealed(size: Int64)
    case tooLong(end: Int64, maximum: Int64)

    package var description: String {
      switch self {
      case .negativeOffset(let offset): "the offset \(offset) is negative"
      case .gap(let offset, let size):
        "the chunk begins at byte \(offset), but the log ends at \(size): go on from there"
      case .sealed(let size): "the log is sealed with \(size) bytes"
      case .tooLong(let end, let maximum):
        "the log would reach byte \(end), beyond the limit of \(maximum)"
      }
    }
  }

  private enum State: Hashable, Sendable {
    case open
    case sealing
    case sealed(Digest)
  }

  /// Bytes that are written.
  package private(set) var size: Int64
  private let maximumBytes: Int64
  private var state: State

  /// A log with `size` bytes on the disk, sealed if there is a digest.
  package init(size: Int64, seal: Digest?, policy: Policy) {
    self.size = size
    self.maximumBytes = policy.maximumBlobBytes
    self.state = seal.map { .sealed($0) } ?? .open
  }

  /// The blob that the log has become.
  package var seal: Digest? {
    if case .sealed(let digest) = self.state { digest } else { nil }
  }

  /// A chunk has come.
  package func chunkReceived(offset: Int64, count: Int) throws(Refusal) -> Effect {
    guard offset >= 0 else { throw .negativeOffset(offset) }
    let (end, overflow) = offset.addingReportingOverflow(Int64(count))
    guard !overflow, end <= self.maximumBytes else {
      throw .tooLong(end: overflow ? .max : end, maximum: self.maximumBytes)
    }
    guard offset <= self.size else { throw .gap(offset: offset, size: self.size) }
    // A writer that lost its stream after the bytes arrived sends them again, even to a sealed log.
    if end <= self.size { return .ignore }
    guard self.state == .open else { throw .sealed(size: self.size) }
    return .write(skipping: Int(self.size - offset))
  }

  /// Bytes of a chunk are written.
  package mutating func written(_ count: Int) {
    self.size += Int64(count)
  }

  /// The writer says that nothing follows; false if the log is sealed already, which a repetition
  /// of the last message finds.
  package mutating func sealReceived() -> Bool {
    guard self.state == .open else { return false }
    self.state = .sealing
    return true
  }

  /// The log is a blob now.
  package mutating func sealed(_ digest: Digest) {
    precondition(self.state == .sealing, "a log was sealed without being asked to")
    self.state = .sealed(digest)
  }

  /// What readers may know of the log.
  package var view: LogView { LogView(exists: true, size: self.size, isSealed: self.seal != nil) }
}

/// What a reader may know of a log at one moment.
package struct LogView: Hashable, Sendable {
  /// Whether anything was ever appended.
  package var exists: Bool
  package var size: Int64
  package var isSealed: Bool

  package init(exists: Bool, size: Int64, isSealed: Bool) {
    self.exists = exists
    self.size = size
    self.isSealed = isSealed
  }

  /// A log that nobody has appended to.
  package static let absent = LogView(exists: false, size: 0, isSealed: false)
}

/// One reader of a log: where it stands, and what it does next.
package struct LogReader: Hashable, Sendable {
  /// What to do next.
  package enum Step: Hashable, Sendable {
    /// Read this much at this offset, send it, and tell of it with `sent`.
    case read(offset: Int64, count: Int)
    /// Wait until the log is longer than this, or sealed.
    case wait(beyond: Int64)
    /// Everything that was asked for is sent.
    case finish(complete: Bool)
  }

  /// Why a reader cannot go on.
  package enum Refusal: Error, Hashable, Sendable, CustomStringConvertible {
    case absent
    case beyondEnd(offset: Int64, size: Int64)
    case negative(String, Int64)

    package var description: String {
      switch self {
      case .absent: "there is no such log"
      case .beyondEnd(let offset, let size):
        "the offset \(offset) is beyond the log's end at \(size)"
      case .negative(let field, let value): "\(field) is \(value), which is negative"
      }
    }
  }

  /// The next byte to send.
  package private(set) var offset: Int64
  private let end: Int64?
  private let follow: Bool
  private let chunkBytes: Int

  /// - Parameter limit: Bytes to send at most; 0 is without limit.
  package init(offset: Int64, limit: Int64, follow: Bool, chunkBytes: Int) throws(Refusal) {
    guard offset >= 0 else { throw .negative("offset", offset) }
    guard limit >= 0 else { throw .negative("limit", limit) }
    self.offset = offset
    let (end, overflow) = offset.addingReportingOverflow(limit)
    self.end = limit == 0 || overflow ? nil : end
    self.follow = follow
    self.chunkBytes = chunkBytes
  }

  package func next(_ view: LogView) throws(Refusal) -> Step {
    if !view.exists && !self.follow { throw .absent }
    // Behind the end of a log that still grows a follower waits; elsewhere that is a mistake.
    if self.offset > view.size && (view.isSealed || !self.follow) {
      throw .beyondEnd(offset: self.offset, size: view.size)
    }
    let available = min(view.size, self.end ?? .max) - self.offset
    if available > 0 {
      return .read(offset: self.offset, count: Int(min(available, Int64(self.chunkBytes))))
    }
    if view.isSealed && self.offset == view.size { return .finish(complete: true) }
    if let end = self.end, self.offset >= end { return .finish(complete: false) }
    return self.follow ? .wait(beyond: max(self.offset, view.size)) : .finish(complete: false)
  }

  package mutating func sent(_ count: Int) {
    self.offset += Int64(count)
  }
}
