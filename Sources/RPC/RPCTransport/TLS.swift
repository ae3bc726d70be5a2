import NIOCore
import NIOPosix
import NIOSSL
import RPCCore
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
  /// Files are looked at, when a connection comes, no more often than this.
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
  /// The name that the server's certificate must be for; nil: the target's host. A certificate for
  /// the very address that was connected to will do, too.
  public var serverName: String?
  /// Files are looked at, when a connection is made, no more often than this.
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

  init?(_ certificate: NIOSSLCertificate) {
    guard let bytes = try? certificate.toDERBytes() else { return nil }
    self.certificate = bytes
    var dnsNames: [String] = []
    var uris: [String] = []
    for name in certificate._subjectAlternativeNames() {
      let text = name.contents.withUnsafeBufferPointer { String(decoding: $0, as: UTF8.self) }
      switch name.nameType {
      case .dnsName: dnsNames.append(text)
      case .uri: uris.append(text)
      default: break
      }
    }
    self.dnsNames = dnsNames
    self.uris = uris
  }
}

// MARK: -

/// A context made of files, and made again when they change.
private final class ReloadingContext: Sendable {
  private struct State {
    var context: NIOSSLContext?
    var stamps: [Stamp]
    var checkedAt: ContinuousClock.Instant
    var isReloading = false
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

  /// The context for a new connection. Files that have changed are read beside it and used by the
  /// connections that come then.
  func current() throws(TLSError) -> NIOSSLContext {
    let known = self.state.withLock { $0.context }
    guard let known else {
      let stamps = self.files.map(Self.stamp)
      let context = try self.make()
      self.state.withLock { state in
        state.context = context
        state.stamps = stamps
        state.checkedAt = .now
      }
      return context
    }
    let isDue = self.state.withLock { state in
      guard !state.isReloading, state.checkedAt.duration(to: .now) >= self.interval else {
        return false
      }
      state.checkedAt = .now
      return true
    }
    if isDue { self.reloadIfChanged() }
    return known
  }

  private func reloadIfChanged() {
    let stamps = self.files.map(Self.stamp)
    let hasChanged = self.state.withLock { state in
      guard state.stamps != stamps else { return false }
      state.isReloading = true
      return true
    }
    guard hasChanged else { return }
    NIOThreadPool.singleton.submit { _ in
      do throws(TLSError) {
        let context = try self.make()
        self.state.withLock { state in
          state.context = context
          state.stamps = stamps
          state.isReloading = false
        }
      } catch {
        self.state.withLock { $0.isReloading = false }
        self.reloadFailed?(error)
      }
    }
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
    _ = try self.context.current()
  }

  func makeHandler() throws(TLSError) -> NIOSSLServerHandler {
    NIOSSLServerHandler(context: try self.context.current())
  }
}

/// A client's TLS. What is wrong with its files fails connections, with the reason.
final class ClientTLSContext: Sendable {
  private let context: ReloadingContext
  private let serverName: String?

  init(_ tls: ClientTLS, host: String?) {
    var files: [String] = []
    if let identity = tls.identity {
      files += [identity.certificateChainFile, identity.privateKeyFile]
    }
    if case .file(let roots) = tls.trustRoots { files.append(roots) }
    self.serverName = tls.serverName ?? host
    let hasName = self.serverName != nil
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
      if !hasName, configuration.certificateVerification == .fullVerification {
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

  func makeHandler() throws -> NIOSSLClientHandler {
    let context = try self.context.current()
    // Server names are no addresses: RFC 6066, section 3. The certificate is checked all the same.
    do {
      return try NIOSSLClientHandler(context: context, serverHostname: self.serverName)
    } catch let error as NIOSSLExtraError where error == .cannotUseIPAddressInSNI {
      return try NIOSSLClientHandler(context: context, serverHostname: nil)
    }
  }
}

private func load(
  _ identity: TLSIdentity
) throws(TLSError) -> ([NIOSSLCertificateSource], NIOSSLPrivateKeySource) {
  let chain = try loadCertificates(identity.certificateChainFile)
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
  do {
    let certificates = try NIOSSLCertificate.fromPEMFile(file)
    guard !certificates.isEmpty else { throw TLSError("no certificate is in \(file)") }
    return certificates
  } catch {
    throw error as? TLSError ?? TLSError("the certificates \(file) cannot be read: \(reason(file))")
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
