import Domain
import Testing

@Suite struct SteadyTimes {
  private let begin = Timestamp(microseconds: 1_764_000_000_000_000)

  @Test func withoutJumpsItIsTheWallClock() {
    var time = SteadyTime(wall: self.begin, steady: .seconds(7))
    for second in 1...100 {
      let wall = self.begin + .seconds(second)
      #expect(time.time(wall: wall, steady: .seconds(7 + second)) == wall)
    }
  }

  @Test(arguments: [7_200, -7_200])
  func aJumpIsCaughtUpWithSlowly(jump: Int) {
    var time = SteadyTime(wall: self.begin, steady: .zero)
    var before = self.begin
    for second in 1...80_000 {
      let wall = self.begin + .seconds(second + jump)
      let shown = time.time(wall: wall, steady: .seconds(second))
      let passed = (shown - before).microseconds
      #expect((900_000...1_100_000).contains(passed))
      before = shown
      if second >= 72_000 { #expect(shown == wall) }
    }
  }

  @Test func itNeverGoesBack() {
    var time = SteadyTime(wall: self.begin, steady: .seconds(5))
    #expect(time.time(wall: self.begin + .seconds(-5), steady: .seconds(5)) == self.begin)
    #expect(time.time(wall: self.begin + .seconds(-5), steady: .seconds(4)) == self.begin)
  }
}
