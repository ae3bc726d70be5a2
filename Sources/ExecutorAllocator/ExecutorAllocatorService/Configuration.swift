import ExecutorAllocatorCore
import RedisClient
import ServiceRuntime

/// The allocator's settings, beside those that every service has.
package struct Configuration: Sendable {
  package static let settings: [Setting] = {
    let policy = Policy()
    return [
      Setting("redis", default: "127.0.0.1:6379", help: "Redis, HOST:PORT or unix:PATH"),
      Setting(
        "redis-username", default: "", help: "User for AUTH; empty is Redis' default user"),
      Setting(
        "redis-password", default: "",
        help: "Password for AUTH, better given by MILLRACE_REDIS_PASSWORD than by the flag"),
      Setting(
        "redis-database", default: "0", kind: .integer, help: "Number of the Redis database"),
      Setting(
        "redis-timeout", default: "2s", kind: .duration,
        help: "How long Redis may take for an answer before its connection counts as lost"),
      Setting(
        "heartbeat-interval", default: Self.text(policy.heartbeatInterval), kind: .duration,
        help: "How often plugin-runners report"),
      Setting(
        "suspect-after", default: Self.text(policy.suspectAfter), kind: .duration,
        help: "Silence after which an executor gets no new leases"),
      Setting(
        "lost-after", default: Self.text(policy.lostAfter), kind: .duration,
        help: "Silence after which an executor is lost, with its leases"),
      Setting(
        "lease-grant-expiry", default: Self.text(policy.grantExpiry), kind: .duration,
        help: "How long a lease waits for its runner to take the job up"),
      Setting(
        "unsatisfiable-after", default: Self.text(policy.unsatisfiableAfter), kind: .duration,
        help: "How long a pool must have had executors before a demand that none of them could "
          + "ever meet is turned down"),
      Setting(
        "departed-memory", default: Self.text(policy.departedMemory), kind: .duration,
        help: "How long an executor that is gone may come back, before a demand that only it could "
          + "meet is turned down"),
    ]
  }()

  package var redis: RedisConfiguration
  package var policy = Policy()

  package init(_ settings: SettingValues) throws(SettingError) {
    let address: RedisAddress
    do throws(RedisAddress.ParseError) {
      address = try RedisAddress(settings.string("redis"))
    } catch {
      throw settings.wrong("redis", "\(error.reason); expected HOST:PORT or unix:PATH")
    }
    let password = settings.string("redis-password")
    let username = settings.string("redis-username")
    if password.isEmpty && !username.isEmpty {
      throw settings.wrong("redis-username", "a user name needs redis-password")
    }
    self.redis = RedisConfiguration(
      address: address, username: username.isEmpty ? nil : username,
      password: password.isEmpty ? nil : password,
      database: try settings.int("redis-database", in: 0...1_000_000),
      commandTimeout: try settings.duration("redis-timeout"))
    if self.redis.commandTimeout <= .zero {
      throw settings.wrong("redis-timeout", "it must be above 0")
    }
    self.policy.heartbeatInterval = try settings.duration("heartbeat-interval")
    self.policy.suspectAfter = try settings.duration("suspect-after")
    self.policy.lostAfter = try settings.duration("lost-after")
    self.policy.grantExpiry = try settings.duration("lease-grant-expiry")
    self.policy.unsatisfiableAfter = try settings.duration("unsatisfiable-after")
    self.policy.departedMemory = try settings.duration("departed-memory")
    if let contradiction = self.policy.contradiction {
      throw settings.wrong(contradiction.setting, contradiction.reason)
    }
  }

  /// The settings' way to write a duration.
  private static func text(_ duration: Duration) -> String {
    "\(duration.components.seconds * 1_000 + duration.components.attoseconds / 1_000_000_000_000_000)ms"
  }
}
