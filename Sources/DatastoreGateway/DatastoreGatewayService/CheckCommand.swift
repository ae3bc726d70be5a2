import ServiceRuntime

/// `millrace-datastore-gateway check`: whether the store that the settings name is whole.
package enum CheckCommand {
  /// Runs the command.
  ///
  /// - Parameters:
  ///   - arguments: Behind the word `check`: the settings that the service has.
  ///   - print: What is found goes to standard output, why nothing could be to standard error (true).
  /// - Returns: The exit code: 0 for a store that is whole, 1 for one that is not, 2 if it could not be
  ///   told.
  package static func run(
    arguments: [String], environment: [String: String],
    print: @escaping (_ text: String, _ isError: Bool) -> Void
  ) -> Int32 {
    let program = "millrace-datastore-gateway check"
    let settings =
      ServiceRuntime.commonSettings(of: DatastoreGateway.self) + DatastoreGateway.settings
    do {
      let invocation = try ServiceRuntime.invocation(
        of: settings, arguments: arguments, environment: environment)
      guard case .run(let values) = invocation else {
        let summary = "Checks the store: its pages, its entities, its indexes against its entities."
        print(Invocation.help(program: program, summary: summary, settings: settings), false)
        return 0
      }
      let configuration = try Configuration(values)
      guard case .sqlite = configuration.store else {
        print("\(program): only a store of SQLite can be checked so far\n", true)
        return 2
      }
      return try self.check("\(values.string("data"))/\(DatastoreGateway.fileName)", print)
    } catch {
      print("\(program): \(error)\n", true)
      return 2
    }
  }

  private static func check(
    _ path: String, _ print: @escaping (String, Bool) -> Void
  ) throws(StoreFailure) -> Int32 {
    let report = try SQLiteCheck.run(path: path) { report in
      print("\(report.entities) entities\n", true)
    }
    for fault in report.faults { print("\(fault)\n", false) }
    if report.faultCount > report.faults.count {
      print("and \(report.faultCount - report.faults.count) more\n", false)
    }
    let counts = "\(report.entities) entities, \(report.indexRows) index rows"
    print("\(path): \(counts), \(report.faultCount) faults\n", false)
    return report.isWhole ? 0 : 1
  }
}
