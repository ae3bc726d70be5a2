import Domain

/// Walks a YAML tree and makes a pipeline of it, noting each mistake and going on.
struct PipelineReader {
  /// A mapping's values by key, with the places of the keys.
  typealias Fields = [String: YAMLValue.Entry]

  let source: SourceText
  /// At most ``PipelineMistakes/maximumCount``, each once.
  private(set) var mistakes: [PipelineMistake]
  /// Mistakes that were found beyond those.
  private var further = 0
  /// Keys of all jobs.
  var jobKeys: Set<String> = []
  /// What spreading out the matrices takes, up to here.
  var effort = 0

  init(text: String, mistakes: [PipelineMistake]) {
    self.source = SourceText(text)
    self.mistakes = mistakes
  }

  /// In the order of the file, each once, within the bound.
  func allMistakes(path: String) -> PipelineMistakes {
    // Those of one place stay in the order in which they were found.
    let sorted = self.mistakes.enumerated()
      .sorted { left, right in
        (left.element.line, left.element.column, left.offset)
          < (right.element.line, right.element.column, right.offset)
      }
      .map(\.element)
    return PipelineMistakes(path: path, mistakes: sorted, count: sorted.count + self.further)
  }

  /// Whether further mistakes are only counted.
  var hasEnough: Bool { self.mistakes.count >= PipelineMistakes.maximumCount }

  /// Notes a mistake at a value; its words are not even made once there are enough.
  mutating func note(
    _ value: YAMLValue, _ message: @autoclosure () -> String,
    _ suggestion: @autoclosure () -> String = ""
  ) {
    self.note((value.line, value.column), message(), suggestion())
  }

  mutating func note(
    _ place: @autoclosure () -> (line: Int, column: Int), _ message: @autoclosure () -> String,
    _ suggestion: @autoclosure () -> String
  ) {
    guard !self.hasEnough else {
      self.further += 1
      return
    }
    let (line, column) = place()
    let mistake = PipelineMistake(
      line: line, column: column, message: message(), suggestion: suggestion())
    if !self.mistakes.contains(mistake) { self.mistakes.append(mistake) }
  }

  // MARK: The top

  static let topKeys = ["name", "on", "env", "concurrency", "jobs", "notify"]

  mutating func pipeline(_ root: YAMLValue) -> Pipeline? {
    guard let fields = self.fields(root, of: "a pipeline", known: Self.topKeys) else { return nil }
    var pipeline = Pipeline(jobs: [])
    if let name = fields["name"]?.value { pipeline.name = self.text(name, "name") ?? "" }
    if let on = fields["on"]?.value { self.triggers(on) }
    if let env = fields["env"]?.value {
      pipeline.environment = self.environment(env, in: Scope(contexts: ["env"]))
    }
    if let value = fields["concurrency"]?.value { pipeline.concurrency = self.concurrency(value) }
    if let notify = fields["notify"]?.value {
      pipeline.notifications = self.items(notify, "notify").compactMap { self.notification($0) }
    }
    guard let jobs = fields["jobs"] else {
      self.note(
        root, "no `jobs`", "a pipeline needs at least one job: jobs: {build: {steps: [...]}}")
      return nil
    }
    pipeline.jobs = self.jobs(jobs.value)
    return pipeline
  }

  static let triggerWords = ["push", "pull_request", "tag", "schedule", "manual"]

  /// Who starts builds: checked here, used by whoever receives such events.
  private mutating func triggers(_ value: YAMLValue) {
    switch value.content {
    case .scalar: self.trigger(value)
    case .sequence(let items): for item in items { self.trigger(item) }
    case .mapping(let entries): for entry in entries { self.trigger(entry.key) }
    }
  }

  private mutating func trigger(_ value: YAMLValue) {
    guard let text = value.text else {
      self.note(value, "`on` names \(value.kind)", "write one of \(Self.triggerWords.listed)")
      return
    }
    self.check(text, at: value, isOneOf: Self.triggerWords, "event")
  }

