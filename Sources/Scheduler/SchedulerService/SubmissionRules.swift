import BuildProtos
import Crypto
import Domain
import RPC
import SchedulerCore

/// What a submission may look like, and what its build is called.
enum SubmissionRules {
  static let maximumProjectBytes = 200
  static let maximumKeyBytes = 256
  /// Of all annotations, and of the environment: they are part of the build's record.
  static let maximumMapBytes = 64 << 10
  static let maximumBuildIDBytes = 200

  /// What is wrong with a request, apart from its pipeline; nil if nothing is.
  static func mistake(in request: SchedulerV1.SubmitBuildRequest) -> String? {
    if request.project.isEmpty { return "project is empty" }
    if request.project.utf8.count > self.maximumProjectBytes {
      return
        "project has \(request.project.utf8.count) characters, more than \(self.maximumProjectBytes)"
    }
    if let wrong = request.project.unicodeScalars.first(where: { !self.isAllowed($0) }) {
      return "project \"\(request.project)\" has the character \"\(wrong)\"; "
        + "it can have letters, digits and -_./"
    }
    if request.idempotencyKey.isEmpty {
      return "idempotency_key is empty; choose one, and use it again for the same build"
    }
    if request.idempotencyKey.utf8.count > self.maximumKeyBytes {
      return "idempotency_key has \(request.idempotencyKey.utf8.count) characters, more than "
        + "\(self.maximumKeyBytes)"
    }
    for (field, map) in [("annotations", request.annotations), ("env", request.env)] {
      let bytes = map.reduce(0) { $0 + $1.key.utf8.count + $1.value.utf8.count }
      if bytes > self.maximumMapBytes {
        return "\(field) takes \(bytes) bytes, more than \(self.maximumMapBytes)"
      }
    }
    let priorities = Submission.priorities
    if !priorities.contains(request.priority) {
      return "priority is \(request.priority), not from \(priorities.lowerBound) to "
        + "\(priorities.upperBound)"
    }
    if let name = request.env.keys.sorted().first(where: { !Pipeline.isEnvironmentName($0) }) {
      return "env has the name \"\(name.prefix(64))\"; "
        + "write letters, digits and _, the first no digit"
    }
    return nil
  }

  private static func isAllowed(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar {
    case "a"..."z", "A"..."Z", "0"..."9", "-", "_", ".", "/": true
    default: false
    }
  }

  /// The same project and key are the same build, for ever: its id is 100 bits of their hash, or, where
  /// the key says when it was chosen, that time and 50 bits: builds that come together then stand together
  /// in the datastore.
  static func buildID(project: String, key: String) -> BuildID {
    // No project has a NUL, so no other pair has the same bytes.
    let hash = self.fingerprint(of: Array(project.utf8) + [0] + Array(key.utf8)).text
    guard let milliseconds = TimeOrderedKey.milliseconds(of: key) else { return BuildID(hash) }
    return BuildID(self.sortable(milliseconds) + hash.suffix(hash.count - self.timeCharacters))
  }

  private static let timeCharacters = 10

  /// 48 bits in base32hex (RFC 4648, section 7), which sorts as they do.
  private static func sortable(_ bits: UInt64) -> String {
    let digits = String(bits, radix: 32)
    return String(repeating: "0", count: self.timeCharacters - digits.count) + digits
  }

  /// Of all that makes one build another: what it runs, on what, with what, how soon.
  static func fingerprint(_ request: SchedulerV1.SubmitBuildRequest) -> Fingerprint {
    let environment = request.env.sorted { $0.key < $1.key }
    let parts: [[UInt8]] =
      [
        request.pipeline, Array(request.pipelinePath.utf8), request.source?.encoded() ?? [],
        Array("\(request.priority)".utf8),
      ] + environment.flatMap { [Array($0.key.utf8), Array($0.value.utf8)] }
    // Each behind its length, so that no other parts have the same bytes.
    return self.fingerprint(of: parts.flatMap { Array("\($0.count):".utf8) + $0 })
  }

  /// Of the SHA-256.
  private static func fingerprint(of bytes: [UInt8]) -> Fingerprint {
    Fingerprint(hash: SHA256.hash(data: bytes))
  }
}
