/// What an executor has and a job may ask for: `gpu`, `os=linux`.
package enum ExecutorLabel {
  package static let maximumBytes = 128
  /// Of one executor, or of one job.
  package static let maximumCount = 64

  /// Whether a job can ask for it.
  package static func isLabel(_ text: String) -> Bool {
    text.utf8.count <= Self.maximumBytes
      && text.allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber || "-_.=/:".contains($0)) }
  }
}