  private mutating func concurrency(_ value: YAMLValue) -> Pipeline.Concurrency? {
    let scope = Scope(contexts: ["env"])
    if case .scalar = value.content {
      return self.template(value, "concurrency", scope).map { Pipeline.Concurrency(group: $0) }
    }
    guard
      let fields = self.fields(value, of: "concurrency", known: ["group", "cancel-in-progress"])
    else { return nil }
    guard let group = fields["group"]?.value else {
      self.note(value, "concurrency has no `group`", "name one: group: deploy")
      return nil
    }
    let cancel = fields["cancel-in-progress"].flatMap {
      self.flag($0.value, "cancel-in-progress")
    }
    return self.template(group, "group", scope).map {
      Pipeline.Concurrency(group: $0, cancelInProgress: cancel ?? false)
    }
  }

  private mutating func notification(_ value: YAMLValue) -> Pipeline.Notification? {
    guard
      let fields = self.fields(value, of: "a notification", known: ["uses", "with", "on"])
    else { return nil }
    guard let uses = fields["uses"]?.value else {
      self.note(value, "a notification without `uses`", "name a plugin: uses: webhook")
      return nil
    }
    var notification = Pipeline.Notification(uses: self.plugin(uses) ?? "")
    if let with = fields["with"]?.value {
      notification.inputs = self.inputs(with, in: Scope(contexts: ["env"]))
    }
    if let on = fields["on"]?.value {
      let words = self.words(on, "on")
      let known = ["success", "failure", "always"]
      for word in words { self.check(word.text ?? "", at: word, isOneOf: known, "value of `on`") }
      let texts = Set(words.compactMap(\.text))
      notification.onSuccess = texts.contains("success") || texts.contains("always")
      notification.onFailure = texts.contains("failure") || texts.contains("always")
    }
    return notification
  }

  // MARK: Values

  /// A mapping's entries; notes what is no mapping, and every key that is not known.
  mutating func fields(_ value: YAMLValue, of what: String, known: [String]) -> Fields? {
    guard case .mapping(let entries) = value.content else {
      self.note(value, "\(what) is \(value.kind)", "write a mapping with \(known.listed)")
      return nil
    }
    var fields: Fields = [:]
    for entry in entries {
      guard let key = entry.key.text, known.contains(key) else {
        let key = entry.key.text ?? entry.key.kind
        let suggestion =
          key == "<<"
          ? "merging is not supported; use an alias for the whole value"
          : key.nearest(in: known).map { "did you mean \"\($0)\"?" }
            ?? "there are \(known.listed)"
        self.note(entry.key, "unknown key \"\(key.shortened)\" in \(what)", suggestion)
        continue
      }
      fields[key] = entry
    }
    return fields
  }

  /// A list's items; notes what is no list.
  mutating func items(_ value: YAMLValue, _ name: String) -> [YAMLValue] {
    guard case .sequence(let items) = value.content else {
      self.note(value, "`\(name)` is \(value.kind)", "write a list: items that begin with \"- \"")
      return []
    }
    return items
  }

  /// One word, or a list of words.
  mutating func words(_ value: YAMLValue, _ name: String) -> [YAMLValue] {
    switch value.content {
    case .scalar where !value.isNull: return [value]
    case .sequence(let items):
      return items.filter { item in
        if item.text != nil, !item.isNull { return true }
        self.note(item, "`\(name)` has \(item.kind) in its list", "write a word")
        return false
      }
    case .scalar, .mapping:
      self.note(value, "`\(name)` is \(value.kind)", "write a word or a list of words")
      return []
    }
  }

  /// Any scalar, as text.
  mutating func text(_ value: YAMLValue, _ name: String) -> String? {
    if let text = value.text, !value.isNull { return text }
    self.note(value, "`\(name)` is \(value.kind)", "write text")
    return nil
  }

