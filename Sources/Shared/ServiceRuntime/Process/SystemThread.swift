import Glibc

/// A thread for work that blocks: the pool of Swift's tasks has one thread for each core, and none
/// to spare.
enum SystemThread {
  private final class Body: Sendable {
    let run: @Sendable () -> Void
    init(_ run: @escaping @Sendable () -> Void) { self.run = run }
  }

  /// Runs `run` on a new thread, which ends with it.
  ///
  /// - Precondition: The system has room for a thread; these are the first ones of a process.
  static func start(_ run: @escaping @Sendable () -> Void) {
    var thread = pthread_t()
    let body = Unmanaged.passRetained(Body(run))
    let result = pthread_create(
      &thread, nil,
      { argument in
        Unmanaged<Body>.fromOpaque(argument!).takeRetainedValue().run()
        return nil
      }, body.toOpaque())
    precondition(result == 0, "no thread could be made: \(SystemError(number: result))")
    pthread_detach(thread)
  }
}
