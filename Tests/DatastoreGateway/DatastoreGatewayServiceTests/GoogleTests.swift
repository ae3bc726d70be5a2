import BuildProtos
import Crypto
import CryptoExtras
import Foundation
import Logging
import NIOPosix
import RPC
import Synchronization
import Testing

@testable import DatastoreGatewayService

private final class Calls: Sendable {
  private let list = Mutex<[Metadata]>([])

  var all: [Metadata] { self.list.withLock { $0 } }

  /// - Returns: The number of the call, from 1.
  @discardableResult
  func add(_ context: ServerContext) -> Int {
    self.list.withLock {
      $0.append(context.metadata)
      return $0.count
    }
  }
}

/// Holds callers until it is opened.
private final class Gate: Sendable {
  private let state = Mutex<(isOpen: Bool, waiters: [CheckedContinuation<Void, Never>])>(
    (false, []))

  func pass() async {
    await withCheckedContinuation { continuation in
      let isOpen = self.state.withLock { state in
        if !state.isOpen { state.waiters.append(continuation) }
        return state.isOpen
      }
      if isOpen { continuation.resume() }
    }
  }

  func open() {
    let waiters = self.state.withLock { state in
      state.isOpen = true
      defer { state.waiters.removeAll() }
      return state.waiters
    }
    for waiter in waiters { waiter.resume() }
  }
}

/// What is logged, each line with its query behind it.
private final class LoggedLines: Sendable {
  private let lines = Mutex<[String]>([])

  var all: [String] { self.lines.withLock { $0 } }

  var logger: Logger {
    Logger(label: "test") { _ in Handler(lines: self) }
  }

  private struct Handler: LogHandler {
    let lines: LoggedLines
    var metadata: Logger.Metadata = [:]
    var logLevel = Logger.Level.info

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
      get { self.metadata[key] }
      set { self.metadata[key] = newValue }
    }

    func log(event: LogEvent) {
      let query = event.metadata?["query"].map { " \($0)" } ?? ""
      self.lines.lines.withLock { $0.append("\(event.message)\(query)") }
    }
  }
}

private func lookupOf(_ keys: DatastoreV1.Key...) -> DatastoreV1.LookupRequest {
  DatastoreV1.LookupRequest(projectID: project, keys: keys)
}

private func commit(_ mutations: DatastoreV1.Mutation...) -> DatastoreV1.CommitRequest {
  DatastoreV1.CommitRequest(projectID: project, mode: .nonTransactional, mutations: mutations)
}

private func plain(_ address: ListenAddress) -> String {
  "datastore://theirs?for=\(project)&endpoint=\(address)&tls=off"
}

@Suite struct GoogleAddresses {
  @Test func anAddressNamesProjectDatabaseAndEndpoint() throws {
    let address = try GoogleAddress("datastore://p/d?endpoint=localhost:1&tls=off")
    #expect(address.project == "p" && address.database == "d")
    #expect(address.endpoint == "localhost:1" && !address.isSecure)
    let short = try GoogleAddress("datastore://p")
    #expect(short.database.isEmpty && short.isSecure)
    #expect(short.endpoint == "datastore.googleapis.com:443")
    #expect(try GoogleAddress("datastore://p/(default)").database.isEmpty)
    let mapped = try GoogleAddress("datastore://p?for=q/e")
    #expect(mapped.callers == .init(project: "q", database: "e") && short.callers == nil)
  }

  @Test(arguments: [
    ("datastore://", "expected datastore://PROJECT"), ("datastore://p/d/e", "expected"),
    ("datastore://p?tls=maybe", "tls=maybe"), ("datastore://p?tls=off", "endpoint"),
    ("datastore://p?endpoint=h:1&tls=off&credentials=f", "credentials"),
    ("datastore://p?colour=red", "colour=red"), ("datastore://p?for=a/b/c", "for=a/b/c"),
    ("datastore://p?endpoint=nowhere", "port"),
  ])
  func whatIsNoAddressIsTold(text: String, words: String) {
    #expect {
      _ = try GoogleAddress(text)
    } throws: {
      "\($0)".contains(words)
    }
  }
}

