import NIOCore
import NIOPosix
import NIOSSL
import RPCCore
import RPCHTTP2
import Synchronization

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// A certificate chain and its private key, as PEM files. They are read again when they change.
public struct TLSIdentity: Sendable, Hashable {
  /// The certificate itself first, then those that signed it.
  public var certificateChainFile: String
  /// The key of the first certificate, unencrypted.
  public var privateKeyFile: String

  /// The files are first read when a server begins to listen, or a channel to connect.
  public init(certificateChainFile: String, privateKeyFile: String) {
    self.certificateChainFile = certificateChainFile
    self.privateKeyFile = privateKeyFile
  }
}

/// TLS on a server, with HTTP/2 by ALPN (RFC 9113, section 3.2).
public struct ServerTLS: Sendable {
  /// Whether clients have to show a certificate.
  public enum ClientCertificates: Sendable, Hashable {
    /// Anybody is served.
    case none
    /// Signed by one of the certificates in this PEM file: mutual TLS.
    case required(trustRootsFile: String)
  }

  /// Who the server is.
  public var identity: TLSIdentity
  /// Whom it serves.
  public var clientCertificates: ClientCertificates
  /// Files are looked at, when a connection comes, no more often than this. What has changed counts for that
  /// connection already.
  public var reloadInterval = Duration.seconds(10)
  /// Told when changed files cannot be used; those before them stay in use.
  public var reloadFailed: (@Sendable (TLSError) -> Void)?

  /// TLS with the server's certificate, and with clients' if they are required.
  public init(identity: TLSIdentity, clientCertificates: ClientCertificates = .none) {
    self.identity = identity
    self.clientCertificates = clientCertificates
  }
}

/// TLS on a client.
public struct ClientTLS: Sendable {
  /// Whom the client trusts.
  public enum TrustRoots: Sendable, Hashable {
    /// Whom the system trusts.
    case system
    /// The certificates in a PEM file.
    case file(String)
    /// Anybody. For tests: such a connection is secret, but from nobody in particular.
    case anybody
  }

  /// Whom the client trusts.
  public var trustRoots: TrustRoots
  /// For servers that want one: mutual TLS.
  public var identity: TLSIdentity?
  /// The name or the address that the server's certificate must be for; nil: the target's host, or the
  /// address that is connected to where the target names none, or `localhost` for a unix socket. Only alternative
  /// names count (RFC 9525): names for a name, addresses for an address.
  public var serverName: String?
  /// Files are looked at, when a connection is made, no more often than this. What has changed counts for that
  /// connection already.
  public var reloadInterval = Duration.seconds(10)
  /// Told when changed files cannot be used; those before them stay in use.
  public var reloadFailed: (@Sendable (TLSError) -> Void)?

  /// TLS to servers that the roots vouch for, with the client's certificate if it has one.
  public init(
    trustRoots: TrustRoots = .system, identity: TLSIdentity? = nil, serverName: String? = nil
  ) {
    self.trustRoots = trustRoots
    self.identity = identity
    self.serverName = serverName
  }
}

/// Why TLS cannot be configured as it is wished.
public struct TLSError: Error, Sendable, Hashable, CustomStringConvertible {
  /// The file and what is wrong with it.
  public let description: String

  init(_ description: String) { self.description = description }
}

/// Who a peer proved to be by its certificate.
public struct PeerIdentity: Sendable, Hashable {
  /// The certificate, in DER.
  public let certificate: [UInt8]
  /// Its DNS names, of the subject's alternative names (RFC 5280, section 4.2.1.6).
  public let dnsNames: [String]
  /// Its URIs: where SPIFFE puts a workload's name.
  public let uris: [String]
  /// Its IP addresses, as `inet_ntop` writes them.
  public let addresses: [String]

  /// One to test handlers with, in memory.
  public init(
    certificate: [UInt8] = [], dnsNames: [String] = [], uris: [String] = [],
    addresses: [String] = []
  ) {
    self.certificate = certificate
    self.dnsNames = dnsNames
    self.uris = uris
    self.addresses = addresses
  }

