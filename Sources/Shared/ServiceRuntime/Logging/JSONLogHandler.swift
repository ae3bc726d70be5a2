import Glibc
import Logging

/// Logs as one JSON object a line: time, level, service, message, metadata.
package struct JSONLogHandler: LogHandler {
  package var metadata: Logger.Metadata = [:]
  package var metadataProvider: Logger.MetadataProvider?
  package var logLevel: Logger.Level

  private let service: String
  private let sink: LogSink
  private let time: @Sendable () -> timespec

  /// - Parameter time: The time of day.
  package init(
    service: String, level: Logger.Level, sink: LogSink,
    time: @escaping @Sendable () -> timespec = JSONLogHandler.timeOfDay
  ) {
    self.service = service
    self.logLevel = level
    self.sink = sink
    self.time = time
  }

  package subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { self.metadata[key] }
    set { self.metadata[key] = newValue }
  }

  package func log(event: LogEvent) {
    var metadata = self.metadata
    if let provided = self.metadataProvider?.get() {
      metadata.merge(provided) { $1 }
    }
    if let own = event.metadata { metadata.merge(own) { $1 } }
    if let error = event.error { metadata["error"] = "\(error)" }
    var line = "{\"time\":\"\(Self.text(of: self.time()))\",\"level\":\"\(event.level.rawValue)\""
    line += ",\"service\":\(JSONText.quoted(self.service))"
    line += ",\"message\":\(JSONText.quoted("\(event.message)"))"
    if !metadata.isEmpty {
      line += ",\"metadata\":\(JSONText.text(of: .dictionary(metadata)))"
    }
    line += "}\n"
    self.sink.write(line)
  }

  package static let timeOfDay: @Sendable () -> timespec = {
    var now = timespec()
    clock_gettime(CLOCK_REALTIME, &now)
    return now
  }

  /// "2026-01-31T23:59:59.123Z".
  static func text(of time: timespec) -> String {
    var seconds = time.tv_sec
    var parts = tm()
    gmtime_r(&seconds, &parts)
    func padded(_ number: Int, _ width: Int) -> String {
      let digits = String(number)
      return String(repeating: "0", count: max(0, width - digits.count)) + digits
    }
    let date =
      "\(padded(Int(parts.tm_year) + 1900, 4))-\(padded(Int(parts.tm_mon) + 1, 2))"
      + "-\(padded(Int(parts.tm_mday), 2))"
    let clock =
      "\(padded(Int(parts.tm_hour), 2)):\(padded(Int(parts.tm_min), 2))"
      + ":\(padded(Int(parts.tm_sec), 2)).\(padded(time.tv_nsec / 1_000_000, 3))"
    return "\(date)T\(clock)Z"
  }
}

/// JSON, as far as logs and health need it.
enum JSONText {
  static func quoted(_ text: String) -> String {
    var quoted = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": quoted += "\\\""
      case "\\": quoted += "\\\\"
      case "\n": quoted += "\\n"
      case "\r": quoted += "\\r"
      case "\t": quoted += "\\t"
      case _ where scalar.value < 0x20 || scalar.value == 0x7F:
        let digits = String(scalar.value, radix: 16)
        quoted += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
      default: quoted.unicodeScalars.append(scalar)
      }
    }
    return quoted + "\""
  }

  static func text(of value: Logger.Metadata.Value) -> String {
    switch value {
    case .string(let text): return self.quoted(text)
    case .stringConvertible(let value): return self.quoted("\(value)")
    case .array(let values):
      return "[\(values.map { self.text(of: $0) }.joined(separator: ","))]"
    case .dictionary(let pairs):
      let members = pairs.sorted { $0.key < $1.key }
        .map { "\(self.quoted($0.key)):\(self.text(of: $0.value))" }
      return "{\(members.joined(separator: ","))}"
    @unknown default: return self.quoted("\(value)")
    }
  }
}
