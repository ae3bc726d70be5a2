import NIOCore
import RedisWire

/// One connection: writes commands, gives each its reply, and ends as a whole at the first doubt
/// (a late reply, bytes that are no reply), because the order of replies is all that tells whose
/// they are. Confined to its event loop.
final class RedisConnection: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer
  typealias OutboundOut = ByteBuffer

  private let configuration: RedisConfiguration
  private let reader: RedisReplyReader
  private var pending = PendingCommands()
  private var context: ChannelHandlerContext?
  private var outgoing = ByteBuffer()
  private var flushIsDue = false
  private var timer: Scheduled<Void>?
  private var ending: RedisError?
  private let ended: (RedisError) -> Void

  /// `ended` is called once, on the loop, after every pending command has failed.
  init(configuration: RedisConfiguration, ended: @escaping (RedisError) -> Void) {
    self.configuration = configuration
    self.reader = RedisReplyReader(limits: configuration.replyLimits)
    self.ended = ended
  }

  var inFlight: Int { self.pending.count }

  /// Sends a command behind all others. On the loop.
  func send(_ command: RedisCommand, completion: @escaping RedisCompletion) {
    if let ending = self.ending {
      completion(.failure(ending))
      return
    }
    guard let context = self.context else {
      completion(
        .failure(.notConnected(self.configuration.address, reason: "not connected yet")))
      return
    }
    guard self.pending.count < self.configuration.maximumInFlight,
      self.pending.bytes < self.configuration.maximumInFlightBytes
    else {
      completion(
        .failure(.tooMuchInFlight(commands: self.pending.count, bytes: self.pending.bytes)))
      return
    }
    let bytes: [UInt8]
    do throws(RedisWireError) {
      bytes = try command.formatted()
    } catch {
      completion(.failure(.invalidCommand(error)))
      return
    }
    self.outgoing.writeBytes(bytes)
    self.pending.append(
      PendingCommands.Entry(
        name: command.name, bytes: bytes.count,
        deadline: .now() + TimeAmount(self.configuration.commandTimeout), completion: completion))
    self.flushLater(context)
    self.watchDeadline(context)
  }

  /// Ends the connection; every pending command fails with `error`. On the loop.
  func end(_ error: RedisError) {
    guard self.ending == nil else { return }
    self.ending = error
    self.timer?.cancel()
    self.timer = nil
    self.outgoing.clear()
    self.context?.close(promise: nil)
    while let entry = self.pending.popFirst() {
      entry.completion(.failure(error))
    }
    self.ended(error)
  }

  /// All commands of one turn of the loop leave in one write.
  private func flushLater(_ context: ChannelHandlerContext) {
    guard !self.flushIsDue else { return }
    self.flushIsDue = true
    context.eventLoop.assumeIsolated().execute {
      self.flushIsDue = false
      guard self.ending == nil, let context = self.context,
        self.outgoing.readableBytes > 0
      else { return }
      let buffer = self.outgoing
      self.outgoing = context.channel.allocator.buffer(capacity: 4_096)
      context.writeAndFlush(self.wrapOutboundOut(buffer), promise: nil)
    }
  }

  private func watchDeadline(_ context: ChannelHandlerContext) {
    guard self.timer == nil, let deadline = self.pending.firstDeadline else { return }
    self.timer = context.eventLoop.assumeIsolated().scheduleTask(deadline: deadline) {
      self.timer = nil
      guard let deadline = self.pending.firstDeadline, let context = self.context else { return }
      guard deadline <= .now() else {
        // The command that the timer was set for has its reply; a younger one is first now.
        self.watchDeadline(context)
        return
      }
      let first = self.pending.popFirst()
      let error = RedisError.timedOut(
        command: first?.name ?? "", self.configuration.address,
        after: self.configuration.commandTimeout)
      first?.completion(.failure(error))
      self.end(error)
    }
  }

  // MARK: What the channel says

  func handlerAdded(context: ChannelHandlerContext) {
    self.context = context
  }

  func handlerRemoved(context: ChannelHandlerContext) {
    self.context = nil
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    let buffer = self.unwrapInboundIn(data)
    do throws(RedisWireError) {
      try self.reader.read(buffer.readableBytesUInt8Span) { value in
        guard let entry = self.pending.popFirst() else {
          self.lost("it sent a reply that nobody asked for")
          return
        }
        if case .error(let reply) = value {
          entry.completion(.failure(.refused(command: entry.name, reply)))
        } else {
          entry.completion(.success(value))
        }
      }
    } catch {
      self.lost("it sent what is \(error)")
    }
  }

  func channelInactive(context: ChannelHandlerContext) {
    self.lost("Redis closed it")
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    self.lost("\(error)")
  }

  private func lost(_ reason: String) {
    self.end(.connectionLost(self.configuration.address, reason: reason))
  }
}
