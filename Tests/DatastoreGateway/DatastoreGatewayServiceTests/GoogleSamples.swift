import BuildProtos
import CryptoExtras
import Foundation
import Logging
import NIOCore
import NIOHTTP1
import NIOPosix
import RPC
import ServiceRuntime
import Synchronization

@testable import DatastoreGatewayService

/// A token server that answers what a test says, and remembers what it was asked.
final class TokenServer: Sendable {
  struct Asked: Sendable {
    var method: String
    var path: String
    var headers: [String: String]
    var body: String

    /// The fields of a form.
    var fields: [String: String] {
      var fields: [String: String] = [:]
      for pair in self.body.split(separator: "&") {
        let parts = pair.split(separator: "=", maxSplits: 1).map(String.init)
        fields[parts[0]] = parts.count == 2 ? parts[1].removingPercentEncoding : ""
      }
      return fields
    }
  }

  typealias Script = @Sendable (_ number: Int, Asked) -> (status: Int, body: String)

  private let channel: any Channel
  private let log: Log

  private final class Log: Sendable {
    let asked = Mutex<[Asked]>([])
  }

  /// - Parameter script: Told the number of the request, from 1.
  init(_ script: @escaping Script) async throws {
    let log = Log()
    self.log = log
    self.channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try channel.pipeline.syncOperations.configureHTTPServerPipeline()
          try channel.pipeline.syncOperations.addHandler(Handler(log, script))
        }
      }
      .bind(host: "127.0.0.1", port: 0).get()
  }

  /// Grants "token-1", "token-2" and so on.
  static func granting(lifetime: Int = 3_600) async throws -> TokenServer {
    try await TokenServer { number, _ in
      (
        200,
        #"{"access_token": "token-\#(number)", "expires_in": \#(lifetime), "token_type": "Bearer"}"#
      )
    }
  }

  var authority: String { "127.0.0.1:\(self.channel.localAddress?.port ?? 0)" }
  var asked: [Asked] { self.log.asked.withLock { $0 } }

  func stop() async { try? await self.channel.close() }

  private final class Handler: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    private let log: Log
    private let script: Script
    private var head: HTTPRequestHead?
    private var body = ""

    init(_ log: Log, _ script: @escaping Script) {
      self.log = log
      self.script = script
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
      switch self.unwrapInboundIn(data) {
      case .head(let head): self.head = head
      case .body(let part): self.body += String(decoding: part.readableBytesView, as: UTF8.self)
      case .end:
        guard let head = self.head else { return }
        let headers = Dictionary(
          head.headers.map { ($0.name.lowercased(), $0.value) }, uniquingKeysWith: { $1 })
        let asked = Asked(
          method: head.method.rawValue, path: head.uri, headers: headers, body: self.body)
        let number = self.log.asked.withLock { asks in
          asks.append(asked)
          return asks.count
        }
        let answer = self.script(number, asked)
        let bytes = context.channel.allocator.buffer(string: answer.body)
        let answerHead = HTTPResponseHead(
          version: .http1_1, status: .init(statusCode: answer.status),
          headers: ["content-length": "\(bytes.readableBytes)", "connection": "close"])
        context.write(self.wrapOutboundOut(.head(answerHead)), promise: nil)
        context.write(self.wrapOutboundOut(.body(.byteBuffer(bytes))), promise: nil)
        context.writeAndFlush(self.wrapOutboundOut(.end(nil)), promise: nil)
      }
    }
  }
}

/// A Datastore that answers what a test says.
struct ScriptedDatastore: DatastoreV1.DatastoreService {
  var onLookup:
    @Sendable (DatastoreV1.LookupRequest, ServerContext) async throws -> DatastoreV1.LookupResponse =
      { _, _ in DatastoreV1.LookupResponse() }
  var onCommit:
    @Sendable (DatastoreV1.CommitRequest, ServerContext) async throws -> DatastoreV1.CommitResponse =
      { _, _ in DatastoreV1.CommitResponse() }

  func lookup(
    _ request: DatastoreV1.LookupRequest, context: ServerContext
  ) async throws -> DatastoreV1.LookupResponse { try await self.onLookup(request, context) }

