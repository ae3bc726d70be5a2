/// One build of a load, as the client saw it.
struct Submission: Sendable {
  enum End: Sendable {
    case answered(buildID: String)
    /// Given up, with the call's error.
    case failed(String)
  }

  /// When it was to be submitted; what it waited since counts.
  var submitted: Duration
  /// When it was answered, or given up.
  var ended: Duration
  var end: End
  /// RESOURCE_EXHAUSTED, after which the client waited as it was told.
  var refusals = 0
  /// Calls made again because a connection or an answer was lost.
  var repetitions = 0

  /// The build, if it was answered.
  var buildID: String? {
    if case .answered(let id) = self.end { id } else { nil }
  }
}
