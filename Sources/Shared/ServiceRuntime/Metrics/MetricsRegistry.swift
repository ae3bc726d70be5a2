import Synchronization

/// A process' metrics, rendered as the text that Prometheus reads.
///
/// The same name and labels give the same instrument again, so a caller may ask for one whenever it
/// needs it; whoever measures often keeps it.
package final class MetricsRegistry: Sendable {
  /// Series of one name; one more is counted with `overflow="true"` instead, so that a label taken
  /// from outside cannot fill the memory.
  package static let maximumSeries = 1_000

  private enum Kind: String { case counter, gauge, histogram }

  private enum Instrument: Sendable {
    case counter(Counter)
    case gauge(Gauge)
    case histogram(Histogram)
    case read(@Sendable () -> Double?)
  }

  private struct Family: Sendable {
    var kind: Kind
    var help: String
    /// By labels as they are rendered, `{a="b"}`.
    var series: [String: Instrument] = [:]
  }

  private let families = Mutex<[String: Family]>([:])

  package init() {}

  /// A number that only grows; its name ends with `_total`.
  package func counter(
    _ name: String, help: String, labels: [String: String] = [:]
  ) -> Counter {
    let instrument = self.instrument(name, .counter, help, labels) { .counter(Counter()) }
    guard case .counter(let counter) = instrument else { self.clash(name, .counter) }
    return counter
  }

  /// A number that goes up and down.
  package func gauge(_ name: String, help: String, labels: [String: String] = [:]) -> Gauge {
    let instrument = self.instrument(name, .gauge, help, labels) { .gauge(Gauge()) }
    guard case .gauge(let gauge) = instrument else { self.clash(name, .gauge) }
    return gauge
  }

  /// A number that is read whenever metrics are rendered. `read` must not block; with `nil` the
  /// series is left out.
  package func gauge(
    _ name: String, help: String, labels: [String: String] = [:],
    read: @escaping @Sendable () -> Double?
  ) {
    _ = self.instrument(name, .gauge, help, labels) { .read(read) }
  }

  /// As the gauge that is read, of a number that only grows.
  package func counter(
    _ name: String, help: String, labels: [String: String] = [:],
    read: @escaping @Sendable () -> Double?
  ) {
    _ = self.instrument(name, .counter, help, labels) { .read(read) }
  }

  /// How long things take; `buckets` in seconds, its name ends with `_seconds`.
  package func histogram(
    _ name: String, help: String, labels: [String: String] = [:],
    buckets: [Double] = Histogram.defaultBuckets
  ) -> Histogram {
    let instrument = self.instrument(name, .histogram, help, labels) {
      .histogram(Histogram(buckets: buckets))
    }
    guard case .histogram(let histogram) = instrument else { self.clash(name, .histogram) }
    return histogram
  }

  /// The text format of Prometheus, version 0.0.4, sorted by name.
  package func render() -> String {
    let families = self.families.withLock { $0 }
    var text = ""
    for (name, family) in families.sorted(by: { $0.key < $1.key }) {
      text += "# HELP \(name) \(Self.escape(family.help, quotes: false))\n"
      text += "# TYPE \(name) \(family.kind.rawValue)\n"
      for (labels, instrument) in family.series.sorted(by: { $0.key < $1.key }) {
        switch instrument {
        case .counter(let counter): text += "\(name)\(labels) \(counter.value)\n"
        case .gauge(let gauge): text += "\(name)\(labels) \(Self.number(gauge.value))\n"
        case .read(let read):
          if let value = read() { text += "\(name)\(labels) \(Self.number(value))\n" }
        case .histogram(let histogram): text += Self.render(histogram, name, labels)
        }
      }
    }
    return text
  }

  private func instrument(
    _ name: String, _ kind: Kind, _ help: String, _ labels: [String: String],
    make: () -> Instrument
  ) -> Instrument {
    precondition(Self.isName(name), "\"\(name)\" is no metric's name")
    precondition(labels.keys.allSatisfy(Self.isName), "\(labels.keys.sorted()) are no labels")
    let key = Self.render(labels)
    return self.families.withLock { families in
      var family = families[name] ?? Family(kind: kind, help: help)
      guard family.kind == kind else { self.clash(name, kind) }
      if let instrument = family.series[key] { return instrument }
      let isFull = family.series.count >= Self.maximumSeries
      let newKey = isFull ? "{overflow=\"true\"}" : key
      let instrument = family.series[newKey] ?? make()
      family.series[newKey] = instrument
      families[name] = family
      return instrument
    }
  }

  private func clash(_ name: String, _ kind: Kind) -> Never {
    preconditionFailure("the metric \(name) exists already and is no \(kind.rawValue)")
  }

  private static func render(_ histogram: Histogram, _ name: String, _ labels: String) -> String {
    let state = histogram.state.withLock { $0 }
    var text = ""
    var total: UInt64 = 0
    let bounds = histogram.buckets.map { Self.number($0) } + ["+Inf"]
    for (bound, count) in zip(bounds, state.counts) {
      total += count
      let inner = labels.isEmpty ? "" : labels.dropFirst().dropLast() + ","
      text += "\(name)_bucket{\(inner)le=\"\(bound)\"} \(total)\n"
    }
    text += "\(name)_sum\(labels) \(Self.number(state.sum))\n"
    text += "\(name)_count\(labels) \(total)\n"
    return text
  }

  private static func render(_ labels: [String: String]) -> String {
    if labels.isEmpty { return "" }
    let pairs = labels.sorted { $0.key < $1.key }
      .map { "\($0.key)=\"\(Self.escape($0.value, quotes: true))\"" }
    return "{\(pairs.joined(separator: ","))}"
  }

  private static func escape(_ text: String, quotes: Bool) -> String {
    var escaped = ""
    for character in text.unicodeScalars {
      switch character {
      case "\\": escaped += "\\\\"
      case "\n": escaped += "\\n"
      case "\"" where quotes: escaped += "\\\""
      default: escaped.unicodeScalars.append(character)
      }
    }
    return escaped
  }

  private static func number(_ value: Double) -> String {
    if value.isNaN { return "NaN" }
    if value.isInfinite { return value < 0 ? "-Inf" : "+Inf" }
    if value == value.rounded(), abs(value) < 1e15 { return "\(Int64(value))" }
    return "\(value)"
  }

  private static func isName(_ name: String) -> Bool {
    guard let first = name.utf8.first, !(0x30...0x39).contains(first) else { return false }
    return name.utf8.allSatisfy {
      (0x30...0x39).contains($0) || (0x41...0x5A).contains($0) || (0x61...0x7A).contains($0)
        || $0 == 0x5F
    }
  }
}