  func commit(
    _ request: DatastoreV1.CommitRequest, context: ServerContext
  ) async throws -> DatastoreV1.CommitResponse { try await self.onCommit(request, context) }

  private func unscripted() -> RPCError { RPCError(.unimplemented, "the test says nothing of it") }

  func runQuery(
    _ request: DatastoreV1.RunQueryRequest, context: ServerContext
  ) async throws -> DatastoreV1.RunQueryResponse { throw self.unscripted() }

  func runAggregationQuery(
    _ request: DatastoreV1.RunAggregationQueryRequest, context: ServerContext
  ) async throws -> DatastoreV1.RunAggregationQueryResponse { throw self.unscripted() }

  func beginTransaction(
    _ request: DatastoreV1.BeginTransactionRequest, context: ServerContext
  ) async throws -> DatastoreV1.BeginTransactionResponse { throw self.unscripted() }

  func rollback(
    _ request: DatastoreV1.RollbackRequest, context: ServerContext
  ) async throws -> DatastoreV1.RollbackResponse { throw self.unscripted() }

  func allocateIds(
    _ request: DatastoreV1.AllocateIdsRequest, context: ServerContext
  ) async throws -> DatastoreV1.AllocateIdsResponse { throw self.unscripted() }

  func reserveIds(
    _ request: DatastoreV1.ReserveIdsRequest, context: ServerContext
  ) async throws -> DatastoreV1.ReserveIdsResponse { throw self.unscripted() }
}

/// Certificates of the RPC library's tests: a server called localhost, and who signed it.
enum TestCertificates {
  private static let folder =
    #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3)
    .joined(separator: "/") + "/RPC/RPCTransportTests/Certificates/"

  static let authority = Self.folder + "authority.pem"
  static let server = TLSIdentity(
    certificateChainFile: Self.folder + "server.pem", privateKeyFile: Self.folder + "server.key")
}

/// Writes a file of credentials for one test.
func withCredentials(_ json: String, _ body: (String) async throws -> Void) async throws {
  let folder = try TestFolder()
  let path = "\(folder.path)/credentials.json"
  try json.write(toFile: path, atomically: true, encoding: .utf8)
  defer {
    try? FileManager.default.removeItem(atPath: path)
    folder.remove()
  }
  try await body(path)
}

/// A service account's key, as Google's console writes it.
func serviceAccount(_ key: _RSA.Signing.PrivateKey, tokens: TokenServer) -> String {
  let pem = key.pkcs8PEMRepresentation.replacing("\n", with: "\\n")
  return """
    {"type": "service_account", "client_email": "gateway@p.example", "private_key_id": "k1",
     "private_key": "\(pem)", "token_uri": "http://\(tokens.authority)/token"}
    """
}

/// Serves the store at Google's that an address names, as the gateway's program does.
func withGoogle(
  _ address: String, environment: [String: String] = [:],
  _ change: (inout GoogleDatastore.Configuration) -> Void = { _ in }, logger: Logger = quietLogger,
  _ body: (DatastoreV1.DatastoreClient) async throws -> Void
) async throws {
  var configuration = GoogleDatastore.Configuration(try GoogleAddress(address))
  configuration.environment = environment
  change(&configuration)
  let store = try await GoogleDatastore(
    configuration, metrics: Metrics(MetricsRegistry()), logger: logger,
    group: MultiThreadedEventLoopGroup.singleton)
  try await withServer([store]) { address in
    let channel = RPCChannel(to: address)
    do {
      try await body(DatastoreV1.DatastoreClient(channel))
    } catch {
      await channel.close()
      throw error
    }
    await channel.close()
  }
  await store.close()
}

func withServer(
  _ services: [any RPCService], tls: ServerTLS? = nil,
  _ body: (ListenAddress) async throws -> Void
) async throws {
  var configuration = RPCServer.Configuration()
  configuration.tls = tls
  let server = RPCServer(services: services, configuration: configuration)
  let address = try await server.listen(on: try ListenAddress("127.0.0.1:0"))
  do {
    try await body(address)
  } catch {
    await server.shutdown(grace: .zero)
    throw error
  }
  await server.shutdown(grace: .zero)
}
