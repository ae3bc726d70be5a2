import BuildProtos
import DatastoreGatewayCore
import RPC

/// Properties that a caller names, to read or to write only these.
struct PropertyMask: Sendable {
  /// Paths by their first names.
  private struct Tree: Sendable {
    /// A path ends here.
    var isWhole = false
    var below: [Name: Tree] = [:]

    mutating func insert(_ path: ArraySlice<Name>) {
      guard let name = path.first else {
        self.isWhole = true
        return
      }
      self.below[name, default: Tree()].insert(path.dropFirst())
    }
  }

  let paths: [PropertyPath]
  private var tree = Tree()

  init(_ proto: DatastoreV1.PropertyMask, policy: Policy) throws(GatewayError) {
    if proto.paths.count > policy.maximumMaskPaths {
      throw .invalid(
        "The property_mask has \(proto.paths.count) paths, more than \(policy.maximumMaskPaths).")
    }
    var paths: [PropertyPath] = []
    for text in proto.paths {
      let path = try PropertyPath(text, policy: policy)
      if !path.isKey { paths.append(path) }
    }
    self.paths = paths
    for path in paths { self.tree.insert(path.names[...]) }
  }

  // MARK: - Reading

  /// The entity with nothing but what is named; of an array nothing inside can be.
  func selected(_ entity: DatastoreV1.Entity) -> DatastoreV1.Entity {
    var selected = entity
    selected.properties = Self.selected(entity.properties, self.tree)
    return selected
  }

  private static func selected(
    _ properties: [String: DatastoreV1.Value], _ tree: Tree
  ) -> [String: DatastoreV1.Value] {
    var selected: [String: DatastoreV1.Value] = [:]
    for (text, value) in properties {
      guard let below = tree.below[Name(text)] else { continue }
      if below.isWhole {
        selected[text] = value
        continue
      }
      guard case .entityValue(var inner) = value.valueType else { continue }
      inner.properties = self.selected(inner.properties, below)
      if inner.properties.isEmpty { continue }
      var part = value
      part.valueType = .entityValue(inner)
      selected[text] = part
    }
    return selected
  }

  // MARK: - Writing

  /// `stored`, with what is named as `proposed` has it: what that lacks is removed.
  func merged(
    _ proposed: DatastoreV1.Entity, into stored: DatastoreV1.Entity
  ) -> DatastoreV1.Entity {
    var merged = stored
    merged.key = proposed.key
    for path in self.paths {
      if let value = proposed.properties.value(at: path.names[...]) {
        merged.properties.set(value, at: path.names[...])
      } else {
        merged.properties.remove(at: path.names[...])
      }
    }
    return merged
  }
}

extension [String: DatastoreV1.Value] {
  /// The value at a path through embedded entities.
  func value(at path: ArraySlice<Name>) -> DatastoreV1.Value? {
    guard let name = path.first, let value = self[name.text] else { return nil }
    if path.count == 1 { return value }
    guard case .entityValue(let inner) = value.valueType else { return nil }
    return inner.properties.value(at: path.dropFirst())
  }

  /// Puts a value at a path; what stands in the way of an embedded entity gives way to it.
  mutating func set(_ value: DatastoreV1.Value, at path: ArraySlice<Name>) {
    guard let name = path.first else { return }
    if path.count == 1 {
      self[name.text] = value
      return
    }
    var outer = self[name.text] ?? DatastoreV1.Value()
    var inner = DatastoreV1.Entity()
    if case .entityValue(let entity) = outer.valueType {
      inner = entity
    } else {
      outer = DatastoreV1.Value()
    }
    inner.properties.set(value, at: path.dropFirst())
    outer.valueType = .entityValue(inner)
    self[name.text] = outer
  }

  mutating func remove(at path: ArraySlice<Name>) {
    guard let name = path.first else { return }
    if path.count == 1 {
      self[name.text] = nil
      return
    }
    guard var outer = self[name.text], case .entityValue(var inner) = outer.valueType else {
      return
    }
    inner.properties.remove(at: path.dropFirst())
    outer.valueType = .entityValue(inner)
    self[name.text] = outer
  }
}
