extension ServiceRuntime {
  /// The version of all of Millrace's programs.
  package static let version = "0.1.0"
}
