import NIOCore

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// What a peer has taken of what a socket was given.
struct SocketProgress {
  /// Grows with what has arrived there.
  var acknowledged: UInt64
  /// What has not arrived, as far as is known; only 0 means a number.
  var waiting: Int

  /// On the channel's loop: of a TCP socket of Linux, as the peer's system acknowledges it; of others, what
  /// the socket itself has taken. Nil of a channel without a socket.
  ///
  /// - Parameter given: Bytes that were written to the channel, in all.
  init?(of channel: any Channel, given: UInt64) {
    #if os(Linux)
      if let info = Info(of: channel) {
        // `tcpi_bytes_acked`, `tcpi_unacked` and `tcpi_notsent_bytes`.
        self.acknowledged = info.number(at: 120)
        self.waiting = Int(info.number(at: 24) as UInt32) + Int(info.number(at: 144) as UInt32)
        return
      }
    #endif
    guard let buffered = try? channel.syncOptions?.getOption(.bufferedWritableBytes) else {
      return nil
    }
    self.acknowledged = given - min(given, UInt64(buffered))
    self.waiting = buffered
  }

  #if os(Linux)
    /// The beginning of Linux' `struct tcp_info` (`include/uapi/linux/tcp.h`), of which glibc knows
    /// less. A system that tells less leaves zeroes.
    private struct Info: Sendable {
      private typealias Block = (UInt64, UInt64, UInt64, UInt64, UInt64)
      private var words: (Block, Block, Block, Block)

      init?(of channel: any Channel) {
        guard let provider = channel as? any SocketOptionProvider else { return nil }
        var info: Info?
        let answer: EventLoopFuture<Info> = provider.unsafeGetSocketOption(
          level: .tcp, name: .init(rawValue: TCP_INFO))
        // There at once, on the loop.
        answer.assumeIsolated().whenSuccess { info = $0 }
        guard let info else { return nil }
        self = info
      }

      func number<Number: FixedWidthInteger>(at offset: Int) -> Number {
        withUnsafeBytes(of: self.words) {
          $0.loadUnaligned(fromByteOffset: offset, as: Number.self)
        }
      }
    }
  #endif
}
