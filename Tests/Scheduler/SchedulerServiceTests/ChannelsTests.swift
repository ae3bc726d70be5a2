import RPC
import Testing

@testable import SchedulerService

private func channels(maximumIdle: Int) -> Channels {
  Channels(maximumIdle: maximumIdle) { try RPCChannel(to: $0) }
}

private func address(_ number: Int) -> String { "127.0.0.1:\(20_000 + number)" }

@Test func channelsInUseAreKeptHoweverManyTheyAre() throws {
  var channels = channels(maximumIdle: 2)
  let first = try (0..<10).map { try channels.use(address($0)) }
  #expect(channels.count == 10)
  for number in 0..<10 { #expect(try channels.use(address(number)) === first[number]) }
}

@Test func ofIdleChannelsTheLeastRecentlyUsedAreDropped() throws {
  var channels = channels(maximumIdle: 2)
  let first = try (0..<3).map { number in
    defer { channels.release(address(number)) }
    return try channels.use(address(number))
  }
  #expect(channels.count == 2)
  #expect(try channels.use(address(1)) === first[1])
  #expect(try channels.use(address(2)) === first[2])
  #expect(try channels.use(address(0)) !== first[0])
}

@Test func aChannelThatTwoUseIsIdleWhenBothAreDone() throws {
  var channels = channels(maximumIdle: 0)
  let channel = try channels.use(address(0))
  _ = try channels.use(address(0))
  channels.release(address(0))
  #expect(try channels.use(address(0)) === channel)
  channels.release(address(0))
  channels.release(address(0))
  #expect(channels.count == 0)
}

@Test func whatIsNoAddressHasNoChannel() {
  var channels = channels(maximumIdle: 1)
  #expect(throws: (any Error).self) { try channels.use("nowhere:at:all") }
  #expect(channels.count == 0)
}

@Test func aUseThatEndsAfterAllWereTakenIsNobodys() async throws {
  var channels = channels(maximumIdle: 1)
  let channel = try channels.use(address(0))
  let taken = channels.takeAll()
  #expect(taken.count == 1 && taken[0] === channel)
  channels.release(address(0))
  #expect(channels.count == 0)
  for channel in taken { await channel.close() }
}
