import BuildProtos
import DatastoreGatewayCore
import RPC

extension StoreSnapshot {
  /// Writes all that there is at the moment.
  func write(to writer: DumpWriter, _ passed: () -> Void) throws {
    var failure: DumpFailure?
    func add(_ record: DumpRecord) throws(StoreFailure) {
      do throws(DumpFailure) {
        try writer.add(record)
      } catch {
        failure = error
        throw StoreFailure(.other, error.description)
      }
      passed()
    }
    do throws(StoreFailure) {
      try self.forEachEntity { (stored) throws(StoreFailure) in
        let content = try StoredContent.opened(stored.content, in: stored.name)
        try add(.entity(version: stored.version, content: content))
      }
      try self.forEachReservation { (address) throws(StoreFailure) in
        guard let key = Key(address) else {
          throw StoreFailure(.corrupt, "\(self.place): a reserved key cannot be read")
        }
        try add(.reservation(EntityCodec.proto(key).encoded()))
      }
    } catch {
      throw failure ?? DumpFailure(description: error.description)
    }
  }
}

extension Key {
  fileprivate init?(_ address: EntityAddress) {
    guard let parts = try? address.collection.parts(), let path = try? address.path.elements()
    else { return nil }
    self.init(partition: parts.partition, path: path)
  }
}

/// All that a database of Google's has, as its queries find it: not of one moment, for they read for
/// as long as it takes.
struct GoogleDump {
  private let google: GoogleDatastore
  private let namespaces: [String]
  private let warn: (String) -> Void

  init(_ google: GoogleDatastore, namespaces: [String], warn: @escaping (String) -> Void) {
    self.google = google
    self.namespaces = namespaces
    self.warn = warn
  }

  func write(to writer: DumpWriter, _ passed: () -> Void) async throws {
    for namespace in try await self.allNamespaces() {
      // Of every kind, by key.
      try await self.forEachResult(of: DatastoreV1.Query(), in: namespace) { result in
        guard let entity = result.entity, let kind = entity.key?.path.last?.kind,
          // Google's own statistics.
          !Name(kind).isReserved
        else { return }
        try writer.add(
          .entity(version: result.version, content: EntityCodec.canonicalBytes(entity)))
        passed()
      }
    }
  }

  private func allNamespaces() async throws -> [String] {
    var query = DatastoreV1.Query()
    query.kind = [DatastoreV1.KindExpression(name: "__namespace__")]
    query.projection = [
      DatastoreV1.Projection(property: DatastoreV1.PropertyReference(name: "__key__"))
    ]
    var found: [String] = []
    do {
      try await self.forEachResult(of: query, in: "") { result in
        // The default one has an id in the place of a name.
        if case .name(let name) = result.entity?.key?.path.last?.idType { found.append(name) }
      }
    } catch let error as RPCError where error.code == .invalidArgument {
      self.warn(
        "the server lists no namespaces (\(error.message)): the default one and those named are dumped\n"
      )
    }
    return [""] + Set(found + self.namespaces).sorted()
  }

  private func forEachResult(
    of query: DatastoreV1.Query, in namespace: String,
    _ body: (DatastoreV1.EntityResult) throws -> Void
  ) async throws {
    let address = self.google.configuration.address
    var query = query
    while true {
      let batch = try await self.google.client.runQuery(
        DatastoreV1.RunQueryRequest(
          projectID: address.project, databaseID: address.database,
          partitionID: DatastoreV1.PartitionId(
            projectID: address.project, databaseID: address.database, namespaceID: namespace),
          queryType: .query(query)), options: self.google.options
      ).batch
      guard let batch else { return }
      for result in batch.entityResults { try body(result) }
      guard batch.moreResults == .notFinished else { return }
      query.startCursor = batch.endCursor
    }
  }
}
