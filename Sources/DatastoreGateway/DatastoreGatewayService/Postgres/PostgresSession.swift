import Glibc

/// A connection that is made when it is needed, and again after it was lost, with pauses that grow
/// while the server does not answer. One thread at a time has it.
final class PostgresSession {
  let address: PostgresAddress
  private let patience: Duration
  private let clock = ContinuousClock()
  private var current: PostgresConnection?
  private var lastFailure: StoreFailure?
  private var nextAttempt: ContinuousClock.Instant?
  private var pause = PostgresSession.firstPause
  /// Told of each new connection before it is used.
  private let prepare: (PostgresConnection) throws(StoreFailure) -> Void

  /// Between two attempts to connect. Callers are told the failure of the last one meanwhile.
  private static let firstPause = Duration.milliseconds(50)
  private static let longestPause = Duration.seconds(2)

  /// - Parameter patience: How long the server may take to let us in.
  init(
    _ address: PostgresAddress, patience: Duration,
    prepare: @escaping (PostgresConnection) throws(StoreFailure) -> Void = { _ in }
  ) {
    self.address = address
    self.patience = patience
    self.prepare = prepare
  }

  /// Whether there is a connection, which may be lost without anybody knowing.
  var isConnected: Bool { self.current.map { !$0.isLost } ?? false }

  /// Ends a transaction that is open; a lost connection has none.
  func rollBack() { self.current?.rollBack() }

  /// Gives a connection up that cannot write: the next one may find another server, or the same with other settings.
  func abandon(_ failure: StoreFailure) {
    self.current = nil
    self.lastFailure = failure
    self.nextAttempt = self.clock.now + self.pause
    self.pause = min(self.pause * 2, Self.longestPause)
  }

  func connection() throws(StoreFailure) -> PostgresConnection {
    if let current = self.current {
      if !current.isLost { return current }
      self.current = nil
    }
    if let nextAttempt = self.nextAttempt, let failure = self.lastFailure,
      self.clock.now < nextAttempt
    {
      throw failure
    }
    do throws(StoreFailure) {
      let connection = try PostgresConnection(self.address, patience: self.patience)
      try self.prepare(connection)
      self.current = connection
      self.nextAttempt = nil
      self.pause = Self.firstPause
      return connection
    } catch {
      self.lastFailure = error
      self.nextAttempt = self.clock.now + self.pause
      self.pause = min(self.pause * 2, Self.longestPause)
      throw error
    }
  }

  /// As ``connection()``, and waits for a server that has gone away.
  func connection(within duration: Duration) throws(StoreFailure) -> PostgresConnection {
    let deadline = self.clock.now + duration
    while true {
      do throws(StoreFailure) {
        return try self.connection()
      } catch {
        guard error.isPassing, self.clock.now < deadline else { throw error }
        let pause = min(self.pause, .milliseconds(250))
        usleep(UInt32(pause / .microseconds(1)))
      }
    }
  }

  /// Does what can be done again a second time if the connection was lost the first time: the server
  /// may have been restarted since it was used last.
  func retryingOnce<Result>(_ body: () throws -> Result) throws -> Result {
    let wasConnected = self.isConnected
    do {
      return try body()
    } catch {
      self.current?.rollBack()
      guard wasConnected, !self.isConnected, (error as? StoreFailure)?.kind == .unreachable else {
        throw error
      }
    }
    do {
      return try body()
    } catch {
      self.current?.rollBack()
      throw error
    }
  }
}

extension StoreFailure {
  /// Whether it goes away by itself when a server comes back.
  var isPassing: Bool {
    switch self.kind {
    case .unreachable, .tooManyConnections: true
    case .full, .readOnly, .locked, .corrupt, .outcomeUnknown, .inputOutput, .refused, .other: false
    }
  }
}
