import Testing

@testable import ServiceRuntime

@Suite struct MetricsTests {
  @Test func instrumentsAreRenderedByNameWithHelpAndType() {
    let registry = MetricsRegistry()
    registry.counter("b_total", help: "Bees.").increment(by: 3)
    registry.gauge("a", help: "Apples.").set(1.5)
    #expect(
      registry.render() == """
        # HELP a Apples.
        # TYPE a gauge
        a 1.5
        # HELP b_total Bees.
        # TYPE b_total counter
        b_total 3

        """)
  }

  @Test func theSameNameAndLabelsAreTheSameInstrument() {
    let registry = MetricsRegistry()
    registry.counter("x_total", help: "X.", labels: ["a": "1", "b": "2"]).increment()
    registry.counter("x_total", help: "X.", labels: ["b": "2", "a": "1"]).increment()
    registry.counter("x_total", help: "X.", labels: ["a": "2"]).increment()
    #expect(registry.render().contains("x_total{a=\"1\",b=\"2\"} 2\n"))
    #expect(registry.render().contains("x_total{a=\"2\"} 1\n"))
  }

  @Test func labelsAndHelpCannotBreakTheText() {
    let registry = MetricsRegistry()
    registry.gauge("x", help: "a\nb\\", labels: ["l": "q\"\\\n} 5\nevil 1"]).set(1)
    #expect(
      registry.render() == """
        # HELP x a\\nb\\\\
        # TYPE x gauge
        x{l="q\\"\\\\\\n} 5\\nevil 1"} 1

        """)
  }

  @Test func aHistogramCountsEachObservationInItsBucketAndThoseAbove() {
    let registry = MetricsRegistry()
    let histogram = registry.histogram(
      "t_seconds", help: "T.", labels: ["k": "v"], buckets: [0.1, 1])
    histogram.observe(.milliseconds(100))
    histogram.observe(.milliseconds(500))
    histogram.observe(.seconds(2))
    #expect(
      registry.render() == """
        # HELP t_seconds T.
        # TYPE t_seconds histogram
        t_seconds_bucket{k="v",le="0.1"} 1
        t_seconds_bucket{k="v",le="1"} 2
        t_seconds_bucket{k="v",le="+Inf"} 3
        t_seconds_sum{k="v"} 2.6
        t_seconds_count{k="v"} 3

        """)
    #expect(histogram.count == 3)
  }

  @Test func aLabelTakenFromOutsideCannotFillTheMemory() {
    let registry = MetricsRegistry()
    for number in 0..<(MetricsRegistry.maximumSeries + 50) {
      registry.counter("x_total", help: "X.", labels: ["id": "\(number)"]).increment()
    }
    let text = registry.render()
    #expect(text.contains("x_total{overflow=\"true\"} 50\n"))
    #expect(text.split(separator: "\n").count == MetricsRegistry.maximumSeries + 1 + 2)
  }

  @Test func aGaugeThatIsReadIsReadWhenRendered() {
    let registry = MetricsRegistry()
    let counter = Counter()
    registry.gauge("x", help: "X.") { Double(counter.value) }
    registry.gauge("y", help: "Y.") { nil }
    counter.increment(by: 7)
    #expect(registry.render().contains("\nx 7\n"))
    #expect(!registry.render().contains("\ny "))
  }

  @Test(arguments: [
    (Double.infinity, "+Inf"), (-.infinity, "-Inf"), (.nan, "NaN"), (1e20, "1e+20"), (0, "0"),
    (-2, "-2"),
  ])
  func numbersAreWrittenAsPrometheusReadsThem(value: Double, expected: String) {
    let registry = MetricsRegistry()
    registry.gauge("x", help: "X.").set(value)
    #expect(registry.render().hasSuffix("\nx \(expected)\n"))
  }

  @Test func addingFromManyTasksLosesNothing() async {
    let gauge = Gauge()
    let counter = Counter()
    await withTaskGroup(of: Void.self) { group in
      for _ in 0..<8 {
        group.addTask {
          for _ in 0..<1_000 {
            gauge.add(1)
            counter.increment()
          }
        }
      }
    }
    #expect(gauge.value == 8_000)
    #expect(counter.value == 8_000)
  }

  @Test func theProcessTellsAboutItself() throws {
    let registry = MetricsRegistry()
    ProcessMetrics.register(in: registry)
    let values = Dictionary(
      uniqueKeysWithValues: registry.render().split(separator: "\n")
        .filter { !$0.hasPrefix("#") }.map { line in
          let fields = line.split(separator: " ")
          return (String(fields[0]), Double(fields[1]) ?? .nan)
        })
    #expect(try #require(values["process_cpu_seconds_total"]) > 0)
    #expect(try #require(values["process_resident_memory_bytes"]) > 1_000_000)
    #expect(try #require(values["process_open_fds"]) >= 1)
    // After 2020, before 2100.
    #expect((1_577_836_800..<4_102_444_800).contains(values["process_start_time_seconds"] ?? 0))
  }

  @Test func aMetricsNameThatPrometheusCannotReadIsOurBug() async {
    await #expect(processExitsWith: .failure) {
      _ = MetricsRegistry().counter("1 bad", help: "")
    }
  }
}
