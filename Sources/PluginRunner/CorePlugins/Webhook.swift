import BuildProtos
import Crypto
import Foundation
import Glibc
import PluginKit
import RPC

/// `uses: webhook`: tells a receiver that a build is over, signed as Standard Webhooks wants it.
///
/// Sent with the `curl` program, which brings TLS and proxies along. Any 2xx is delivered; 410 says
/// that the receiver is gone for good; everything else may succeed later.
struct Webhook: BuildPlugin {
  static let name = "webhook"
  static let version = "1.0.0"
  static let description = "Tells a receiver that a build is over."
  static let kind = PluginDescription.Kind.notification
  static let inputsSchema = """
    {"type":"object","required":["url"],"additionalProperties":false,"properties":{\
    "url":{"type":"string"},"secret":{"type":"string"},"secret-env":{"type":"string"}}}
    """

  /// A receiver that has not answered by then is tried again later.
  static let timeoutSeconds = 15

  func executeBuildStep(_ context: BuildContext, events: StepEvents) async throws {
    try context.refuseUnknownInputs(["url", "secret", "secret-env"])
    let url = try context.requiredInput("url")
    guard url.hasPrefix("http://") || url.hasPrefix("https://") else {
      throw StepFailure("url is \"\(url)\": give an http or https URL")
    }
    let timestamp = Int64(time(nil))
    let body = try Self.body(context, timestamp: timestamp)
    var headers = [
      "content-type: application/json", "user-agent: millrace/1",
      "webhook-id: \(context.idempotencyID)", "webhook-timestamp: \(timestamp)",
    ]
    if let secrets = try Self.secrets(context) {
      let signature = try Self.signature(
        id: context.idempotencyID, timestamp: timestamp, body: body, secrets: secrets)
      headers.append("webhook-signature: \(signature)")
    }
    // The headers go through a file: arguments can be read by every process of the machine.
    let file = context.scratch + "/headers"
    try Self.write(Array(headers.map { "\($0)\n" }.joined().utf8), to: file)
    let output = try await Program.capture(
      [
        "curl", "--silent", "--show-error", "--max-time", "\(Self.timeoutSeconds)", "--proto",
        "=http,https", "--output", "/dev/null", "--write-out", "%{http_code}", "--request", "POST",
        "--header", "@\(file)", "--data-binary", "@-", "--", url,
      ], in: context.scratch, input: body)
    try Self.judge(output, url: url)
    events.log("delivered to \(url)\n")
  }

  /// What the receiver's answer means.
  static func judge(_ output: Program.Output, url: String) throws {
    guard output.status == 0 else {
      throw StepFailure("\(url) cannot be reached: \(output.said)", retryable: true)
    }
    switch Int(output.text.suffix(3)) ?? 0 {
    case 200..<300: return
    case 410: throw StepFailure("\(url) answered 410: the receiver is gone for good")
    case let code: throw StepFailure("\(url) answered \(code)", retryable: true)
    }
  }

  // MARK: Signature

  /// The secrets that the step names, several separated by spaces; nil if it names none.
  private static func secrets(_ context: BuildContext) throws -> [String]? {
    var text = context.inputs["secret"] ?? ""
    if let name = context.inputs["secret-env"], !name.isEmpty {
      guard let value = context.environment[name] ?? getenv(name).map({ String(cString: $0) })
      else {
        throw StepFailure("secret-env is \"\(name)\": there is no such variable")
      }
      text = value
    }
    let secrets = text.split(separator: " ").map(String.init)
    return secrets.isEmpty ? nil : secrets
  }

  /// `v1,` and base64 of HMAC-SHA256 over `id.timestamp.body`, once for each secret.
  static func signature(
    id: String, timestamp: Int64, body: [UInt8], secrets: [String]
  ) throws -> String {
    try secrets.map { secret in
      guard secret.hasPrefix("whsec_"),
        let key = Data(base64Encoded: String(secret.dropFirst(6))), !key.isEmpty
      else {
        throw StepFailure("a webhook secret is not `whsec_` and base64 behind it")
      }
      var authentication = HMAC<SHA256>(key: SymmetricKey(data: key))
      authentication.update(data: Array("\(id).\(timestamp).".utf8))
      authentication.update(data: body)
      return "v1," + Data(authentication.finalize()).base64EncodedString()
    }.joined(separator: " ")
  }

  private static func write(_ bytes: [UInt8], to path: String) throws {
    let file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    guard file >= 0 else { throw failure("create", path) }
    defer { close(file) }
    try MessageFrames.write(bytes, to: file)
  }

  // MARK: Body

  private struct Message: Encodable {
    struct Data: Encodable {
      struct Job: Encodable {
        var id: String
        var outcome: String
      }

      var id: String
      var project: String
      var outcome: String
      var createdAt: String?
      var finishedAt: String?
      var jobs: [Job]
    }

    var type = "build.finished"
    var timestamp: String
    var data: Data
  }

  /// The JSON that is sent.
  static func body(_ context: BuildContext, timestamp: Int64) throws -> [UInt8] {
    let build: SchedulerV1.Build
    do {
      build = try SchedulerV1.Build(decoding: context.build)
    } catch {
      throw StepFailure("the build to tell of cannot be read: \(error)")
    }
    let message = Message(
      timestamp: Self.text(GoogleProtobuf.Timestamp(seconds: timestamp)),
      data: Message.Data(
        id: build.id.isEmpty ? context.buildID : build.id,
        project: build.project.isEmpty ? context.project : build.project,
        outcome: Self.name(build.outcome), createdAt: build.createdAt.map(Self.text),
        finishedAt: build.finishedAt.map(Self.text),
        jobs: build.jobs.map { Message.Data.Job(id: $0.id, outcome: Self.name($0.outcome)) }))
    let encoder = JSONEncoder()
    encoder.keyEncodingStrategy = .convertToSnakeCase
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    return Array(try encoder.encode(message))
  }

  /// RFC 3339, in UTC.
  private static func text(_ time: GoogleProtobuf.Timestamp) -> String {
    var seconds = time_t(time.seconds)
    var parts = tm()
    gmtime_r(&seconds, &parts)
    func two(_ number: Int32) -> String { number < 10 ? "0\(number)" : "\(number)" }
    let millis = String(time.nanos / 1_000_000)
    let fraction = String(repeating: "0", count: max(0, 3 - millis.count)) + millis
    return "\(parts.tm_year + 1900)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday))T"
      + "\(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec)).\(fraction)Z"
  }

  private static func name(_ outcome: TypesV1.Outcome) -> String {
    switch outcome {
    case .unspecified, .unrecognized: "unknown"
    case .succeeded: "succeeded"
    case .failed: "failed"
    case .timedOut: "timed_out"
    case .cancelled: "cancelled"
    case .outOfMemory: "out_of_memory"
    case .executorLost: "executor_lost"
    case .preempted: "preempted"
    case .skipped: "skipped"
    case .rejected: "rejected"
    }
  }
}
