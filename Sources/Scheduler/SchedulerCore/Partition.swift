import Domain

/// One of the 64 parts that all projects fall into: what one scheduler owns at a time, with every
/// build of its projects.
package struct Partition: Hashable, Sendable, Comparable, CustomStringConvertible {
  /// Fixed for ever: records carry the number.
  package static let count = 64

  /// One byte: every build has one.
  private let byte: UInt8

  /// From 0.
  package var number: Int { Int(self.byte) }

  package init(_ number: Int) {
    precondition((0..<Self.count).contains(number), "there is no partition \(number)")
    self.byte = UInt8(number)
  }

  /// The partition of a project: FNV-1a with 64 bits of its name in UTF-8, the upper half of the
  /// hash folded into the lower, and of that the last six bits. The same in every process and
  /// version.
  package init(of project: ProjectID) {
    var hash: UInt64 = 0xcbf2_9ce4_8422_2325
    for byte in project.rawValue.utf8 {
      hash = (hash ^ UInt64(byte)) &* 0x0000_0100_0000_01b3
    }
    self.byte = UInt8((hash ^ hash >> 32) % UInt64(Self.count))
  }

  package static let all = (0..<Self.count).map { Partition($0) }

  package var description: String { String(self.number) }

  package static func < (left: Self, right: Self) -> Bool { left.number < right.number }
}

/// A scheduler process while it takes part; one that was given up for dead and comes back takes
/// another id.
package typealias ReplicaID = Identifier<ReplicaKind>
package enum ReplicaKind {}

/// Who owns which partition: one entity in the datastore, which is changed as a whole.
package struct PartitionTable: Hashable, Sendable {
  package struct Place: Hashable, Sendable {
    /// Nil before the first owner.
    package var owner: ReplicaID?
    /// One more with every owner.
    package var epoch: Int64

    package init(owner: ReplicaID? = nil, epoch: Int64 = 0) {
      self.owner = owner
      self.epoch = epoch
    }
  }

  /// In the order of the partitions' numbers.
  private var places = Array(repeating: Place(), count: Partition.count)

  package init() {}

  package subscript(partition: Partition) -> Place {
    get { self.places[partition.number] }
    set { self.places[partition.number] = newValue }
  }

  package mutating func give(_ partition: Partition, to owner: ReplicaID) {
    let epoch = self[partition].epoch + 1
    self[partition] = Place(owner: owner, epoch: epoch)
  }

  package var hasOwners: Bool { self.places.contains { $0.owner != nil } }

  package func partitions(of owner: ReplicaID) -> Set<Partition> {
    Set(Partition.all.filter { self[$0].owner == owner })
  }
}
