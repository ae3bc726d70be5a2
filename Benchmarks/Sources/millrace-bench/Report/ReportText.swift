extension BuildsReport {
  /// For people: a few lines and two tables.
  var text: String {
    var lines = [
      "builds    \(self.setup.count), \(self.pace)",
      "runners   \(self.setup.runners), with room for \(self.setup.slots) jobs at a time",
      "step      \(self.setup.step)", "",
      "answered  \(Self.pace(self.answered))", "finished  \(Self.pace(self.finished))",
      "recorded  \(Self.pace(self.recorded))",
      "refused   \(self.refusals) times (RESOURCE_EXHAUSTED); \(self.repetitions) calls repeated",
      "outcomes  \(self.outcomeWords)", "",
    ]
    lines +=
      TextTable(
        header: ["SUBMIT TO", "P50", "P90", "P99", "MAX", "MEASURED BY"], leftColumns: [0, 5],
        rows: self.latencies.map { latency in
          [
            latency.name, Self.milliseconds(latency.p50Milliseconds),
            Self.milliseconds(latency.p90Milliseconds), Self.milliseconds(latency.p99Milliseconds),
            Self.milliseconds(latency.maximumMilliseconds), latency.measuredBy,
          ]
        }
      ).lines
    lines.append("")
    lines +=
      TextTable(
        header: ["PROCESS", "CPU", "OF IT CHILDREN", "CPU PER BUILD", "PEAK MEMORY"],
        leftColumns: [0], rows: self.processRows
      ).lines
    if self.processes.contains(where: \.isRestarted) {
      lines.append("* restarted meanwhile; what the process before it used is not known")
    }
    return lines.joined(separator: "\n") + "\n"
  }

  private var pace: String {
    if let rate = self.setup.rate {
      return "\(Self.fixed(rate, 1)) a second, \(self.setup.concurrency) calls open at most"
    }
    return "\(self.setup.concurrency) calls open at a time"
  }

  private var outcomeWords: String {
    let words = self.outcomes.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }
    return words.isEmpty ? "none" : words.joined(separator: ", ")
  }

  private var processRows: [[String]] {
    var rows = self.processes.map { process in
      [
        process.name + (process.isRestarted ? " *" : ""),
        "\(Self.fixed(process.cpuSeconds, 2)) s",
        process.childrenCPUSeconds > 0 ? "\(Self.fixed(process.childrenCPUSeconds, 2)) s" : "",
        "\(Self.fixed(process.cpuMicrosecondsPerBuild, 0)) µs",
        process.peakMemoryBytes.map { "\(Self.fixed(Double($0) / 1_048_576, 1)) MiB" } ?? "",
      ]
    }
    let farm = self.processes.filter { $0.name != StackUsage.client }
    rows.append([
      "all but \(StackUsage.client)",
      "\(Self.fixed(farm.reduce(0) { $0 + $1.cpuSeconds }, 2)) s",
      "\(Self.fixed(farm.reduce(0) { $0 + $1.childrenCPUSeconds }, 2)) s",
      "\(Self.fixed(farm.reduce(0) { $0 + $1.cpuMicrosecondsPerBuild }, 0)) µs", "",
    ])
    return rows
  }

  private static func pace(_ throughput: Throughput) -> String {
    "\(self.fixed(throughput.buildsPerSecond, 1)) builds/s  (\(throughput.builds) in "
      + "\(self.fixed(throughput.seconds, 2)) s)"
  }

  private static func milliseconds(_ value: Double) -> String {
    value < 10_000 ? "\(self.fixed(value, 1)) ms" : "\(self.fixed(value / 1_000, 1)) s"
  }

  /// A number with so many digits behind the point.
  private static func fixed(_ value: Double, _ digits: Int) -> String {
    var scale: Int64 = 1
    for _ in 0..<digits { scale *= 10 }
    let scaled = Int64((value * Double(scale)).rounded())
    let magnitude = scaled.magnitude.quotientAndRemainder(dividingBy: UInt64(scale))
    let sign = scaled < 0 ? "-" : ""
    guard digits > 0 else { return "\(sign)\(magnitude.quotient)" }
    let fraction = "\(magnitude.remainder)"
    let zeros = String(repeating: "0", count: digits - fraction.count)
    return "\(sign)\(magnitude.quotient).\(zeros)\(fraction)"
  }
}

/// Columns, each as wide as its widest cell: words to the left, numbers to the right.
private struct TextTable {
  var header: [String]
  var leftColumns: Set<Int>
  var rows: [[String]]

  var lines: [String] {
    let all = [self.header] + self.rows
    let widths = self.header.indices.map { column in all.map { $0[column].count }.max() ?? 0 }
    return all.map { row in
      let cells = row.enumerated().map { column, cell in
        let space = String(repeating: " ", count: widths[column] - cell.count)
        return self.leftColumns.contains(column) ? cell + space : space + cell
      }
      let line = cells.joined(separator: "  ")
      return String(line.reversed().drop { $0 == " " }.reversed())
    }
  }
}
