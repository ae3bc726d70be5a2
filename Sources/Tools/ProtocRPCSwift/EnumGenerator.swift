/// Makes a Swift enum of a proto's.
struct EnumGenerator {
  var model: EnumModel
  var types: TypeTable
  var visibility: String

  /// The case names, in the order of the values. If names without the enum's prefix collide, all
  /// keep it. Where they still do (`MOO` and `moo`), a value with a number of its own gets it
  /// behind its name; two names of one number become one.
  static func cases(of model: EnumModel) -> [String] {
    let short = model.values.map { Naming.enumCase($0.name, of: model.name) }
    if Set(short).count == short.count { return short }
    var numbers: [String: Int] = [:]
    return model.values.map { value in
      var name = Naming.member(value.name.lowercased())
      while let other = numbers[name], other != value.number {
        name += value.number < 0 ? "Minus\(value.number.magnitude)" : "\(value.number)"
      }
      numbers[name] = value.number
      return name
    }
  }

  func write(to text: inout SwiftText) {
    let name = Naming.type(self.model.name)
    let number = self.types.known("Int32")
    let cases = Self.cases(of: self.model).map(Naming.quoted)
    var firstOfNumber: [Int: String] = [:]
    var declared: Set<String> = []
    text.document(self.model.comment, fallback: "`\(self.model.fullName)`.")
    text.block("\(self.visibility) enum \(name): \(self.types.known("ProtobufEnum"))") { text in
      for (value, caseName) in zip(self.model.values, cases) {
        guard declared.insert(caseName).inserted else { continue }
        if let first = firstOfNumber[value.number] {
          text.document(value.comment, fallback: "Another name of `\(first)`.")
          text.line("\(self.visibility) static var \(caseName): \(name) { .\(first) }")
        } else {
          firstOfNumber[value.number] = caseName
          text.document(value.comment)
          text.line("case \(caseName)")
        }
      }
      text.line("/// A number that this program has no name for.")
      text.line("case unrecognized(\(number))")
      var numbers: Set<Int> = []
      let distinct = zip(self.model.values, cases).filter { value, _ in
        numbers.insert(value.number).inserted
      }
      text.line()
      text.block("\(self.visibility) init(rawValue: \(number))") { text in
        text.line("switch rawValue {")
        for (value, caseName) in distinct { text.line("case \(value.number): self = .\(caseName)") }
        text.line("default: self = .unrecognized(rawValue)")
        text.line("}")
      }
      text.line()
      text.block("\(self.visibility) var rawValue: \(number)") { text in
        text.line("switch self {")
        for (value, caseName) in distinct { text.line("case .\(caseName): \(value.number)") }
        text.line("case .unrecognized(let number): number")
        text.line("}")
      }
      text.line()
      text.line("/// Every value that has a name.")
      text.line(
        "\(self.visibility) static var allCases: [\(name)] { ["
          + distinct.map { ".\($0.1)" }.joined(separator: ", ") + "] }")
    }
  }
}
