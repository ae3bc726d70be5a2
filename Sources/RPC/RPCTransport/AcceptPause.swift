import NIOCore

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// Accepts nothing for a moment when the system has no room for another connection: the socket would
/// stay readable, and its loop would do nothing but try.
final class AcceptPause: ChannelInboundHandler {
  typealias InboundIn = any Channel

  private static let delay = TimeAmount.milliseconds(100)
  private static let passing = [EMFILE, ENFILE, ENOBUFS, ENOMEM]

  private let report: @Sendable (String) -> Void
  private var isPausing = false

  /// - Parameter report: Told of each pause, and why.
  init(report: @escaping @Sendable (String) -> Void) {
    self.report = report
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    guard let error = error as? IOError, Self.passing.contains(error.errnoCode) else {
      return context.fireErrorCaught(error)
    }
    guard !self.isPausing else { return }
    self.isPausing = true
    self.report("a connection could not be accepted: \(describe(error))")
    let channel = context.channel
    channel.setOption(.autoRead, value: false).whenFailure { _ in }
    let this = NIOLoopBound(self, eventLoop: context.eventLoop)
    context.eventLoop.scheduleTask(in: Self.delay) {
      this.value.isPausing = false
      channel.setOption(.autoRead, value: true).whenFailure { _ in }
    }
  }
}
