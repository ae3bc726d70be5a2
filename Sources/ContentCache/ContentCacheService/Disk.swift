import NIOPosix

/// Threads that may wait for a disk, so that event loops never do.
package struct Disk: Sendable {
  private let pool: NIOThreadPool

  /// Starts the threads.
  package init(threads: Int) {
    self.pool = NIOThreadPool(numberOfThreads: threads)
    self.pool.start()
  }

  /// Runs a call that blocks.
  package func run<Value: Sendable>(
    _ body: @escaping @Sendable () throws -> Value
  ) async throws -> Value {
    try await self.pool.runIfActive(body)
  }

  /// Ends the threads, once what they were given is done.
  package func stop() async {
    try? await self.pool.shutdownGracefully()
  }
}
