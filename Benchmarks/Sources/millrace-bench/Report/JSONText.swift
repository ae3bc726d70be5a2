import FoundationEssentials

extension Encodable {
  /// As `--output json` prints it.
  var json: String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes, .prettyPrinted]
    guard let data = try? encoder.encode(self) else {
      preconditionFailure("a report holds only strings, finite numbers and booleans")
    }
    return String(decoding: data, as: UTF8.self)
  }
}
