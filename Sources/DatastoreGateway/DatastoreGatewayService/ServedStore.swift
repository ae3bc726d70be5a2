import BuildProtos
import ServiceRuntime

/// The Datastore API over one store, with what an operator asks of the store: what the gateway's
/// program stands on, whichever store it is.
///
/// Stores that keep entities themselves are ``EntityStore``s, and ``Handlers`` serve the API over
/// them. One that is a Datastore already is served by handing calls on.
protocol ServedStore: DatastoreV1.DatastoreService {
  /// Why writes fail, if they do. Reads may work all the same.
  var trouble: StoreFailure? { get }
  /// Tries whether the store takes writes; ``trouble`` tells.
  func probe() async
  /// Takes no more commits; returns when those that wait are answered.
  func drain() async
  /// Adds the gauges that tell of the store.
  func register(_ registry: MetricsRegistry)
}
