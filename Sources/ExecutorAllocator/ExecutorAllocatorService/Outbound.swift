import BuildProtos
import ServiceRuntime

/// What waits to be sent on one `Acquire` stream.
typealias Outbound = Outbox<AllocatorV1.AcquireResponse>

extension Outbound {
  /// One burst of grants for all of a scheduler's demand fits. A scheduler whose stream is ended
  /// for this gets what was granted again when it asks again.
  static var maximumEvents: Int { 200_000 }
}
