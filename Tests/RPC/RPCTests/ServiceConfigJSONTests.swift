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

  @Test(arguments: [
    ("[", "wrong"), (#"{"methodConfig": [{}]}"#, "has no \"name\""),
    (#"{"methodConfig": [{"name": [], "timeout": "5"}]}"#, "timeout is \"5\""),
    (
      #"{"methodConfig": [{"name": [], "retryPolicy": {"maxAttempts": 1, "initialBackoff": "1s", "maxBackoff": "1s", "backoffMultiplier": 1, "retryableStatusCodes": [14]}}]}"#,
      "retryPolicy: maxAttempts is 1; it is 2 or more"
    ),
    (
      #"{"methodConfig": [{"name": [], "retryPolicy": {"maxAttempts": 2.5, "initialBackoff": "1s", "maxBackoff": "1s", "backoffMultiplier": 1, "retryableStatusCodes": [14]}}]}"#,
      "retryPolicy.maxAttempts: 2.5 is no whole number"
    ),
    (
      #"{"methodConfig": [{"name": [], "retryPolicy": {"maxAttempts": 2, "initialBackoff": "0s", "maxBackoff": "1s", "backoffMultiplier": 1, "retryableStatusCodes": [14]}}]}"#,
      "retryPolicy: initialBackoff is \"0s\""
    ),
    (
      #"{"methodConfig": [{"name": [], "retryPolicy": {"maxAttempts": 2, "initialBackoff": "1s", "maxBackoff": "0s", "backoffMultiplier": 1, "retryableStatusCodes": [14]}}]}"#,
      "retryPolicy: maxBackoff is \"0s\""
    ),
    (
      #"{"methodConfig": [{"name": [], "retryPolicy": {"maxAttempts": 2, "initialBackoff": "1s", "maxBackoff": "1s", "backoffMultiplier": 0, "retryableStatusCodes": [14]}}]}"#,
      "retryPolicy: backoffMultiplier is 0.0; it is more than 0"
    ),
    (
      #"{"methodConfig": [{"name": [], "retryPolicy": {"maxAttempts": 2, "initialBackoff": "1s", "maxBackoff": "1s", "backoffMultiplier": 1, "retryableStatusCodes": []}}]}"#,
      "retryPolicy: retryableStatusCodes is empty"
    ),
    (
      #"{"methodConfig": [{"name": [], "retryPolicy": {"maxAttempts": 2, "initialBackoff": "1s", "maxBackoff": "1s", "backoffMultiplier": 1, "retryableStatusCodes": [99]}}]}"#,
      "there is no status 99"
    ),
    (
      #"{"methodConfig": [{"name": [], "retryPolicy": {"maxAttempts": 2, "initialBackoff": "1s", "maxBackoff": "1s", "backoffMultiplier": 1, "retryableStatusCodes": [1.5]}}]}"#,
      "there is no status 1.5"
    ),
    (
      #"{"methodConfig": [{"name": [], "hedgingPolicy": {"maxAttempts": 1}}]}"#,
      "hedgingPolicy: maxAttempts is 1; it is 2 or more"
    ),
    (
      #"{"methodConfig": [{"name": [], "maxRequestMessageBytes": 0.5}]}"#,
      "maxRequestMessageBytes: 0.5 is no whole number"
    ),
    (
      #"{"methodConfig": [{"name": [], "retryPolicy": {"maxAttempts": 2, "initialBackoff": "1s", "maxBackoff": "1s", "backoffMultiplier": 1, "retryableStatusCodes": ["OOPS"]}}]}"#,
      "there is no status \"OOPS\""
    ),
    (#"{"retryThrottling": {"maxTokens": 0, "tokenRatio": 1}}"#, "maxTokens 0"),
    (#"{"loadBalancingConfig": [{"grpclb": {}}]}"#, "none of pick_first"),
    (
      #"{"methodConfig": [{"name": [], "maxRequestMessageBytes": -1}]}"#,
      "maxRequestMessageBytes is -1"
    ),
    (#"{"methodConfig": [{"name": [{"method": "M"}]}]}"#, "a service for it"),
    (
      #"{"methodConfig": [{"name": [{"service": "a.B"}]}, {"name": [{"service": "a.B"}]}]}"#,
      "every name once"
    ),
    (#"{"methodConfig": [{"name": [{}], "timeout": "0s"}]}"#, "a duration above zero"),
  ])
  func whatIsWrongIsNamed(json: String, words: String) {
    let error = #expect(throws: ServiceConfig.ParseError.self) { try ServiceConfig(json: json) }
    #expect(error?.description.contains(words) == true, "\(String(describing: error))")
  }
}
