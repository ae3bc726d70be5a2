import NIOCore
import NIOPosix
import RPCCore
import RPCTransport

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

extension RPCServer {
  /// A channel to this server that needs no address: each of its connections is a pair of sockets
  /// within the process. There is no TLS, whatever the configurations say of it; everything else is as with any
  /// other channel.
  ///
  ///     let server = RPCServer(services: [Greeter()])
  ///     let greeter = GreeterClient(server.inMemoryChannel())
  ///     #expect(try await greeter.sayHello(HelloRequest(name: "you")).text == "Hello, you")
  ///
  /// - Parameter peerIdentity: Who handlers find at the other end, in the place of a certificate. A server that
  ///   requires one of its clients refuses a channel without.
  public func inMemoryChannel(
    configuration: RPCChannel.Configuration = RPCChannel.Configuration(),
    peerIdentity: PeerIdentity? = nil,
    group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton
  ) -> RPCChannel {
    let dialer = InMemoryDialer(group: group) { channel in
      if self.isShuttingDown { throw NotServing() }
      if self.requiresClientCertificates, peerIdentity == nil { throw NoPeerIdentity() }
      try self.accept(channel, identity: peerIdentity)
    }
    return RPCChannel(to: .inMemory, configuration: configuration, dialer: dialer, group: group)
  }
}

private struct NotServing: Error, CustomStringConvertible {
  var description: String { "the server was shut down" }
}

private struct NoPeerIdentity: Error, CustomStringConvertible {
  var description: String {
    "the server requires a certificate of its clients; in memory, a channel's peerIdentity stands for it"
  }
}

/// Serves services in memory while `body` runs, and ends both sides afterwards.
///
///     try await withInMemoryServer([Greeter()]) { channel in
///       let reply = try await GreeterClient(channel).sayHello(HelloRequest(name: "you"))
///       #expect(reply.text == "Hello, you")
///     }
///
/// - Throws: What `body` throws; ``RPCCore/ConfigurationError``: a setting of the server cannot be.
public func withInMemoryServer<Result>(
  _ services: [any RPCService],
  configuration: RPCServer.Configuration = RPCServer.Configuration(),
  channelConfiguration: RPCChannel.Configuration = RPCChannel.Configuration(),
  peerIdentity: PeerIdentity? = nil, _ body: (RPCChannel) async throws -> Result
) async throws -> Result {
  let server = RPCServer(services: services, configuration: configuration)
  if let mistake = server.mistake { throw mistake }
  let channel = server.inMemoryChannel(
    configuration: channelConfiguration, peerIdentity: peerIdentity)
  do {
    let result = try await body(channel)
    await channel.close()
    await server.shutdown(grace: .zero)
    return result
  } catch {
    await channel.close()
    await server.shutdown(grace: .zero)
    throw error
  }
}

extension ChannelTarget {
  /// What a channel in memory says that it is a way to.
  static var inMemory: ChannelTarget { ChannelTarget(.unix(path: "in-memory")) }
}

/// Makes a pair of sockets for each connection and hands the other end to whoever answers.
struct InMemoryDialer: Dialer {
  let group: any EventLoopGroup
  /// Takes the other end, on its loop.
  let accept: @Sendable (any Channel) throws -> Void
  /// Told when nobody comes any more.
  var onClose: @Sendable () -> Void = {}

  func channelClosed() { self.onClose() }

  func resolve(
    _ target: ChannelTarget, on eventLoop: any EventLoop,
    _ done: @escaping (Result<[ListenAddress], DialError>) -> Void
  ) {
    done(.success([.unix(path: "in-memory")]))
  }

  func connect(
    to address: ListenAddress, _ handler: any ChannelHandler & Sendable,
    on eventLoop: any EventLoop, _ done: @escaping (DialError?) -> Void
  ) {
    let (ours, theirs): (CInt, CInt)
    do {
      (ours, theirs) = try socketPair()
    } catch {
      return done(DialError("\(error)"))
    }
    let accept = self.accept
    // The other end first: once ours is connected, its peer is there.
    adopt(theirs, on: self.group.next()) { channel in try accept(channel) }
      .flatMapErrorThrowing { error in
        close(ours)
        throw error
      }
      .hop(to: eventLoop)
      .flatMap { _ in
        adopt(ours, on: eventLoop) { channel in
          try channel.pipeline.syncOperations.addHandler(handler)
        }
      }
      .assumeIsolated()
      .whenComplete { result in
        switch result {
        case .success: done(nil)
        case .failure(let error): done(DialError("\(error)"))
        }
      }
  }
}

struct SocketPairError: Error, CustomStringConvertible {
  let number: CInt
  var description: String { "socketpair: error \(self.number)" }
}

func socketPair() throws -> (CInt, CInt) {
  var pair: [CInt] = [-1, -1]
  #if canImport(Darwin)
    let type = SOCK_STREAM
  #else
    let type = CInt(SOCK_STREAM.rawValue)
  #endif
  guard socketpair(AF_UNIX, type, 0, &pair) == 0 else { throw SocketPairError(number: errno) }
  return (pair[0], pair[1])
}

/// Makes a channel of a socket that is connected already.
func adopt(
  _ socket: CInt, on eventLoop: any EventLoop,
  _ initialize: @escaping @Sendable (any Channel) throws -> Void
) -> EventLoopFuture<any Channel> {
  ClientBootstrap(group: eventLoop)
    .channelOption(.writeBufferWaterMark, value: .init(low: 64 << 10, high: 256 << 10))
    .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 64 << 10))
    .channelInitializer { channel in
      channel.eventLoop.makeCompletedFuture { try initialize(channel) }
    }
    .withConnectedSocket(socket)
}
