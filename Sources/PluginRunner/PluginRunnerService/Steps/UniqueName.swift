import Synchronization

/// Names that do not repeat while the runner lives.
enum UniqueName {
  private static let count = Atomic<UInt64>(0)

  static func next(prefix: String) -> String {
    "\(prefix)-\(Self.count.wrappingAdd(1, ordering: .relaxed).newValue)"
  }
}
