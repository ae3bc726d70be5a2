import NIOCore

/// Turns of the connections of one loop: none keeps it from its other sockets for long, by itself or
/// together with others, while more of what they sent waits.
///
/// A few kilobytes may be work for seconds, whether by decompression or in handlers. `@unchecked
/// Sendable`: only the loop touches it.
final class LoopTurns: @unchecked Sendable {
  /// NIO looks at its sockets when no task is due: one that follows at once would keep it from that.
  private static let rest = TimeAmount.milliseconds(1)
  /// Rests that may be over without a turn: jobs that go on all the time keep nobody from theirs.
  private static let maximumRests = 8

  /// How long a connection, or several together, may keep the loop from its other sockets.
  static let turn = TimeAmount.milliseconds(5)
  /// How long handlers that are due together may keep it: longer, for answers that are made in one turn go
  /// out beside each other.
  static let handlersTurn = TimeAmount.milliseconds(20)
  /// What a slice of bytes is, which are taken together, and behind which the calls that it brought are served: more
  /// than a dozen small ones. A thousandth of a compressed message may be one.
  static let sliceBytes = 2 << 10
  /// What takes longer than this for each slice counts for all of the loop's connections together.
  /// Calls that are no work take a fraction of it.
  private static let slowSlice = TimeAmount.milliseconds(1)

  /// Something that has had its turn and has more to do, and in how far others are to go on first.
  private struct Resting {
    var goOn: () -> Void
    var weight: Int
    var arrival: Int
  }

  private let eventLoop: any EventLoop
  /// What has had its turn, or had none for what was worked on before it.
  private var resting: [Resting] = []
  private var arrivals = 0
  private var restIsTimed = false
  /// What slow work took since the loop looked at its sockets.
  @exclusivity(unchecked) private var slowTime = TimeAmount.zero
  /// Rests since the last turn.
  private var rests = 0
  /// Since the rest began, jobs have run, which may have been all that there was time for.
  @exclusivity(unchecked) private var hasWorked = false
  /// Since the rest began, a socket was heard.
  @exclusivity(unchecked) private var hasHeard = false

  init(_ eventLoop: any EventLoop) {
    self.eventLoop = eventLoop
  }

  /// To work on so many bytes of what a connection sent took that long.
  func worked(_ time: TimeAmount, on bytes: Int) {
    guard time > Self.slowSlice * max(1, bytes / Self.sliceBytes) else { return }
    if self.slowTime == .zero {
      // Behind all that was readable together.
      self.eventLoop.execute { self.slowTime = .zero }
    }
    self.slowTime = self.slowTime + time
  }

  /// Connections have taken a turn since the loop looked at its sockets: what else was readable waits
  /// until it has looked again, for it may be as slow.
  var isLate: Bool { self.slowTime > Self.turn }

  /// Gives something its next turn when the loop has looked at its sockets.
  ///
  /// - Parameter weight: Those of less go on first: bytes that wait. It halves with each rest.
  func goesOnLater(weight: Int, _ goOn: @escaping () -> Void) {
    self.arrivals += 1
    self.resting.append(Resting(goOn: goOn, weight: weight, arrival: self.arrivals))
    self.timeRest()
  }

  private func timeRest() {
    guard !self.restIsTimed, !self.resting.isEmpty else { return }
    self.restIsTimed = true
    self.hasWorked = false
    self.hasHeard = false
    self.eventLoop.scheduleTask(in: Self.rest) {
      self.rests += 1
      // Otherwise jobs may have taken all of the rest, and no socket has been looked at.
      if self.hasHeard || !self.hasWorked || self.rests == Self.maximumRests {
        self.rests = 0
        self.giveTurns()
      }
      // From the end of this turn on.
      self.restIsTimed = false
      self.timeRest()
    }
  }

  /// To as many as together take no longer than one may, and to one at least.
  private func giveTurns() {
    let began = NIODeadline.now()
    var waiting = self.resting.sorted { ($0.weight, $0.arrival) < ($1.weight, $1.arrival) }[...]
    self.resting = []
    repeat {
      waiting.removeFirst().goOn()
    } while !waiting.isEmpty && .now() - began <= Self.turn
    for one in waiting {
      self.resting.append(
        Resting(goOn: one.goOn, weight: one.weight / 2, arrival: one.arrival))
    }
  }

  /// A socket of the loop had something to read.
  func heard() { self.hasHeard = true }

  /// The loop has run jobs, which may be all that there was time for.
  func jobsHaveRun() { self.hasWorked = true }
}
