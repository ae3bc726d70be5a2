/// A Lua script that Redis runs whole, with nothing in between.
package struct RedisScript: Hashable, Sendable {
  /// For messages and metrics.
  package let name: String
  package let source: String

  package init(name: String, source: String) {
    self.name = name
    self.source = source
  }
}