  init?(_ certificate: NIOSSLCertificate) {
    guard let bytes = try? certificate.toDERBytes() else { return nil }
    var dnsNames: [String] = []
    var uris: [String] = []
    var addresses: [String] = []
    for name in certificate._subjectAlternativeNames() {
      let contents = Array(name.contents)
      switch name.nameType {
      case .dnsName: dnsNames.append(String(decoding: contents, as: UTF8.self))
      case .uri: uris.append(String(decoding: contents, as: UTF8.self))
      case .ipAddress: if let text = addressText(contents) { addresses.append(text) }
      default: break
      }
    }
    self.init(certificate: bytes, dnsNames: dnsNames, uris: uris, addresses: addresses)
  }
}

/// An address in network order, as it is written; nil if it is none.
private func addressText(_ bytes: [UInt8]) -> String? {
  guard bytes.count == 4 || bytes.count == 16 else { return nil }
  var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
  let family = bytes.count == 4 ? AF_INET : AF_INET6
  guard inet_ntop(family, bytes, &text, socklen_t(text.count)) != nil else { return nil }
  return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}

// MARK: -

/// A context made of files, and made again when they change.
private final class ReloadingContext: Sendable {
  private struct State {
    var context: NIOSSLContext?
    var stamps: [Stamp]
    var checkedAt: ContinuousClock.Instant
    /// Connections that wait for the files to be looked at, by their numbers; nil: nobody does so.
    var waiting: [Int: EventLoopPromise<NIOSSLContext>]?
    var lastNumber = 0
  }

  /// What tells a changed file from an unchanged one.
  private struct Stamp: Hashable {
    var time: [UInt8] = []
    var size: Int64 = -1
    var node: UInt64 = 0
  }

  private let files: [String]
  private let interval: Duration
  private let make: @Sendable () throws(TLSError) -> NIOSSLContext
  private let reloadFailed: (@Sendable (TLSError) -> Void)?
  private let state: Mutex<State>

  init(
    files: [String], interval: Duration, reloadFailed: (@Sendable (TLSError) -> Void)?,
    make: @escaping @Sendable () throws(TLSError) -> NIOSSLContext
  ) {
    self.files = files
    self.interval = interval
    self.reloadFailed = reloadFailed
    self.make = make
    self.state = Mutex(State(stamps: [], checkedAt: .now))
  }

  /// Reads the files for the first time, if nobody has. Blocks.
  func load() throws(TLSError) {
    guard self.state.withLock({ $0.context == nil }) else { return }
    let stamps = self.files.map(Self.stamp)
    let context = try self.make()
    self.state.withLock { state in
      state.context = context
      state.stamps = stamps
      state.checkedAt = .now
    }
  }

  /// The context for a new connection. One that comes when the files are to be looked at waits until they are,
  /// beside the loop: who has been told that a certificate counts no more must not be let in once again.
  ///
  /// - Parameters:
  ///   - channel: The connection. It waits no more when it is closed.
  ///   - patience: A file system may hang. Then there is no context, after this.
  func current(
    for channel: any Channel, patience: Duration
  ) -> EventLoopFuture<NIOSSLContext> {
    let promise = channel.eventLoop.makePromise(of: NIOSSLContext.self)
    let (known, number, isDue) = self.state.withLock { state -> (NIOSSLContext?, Int, Bool) in
      if let context = state.context, state.waiting == nil,
        self.files.isEmpty || state.checkedAt.duration(to: .now) < self.interval
      {
        return (context, 0, false)
      }
      let isDue = state.waiting == nil
      state.lastNumber += 1
      state.waiting = state.waiting ?? [:]
      state.waiting?[state.lastNumber] = promise
      return (nil, state.lastNumber, isDue)
    }
    if let known {
      promise.succeed(known)
    } else {
      let timer = channel.eventLoop.scheduleTask(in: TimeAmount(patience)) {
        self.giveUp(
          number, TLSError("\(self.files.joined(separator: ", ")) could not be read in \(patience)")
        )
      }
      promise.futureResult.whenComplete { _ in timer.cancel() }
      channel.closeFuture.whenComplete { _ in self.giveUp(number, ChannelError.ioOnClosedChannel) }
    }
    if isDue { Self.threads.submit { _ in self.reloadIfChanged() } }
    return promise.futureResult
  }

