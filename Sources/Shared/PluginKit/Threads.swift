import Glibc

/// Threads for what blocks: reading pipes, waiting for processes.
package enum Threads {
  /// Runs `body` on a new thread, which ends with it; `purpose` names it if it cannot be made.
  package static func start(_ purpose: String, _ body: @escaping @Sendable () -> Void) {
    final class Body {
      let run: @Sendable () -> Void
      init(run: @escaping @Sendable () -> Void) {
        self.run = run
      }
    }
    var attributes = pthread_attr_t()
    pthread_attr_init(&attributes)
    pthread_attr_setdetachstate(&attributes, Int32(PTHREAD_CREATE_DETACHED))
    defer { pthread_attr_destroy(&attributes) }
    var thread = pthread_t()
    let body = Unmanaged.passRetained(Body(run: body))
    let result = pthread_create(
      &thread, &attributes,
      { pointer in
        let body = Unmanaged<Body>.fromOpaque(pointer!).takeRetainedValue()
        body.run()
        return nil
      }, body.toOpaque())
    // Each thread belongs to a running step or plugin, which are bounded by the executor's slots:
    // a machine that has no thread left for them cannot run a runner.
    precondition(result == 0, "no thread for \(purpose): \(String(cString: strerror(result)))")
  }
}
