/// A Lua script that Redis runs whole, with nothing in between.
package struct RedisScript: Hashable, Sendable {
  /// For messages and metrics.
  package let name: String
  package let source: String

  package init(name: String, source: String) {
    self.name = name
    self.source = source
  }

  /// A source is thousands of bytes, looked up with each call, and scripts have names of their own.
  package func hash(into hasher: inout Hasher) { hasher.combine(self.name) }
}
