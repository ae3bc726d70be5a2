import NIOCore
import NIOPosix
import NIOSSL
import RPCCore

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// Why a name or an address leads nowhere.
package struct DialError: Error, Sendable, Hashable {
  package let reason: String
  package init(_ reason: String) { self.reason = reason }
}

/// How a channel finds addresses and makes connections to them. Told and answering on the loop.
package protocol Dialer: Sendable {
  func resolve(
    _ target: ChannelTarget, on eventLoop: any EventLoop,
    _ done: @escaping (Result<[ListenAddress], DialError>) -> Void)
  /// Makes a connection; `handler` is its last handler. Answers nil when it is made.
  func connect(
    to address: ListenAddress, _ handler: any ChannelHandler & Sendable,
    on eventLoop: any EventLoop, _ done: @escaping (DialError?) -> Void)
  /// The channel is closed, and asks for nothing any more.
  func channelClosed()
}

extension Dialer {
  package func channelClosed() {}
}

/// Sockets of the system, with TLS if that is configured.
struct SocketDialer: Dialer {
  private let connectTimeout: Duration
  private let unacknowledgedTimeout: Duration?
  private let tls: ClientTLSContext?

  init(target: ChannelTarget, configuration: RPCChannel.Configuration) {
    self.connectTimeout = configuration.connectTimeout
    self.unacknowledgedTimeout = configuration.unacknowledgedTimeout
    self.tls = configuration.tls.map { ClientTLSContext($0, host: target.host) }
  }

  func resolve(
    _ target: ChannelTarget, on eventLoop: any EventLoop,
    _ done: @escaping (Result<[ListenAddress], DialError>) -> Void
  ) {
    switch target.kind {
    case .addresses(let addresses): done(.success(addresses))
    case .name(let host, let port):
      if isIPAddress(host) { return done(.success([.tcp(host: host, port: port)])) }
      let done = UnsafeTransfer(done)
      NIOThreadPool.singleton.runIfActive(eventLoop: eventLoop) { lookUp(host, port) }
        .whenComplete { result in
          switch result {
          case .success(let found): done.value(found)
          case .failure(let error): done.value(.failure(DialError("\(error)")))
          }
        }
    }
  }

  func connect(
    to address: ListenAddress, _ handler: any ChannelHandler & Sendable,
    on eventLoop: any EventLoop, _ done: @escaping (DialError?) -> Void
  ) {
    let tls = self.tls
    let patience = self.connectTimeout
    let bootstrap = ClientBootstrap(group: eventLoop)
      .connectTimeout(TimeAmount(self.connectTimeout))
      .channelOption(.writeBufferWaterMark, value: .init(low: 64 << 10, high: 256 << 10))
      .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 64 << 10))
      .channelInitializer { channel in
        guard let tls else {
          return channel.eventLoop.makeCompletedFuture {
            try channel.pipeline.syncOperations.addHandler(handler)
          }
        }
        return tls.current(for: channel, patience: patience).flatMapThrowing { context in
          // While the files were read. Once the socket is connected it would be too late to say so.
          if (handler as? Connection)?.isClosed == true {
            throw DialError("nobody wants the connection any more")
          }
          try tls.addHandlers(of: context, to: address, channel)
          try channel.pipeline.syncOperations.addHandler(handler)
        }
      }
    let connecting: EventLoopFuture<any Channel>
    switch address {
    case .tcp(let host, let port):
      var tcp = bootstrap.channelOption(.tcpOption(.tcp_nodelay), value: 1)
      #if os(Linux)
        if let timeout = self.unacknowledgedTimeout {
          tcp = tcp.channelOption(
            .tcpOption(.init(rawValue: CInt(TCP_USER_TIMEOUT))),
            // In milliseconds; zero would be the system's own.
            value: Int(max(1, min(TimeAmount(timeout).nanoseconds / 1_000_000, Int64(Int32.max)))))
        }
      #endif
      if let address = try? SocketAddress(ipAddress: host, port: port) {
        connecting = tcp.connect(to: address)
      } else {
        connecting = tcp.connect(host: host, port: port)
      }
    case .unix(let path):
      connecting = bootstrap.connect(unixDomainSocketPath: path)
    }
    let done = UnsafeTransfer(done)
    connecting.whenComplete { result in
      switch result {
      case .success: done.value(nil)
      case .failure(let error): done.value(DialError(describe(error)))
      }
    }
  }
}

/// Something that leaves the loop and comes back to it without being touched between.
private struct UnsafeTransfer<Value>: @unchecked Sendable {
  let value: Value
  init(_ value: Value) { self.value = value }
}

private func isIPAddress(_ host: String) -> Bool {
  (try? SocketAddress(ipAddress: host, port: 0)) != nil
}

/// All stream addresses of a name, in the order of the system (RFC 6724). Blocks.
private func lookUp(_ host: String, _ port: Int) -> Result<[ListenAddress], DialError> {
  var hints = addrinfo()
  #if canImport(Darwin)
    hints.ai_socktype = SOCK_STREAM
  #else
    hints.ai_socktype = CInt(SOCK_STREAM.rawValue)
  #endif
  var list: UnsafeMutablePointer<addrinfo>?
  let result = getaddrinfo(host, nil, &hints, &list)
  guard result == 0 else {
    return .failure(
      DialError("the host \"\(host)\" cannot be resolved: \(String(cString: gai_strerror(result)))")
    )
  }
  defer { freeaddrinfo(list) }
  var addresses: [ListenAddress] = []
  var next = list
  while let entry = next {
    var name = [CChar](repeating: 0, count: Int(NI_MAXHOST))
    if getnameinfo(
      entry.pointee.ai_addr, entry.pointee.ai_addrlen, &name, socklen_t(name.count), nil, 0,
      NI_NUMERICHOST) == 0
    {
      let text = name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
      addresses.append(.tcp(host: String(decoding: text, as: UTF8.self), port: port))
    }
    next = entry.pointee.ai_next
  }
  return .success(addresses)
}