  /// Of all contexts: a file system that hangs keeps nobody else's work waiting.
  private static let threads: NIOThreadPool = {
    let threads = NIOThreadPool(numberOfThreads: 4)
    threads.start()
    return threads
  }()

  private func giveUp(_ number: Int, _ error: any Error) {
    self.state.withLock { $0.waiting?.removeValue(forKey: number) }?.fail(error)
  }

  private func reloadIfChanged() {
    let stamps = self.files.map(Self.stamp)
    let unchanged = self.state.withLock { $0.stamps == stamps ? $0.context : nil }
    let result =
      unchanged.map { .success($0) } ?? Result { () throws(TLSError) in try self.make() }
    let (waiting, known) = self.state.withLock { state in
      if case .success(let context) = result {
        state.context = context
        state.stamps = stamps
      }
      state.checkedAt = .now
      defer { state.waiting = nil }
      return (state.waiting ?? [:], state.context)
    }
    for promise in waiting.values {
      promise.completeWith(known.map { .success($0) } ?? result.mapError { $0 })
    }
    // It may block.
    if case .failure(let error) = result, known != nil { self.reloadFailed?(error) }
  }

  private static func stamp(_ file: String) -> Stamp {
    var status = stat()
    guard stat(file, &status) == 0 else { return Stamp() }
    #if canImport(Darwin)
      let time = status.st_mtimespec
    #else
      let time = status.st_mtim
    #endif
    return Stamp(
      time: withUnsafeBytes(of: time) { Array($0) }, size: Int64(status.st_size),
      node: UInt64(status.st_ino))
  }
}

/// A server's TLS, ready for connections.
final class ServerTLSContext: Sendable {
  private let context: ReloadingContext

  /// - Throws: A file is missing or is not what it should be.
  init(_ tls: ServerTLS) throws(TLSError) {
    var files = [tls.identity.certificateChainFile, tls.identity.privateKeyFile]
    if case .required(let roots) = tls.clientCertificates { files.append(roots) }
    self.context = ReloadingContext(
      files: files, interval: tls.reloadInterval, reloadFailed: tls.reloadFailed
    ) { () throws(TLSError) in
      let (chain, key) = try load(tls.identity)
      var configuration = TLSConfiguration.makeServerConfiguration(
        certificateChain: chain, privateKey: key)
      configuration.minimumTLSVersion = .tlsv12
      configuration.applicationProtocols = ["h2"]
      if case .required(let roots) = tls.clientCertificates {
        configuration.trustRoots = .certificates(try loadCertificates(roots))
        // A client has no host that its certificate could be for.
        configuration.certificateVerification = .noHostnameVerification
      }
      return try makeContext(configuration)
    }
    try self.context.load()
  }

  /// What a new connection begins with.
  ///
  /// - Parameter patience: How long it may wait for it.
  func current(
    for channel: any Channel, patience: Duration
  ) -> EventLoopFuture<NIOSSLContext> {
    self.context.current(for: channel, patience: patience)
  }
}

/// A client's TLS. What is wrong with its files fails connections, with the reason.
final class ClientTLSContext: Sendable {
  private let context: ReloadingContext
  /// Nil: each address' own.
  private let serverName: String?
  private let isAnybody: Bool

  init(_ tls: ClientTLS, host: String?) {
    var files: [String] = []
    if let identity = tls.identity {
      files += [identity.certificateChainFile, identity.privateKeyFile]
    }
    if case .file(let roots) = tls.trustRoots { files.append(roots) }
    self.serverName = tls.serverName ?? host
    self.isAnybody = tls.trustRoots == .anybody
    self.context = ReloadingContext(
      files: files, interval: tls.reloadInterval, reloadFailed: tls.reloadFailed
    ) { () throws(TLSError) in
      var configuration = TLSConfiguration.makeClientConfiguration()
      configuration.minimumTLSVersion = .tlsv12
      configuration.applicationProtocols = ["h2"]
      switch tls.trustRoots {
      case .system: configuration.trustRoots = .default
      case .file(let roots): configuration.trustRoots = .certificates(try loadCertificates(roots))
      case .anybody: configuration.certificateVerification = .none
      }
      // Who it is for is looked at by ``ServerIdentity``.
      if configuration.certificateVerification == .fullVerification {
        configuration.certificateVerification = .noHostnameVerification
      }
      if let identity = tls.identity {
        let (chain, key) = try load(identity)
        configuration.certificateChain = chain
        configuration.privateKey = key
      }
      return try makeContext(configuration)
    }
  }

