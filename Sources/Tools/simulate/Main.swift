import Glibc
import Simulation

/// Runs the worlds of some seeds, one after another. `scripts/simulate` gives each seed a process
/// of its own, so that a core that traps stops only its own world.
@main
struct Main {
  static let help = """
    usage: simulate [--seed N | --from N --to N] [--trace LINES] [--digest]

    Runs the world of each seed: every core, with all that can go wrong around it.
      --seed N        one seed
      --from, --to N  the seeds between, both included
      --trace LINES   of a world that fails, its last lines (default 60); 0 is none
      --everything    the whole trace that is kept, of a world that does not fail too
      --digest        a line for each seed with the digest of its trace
    Exit code 0: nothing was found; 1: something was; 2: wrong arguments.

    """

  static func main() {
    var (first, last, lines) = (UInt64(1), UInt64(1), 60)
    var (showsDigest, showsEverything) = (false, false)
    var words = CommandLine.arguments.dropFirst()
    func number(_ option: String) -> UInt64 {
      guard let word = words.popFirst(), let value = UInt64(word) else {
        Self.end("\(option) needs a number\n")
      }
      return value
    }
    while let word = words.popFirst() {
      switch word {
      case "--seed":
        first = number(word)
        last = first
      case "--from": first = number(word)
      case "--to": last = number(word)
      case "--trace": lines = Int(number(word))
      case "--everything": showsEverything = true
      case "--digest": showsDigest = true
      default: Self.end("unknown argument \"\(word)\"\n")
      }
    }
    guard first <= last else { Self.end("--from \(first) is beyond --to \(last)\n") }
    var failures = 0
    for seed in first...last {
      let plan = Plan(seed: seed)
      let report = World(plan, workload: plan.workload).run()
      if showsEverything { for line in report.trace.last(.max) { print(line) } }
      if let failure = report.failure {
        failures += 1
        if !showsEverything { for line in report.trace.last(lines) { print(line) } }
        print("seed \(seed): \(failure)")
      }
      if showsDigest {
        print(
          "seed \(seed): digest \(String(report.trace.digest, radix: 16)), \(report.events) events, "
            + "\(report.time.components.seconds) s, outcomes "
            + report.outcomes.map { "\($0.key) \($0.value)" }.sorted().joined(separator: ", "))
      }
    }
    exit(failures == 0 ? 0 : 1)
  }

  private static func end(_ message: String) -> Never {
    let text = Array((message + Self.help).utf8)
    _ = write(2, text, text.count)
    exit(2)
  }
}
