import EchoProtos
import Glibc
import RPC
import ReportProtos

/// Codes one message again and again, as scripts/bench-codec runs it beside its peers:
/// `codec-bench FILE small|large encode|decode SECONDS`. One line: nanoseconds of CPU for each
/// operation, and a sum over what was made of it, which is the same in every program.
@main
enum CodecBench {
  static func main() throws {
    let arguments = CommandLine.arguments
    guard arguments.count == 5, let seconds = Double(arguments[4]) else {
      throw Failure(what: "usage: codec-bench FILE small|large encode|decode SECONDS")
    }
    let bytes = try self.contents(of: arguments[1])
    switch (arguments[2], arguments[3]) {
    case ("small", "encode"):
      let message = try Echo.EchoMsg(decoding: bytes)
      self.measure(seconds) { message.encoded().count }
    case ("small", "decode"):
      try self.measure(seconds) { self.sum(try Echo.EchoMsg(decoding: bytes)) }
    case ("large", "encode"):
      let message = try Report.Build(decoding: bytes)
      self.measure(seconds) { message.encoded().count }
    case ("large", "decode"):
      try self.measure(seconds) { self.sum(try Report.Build(decoding: bytes)) }
    default:
      throw Failure(what: "unknown message or operation")
    }
  }

  private static func sum(_ message: Echo.EchoMsg) -> Int {
    Int(message.id) + Int(message.name.utf8.first ?? 0) + Int(message.values.last ?? 0)
      + Int(message.blob.last ?? 0)
  }

  private static func sum(_ message: Report.Build) -> Int {
    var sum = Int(message.title.utf8.first ?? 0) + message.counters.count
    if let step = message.steps.last {
      sum += Int(step.id) + Int(step.name.utf8.first ?? 0) + Int(step.samples.last ?? 0)
      sum += Int(step.labels.last?.utf8.first ?? 0)
      if let machine = step.machine {
        sum += Int(machine.host.utf8.first ?? 0) + Int(machine.port)
      }
    }
    return sum
  }

  private static func measure(_ seconds: Double, _ operation: () throws -> Int) rethrows {
    let batch = 200
    var sum = 0
    for _ in 0..<batch { sum = try operation() }
    let began = self.now
    var now = began
    var count = 0
    var total = 0
    while now < began + seconds * 1e9 {
      for _ in 0..<batch { total &+= try operation() }
      count += batch
      now = self.now
    }
    precondition(total == sum &* count, "Not every operation came to the same")
    print((now - began) / Double(count), sum)
  }

  /// Nanoseconds of this thread's CPU: what else runs on the machine does not count.
  private static var now: Double {
    var time = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return Double(time.tv_sec) * 1e9 + Double(time.tv_nsec)
  }

  private static func contents(of path: String) throws -> [UInt8] {
    guard let file = fopen(path, "rb") else { throw Failure(what: "cannot open \(path)") }
    defer { fclose(file) }
    var bytes = [UInt8](repeating: 0, count: 65536)
    bytes.removeLast(bytes.count - fread(&bytes, 1, bytes.count, file))
    return bytes
  }
}

struct Failure: Error {
  var what: String
}
