import BuildProtos
import DatastoreGatewayCore
import Domain
import RPC

@testable import DatastoreGatewayService

/// Commits as the driver hands them to stores.
enum CommitSamples {
  private static var scope: EntityCodec.Scope {
    get throws { try EntityCodec.Scope(project: project, database: "") }
  }

  static func change(
    _ proto: DatastoreV1.Entity, _ operation: Mutation.Operation = .upsert
  ) throws -> Commit.Change {
    let key = try EntityCodec.key(proto.key ?? DatastoreV1.Key(), in: self.scope)
    return Commit.Change(
      mutation: Mutation(operation, key), address: key.address,
      content: operation == .delete ? [] : EntityCodec.canonicalBytes(proto),
      indexEntries: operation == .delete
        ? [] : try EntityCodec.entity(proto, key: key).indexEntries)
  }

  static func put(_ protos: DatastoreV1.Entity...) throws -> Commit {
    Commit(changes: try protos.map { try self.change($0) })
  }

  static func address(_ key: DatastoreV1.Key) throws -> EntityAddress {
    try EntityCodec.key(key, in: self.scope).address
  }
}
