import BuildProtos
import DatastoreGatewayCore
import Domain
import RPC

/// A write whose outcome depends on what is stored: of some properties only, or with transforms.
package struct EntityEdit: Sendable {
  /// As the caller sent it, with its key.
  let proposed: DatastoreV1.Entity
  /// Without one all properties are written.
  let mask: PropertyMask?
  let transforms: [PropertyTransform]

  /// - Parameters:
  ///   - stored: What the entity is before; `nil` if there is none.
  ///   - time: The commit's.
  /// - Returns: What it becomes, and the answer to each transform.
  func applied(
    to stored: DatastoreV1.Entity?, at time: Timestamp
  ) -> (entity: DatastoreV1.Entity, results: [DatastoreV1.Value]) {
    var entity = self.proposed
    if let mask = self.mask {
      entity = mask.merged(self.proposed, into: stored ?? DatastoreV1.Entity())
    }
    let results = self.transforms.map { $0.apply(to: &entity.properties, at: time) }
    return (entity, results)
  }
}
