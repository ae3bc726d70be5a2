import RPCCore

extension RPCServer.Configuration {
  /// Throws at the first setting with which no server can be.
  func check() throws(ConfigurationError) {
    let settings = SettingsCheck(of: "RPCServer.Configuration")
    try settings.number("maximumRequestBytes", self.maximumRequestBytes, from: 0)
    try settings.number(
      "maximumConcurrentCallsPerConnection", self.maximumConcurrentCallsPerConnection, from: 1)
    try settings.number(
      "maximumRunningCallsPerConnection", self.maximumRunningCallsPerConnection, from: 1)
    try settings.number("maximumRunningCalls", self.maximumRunningCalls, from: 1)
    try settings.number("maximumConnections", self.maximumConnections, from: 1)
    try settings.number("backlog", self.backlog, from: 1)
    try settings.number("maximumHeaderListBytes", self.maximumHeaderListBytes, from: 1)
    try settings.number("maximumContinuationFrames", self.maximumContinuationFrames, from: 0)
    try self.receivedResets.check(settings.within("receivedResets"))
    try self.provokedResets.check(settings.within("provokedResets"))
    try self.emptyFrames.check(settings.within("emptyFrames"))
    try self.windowUpdates.check(settings.within("windowUpdates"))
    try settings.number("maximumQueuedFrames", self.maximumQueuedFrames, from: 1)
    try settings.number("maximumStreamWindow", self.maximumStreamWindow, from: 1)
    try settings.number(
      "maximumBufferedBytesPerConnection", self.maximumBufferedBytesPerConnection, from: 1)
    try settings.number("maximumBufferedBytes", self.maximumBufferedBytes, from: 1)
    try settings.positive("handshakeTimeout", self.handshakeTimeout)
    try settings.positive("headerTimeout", self.headerTimeout)
    try settings.positive("stalledCallTimeout", self.stalledCallTimeout)
    try self.keepalive?.check(settings.within("keepalive"))
    try settings.notNegative("minimumPingInterval", self.minimumPingInterval)
    try settings.positive("maximumConnectionIdle", self.maximumConnectionIdle)
    try settings.positive("maximumConnectionAge", self.maximumConnectionAge)
    try settings.notNegative("maximumConnectionAgeGrace", self.maximumConnectionAgeGrace)
    try settings.notNegative("closeTimeout", self.closeTimeout)
    try settings.within("tls").notNegative("reloadInterval", self.tls?.reloadInterval)
  }
}

extension RPCServer.RateLimit {
  fileprivate func check(_ settings: SettingsCheck) throws(ConfigurationError) {
    try settings.number("burst", self.burst, from: 1)
    try settings.number("perSecond", self.perSecond, from: 0)
  }
}

extension RPCChannel.Configuration {
  /// Throws at the first setting with which no channel can be.
  func check() throws(ConfigurationError) {
    let settings = SettingsCheck(of: "RPCChannel.Configuration")
    try self.serviceConfig.check()
    try settings.headerText("authority", self.authority)
    try settings.positive("connectTimeout", self.connectTimeout)
    try settings.positive("initialBackoff", self.initialBackoff)
    try settings.positive("maximumBackoff", self.maximumBackoff)
    try settings.number("maximumWaitingCalls", self.maximumWaitingCalls, from: 1)
    try self.keepalive?.check(settings.within("keepalive"))
    try settings.positive("unacknowledgedTimeout", self.unacknowledgedTimeout)
    try settings.positive("idleTimeout", self.idleTimeout)
    try settings.number("maximumHeaderListBytes", self.maximumHeaderListBytes, from: 1)
    try settings.number("maximumStreamWindow", self.maximumStreamWindow, from: 1)
    if let name = self.tls?.serverName {
      try settings.within("tls").require(
        (try? ServerIdentity(name)) != nil, "serverName", "\"\(name)\"",
        expected: ServerIdentity.expected)
    }
    try settings.within("tls").notNegative("reloadInterval", self.tls?.reloadInterval)
  }
}

extension Keepalive {
  fileprivate func check(_ settings: SettingsCheck) throws(ConfigurationError) {
    try settings.positive("interval", self.interval)
    try settings.positive("timeout", self.timeout)
  }
}
