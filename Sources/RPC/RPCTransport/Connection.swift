import NIOCore
import NIOPosix
import RPCCore
import RPCHTTP2

/// Whose connection it is: the server's or the client's side of what happens on it.
protocol ConnectionOwner: HTTP2SessionDelegate {
  /// How long a connection that is over waits for a peer to read the last that was said.
  var closeTimeout: Duration { get }
  /// The connection is gone; its streams are told next.
  func connectionWillClose(_ reason: String)
  /// The connection is gone; every stream has been told.
  func connectionClosed(_ reason: String)
}

/// One HTTP/2 connection on its event loop: bytes between the socket and the session.
///
/// Everything is done on the loop. Reads are answered once, when all that came has been taken; a
/// peer that does not read stops us from producing, not only from sending. `@unchecked Sendable`:
/// references travel, but only the loop uses them.
final class Connection: ChannelInboundHandler, @unchecked Sendable {
  typealias InboundIn = ByteBuffer
  typealias OutboundOut = ByteBuffer

  /// Bytes that are gathered before they are handed to the socket in one go.
  private static let writeBatchBytes = 128 << 10

  let executor: LoopExecutor
  let owner: any ConnectionOwner
  private(set) var session: HTTP2Session?
  private let role: HTTP2Session.Role
  private let configuration: HTTP2Session.Configuration
  private var context: ChannelHandlerContext?
  private var output = ByteBuffer()
  private var isReading = false
  private var isFlushing = false
  private var flushIsDue = false
  private var isClosing = false
  private var closeReason = "the peer closed the connection"
  /// Sent whenever the peer proves that it lives.
  private(set) var lastReadTime = NIODeadline.now()

  init(
    _ role: HTTP2Session.Role, executor: LoopExecutor, configuration: HTTP2Session.Configuration,
    owner: any ConnectionOwner
  ) {
    self.role = role
    self.executor = executor
    self.configuration = configuration
    self.owner = owner
  }

  /// The peer's address, for people.
  var peer: String { self.context?.channel.remoteAddress?.description ?? "unix socket" }

  // MARK: - From the pipeline

  func handlerAdded(context: ChannelHandlerContext) {
    self.context = context
    self.output = context.channel.allocator.buffer(capacity: 16 << 10)
    self.session = HTTP2Session(self.role, configuration: self.configuration, delegate: self.owner)
    if context.channel.isActive { self.flush() }
  }

  func handlerRemoved(context: ChannelHandlerContext) {
    self.context = nil
  }

  func channelActive(context: ChannelHandlerContext) {
    self.flush()
    context.fireChannelActive()
  }

  func channelInactive(context: ChannelHandlerContext) {
    if let session = self.session {
      self.owner.connectionWillClose(self.closeReason)
      session.abandonStreams(code: 0x8)
      self.session = nil
      self.owner.connectionClosed(self.closeReason)
    }
    context.fireChannelInactive()
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    guard let session = self.session else { return }
    let buffer = self.unwrapInboundIn(data)
    self.isReading = true
    self.lastReadTime = .now()
    do {
      try buffer.withUnsafeReadableBytes { bytes in try session.receive(bytes) }
    } catch {
      self.isReading = false
      self.closeReason = "\(error)"
      // What the session still has to say is why: a GOAWAY.
      self.flush()
      self.close(self.closeReason)
    }
  }

  func channelReadComplete(context: ChannelHandlerContext) {
    // What the calls wrote goes out with what the session has to say.
    self.executor.drain()
    self.isReading = false
    self.flush()
    context.fireChannelReadComplete()
  }

  func channelWritabilityChanged(context: ChannelHandlerContext) {
    if context.channel.isWritable { self.flush() }
    context.fireChannelWritabilityChanged()
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    self.close(describe(error))
  }

  // MARK: - To the socket

  /// Something is to be sent: at the end of this read, or of this turn of the loop.
  func needsFlush() {
    self.executor.eventLoop.assertInEventLoop()
    guard !self.isReading, !self.flushIsDue else { return }
    self.flushIsDue = true
    self.executor.flushLater(self)
  }

  /// Sends what the session has to say, as far as the socket takes it.
  func flush() {
    self.flushIsDue = false
    guard let session = self.session, let context = self.context, !self.isFlushing else { return }
    self.isFlushing = true
    defer { self.isFlushing = false }
    // Unique again once the write before is done: the storage is used again.
    self.output.clear()
    var wrote = false
    do {
      while context.channel.isWritable, let bytes = try session.nextOutput() {
        self.output.writeBytes(bytes)
        if self.output.readableBytes >= Self.writeBatchBytes {
          context.writeAndFlush(self.wrapOutboundOut(self.output), promise: nil)
          self.output.clear()
          wrote = true
        }
      }
    } catch {
      self.closeReason = "\(error)"
      context.close(promise: nil)
      return
    }
    if self.output.readableBytes > 0 {
      context.writeAndFlush(self.wrapOutboundOut(self.output), promise: nil)
      wrote = true
    }
    if session.isOver {
      self.closeWhenWritten()
    } else if wrote {
      // What was sent may have ended streams, and their ends may have something to say.
      self.executor.eventLoop.assertInEventLoop()
    }
  }

  /// Ends the connection once the socket has taken what was said: to close at once would drop what
  /// it has no room for, and that may be the end of an answer.
  private func closeWhenWritten() {
    guard let context = self.context, !self.isClosing else { return }
    self.isClosing = true
    let written = context.writeAndFlush(self.wrapOutboundOut(ByteBuffer()))
    let timer = self.executor.eventLoop.scheduleTask(in: TimeAmount(self.owner.closeTimeout)) {
      self.close(self.closeReason)
    }
    written.whenComplete { _ in
      timer.cancel()
      self.close(self.closeReason)
    }
  }

  func close(_ reason: String) {
    self.closeReason = reason
    self.context?.close(promise: nil)
  }
}

/// A socket's error in words: without NIO's type names, and with what the system calls it.
func describe(_ error: any Error) -> String {
  switch error {
  case let error as NIOConnectionError:
    if let first = error.connectionErrors.first { return describe(first.error) }
    if error.dnsAError != nil || error.dnsAAAAError != nil {
      return "the host \"\(error.host)\" cannot be resolved"
    }
    return "no address answered"
  case let error as IOError:
    return systemMessage(error.errnoCode)
  case ChannelError.connectTimeout(let amount):
    return "no answer within \(amount.nanoseconds / 1_000_000_000) s"
  default:
    return "\(error)"
  }
}
