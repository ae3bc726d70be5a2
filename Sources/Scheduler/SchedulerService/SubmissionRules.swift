import BuildProtos
import Crypto
import Domain

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
    return nil
  }

  private static func isAllowed(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar {
    case "a"..."z", "A"..."Z", "0"..."9", "-", "_", ".", "/": true
    default: false
    }
  }

  /// The same project and key are the same build: its id is 100 bits of their hash, in the
  /// alphabet of base32 (RFC 4648, section 6), lower-case.
  static func buildID(project: String, key: String) -> BuildID {
    var hash = SHA256()
    hash.update(data: Array(project.utf8))
    // No project has a NUL, so no other pair has the same bytes.
    hash.update(data: [0])
    hash.update(data: Array(key.utf8))
    let alphabet = Array("abcdefghijklmnopqrstuvwxyz234567".unicodeScalars)
    var id = ""
    var bits: UInt32 = 0
    var count = 0
    for byte in hash.finalize() {
      bits = bits << 8 | UInt32(byte)
      count += 8
      while count >= 5 {
        count -= 5
        id.unicodeScalars.append(alphabet[Int(bits >> UInt32(count) & 31)])
      }
      if id.utf8.count >= 20 { break }
    }
    return BuildID(String(id.prefix(20)))
  }
}
