import Glibc

/// Measures the scheduler's and the allocator's cores by themselves: no network, no store, no Redis.
/// Here and not among the other benchmarks, because cores are visible in this package only.
@main
struct Main {
  static let help = """
    usage: core-bench [placements | queue] [--count N] [--executors N]

    Measures the cores of scheduler and allocator alone, in one thread.
      placements     how fast work is placed, and brought to its end, on executors of mixed
                     shapes (default: 400000 jobs, 5000 executors)
      queue          what 1000000 queued jobs cost (memory), whether submitting is slower behind
                     them, and how long it takes to build them up from their records
    Without a word: both.

    """

  static func main() {
    var words = CommandLine.arguments.dropFirst()
    var (jobs, queued, executors) = (400_000, 1_000_000, 5_000)
    var kinds: [String] = []
    while let word = words.popFirst() {
      switch word {
      case "placements", "queue": kinds.append(word)
      case "--count", "--executors":
        guard let text = words.popFirst(), let number = Int(text), number > 0 else {
          return Self.end("\(word) needs a number above 0\n")
        }
        if word == "--count" { (jobs, queued) = (number, number) } else { executors = number }
      default: return Self.end("unknown argument \"\(word)\"\n")
      }
    }
    if kinds.isEmpty || kinds.contains("placements") {
      PlacementBenchmark(executors: executors, jobs: jobs).run()
    }
    if kinds.isEmpty || kinds.contains("queue") { QueueBenchmark(count: queued).run() }
  }

  private static func end(_ message: String) {
    let text = Array((message + Self.help).utf8)
    _ = write(2, text, text.count)
    exit(2)
  }
}

/// What this process has in memory now, in bytes.
func residentBytes() -> Int {
  guard let file = fopen("/proc/self/statm", "r") else { return 0 }
  defer { fclose(file) }
  var buffer = [CChar](repeating: 0, count: 128)
  guard fgets(&buffer, Int32(buffer.count), file) != nil else { return 0 }
  let words = String(decoding: buffer.map { UInt8(bitPattern: $0) }, as: UTF8.self).split(
    separator: " ")
  return (words.count > 1 ? Int(words[1]) ?? 0 : 0) * Int(sysconf(Int32(_SC_PAGESIZE)))
}

/// A number for people: `123456`, `98.7`.
func rounded(_ value: Double) -> String {
  value >= 100 ? String(Int(value.rounded())) : String((value * 10).rounded() / 10)
}

extension Duration {
  var inSeconds: Double {
    Double(self.components.seconds) + Double(self.components.attoseconds) / 1e18
  }
}
