import RedisWire

/// The arguments of a script, in order: each is text to Redis.
package struct RedisArguments: Hashable, Sendable {
  private(set) var words: [String]

  package init(_ words: [String] = []) {
    self.words = words
  }

  package mutating func append(_ text: String) {
    self.words.append(text)
  }

  package mutating func append(_ number: Int64) {
    self.words.append(String(number))
  }

  func command(_ name: String, _ script: String, keys: [String]) -> RedisCommand {
    var command = RedisCommand(name, script, String(keys.count))
    for key in keys { command.append(key) }
    for word in self.words { command.append(word) }
    return command
  }
}
