import OrderedCollections
import RPC

/// Channels to addresses: all that are in use, and of the others those that were used last.
///
/// Each ``use(_:)`` is followed by one ``release(_:)``.
struct Channels {
  private struct Link {
    var channel: RPCChannel
    var uses = 0
  }

  private let maximumIdle: Int
  private let connect: @Sendable (String) throws -> RPCChannel
  private var links: [String: Link] = [:]
  /// Those without a use, the last used last.
  private var idle: OrderedSet<String> = []

  /// - Parameters:
  ///   - maximumIdle: How many are kept for the next use.
  ///   - connect: Makes the channel to an address; throws where it is none.
  init(maximumIdle: Int, connect: @escaping @Sendable (String) throws -> RPCChannel) {
    self.maximumIdle = maximumIdle
    self.connect = connect
  }

  /// How many there are.
  var count: Int { self.links.count }

  mutating func use(_ address: String) throws -> RPCChannel {
    var link = try self.links[address] ?? Link(channel: self.connect(address))
    link.uses += 1
    self.links[address] = link
    self.idle.remove(address)
    return link.channel
  }

  mutating func release(_ address: String) {
    // All of them were taken meanwhile.
    guard let uses = self.links[address]?.uses else { return }
    self.links[address]?.uses = uses - 1
    guard uses == 1 else { return }
    self.idle.append(address)
    if self.idle.count > self.maximumIdle {
      // Closed when the last reference to it is let go.
      self.links[self.idle.removeFirst()] = nil
    }
  }

  /// Gives all of them away, to be closed.
  mutating func takeAll() -> [RPCChannel] {
    defer {
      self.links = [:]
      self.idle = []
    }
    return self.links.values.map(\.channel)
  }
}
