import Foundation
import Glibc
import Logging
import Testing

@testable import ServiceRuntime

/// A pipe whose reading end a test reads.
private struct LogPipe {
  let readEnd: Int32
  let writeEnd: Int32

  init() {
    var ends: [Int32] = [0, 0]
    pipe(&ends)
    self.readEnd = ends[0]
    self.writeEnd = ends[1]
  }

  func read(upTo limit: Int = 1 << 16) -> String {
    var bytes = [UInt8](repeating: 0, count: limit)
    let count = Glibc.read(self.readEnd, &bytes, limit)
    return String(decoding: bytes.prefix(max(count, 0)), as: UTF8.self)
  }
}

@Suite struct LogTests {
  private func line(_ body: (Logger) -> Void) throws -> [String: Any] {
    let pipe = LogPipe()
    let sink = LogSink(descriptor: pipe.writeEnd)
    let logger = Logger(label: "x") { _ in
      JSONLogHandler(service: "scheduler", level: .info, sink: sink) {
        timespec(tv_sec: 1_700_000_000, tv_nsec: 7_999_999)
      }
    }
    body(logger)
    sink.flush()
    let text = pipe.read()
    #expect(text.hasSuffix("}\n"))
    #expect(text.filter { $0 == "\n" }.count == 1)
    let object = try JSONSerialization.jsonObject(with: Data(text.utf8))
    return try #require(object as? [String: Any])
  }

  @Test func aLineIsOneObjectWithTimeLevelServiceAndMessage() throws {
    let object = try self.line { $0.warning("hello") }
    #expect(object["time"] as? String == "2023-11-14T22:13:20.007Z")
    #expect(object["level"] as? String == "warning")
    #expect(object["service"] as? String == "scheduler")
    #expect(object["message"] as? String == "hello")
    #expect(object["metadata"] == nil)
  }

  @Test func whateverIsLoggedStaysWithinItsLine() throws {
    let text = "quote \" slash \\ newline \n return \r tab \t bell \u{7} null \u{0} del \u{7F} ü 🦀"
    let object = try self.line { $0.error("\(text)", metadata: ["k\"\n": "\(text)"]) }
    #expect(object["message"] as? String == text)
    #expect((object["metadata"] as? [String: String])?["k\"\n"] == text)
  }

  @Test func metadataKeepsItsShape() throws {
    let object = try self.line { logger in
      var logger = logger
      logger[metadataKey: "build"] = "b1"
      logger.info("x", metadata: ["list": ["a", "b"], "map": ["c": "d"]])
    }
    let metadata = try #require(object["metadata"] as? [String: Any])
    #expect(metadata["build"] as? String == "b1")
    #expect(metadata["list"] as? [String] == ["a", "b"])
    #expect(metadata["map"] as? [String: String] == ["c": "d"])
  }

  @Test func aStuckReaderDoesNotStopWhoeverLogs() {
    let pipe = LogPipe()
    let sink = LogSink(descriptor: pipe.writeEnd)
    let line = String(repeating: "x", count: 1_023) + "\n"
    // Nobody reads: the pipe takes 64 KiB, the sink its bound, the rest is dropped.
    for _ in 0..<(2 * LogSink.maximumBytes / 1_024) { sink.write(line) }
    // Reading on, everything that was kept arrives, and how many were not.
    var count = 0
    var last = ""
    repeat {
      last = pipe.read()
      count += last.utf8.count
    } while !last.hasSuffix(" log lines were dropped\"}\n")
    // What is in the pipe is no longer the sink's.
    #expect(count <= LogSink.maximumBytes + (128 << 10))
  }

  @Test func aClosedReaderIsNoReasonToEnd() {
    let pipe = LogPipe()
    signal(SIGPIPE, SIG_IGN)
    close(pipe.readEnd)
    let sink = LogSink(descriptor: pipe.writeEnd)
    sink.write("lost\n")
    sink.flush()
    #expect(close(pipe.writeEnd) == 0)
  }
}
