/// The wall clock without its jumps: time passes as on a clock that never jumps, and catches up with the
/// wall clock's by at most a tenth of what passes. So a clock that is set two hours ahead ends nothing two
/// hours early, and one that is set back makes nothing wait.
package struct SteadyTime: Sendable {
  /// The most that it is slewed by: one part in so many of the time that passes.
  private static let slewPart: Int64 = 10

  private var shown: Timestamp
  private var last: Duration

  /// - Parameters:
  ///   - wall: The wall clock's time, which is shown first.
  ///   - steady: The time of a clock that never jumps, from whatever moment.
  package init(wall: Timestamp, steady: Duration) {
    self.shown = wall
    self.last = steady
  }

  /// The time that is shown. It never goes back.
  package mutating func time(wall: Timestamp, steady: Duration) -> Timestamp {
    // Whole microseconds: what is less is left for the next time.
    let passed = max(0, (steady - self.last).microseconds)
    self.last += .microseconds(passed)
    self.shown.microseconds += passed
    let most = passed / Self.slewPart
    let behind = (wall - self.shown).microseconds
    self.shown.microseconds += min(max(behind, -most), most)
    return self.shown
  }
}
