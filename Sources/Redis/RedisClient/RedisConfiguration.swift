import RedisWire

/// How a client connects, and what bounds it.
package struct RedisConfiguration: Sendable {
  package var address: RedisAddress
  /// For `AUTH`; without a user name the password is the server's.
  package var username: String?
  package var password: String?
  /// For `SELECT`.
  package var database: Int?
  /// How long a reply, or the first connection, may take. Also what a paused Redis costs a caller.
  package var commandTimeout: Duration
  package var connectTimeout: Duration
  /// Commands without a reply yet: some milliseconds' work for Redis; a longer line would only
  /// make every caller wait.
  package var maximumInFlight: Int
  /// Bytes of those commands.
  package var maximumInFlightBytes: Int
  package var replyLimits: RedisReplyReader.Limits
  package var backoff: RedisBackoff

  package init(
    address: RedisAddress, username: String? = nil, password: String? = nil, database: Int? = nil,
    commandTimeout: Duration = .seconds(2), connectTimeout: Duration = .seconds(2),
    maximumInFlight: Int = 10_000, maximumInFlightBytes: Int = 64 << 20,
    replyLimits: RedisReplyReader.Limits = .init(), backoff: RedisBackoff = .init()
  ) {
    self.address = address
    self.username = username
    self.password = password
    self.database = database
    self.commandTimeout = commandTimeout
    self.connectTimeout = connectTimeout
    self.maximumInFlight = maximumInFlight
    self.maximumInFlightBytes = maximumInFlightBytes
    self.replyLimits = replyLimits
    self.backoff = backoff
  }

  /// What a new connection says before anything else, and the reply that shows it works.
  var greeting: [RedisCommand] {
    var commands: [RedisCommand] = []
    if let password = self.password {
      commands.append(
        self.username.map { RedisCommand("AUTH", $0, password) } ?? RedisCommand("AUTH", password))
    }
    if let database = self.database, database != 0 {
      commands.append(RedisCommand("SELECT", String(database)))
    }
    // A paused Redis accepts connections (the kernel does), so only an answer counts.
    commands.append(RedisCommand("PING"))
    return commands
  }
}

/// How long to wait before the next attempt to connect: doubling, and spread, so that the clients
/// of a Redis that comes back do not all come at once.
package struct RedisBackoff: Hashable, Sendable {
  package var initial: Duration
  /// Short: what waits for Redis should heal within seconds of its return.
  package var maximum: Duration

  package init(initial: Duration = .milliseconds(50), maximum: Duration = .seconds(1)) {
    self.initial = initial
    self.maximum = maximum
  }

  /// The wait after `failures` failed attempts in a row (at least 1); `random` is from 0 to 1.
  package func delay(afterFailures failures: Int, random: Double) -> Duration {
    // 2^20 is far beyond any sensible maximum and still no overflow.
    let doubled = self.initial * (1 << min(max(failures - 1, 0), 20))
    return min(doubled, self.maximum) * (0.5 + 0.5 * random)
  }
}
