extension StoreFailure {
  /// What an error of the server's means.
  ///
  /// - Parameter state: Its SQLSTATE, of which the first two characters are its class.
  init(sqlState state: String, message: String, at address: PostgresAddress, during action: String)
  {
    self.init(
      Self.kind(ofSQLState: state),
      "\(address): \(message) (SQLSTATE \(state)) while \(action)")
  }

  private static func kind(ofSQLState state: String) -> Kind {
    switch state {
    case "53100": .full
    case "53300": .tooManyConnections
    case "25006": .readOnly
    // A lock that was not given in time, a deadlock, a serialization failure.
    case "55P03", "40P01", "40001": .locked
    // It shuts down, has crashed, starts, or has ended a connection that was idle too long.
    case "57P01", "57P02", "57P03", "57P05", "25P03": .unreachable
    // No such database, no right to something.
    case "3D000", "42501": .refused
    case "XX001", "XX002": .corrupt
    case "58030": .inputOutput
    default:
      switch state.prefix(2) {
      case "08": .unreachable
      case "28": .refused
      case "58": .inputOutput
      default: .other
      }
    }
  }
}
