import BuildProtos
import Domain
import RPC

// What several services say in their messages, as the domain's values and back. A service's own
// messages are mapped in its `Mapping.swift`.

extension Timestamp {
  /// Rounded down to the microsecond.
  package init(_ message: GoogleProtobuf.Timestamp) {
    // Out of range is nonsense from a peer; it must not trap.
    let seconds = message.seconds.multipliedReportingOverflow(by: 1_000_000)
    let sum = seconds.partialValue.addingReportingOverflow(Int64(message.nanos / 1_000))
    let isOver = seconds.overflow || sum.overflow
    self.init(microseconds: isOver ? (message.seconds < 0 ? .min : .max) : sum.partialValue)
  }
}

extension GoogleProtobuf.Timestamp {
  package init(_ time: Timestamp) {
    // Rounded down, so that the nanoseconds are never negative.
    let (seconds, rest) = time.microseconds.quotientAndRemainder(dividingBy: 1_000_000)
    let isBefore = rest < 0
    self.init(
      seconds: seconds - (isBefore ? 1 : 0),
      nanos: Int32((rest + (isBefore ? 1_000_000 : 0)) * 1_000))
  }
}

extension Duration {
  /// Nil for one that is zero or less, which is how protos leave a limit out.
  package init?(positive message: GoogleProtobuf.Duration) {
    let duration = Duration(
      secondsComponent: message.seconds, attosecondsComponent: Int64(message.nanos) * 1_000_000_000)
    guard duration > .zero else { return nil }
    self = duration
  }
}

extension GoogleProtobuf.Duration {
  package init(_ duration: Duration) {
    let (seconds, attoseconds) = duration.components
    self.init(seconds: seconds, nanos: Int32(attoseconds / 1_000_000_000))
  }
}

extension Resources {
  package init(_ message: TypesV1.Resources) {
    self.init(
      cpuMillis: message.cpuMillis, memory: ByteCount(message.memoryBytes), slots: message.slots)
  }
}

extension TypesV1.Resources {
  package init(_ resources: Resources) {
    self.init(
      cpuMillis: resources.cpuMillis, memoryBytes: resources.memory.bytes, slots: resources.slots)
  }
}

extension Usage {
  package init(_ message: TypesV1.Usage) {
    self.init(
      cpuTime: .microseconds(message.cpuMicros), peakMemory: ByteCount(message.peakMemoryBytes),
      wallTime: .microseconds(message.wallMicros))
  }
}

extension TypesV1.Usage {
  package init(_ usage: Usage) {
    self.init(
      cpuMicros: usage.cpuTime.microseconds, peakMemoryBytes: usage.peakMemory.bytes,
      wallMicros: usage.wallTime.microseconds)
  }
}

extension Outcome {
  /// Nil for none, and for one that a newer peer knows.
  package init?(_ message: TypesV1.Outcome) {
    switch message {
    case .succeeded: self = .succeeded
    case .failed: self = .failed
    case .timedOut: self = .timedOut
    case .cancelled: self = .cancelled
    case .outOfMemory: self = .outOfMemory
    case .executorLost: self = .executorLost
    case .preempted: self = .preempted
    case .skipped: self = .skipped
    case .rejected: self = .rejected
    case .unspecified, .unrecognized: return nil
    }
  }
}

extension TypesV1.Outcome {
  package init(_ outcome: Outcome) {
    self =
      switch outcome {
      case .succeeded: .succeeded
      case .failed: .failed
      case .timedOut: .timedOut
      case .cancelled: .cancelled
      case .outOfMemory: .outOfMemory
      case .executorLost: .executorLost
      case .preempted: .preempted
      case .skipped: .skipped
      case .rejected: .rejected
      }
  }

  package init(_ outcome: Outcome?) {
    self = outcome.map { Self($0) } ?? .unspecified
  }
}

extension Digest {
  package init(_ message: TypesV1.BlobDigest) {
    self.init(hash: message.hash, size: message.sizeBytes)
  }
}

extension TypesV1.BlobDigest {
  package init(_ digest: Digest) {
    self.init(hash: digest.hash, sizeBytes: digest.size)
  }
}

extension Artifact {
  package init(_ message: TypesV1.Artifact) {
    self.init(
      name: message.name, path: message.path,
      digest: message.digest.map { Digest($0) } ?? Digest(hash: "", size: 0), mode: message.mode)
  }
}

extension TypesV1.Artifact {
  package init(_ artifact: Artifact) {
    self.init(
      name: artifact.name, path: artifact.path, digest: TypesV1.BlobDigest(artifact.digest),
      mode: artifact.mode)
  }
}

extension Source {
  /// Nil for a source that has no origin.
  package init?(_ message: TypesV1.Source) {
    switch message.origin {
    case .archive(let digest): self = .archive(Digest(digest))
    case .git(let git): self = .git(url: git.url, revision: git.revision)
    case nil: return nil
    }
  }
}

extension TypesV1.Source {
  package init(_ source: Source) {
    switch source {
    case .archive(let digest): self.init(origin: .archive(TypesV1.BlobDigest(digest)))
    case .git(let url, let revision):
      self.init(origin: .git(TypesV1.GitSource(url: url, revision: revision)))
    }
  }
}
