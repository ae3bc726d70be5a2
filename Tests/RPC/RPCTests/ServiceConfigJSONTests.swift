import RPC
import Testing

@Suite struct ServiceConfigJSONTests {
  @Test func theCanonicalFormIsRead() throws {
    let config = try ServiceConfig(
      json: """
        {
          "loadBalancingConfig": [{"grpclb": {}}, {"round_robin": {}}],
          "methodConfig": [
            {
              "name": [{"service": "a.B"}, {"service": "a.C", "method": "D"}],
              "timeout": "2.5s", "waitForReady": true, "maxRequestMessageBytes": 100,
              "retryPolicy": {
                "maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "1s",
                "backoffMultiplier": 3, "retryableStatusCodes": ["UNAVAILABLE", 10]
              }
            },
            {"name": [{}], "hedgingPolicy": {"maxAttempts": 2, "hedgingDelay": "0.01s"}}
          ],
          "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1}
        }
        """)
    #expect(config.loadBalancing == .roundRobin)
    #expect(config.retryThrottling == RetryThrottling(maximumTokens: 10, tokenRatio: 0.1))
    let method = try #require(config.method("/a.C/D"))
    #expect(method.timeout == .milliseconds(2_500))
    #expect(method.waitForReady == true)
    #expect(method.maximumRequestBytes == 100)
    #expect(
      method.resilience
        == .retry(
          RetryPolicy(
            maximumAttempts: 4, initialBackoff: .milliseconds(100), maximumBackoff: .seconds(1),
            backoffMultiplier: 3, retryableCodes: [.unavailable, .aborted])))
    #expect(
      config.method("/x.Y/Z")?.resilience
        == .hedge(HedgingPolicy(maximumAttempts: 2, delay: .milliseconds(10), nonFatalCodes: [])))
  }

  /// A config of two methods, the second as given.
  private static func config(_ second: String) -> String {
    #"{"methodConfig": [{"name": [{"service": "a.First"}]}, {"name": [{"service": "a.B"}], \#(second)}]}"#
  }

  /// One whose second method is retried, as given where that differs from what is right.
  private static func retry(_ field: String, _ value: String) -> String {
    var fields = [
      "maxAttempts": "2", "initialBackoff": #""1s""#, "maxBackoff": #""1s""#,
      "backoffMultiplier": "1", "retryableStatusCodes": "[14]",
    ]
    fields[field] = value
    let policy = fields.sorted { $0.key < $1.key }.map { #""\#($0.key)": \#($0.value)"# }
    return Self.config(#""retryPolicy": {\#(policy.joined(separator: ", "))}"#)
  }

  @Test func numbersMayStandInQuotationMarks() throws {
    let config = try ServiceConfig(
      json: """
        {
          "methodConfig": [{
            "name": [{}], "maxRequestMessageBytes": "100", "maxResponseMessageBytes": 2e2,
            "retryPolicy": {
              "maxAttempts": "3", "initialBackoff": "1s", "maxBackoff": "1s",
              "backoffMultiplier": "1.5", "retryableStatusCodes": ["unavailable"]
            }
          }],
          "retryThrottling": {"maxTokens": "10", "tokenRatio": "1e-1"}
        }
        """)
    #expect(config.methods.first?.maximumRequestBytes == 100)
    #expect(config.methods.first?.maximumResponseBytes == 200)
    #expect(
      config.methods.first?.resilience
        == .retry(
          RetryPolicy(
            maximumAttempts: 3, initialBackoff: .seconds(1), maximumBackoff: .seconds(1),
            backoffMultiplier: 1.5, retryableCodes: [.unavailable])))
    #expect(config.retryThrottling == RetryThrottling(maximumTokens: 10, tokenRatio: 0.1))
  }

  @Test(arguments: [
    ("1s", Duration.seconds(1)), ("0.000000001s", .nanoseconds(1)),
    ("007.5s", .milliseconds(7_500)),
    ("1.123456789s", .nanoseconds(1_123_456_789)), ("315576000000s", .seconds(315_576_000_000)),
  ])
  func durationsAreThoseOfProtobuf(text: String, duration: Duration) throws {
    let config = try ServiceConfig(json: Self.config(#""timeout": "\#(text)""#))
    #expect(config.method("/a.B/C")?.timeout == duration)
  }

  @Test(arguments: [
    "5", "", "s", "-1s", "+1s", "1e3s", "0x1p3s", ".5s", "1.s", "1.1234567890s", "1,5s", "1.5.5s",
    " 1s", "1 s", "1m", "315576000001s", "99999999999999999999s", "infs", "nans", "\u{661}s",
  ])
  func whatIsNoDurationIsNamed(text: String) throws {
    let error = #expect(throws: ServiceConfig.ParseError.self) {
      try ServiceConfig(json: Self.config(#""timeout": "\#(text)""#))
    }
    #expect(
      error?.description
        == "methodConfig[1].timeout is \"\(text)\"; expected a duration like \"1.5s\"")
  }

  @Test(arguments: [
    (#"{"loadBalancingPolicy": "round_robin"}"#, LoadBalancing?.some(.roundRobin)),
    (#"{"loadBalancingPolicy": "ROUND_ROBIN"}"#, .roundRobin),
    (#"{"loadBalancingPolicy": "pick_first", "loadBalancingConfig": null}"#, .pickFirst),
    (
      #"{"loadBalancingPolicy": "round_robin", "loadBalancingConfig": [{"pick_first": {}}]}"#,
      .pickFirst
    ),
    (#"{"loadBalancingPolicy": null}"#, nil), ("{}", nil),
  ])
  func theOldNameOfAPolicyCountsWhereThereIsNoNew(json: String, balancing: LoadBalancing?) throws {
    #expect(try ServiceConfig(json: json).loadBalancing == balancing)
  }

  @Test(arguments: [
    ("[", "the service config is no JSON"), ("", "the service config is no JSON"),
    ("null", "the service config is null; expected an object"),
    ("5", "the service config is 5; expected an object"),
    (#"{"methodConfig": [{}]}"#, "methodConfig[0] has no \"name\""),
    (#"{"methodConfig": {}}"#, "methodConfig is {}; expected a list"),
    (#"{"methodConfig": [7]}"#, "methodConfig[0] is 7; expected an object"),
    (config(#""timeout": 5"#), #"methodConfig[1].timeout is 5; expected a duration like "1.5s""#),
    (
      config(#""timeout": "0s""#),
      #"methodConfig[1].timeout is "0s"; expected a duration above zero"#
    ),
    (
      config(#""waitForReady": "yes""#),
      #"methodConfig[1].waitForReady is "yes"; expected true or false"#
    ),
    (
      config(#""retryPolicy": [1.5, true, {"b": null, "a": "x"}]"#),
      #"methodConfig[1].retryPolicy is [1.5, true, {"a": "x", "b": null}]; expected an object"#
    ),
    (config(#""retryPolicy": {}"#), #"methodConfig[1].retryPolicy has no "maxAttempts""#),
    (
      config(#""retryPolicy": {}, "hedgingPolicy": {}"#),
      "methodConfig[1] has both retryPolicy and hedgingPolicy; expected one of them"
    ),
    (
      retry("maxAttempts", "1"),
      "methodConfig[1].retryPolicy.maxAttempts is 1; expected a whole number from 2"
    ),
    (
      retry("maxAttempts", "2.5"),
      "methodConfig[1].retryPolicy.maxAttempts is 2.5; expected a whole number from 2"
    ),
    (
      retry("maxAttempts", #""0x3""#),
      #"methodConfig[1].retryPolicy.maxAttempts is "0x3"; expected a whole number from 2"#
    ),
    (
      retry("maxAttempts", "1e999"),
      "methodConfig[1].retryPolicy.maxAttempts is wrong: no number is as large"
    ),
    (
      retry("initialBackoff", #""-1s""#),
      #"methodConfig[1].retryPolicy.initialBackoff is "-1s"; expected a duration like "1.5s""#
    ),
    (
      retry("initialBackoff", #""0s""#),
      #"methodConfig[1].retryPolicy.initialBackoff is "0s"; expected a duration above zero"#
    ),
    (
      retry("maxBackoff", #""0s""#),
      #"methodConfig[1].retryPolicy.maxBackoff is "0s"; expected a duration above zero"#
    ),
    (
      retry("backoffMultiplier", "0"),
      "methodConfig[1].retryPolicy.backoffMultiplier is 0; expected a number above 0"
    ),
    (
      retry("backoffMultiplier", #""nan""#),
      #"methodConfig[1].retryPolicy.backoffMultiplier is "nan"; expected a number above 0"#
    ),
    (
      retry("retryableStatusCodes", "[]"),
      "methodConfig[1].retryPolicy.retryableStatusCodes is []; expected one status at least"
    ),
    (
      retry("retryableStatusCodes", "[14, 99]"),
      "methodConfig[1].retryPolicy.retryableStatusCodes[1] is 99; expected the status of a call"
    ),
    (retry("retryableStatusCodes", "[1.5]"), "retryableStatusCodes[0] is 1.5; expected the status"),
    (
      retry("retryableStatusCodes", #"["OOPS"]"#),
      #"retryableStatusCodes[0] is "OOPS"; expected the status"#
    ),
    (
      retry("retryableStatusCodes", #"["OK"]"#),
      #"retryableStatusCodes[0] is "OK"; expected the status"#
    ),
    (retry("retryableStatusCodes", "[0]"), "retryableStatusCodes[0] is 0; expected the status"),
    (
      config(#""hedgingPolicy": {"maxAttempts": 1}"#),
      "methodConfig[1].hedgingPolicy.maxAttempts is 1; expected a whole number from 2"
    ),
    (
      config(#""hedgingPolicy": {"maxAttempts": 2, "hedgingDelay": "1"}"#),
      #"methodConfig[1].hedgingPolicy.hedgingDelay is "1"; expected a duration"#
    ),
    (
      config(#""hedgingPolicy": {"maxAttempts": 2, "nonFatalStatusCodes": ["OK"]}"#),
      #"methodConfig[1].hedgingPolicy.nonFatalStatusCodes[0] is "OK"; expected the status"#
    ),
    (
      config(#""maxRequestMessageBytes": 0.5"#),
      "methodConfig[1].maxRequestMessageBytes is 0.5; expected a whole number from 0"
    ),
    (
      config(#""maxRequestMessageBytes": -1"#),
      "methodConfig[1].maxRequestMessageBytes is -1; expected a whole number from 0"
    ),
    (
      config(#""maxResponseMessageBytes": "-1""#),
      #"methodConfig[1].maxResponseMessageBytes is "-1"; expected a whole number from 0"#
    ),
    (
      #"{"retryThrottling": {"maxTokens": 0, "tokenRatio": 1}}"#,
      "retryThrottling.maxTokens is 0; expected a number above 0, up to 1000"
    ),
    (
      #"{"retryThrottling": {"maxTokens": 1, "tokenRatio": -0.5}}"#,
      "retryThrottling.tokenRatio is -0.5; expected a number above 0"
    ),
    (#"{"retryThrottling": {"maxTokens": 1}}"#, #"retryThrottling has no "tokenRatio""#),
    (
      #"{"loadBalancingConfig": [{"grpclb": {}}]}"#,
      #"loadBalancingConfig is [{"grpclb": {}}]; expected pick_first or round_robin among"#
    ),
    (
      #"{"loadBalancingConfig": [{"pick_first": {}}, {"pick_first": {}, "round_robin": {}}]}"#,
      #"loadBalancingConfig[1] is {"pick_first": {}, "round_robin": {}}; expected one policy"#
    ),
    (#"{"loadBalancingConfig": [{}]}"#, "loadBalancingConfig[0] is {}; expected one policy"),
    (
      #"{"loadBalancingPolicy": "grpclb"}"#,
      #"loadBalancingPolicy is "grpclb"; expected pick_first or round_robin"#
    ),
    (
      #"{"methodConfig": [{"name": [{}, {"method": "M"}]}]}"#,
      #"methodConfig[0].name[1].method is "M"; expected a service for it"#
    ),
    (
      #"{"methodConfig": [{"name": [{"service": "a/b"}]}]}"#,
      #"methodConfig[0].name[0].service is "a/b"; expected a service like package.Service"#
    ),
    (
      #"{"methodConfig": [{"name": [{"service": "a.B"}]}, {"name": [{"service": "a.B"}]}]}"#,
      #"methodConfig[1].name[0] is {"service": "a.B"}; expected every name once"#
    ),
  ])
  func whatIsWrongIsNamed(json: String, words: String) {
    let error = #expect(throws: ServiceConfig.ParseError.self) { try ServiceConfig(json: json) }
    #expect(error?.description.contains(words) == true, "\(String(describing: error))")
  }
}
