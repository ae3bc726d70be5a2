import NIOCore

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// What a peer has taken of what a TCP socket was given, as the peer's system acknowledges it.
struct SocketProgress {
  /// Bytes that have arrived there since the connection began.
  var acknowledged: UInt64
  /// What has not arrived: bytes that were not sent yet, and segments on their way.
  var waiting: Int

  /// On the channel's loop.
  ///
  /// - Returns: Nil where the system does not tell: of other sockets than TCP's, and on other systems than
  ///   Linux.
  init?(of channel: any Channel) {
    #if os(Linux)
      guard let provider = channel as? any SocketOptionProvider else { return nil }
      var info: Info?
      let answer: EventLoopFuture<Info> = provider.unsafeGetSocketOption(
        level: .tcp, name: .init(rawValue: TCP_INFO))
      // There at once, on the loop.
      answer.assumeIsolated().whenSuccess { info = $0 }
      guard let info else { return nil }
      // `tcpi_bytes_acked`, `tcpi_unacked` and `tcpi_notsent_bytes`.
      self.acknowledged = info.number(at: 120)
      self.waiting = Int(info.number(at: 24) as UInt32) + Int(info.number(at: 144) as UInt32)
    #else
      return nil
    #endif
  }

  #if os(Linux)
    /// The beginning of Linux' `struct tcp_info` (`include/uapi/linux/tcp.h`), of which glibc knows
    /// less. A system that tells less leaves zeroes.
    private struct Info: Sendable {
      private typealias Block = (UInt64, UInt64, UInt64, UInt64, UInt64)
      private var words: (Block, Block, Block, Block)

      func number<Number: FixedWidthInteger>(at offset: Int) -> Number {
        withUnsafeBytes(of: self.words) {
          $0.loadUnaligned(fromByteOffset: offset, as: Number.self)
        }
      }
    }
  #endif
}