@Suite struct GoogleCredentials {
  /// Calls over TLS with a token, to a server that remembers them.
  private func withTokens(
    _ tokens: TokenServer, _ json: String, _ datastore: ScriptedDatastore,
    _ body: (DatastoreV1.DatastoreClient) async throws -> Void
  ) async throws {
    try await withServer([datastore], tls: ServerTLS(identity: TestCertificates.server)) {
      address in
      guard case .tcp(_, let port) = address else { preconditionFailure("no port") }
      try await withCredentials(json) { path in
        try await withGoogle(
          "datastore://theirs/d?for=\(project)&endpoint=localhost:\(port)&ca=\(TestCertificates.authority)"
            + "&credentials=\(path)"
        ) { try await body($0) }
      }
    }
    await tokens.stop()
  }

  @Test func aServiceAccountsKeySignsForATokenThatAllCallsShare() async throws {
    let key = try _RSA.Signing.PrivateKey(keySize: .bits2048)
    let tokens = try await TokenServer.granting()
    let audience = "http://\(tokens.authority)/token"
    let calls = Calls()
    var datastore = ScriptedDatastore()
    datastore.onLookup = { request, context in
      calls.add(context)
      #expect(request.projectID == "theirs" && request.databaseID == "d")
      return DatastoreV1.LookupResponse()
    }
    try await self.withTokens(tokens, serviceAccount(key, tokens: tokens), datastore) { client in
      try await withThrowingTaskGroup { group in
        for _ in 0..<20 { group.addTask { _ = try await client.lookup(lookupOf(key1)) } }
        try await group.waitForAll()
      }
    }
    #expect(calls.all.count == 20)
    #expect(calls.all.allSatisfy { $0["authorization"] == "Bearer token-1" })
    #expect(
      calls.all.allSatisfy { $0["x-goog-request-params"] == "project_id=theirs&database_id=d" })
    #expect(tokens.asked.count == 1)
    let asked = try #require(tokens.asked.first)
    #expect(asked.method == "POST" && asked.path == "/token")
    #expect(asked.fields["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer")
    let parts = try #require(asked.fields["assertion"]).split(separator: ".").map(String.init)
    try #require(parts.count == 3)
    let signature = _RSA.Signing.RSASignature(rawRepresentation: try decoded(parts[2]))
    #expect(
      key.publicKey.isValidSignature(
        signature, for: SHA256.hash(data: Data("\(parts[0]).\(parts[1])".utf8)),
        padding: .insecurePKCS1v1_5))
    struct Claims: Decodable {
      var iss: String
      var aud: String
      var scope: String
      var iat: Int64
      var exp: Int64
    }
    let claims = try JSONDecoder().decode(Claims.self, from: try decoded(parts[1]))
    #expect(claims.iss == "gateway@p.example" && claims.aud == audience)
    #expect(claims.scope == "https://www.googleapis.com/auth/datastore")
    #expect(claims.exp - claims.iat == 3_600)
  }

  @Test func aTokenThatGoogleRefusesIsFetchedAgain() async throws {
    let key = try _RSA.Signing.PrivateKey(keySize: .bits2048)
    let tokens = try await TokenServer.granting()
    var datastore = ScriptedDatastore()
    datastore.onLookup = { _, context in
      if context.metadata["authorization"] == "Bearer token-1" {
        throw RPCError(.unauthenticated, "the token has ended")
      }
      return DatastoreV1.LookupResponse()
    }
    try await self.withTokens(tokens, serviceAccount(key, tokens: tokens), datastore) { client in
      _ = try await client.lookup(lookupOf(key1))
      _ = try await client.lookup(lookupOf(key1))
    }
    #expect(tokens.asked.count == 2)
  }

  @Test func aUsersRefreshTokenIsExchanged() async throws {
    let tokens = try await TokenServer.granting()
    let calls = Calls()
    var datastore = ScriptedDatastore()
    datastore.onLookup = { _, context in
      calls.add(context)
      return DatastoreV1.LookupResponse()
    }
    let json = """
      {"type": "authorized_user", "client_id": "c", "client_secret": "s&", "refresh_token": "r",
       "quota_project_id": "q", "token_uri": "http://\(tokens.authority)/token"}
      """
    try await self.withTokens(tokens, json, datastore) { client in
      _ = try await client.lookup(lookupOf(key1))
    }
    #expect(
      tokens.asked.first?.fields == [
        "grant_type": "refresh_token", "client_id": "c", "client_secret": "s&",
        "refresh_token": "r",
      ])
    #expect(calls.all.first?["x-goog-user-project"] == "q")
  }

  @Test func theMachinesMetadataServerIsAsked() async throws {
    let tokens = try await TokenServer.granting()
    let source = TokenSource(
      identity: try .find(
        file: nil, environment: ["GCE_METADATA_HOST": tokens.authority, "HOME": "/nowhere"]),
      http: HTTPExchange(group: MultiThreadedEventLoopGroup.singleton, trustRoots: .system))
    let token = try await source.fetch()
    #expect(token.text == "token-1" && token.lifetime == .seconds(3_600))
    let asked = try #require(tokens.asked.first)
    #expect(asked.path == "/computeMetadata/v1/instance/service-accounts/default/token")
    #expect(asked.headers["metadata-flavor"] == "Google")
    await tokens.stop()
  }

  @Test func aKeyThatIsRefusedIsToldAtTheStart() async throws {
    let key = try _RSA.Signing.PrivateKey(keySize: .bits2048)
    let tokens = try await TokenServer { _, _ in
      (400, #"{"error": "invalid_grant", "error_description": "Invalid JWT Signature."}"#)
    }
    try await withCredentials(serviceAccount(key, tokens: tokens)) { path in
      let failure = await #expect(throws: StoreFailure.self) {
        try await withGoogle(
          "datastore://theirs?endpoint=localhost:1&credentials=\(path)"
        ) { _ in }
      }
      #expect(failure?.kind == .refused)
      #expect(
        failure?.description.contains("gateway@p.example") == true
          && failure?.description.contains("invalid_grant: Invalid JWT Signature.") == true)
    }
    // Nothing is gained by asking again.
    #expect(tokens.asked.count == 1)
    await tokens.stop()
  }

  @Test func aTokenServerThatFailsIsAskedAgain() async throws {
    let tokens = try await TokenServer { number, _ in
      number < 3 ? (503, "busy") : (200, #"{"access_token": "late", "expires_in": 60}"#)
    }
    let source = TokenSource(
      identity: .machine(host: tokens.authority),
      http: HTTPExchange(group: MultiThreadedEventLoopGroup.singleton, trustRoots: .system))
    #expect(try await source.fetch().text == "late")
    await tokens.stop()
    let failure = await #expect(throws: TokenSource.Failure.self) { try await source.fetch() }
    #expect(failure?.isRefusal == false)
  }

  @Test(arguments: [
    ("{", "no JSON"), (#"{"type": "external_account"}"#, "external_account"),
    (#"{"type": "service_account", "client_email": "e"}"#, "private_key is missing"),
    (#"{"type": "service_account", "client_email": "e", "private_key": "x"}"#, "no RSA key"),
    (#"{"type": "authorized_user", "client_id": "c"}"#, "client_secret is missing"),
    (#"{"type": "authorized_user", "token_uri": "ftp://x"}"#, "no address"),
    (#"{"type": "authorized_user", "token_uri": "http://x.example/"}"#, "not https"),
  ])
  func aFileThatIsNoCredentialsIsTold(json: String, words: String) async throws {
    try await withCredentials(json) { path in
      let failure = #expect(throws: TokenSource.Failure.self) {
        _ = try TokenSource.Identity.find(file: path, environment: [:])
      }
      #expect(failure?.description.contains(words) == true, "\(failure?.description ?? "")")
    }
  }
}

@Suite struct GoogleCalls {
  private enum Repetition: CaseIterable, Sendable {
    case lookup, upsert, delete, insert, versioned, transaction

    var isRepeated: Bool {
      switch self {
      case .lookup, .upsert, .delete: true
      case .insert, .versioned, .transaction: false
      }
    }

    func make(_ client: DatastoreV1.DatastoreClient) async throws {
      switch self {
      case .lookup: _ = try await client.lookup(lookupOf(key1))
      case .upsert: _ = try await client.commit(commit(.of(.upsert(entity(key1)))))
      case .delete: _ = try await client.commit(commit(.of(.delete(key1))))
      case .insert: _ = try await client.commit(commit(.of(.insert(entity(key1)))))
      case .versioned: _ = try await client.commit(commit(.of(.upsert(entity(key1)), base: 1)))
      case .transaction:
        var request = commit(.of(.upsert(entity(key1))))
        request.mode = .transactional
        request.transactionSelector = .transaction([1])
        _ = try await client.commit(request)
      }
    }
  }

  @Test(arguments: Repetition.allCases)
  private func whatCanBeDoneTwiceIsTriedAgainAndNothingElse(_ call: Repetition) async throws {
    let calls = Calls()
    var datastore = ScriptedDatastore()
    datastore.onLookup = { _, context in
      if calls.add(context) < 3 { throw RPCError(.unavailable, "come back") }
      return DatastoreV1.LookupResponse()
    }
    datastore.onCommit = { _, context in
      if calls.add(context) < 3 { throw RPCError(.unavailable, "come back") }
      return DatastoreV1.CommitResponse()
    }
    try await withServer([datastore]) { address in
      try await withGoogle(plain(address)) { client in
        let code = await status { try await call.make(client) }
        #expect(code == (call.isRepeated ? nil : .unavailable))
        #expect(calls.all.count == (call.isRepeated ? 3 : 1))
      }
    }
  }

  @Test func errorsComeWithTheirDetailsAndAreNotTriedAgain() async throws {
    let calls = Calls()
    var datastore = ScriptedDatastore()
    datastore.onCommit = { _, context in
      calls.add(context)
      throw RPCError(
        .failedPrecondition, "no matching index found",
        details: GoogleRPC.ErrorInfo(reason: "INDEX", domain: "example"))
    }
    try await withServer([datastore]) { address in
      try await withGoogle(plain(address)) { client in
        let error = await #expect(throws: RPCError.self) {
          _ = try await client.commit(commit(.of(.upsert(entity(key1)))))
        }
        #expect(error?.code == .failedPrecondition && error?.message == "no matching index found")
        #expect(error?.detail(GoogleRPC.ErrorInfo.self)?.reason == "INDEX")
      }
    }
    #expect(calls.all.count == 1)
  }

  @Test func deadlinesArePassedOnAndThereIsAlwaysOne() async throws {
    let left = Mutex<[Duration]>([])
    var datastore = ScriptedDatastore()
    datastore.onLookup = { _, context in
      let deadline = try #require(context.deadline)
      left.withLock { $0.append(deadline.remaining) }
      return DatastoreV1.LookupResponse()
    }
    try await withServer([datastore]) { address in
      try await withGoogle(plain(address)) { client in
        _ = try await client.lookup(lookupOf(key1), options: CallOptions(timeout: .seconds(20)))
        _ = try await client.lookup(lookupOf(key1))
      }
    }
    let found = left.withLock { $0 }
    try #require(found.count == 2)
    #expect(found[0] <= .seconds(20) && found[0] > .seconds(1))
    #expect(found[1] <= .seconds(60) && found[1] > .seconds(21))
  }

  @Test func beyondItsBoundCallsArePushedBack() async throws {
    let (arrivals, arrival) = AsyncStream.makeStream(of: Void.self)
    let gate = Gate()
    var datastore = ScriptedDatastore()
    datastore.onLookup = { _, _ in
      arrival.yield()
      await gate.pass()
      return DatastoreV1.LookupResponse()
    }
    let scripted = datastore
    try await withServer([scripted]) { address in
      try await withGoogle(plain(address), { $0.maximumCalls = 2 }) { client in
        try await withThrowingTaskGroup { group in
          for _ in 0..<2 { group.addTask { _ = try await client.lookup(lookupOf(key1)) } }
          var arrived = arrivals.makeAsyncIterator()
          for _ in 0..<2 { await arrived.next() }
          let error = await #expect(throws: RPCError.self) {
            _ = try await client.lookup(lookupOf(key1))
          }
          #expect(error?.code == .resourceExhausted && error?.retryDelay != nil)
          gate.open()
          try await group.waitForAll()
        }
        // There is room again.
        _ = try await client.lookup(lookupOf(key1))
      }
    }
  }
}

private let key1 = key("K", 1)

private func decoded(_ text: String) throws -> Data {
  let plain = text.replacing("-", with: "+").replacing("_", with: "/")
  let padding = String(repeating: "=", count: (4 - plain.utf8.count % 4) % 4)
  return try #require(Data(base64Encoded: plain + padding))
}

/// Over a gateway with a store of its own in the place of Google's.
@Suite struct GoogleScopes {
  private func names(_ key: DatastoreV1.Key) -> String {
    "\(key.partitionID?.projectID ?? "")/\(key.partitionID?.databaseID ?? "")"
  }

  private func reference(_ entity: DatastoreV1.Entity?) -> DatastoreV1.Key? {
    if case .keyValue(let key) = entity?.properties["k"]?.valueType { key } else { nil }
  }

  @Test func projectsAndDatabasesBecomeTheStoresAndComeBack() async throws {
    try await withGateway { behind in
      let address = behind.address
      try await withGoogle("datastore://theirs/db?for=\(project)&endpoint=\(address)&tls=off") {
        client in
        let foreign = DatastoreV1.Key(
          partitionID: DatastoreV1.PartitionId(projectID: "third"),
          path: [DatastoreV1.Key.PathElement(kind: "K", idType: .id(5))])
        let mine = entity(
          key("K", 1),
          [
            "k": DatastoreV1.Value(valueType: .keyValue(key("K", 2))),
            "f": DatastoreV1.Value(valueType: .keyValue(foreign)),
            "n": integer(7),
          ])
        let written = try await client.commit(
          commit(.of(.upsert(mine)), .of(.insert(entity(incompleteKey("K"))))))
        #expect(written.mutationResults[1].key.map(self.names) == "p/")
        let found = try await client.lookup(lookupOf(key("K", 1), key("K", 3)))
        #expect(found.found.first?.entity == mine)
        #expect(found.missing.first?.entity?.key == key("K", 3))
        // By a filter whose value is a key, and by GQL with one bound.
        var query = DatastoreV1.Query()
        query.kind = [DatastoreV1.KindExpression(name: "K")]
        query.filter = DatastoreV1.Filter(
          filterType: .propertyFilter(
            DatastoreV1.PropertyFilter(
              property: DatastoreV1.PropertyReference(name: "k"), op: .equal,
              value: DatastoreV1.Value(valueType: .keyValue(key("K", 2))))))
        let batch = try await client.runQuery(
          DatastoreV1.RunQueryRequest(
            projectID: project,
            partitionID: DatastoreV1.PartitionId(projectID: project), queryType: .query(query))
        ).batch
        #expect(batch?.entityResults.map { $0.entity } == [mine])
        let gql = DatastoreV1.GqlQuery(
          queryString: "SELECT * FROM K WHERE k = @1",
          positionalBindings: [
            DatastoreV1.GqlQueryParameter(
              parameterType: .value(DatastoreV1.Value(valueType: .keyValue(key("K", 2)))))
          ])
        let answer = try await client.runQuery(
          DatastoreV1.RunQueryRequest(
            projectID: project,
            partitionID: DatastoreV1.PartitionId(projectID: project), queryType: .gqlQuery(gql)))
        #expect(answer.batch?.entityResults.map { $0.entity } == [mine])
        let ids = try await client.allocateIds(
          DatastoreV1.AllocateIdsRequest(projectID: project, keys: [incompleteKey("K")]))
        #expect(ids.keys.map(self.names) == ["p/"])
      }
      // What the store itself has.
      let theirs = try await behind.client.lookup(
        DatastoreV1.LookupRequest(
          projectID: "theirs", databaseID: "db",
          keys: [
            DatastoreV1.Key(path: [DatastoreV1.Key.PathElement(kind: "K", idType: .id(1))])
          ]))
      let stored = theirs.found.first?.entity
      #expect(self.reference(stored).map(self.names) == "theirs/db")
      #expect(stored?.key.map(self.names) == "theirs/db")
    }
  }

  @Test(arguments: [
    ("datastore://theirs", "theirs", "", true), ("datastore://theirs", "p", "", false),
    ("datastore://theirs/db", "theirs", "db", true), ("datastore://theirs/db", "theirs", "", false),
    ("datastore://theirs?for=p/e", "p", "e", true), ("datastore://theirs?for=p/e", "p", "", false),
    ("datastore://theirs?for=p/e", "theirs", "", true),
    ("datastore://theirs?for=p/e", "theirs", "e", false),
  ])
  func anotherProjectOrDatabaseIsRefused(
    store: String, project: String, database: String, isServed: Bool
  ) async throws {
    let calls = Calls()
    var datastore = ScriptedDatastore()
    datastore.onLookup = { request, context in
      calls.add(context)
      #expect(request.projectID == "theirs")
      return DatastoreV1.LookupResponse()
    }
    try await withServer([datastore]) { address in
      let sign = store.contains("?") ? "&" : "?"
      try await withGoogle("\(store)\(sign)endpoint=\(address)&tls=off") { client in
        let request = DatastoreV1.LookupRequest(
          projectID: project, databaseID: database, keys: [key1])
        if isServed {
          _ = try await client.lookup(request)
        } else {
          let error = await #expect(throws: RPCError.self) { _ = try await client.lookup(request) }
          #expect(error?.code == .notFound)
          #expect(error?.message.contains("not project \"\(project)\"") == true)
        }
      }
    }
    #expect(calls.all.count == (isServed ? 1 : 0))
  }

  @Test func aQueryThatTakesLongIsLogged() async throws {
    let logged = LoggedLines()
    try await withGateway { behind in
      let store = "datastore://\(project)?endpoint=\(behind.address)&tls=off"
      for slowQuery in [Duration.zero, .seconds(600)] {
        try await withGoogle(store, { $0.slowQuery = slowQuery }, logger: logged.logger) { client in
          var query = DatastoreV1.Query()
          query.kind = [DatastoreV1.KindExpression(name: "K")]
          _ = try await client.runQuery(
            DatastoreV1.RunQueryRequest(projectID: project, queryType: .query(query)))
        }
      }
    }
    #expect(logged.all.count == 1)
    #expect(logged.all.first?.hasPrefix("slow query kind K") == true, "\(logged.all)")
  }

  @Test func aTransactionRunsThroughTheGateway() async throws {
    try await withGateway { behind in
      try await withGoogle("datastore://theirs?for=\(project)&endpoint=\(behind.address)&tls=off") {
        client in
        let begun = try await client.beginTransaction(
          DatastoreV1.BeginTransactionRequest(projectID: project)
        ).transaction
        _ = try await client.lookup(
          DatastoreV1.LookupRequest(
            projectID: project,
            readOptions: DatastoreV1.ReadOptions(consistencyType: .transaction(begun)),
            keys: [key1]))
        _ = try await client.commit(commit(.of(.upsert(entity(key1, ["n": integer(1)])))))
        var request = commit(.of(.upsert(entity(key1, ["n": integer(2)]))))
        request.mode = .transactional
        request.transactionSelector = .transaction(begun)
        let late = request
        #expect(await status { _ = try await client.commit(late) } == .aborted)
      }
    }
  }
}