  /// What a new connection begins with.
  ///
  /// - Parameter patience: How long it may wait for it.
  func current(
    for channel: any Channel, patience: Duration
  ) -> EventLoopFuture<NIOSSLContext> {
    self.context.current(for: channel, patience: patience)
  }

  /// Puts TLS to an address in front of what is added behind. On the channel's loop.
  func addHandlers(
    of context: NIOSSLContext, to address: ListenAddress, _ channel: any Channel
  ) throws {
    let identity =
      switch address {
      case .tcp(let host, _): try ServerIdentity(self.serverName ?? host)
      case .unix: try ServerIdentity(self.serverName ?? "localhost")
      }
    let name = identity.serverNameIndication
    guard !self.isAnybody else {
      let handler = try NIOSSLClientHandler(context: context, serverHostname: name)
      return try channel.pipeline.syncOperations.addHandler(handler)
    }
    // Asked before the client's last words of the handshake are out, its own certificate among them.
    let gate = HandshakeGate()
    let handler = try NIOSSLClientHandler._makeSSLClientHandler(
      context: context, serverHostname: name
    ) { certificate, channel in
      let shown = PeerIdentity(certificate) ?? PeerIdentity()
      guard identity.isNamed(by: shown) else {
        gate.isShut = true
        return channel.eventLoop.makeFailedFuture(
          WrongServer(wanted: identity, certificate: shown))
      }
      channel.pipeline.syncOperations.removeHandler(gate, promise: nil)
      return channel.eventLoop.makeSucceededVoidFuture()
    }
    try channel.pipeline.syncOperations.addHandler(gate)
    try channel.pipeline.syncOperations.addHandler(handler)
  }
}

private func load(
  _ identity: TLSIdentity
) throws(TLSError) -> ([NIOSSLCertificateSource], NIOSSLPrivateKeySource) {
  let chain = try loadCertificates(identity.certificateChainFile)
  try checkName(identity.privateKeyFile)
  do {
    let key = try NIOSSLPrivateKey(file: identity.privateKeyFile, format: .pem)
    return (chain.map { .certificate($0) }, .privateKey(key))
  } catch {
    throw TLSError(
      "the private key \(identity.privateKeyFile) cannot be read: \(reason(identity.privateKeyFile))"
    )
  }
}

private func loadCertificates(_ file: String) throws(TLSError) -> [NIOSSLCertificate] {
  try checkName(file)
  do {
    let certificates = try NIOSSLCertificate.fromPEMFile(file)
    guard !certificates.isEmpty else { throw TLSError("no certificate is in \(file)") }
    return certificates
  } catch {
    throw error as? TLSError ?? TLSError("the certificates \(file) cannot be read: \(reason(file))")
  }
}

/// The system would open the file of the name up to the first NUL.
private func checkName(_ file: String) throws(TLSError) {
  guard !file.utf8.contains(0) else {
    throw TLSError("the file \(printable(file)) cannot be: its name has a NUL")
  }
}

/// Those of TLS 1.2 that HTTP/2 does not prohibit (RFC 9113, section 9.2.2); TLS 1.3 has no others.
private let cipherSuites: [NIOTLSCipher] = [
  .TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, .TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
  .TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, .TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
  .TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, .TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
]

private func makeContext(_ wished: TLSConfiguration) throws(TLSError) -> NIOSSLContext {
  var configuration = wished
  // Many peers never answer a close_notify, and HTTP/2 has said its last word before it.
  configuration.shutdownTimeout = .milliseconds(250)
  configuration.cipherSuiteValues = cipherSuites
  do {
    return try NIOSSLContext(configuration: configuration)
  } catch {
    throw TLSError("certificate and key do not fit each other, or are of no use: \(error)")
  }
}

/// Why a file cannot be used, as far as the system knows.
private func reason(_ file: String) -> String {
  access(file, R_OK) == 0 ? "it is not PEM as it should be" : systemMessage(errno)
}