  mutating func flag(_ value: YAMLValue, _ name: String) -> Bool? {
    switch value.text {
    case "true": return true
    case "false": return false
    default:
      self.note(value, "`\(name)` is \(value.kind)", "write true or false")
      return nil
    }
  }

  mutating func count(_ value: YAMLValue, _ name: String, in range: ClosedRange<Int>) -> Int? {
    if let text = value.text, let number = Int(text), range.contains(number) { return number }
    self.note(
      value, "`\(name)` is \(value.kind)",
      "write a whole number from \(range.lowerBound) to \(range.upperBound)")
    return nil
  }

  /// A week: what runs longer hangs.
  static let maximumTimeoutMinutes = 7 * 24 * 60.0

  mutating func timeout(_ value: YAMLValue) -> Duration? {
    if let text = value.text, let minutes = Double(text), minutes > 0,
      minutes <= Self.maximumTimeoutMinutes
    {
      return .milliseconds(Int64(minutes * 60_000))
    }
    self.note(
      value, "`timeout-minutes` is \(value.kind)",
      "write a number of minutes, at most \(Int(Self.maximumTimeoutMinutes))")
    return nil
  }

  mutating func plugin(_ value: YAMLValue) -> String? {
    guard let name = self.text(value, "uses") else { return nil }
    let isName =
      !name.isEmpty && name.count <= 200
      && name.allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber || "-_./@:".contains($0)) }
    if isName { return name }
    self.note(value, "`uses` is \(value.kind)", "write the name of a plugin, such as checkout")
    return nil
  }

  mutating func check(_ text: String, at value: YAMLValue, isOneOf known: [String], _ what: String)
  {
    if known.contains(text) { return }
    self.note(
      value, "unknown \(what) \"\(text.shortened)\"",
      text.nearest(in: known).map { "did you mean \"\($0)\"?" } ?? "there are \(known.listed)")
  }

  /// A name as expressions can write it.
  mutating func identifier(_ value: YAMLValue, _ what: String) -> String? {
    let text = value.text ?? ""
    let isIdentifier =
      !value.isNull && text.count <= 100
      && text.allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "_" || $0 == "-") }
      && text.first.map { $0.isLetter || $0 == "_" } ?? false
    if isIdentifier { return text }
    self.note(
      value, "\(what) is \(value.kind)",
      "write at most 100 letters, digits, - and _, the first a letter or _")
    return nil
  }

  mutating func environment(_ value: YAMLValue, in scope: Scope) -> [String: String] {
    self.texts(value, "env", scope) { name in
      Pipeline.isEnvironmentName(name)
        ? nil : "write letters, digits and _, the first no digit"
    }
  }

  mutating func inputs(_ value: YAMLValue, in scope: Scope) -> [String: String] {
    self.texts(value, "with", scope) { $0.isEmpty ? "write a name" : nil }
  }

  /// A mapping from names to texts with expressions.
  private mutating func texts(
    _ value: YAMLValue, _ name: String, _ scope: Scope, refusal: (String) -> String?
  ) -> [String: String] {
    guard case .mapping(let entries) = value.content else {
      self.note(value, "`\(name)` is \(value.kind)", "write a mapping from names to texts")
      return [:]
    }
    var texts: [String: String] = [:]
    for entry in entries {
      guard let key = entry.key.text else {
        self.note(entry.key, "`\(name)` has \(entry.key.kind) for a name", "write a name")
        continue
      }
      if let refusal = refusal(key) {
        self.note(entry.key, "`\(name)` has the name \"\(key.shortened)\"", refusal)
      }
      if entry.value.isNull {
        texts[key] = ""
      } else if let text = self.template(entry.value, "\(name).\(key.shortened)", scope) {
        texts[key] = text
      }
    }
    return texts
  }
}

extension [String] {
  /// The words as a sentence lists them.
  var listed: String {
    guard self.count > 1, let last = self.last else { return self.first ?? "nothing" }
    return "\(self.dropLast().joined(separator: ", ")) and \(last)"
  }
}
