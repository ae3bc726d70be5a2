import Domain

extension PipelineReader {
  static let jobKeys = [
    "name", "needs", "runs-on", "resources", "strategy", "env", "timeout-minutes", "retry", "if",
    "steps",
  ]

  /// Entries of `jobs`; legs are bounded by ``Domain/Pipeline/maximumJobs``.
  static let maximumJobEntries = 256

  mutating func jobs(_ value: YAMLValue) -> [Pipeline.Job] {
    guard case .mapping(let entries) = value.content else {
      self.note(value, "`jobs` is \(value.kind)", "write a mapping from ids to jobs")
      return []
    }
    guard !entries.isEmpty else {
      self.note(value, "`jobs` is empty", "a pipeline needs at least one job")
      return []
    }
    guard entries.count <= Self.maximumJobEntries else {
      self.note(
        value, "`jobs` has \(entries.count) entries", "at most \(Self.maximumJobEntries) are run")
      return []
    }
    let keys = entries.compactMap(\.key.text)
    self.jobKeys = Set(keys)
    var jobs: [Pipeline.Job] = []
    var places: [String: YAMLValue] = [:]
    for entry in entries {
      guard let key = self.identifier(entry.key, "a job's id") else { continue }
      if let job = self.job(entry.value, key: key, at: entry.key, siblings: keys) {
        jobs.append(job)
        places[key] = entry.key
      }
    }
    for cycle in PipelineGraph(jobs.map { ($0.key, $0.needs) }).cycles() {
      let place = places[cycle.keys[0]] ?? value
      self.note(
        place, "`needs` has a cycle: \(cycle)", "take one of these jobs out of another's `needs`")
    }
    if jobs.count == entries.count, self.mistakes.isEmpty { self.expand(jobs, places, at: value) }
    return jobs
  }

  /// What only shows once the matrices are spread out.
  private mutating func expand(
    _ jobs: [Pipeline.Job], _ places: [String: YAMLValue], at value: YAMLValue
  ) {
    let anything = Resources(cpuMillis: 1, memory: ByteCount(1))
    // Their matrices were counted when they were read.
    let legs = jobs.reduce(0) { $0 + ((try? $1.matrix?.legs().count) ?? 1) }
    guard legs <= Pipeline.maximumJobs else {
      self.note(
        value, "\(legs) jobs with all legs of their matrices",
        "a build has at most \(Pipeline.maximumJobs)")
      return
    }
    for job in jobs {
      do {
        _ = try Pipeline(jobs: [job]).expanded(standard: anything)
      } catch {
        self.note(places[job.key] ?? value, "in job \"\(job.key)\", \(error.message)")
      }
    }
  }

  private mutating func job(
    _ value: YAMLValue, key: String, at keyValue: YAMLValue, siblings: [String]
  ) -> Pipeline.Job? {
    guard let fields = self.fields(value, of: "job \"\(key)\"", known: Self.jobKeys) else {
      return nil
    }
    var job = Pipeline.Job(key: key, steps: [])
    if let needs = fields["needs"]?.value { job.needs = self.needs(needs, of: key, siblings) }
    if let strategy = fields["strategy"]?.value { self.strategy(strategy, into: &job) }
    let names = job.matrix?.names
    let own = Scope(
      contexts: job.matrix == nil ? ["env"] : ["matrix", "env"], matrix: names ?? [])
    var scope = own
    scope.contexts += ["needs"]
    scope.needs = job.needs
    if let name = fields["name"]?.value { job.name = self.legText(name, "name", own) ?? "" }
    if let runsOn = fields["runs-on"]?.value { self.runsOn(runsOn, own, into: &job) }
    if let resources = fields["resources"]?.value { self.resources(resources, own, into: &job) }
    if let env = fields["env"]?.value { job.environment = self.environment(env, in: scope) }
    if let timeout = fields["timeout-minutes"]?.value { job.timeout = self.timeout(timeout) }
    if let retry = fields["retry"]?.value { job.retry = self.retry(retry) }
    if let condition = fields["if"]?.value {
      job.condition = self.condition(condition, scope) ?? ""
    }
    guard let steps = fields["steps"] else {
      self.note(keyValue, "job \"\(key)\" has no `steps`", "give it at least one: - run: make")
      return job
    }
    job.steps = self.steps(steps.value, of: key, scope)
    return job
  }

  /// Bytes of a text that is made anew for every leg.
  static let maximumLegTextBytes = 1_000

  /// A text that is made anew for every leg.
  private mutating func legText(_ value: YAMLValue, _ name: String, _ scope: Scope) -> String? {
    guard let text = self.template(value, name, scope) else { return nil }
    if text.utf8.count <= Self.maximumLegTextBytes { return text }
    self.note(
      value, "`\(name)` has \(text.utf8.count) bytes", "at most \(Self.maximumLegTextBytes)")
    return nil
  }

  private mutating func needs(
    _ value: YAMLValue, of key: String, _ siblings: [String]
  ) -> [String] {
    var needs: [String] = []
    let words = self.words(value, "needs")
    guard words.count <= Self.maximumJobEntries else {
      self.note(
        value, "`needs` has \(words.count) entries", "there are at most \(Self.maximumJobEntries)")
      return []
    }
    for word in words {
      guard let need = word.text else { continue }
      if !self.jobKeys.contains(need) {
        self.note(
          word, "job \"\(key)\" needs \"\(need.shortened)\", which is no job",
          need.nearest(in: siblings).map { "did you mean \"\($0)\"?" }
            ?? "there are \(siblings.prefix(20).map { $0 }.listed)")
      } else if !needs.contains(need) {
        needs.append(need)
      }
    }
    return needs
  }

  private mutating func runsOn(_ value: YAMLValue, _ scope: Scope, into job: inout Pipeline.Job) {
    var labels = value
    if case .mapping = value.content {
      let fields = self.fields(value, of: "runs-on", known: ["pool", "labels"]) ?? [:]
      if let pool = fields["pool"]?.value { job.pool = self.identifier(pool, "a pool") ?? "" }
      guard let entry = fields["labels"] else { return }
      labels = entry.value
    }
    let words = self.words(labels, "runs-on")
    guard words.count <= ExecutorLabel.maximumCount else {
      self.note(
        labels, "`runs-on` has \(words.count) labels", "at most \(ExecutorLabel.maximumCount)")
      return
    }
    job.labels = words.compactMap { word in
      guard let label = self.legText(word, "runs-on", scope) else { return nil }
      if label.contains("${{") || ExecutorLabel.isLabel(label) { return label }
      self.note(
        word, "the label \"\(label.shortened)\"",
        "write at most \(ExecutorLabel.maximumBytes) letters, digits and -_.=/:")
      return nil
    }
  }

  private mutating func resources(
    _ value: YAMLValue, _ scope: Scope, into job: inout Pipeline.Job
  ) {
    guard let fields = self.fields(value, of: "resources", known: ["cpu", "memory"]) else {
      return
    }
    if let cpu = fields["cpu"]?.value, let text = self.legText(cpu, "cpu", scope) {
      job.cpu = text
      if !text.contains("${{"), PipelineQuantity.cpuMillis(text) == nil {
        self.note(
          cpu, "`cpu` is \"\(text.shortened)\"", "write a number of CPUs: 2, 0.5 or 500m")
      }
    }
    if let memory = fields["memory"]?.value, let text = self.legText(memory, "memory", scope) {
      job.memory = text
      if !text.contains("${{"), PipelineQuantity.memory(text) == nil {
        self.note(
          memory, "`memory` is \"\(text.shortened)\"",
          "write an amount: 4GiB, 512MiB or 2G; at most 16TiB")
      }
    }
  }

  static let retryWords: [String: Outcome] = [
    "failure": .failed, "timeout": .timedOut, "out-of-memory": .outOfMemory,
  ]

  private mutating func retry(_ value: YAMLValue) -> Pipeline.Retry {
    let range = 0...Pipeline.Retry.maximumLimit
    if case .scalar = value.content {
      return Pipeline.Retry(limit: self.count(value, "retry", in: range) ?? 0)
    }
    guard let fields = self.fields(value, of: "retry", known: ["limit", "on"]) else {
      return Pipeline.Retry()
    }
    var retry = Pipeline.Retry(limit: 1)
    if let limit = fields["limit"]?.value {
      retry.limit = self.count(limit, "limit", in: range) ?? 0
    }
    if let on = fields["on"]?.value {
      let words = self.words(on, "on")
      let known = Self.retryWords.keys.sorted()
      for word in words { self.check(word.text ?? "", at: word, isOneOf: known, "value of `on`") }
      retry.outcomes = Set(words.compactMap { Self.retryWords[$0.text ?? ""] })
    }
    return retry
  }

  // MARK: Matrix

  private mutating func strategy(_ value: YAMLValue, into job: inout Pipeline.Job) {
    guard
      let fields = self.fields(
        value, of: "strategy", known: ["matrix", "fail-fast", "max-parallel"])
    else { return }
    if let flag = fields["fail-fast"]?.value { job.failFast = self.flag(flag, "fail-fast") ?? true }
    if let parallel = fields["max-parallel"]?.value {
      job.maximumParallel = self.count(
        parallel, "max-parallel", in: 1...Pipeline.Matrix.maximumLegs)
    }
    if let matrix = fields["matrix"]?.value { job.matrix = self.matrix(matrix) }
  }

  private mutating func matrix(_ value: YAMLValue) -> Pipeline.Matrix? {
    guard case .mapping(let entries) = value.content else {
      self.note(value, "`matrix` is \(value.kind)", "write a mapping: matrix: {cc: [gcc, clang]}")
      return nil
    }
    let known = self.mistakes.count
    var matrix = Pipeline.Matrix(axes: [])
    for entry in entries {
      switch entry.key.text {
      case "include"?:
        matrix.include = self.items(entry.value, "include").compactMap {
          self.combination($0, "include")
        }
      case "exclude"?:
        matrix.exclude = self.items(entry.value, "exclude").compactMap {
          self.combination($0, "exclude")
        }
      default:
        guard let name = self.identifier(entry.key, "an axis of the matrix") else { continue }
        let values = self.words(entry.value, "matrix.\(name)").compactMap(\.text)
        if values.isEmpty, case .sequence(let items) = entry.value.content, items.isEmpty {
          self.note(entry.value, "`matrix.\(name)` is empty", "give it a value, or remove it")
        }
        matrix.axes.append(Pipeline.Matrix.Axis(name: name, values: values))
      }
    }
    guard self.canSpreadOut(matrix, at: value) else { return nil }
    for (entry, list) in entries.filter({ $0.key.text == "exclude" }).flatMap({ entry in
      matrix.exclude.map { (entry, $0) }
    }) {
      let known = matrix.axes.map(\.name)
      for name in list.entries.map(\.name) where !known.contains(name) {
        self.note(
          entry.key, "`exclude` speaks of \"\(name.shortened)\", which is no axis",
          name.nearest(in: known).map { "did you mean \"\($0)\"?" } ?? "there are \(known.listed)")
      }
    }
    do {
      if try matrix.legs().isEmpty, self.mistakes.count == known {
        self.note(value, "a matrix without a single leg", "give it values, or remove it")
      }
    } catch {
      self.note(value, "a matrix of \(error)", "make several jobs of it")
      return nil
    }
    return matrix
  }

  /// Whether a matrix and those before it are within the bounds: nothing of it is compared before.
  private mutating func canSpreadOut(_ matrix: Pipeline.Matrix, at value: YAMLValue) -> Bool {
    do {
      self.effort += try matrix.effort()
      guard self.effort <= Pipeline.Matrix.maximumEffort else {
        throw Pipeline.Matrix.Excess.effort
      }
      return true
    } catch {
      self.note(value, "a matrix of \(error)", "make several jobs of it")
      return false
    }
  }

  private mutating func combination(_ value: YAMLValue, _ name: String) -> Pipeline.Combination? {
    guard case .mapping(let entries) = value.content else {
      self.note(value, "`\(name)` has \(value.kind) in its list", "write a mapping: - {cc: gcc}")
      return nil
    }
    return Pipeline.Combination(
      entries.compactMap { entry in
        guard let name = self.identifier(entry.key, "a name in the matrix"),
          let text = self.text(entry.value, "matrix.\(name)")
        else { return nil }
        return Pipeline.Combination.Entry(name: name, value: text)
      })
  }

  // MARK: Steps

  static let stepKeys = [
    "name", "id", "run", "uses", "with", "env", "if", "continue-on-error", "timeout-minutes",
    "working-directory", "shell",
  ]

  /// More steps in a job than anyone writes by hand; a runner takes no more than this either.
  static let maximumSteps = 100

  private mutating func steps(
    _ value: YAMLValue, of key: String, _ scope: Scope
  ) -> [Pipeline.Step] {
    let items = self.items(value, "steps")
    if items.isEmpty, case .sequence = value.content {
      self.note(value, "job \"\(key)\" has no step", "give it at least one: - run: make")
    }
    guard items.count <= Self.maximumSteps else {
      self.note(value, "job \"\(key)\" has \(items.count) steps", "at most \(Self.maximumSteps)")
      return []
    }
    var scope = scope
    scope.contexts += ["steps"]
    var steps: [Pipeline.Step] = []
    for item in items {
      guard let step = self.step(item, scope) else { continue }
      if !step.id.isEmpty {
        if scope.steps.contains(step.id), case .mapping(let entries) = item.content,
          let id = entries.first(where: { $0.key.text == "id" })
        {
          self.note(
            id.value, "the step id \"\(step.id)\" is here a second time",
            "give each step of a job an id of its own")
        }
        scope.steps.append(step.id)
      }
      steps.append(step)
    }
    return steps
  }

  private mutating func step(_ value: YAMLValue, _ scope: Scope) -> Pipeline.Step? {
    let known = self.mistakes.count
    guard let fields = self.fields(value, of: "a step", known: Self.stepKeys) else { return nil }
    var step = Pipeline.Step(action: .run(""))
    switch (fields["run"], fields["uses"]) {
    case (let run?, nil):
      step.action = .run(self.template(run.value, "run", scope) ?? "")
      if let with = fields["with"] {
        self.note(with.key, "`with` beside `run`", "`with` is for `uses`; give a script `env`")
      }
    case (nil, let uses?):
      step.action = .uses(self.plugin(uses.value) ?? "")
      for name in ["shell", "working-directory"] {
        if let entry = fields[name] {
          self.note(entry.key, "`\(name)` beside `uses`", "`\(name)` is for `run`")
        }
      }
    case (.some, let uses?):
      self.note(uses.key, "a step with both `run` and `uses`", "make two steps of it")
    // A misspelt `run` has been noted already.
    case (nil, nil) where self.mistakes.count == known:
      self.note(value, "a step with neither `run` nor `uses`", "give it one of them")
    case (nil, nil): break
    }
    if let id = fields["id"]?.value { step.id = self.identifier(id, "a step's id") ?? "" }
    if let name = fields["name"]?.value { step.name = self.template(name, "name", scope) ?? "" }
    if let with = fields["with"]?.value { step.inputs = self.inputs(with, in: scope) }
    if let env = fields["env"]?.value { step.environment = self.environment(env, in: scope) }
    if let condition = fields["if"]?.value {
      step.condition = self.condition(condition, scope) ?? ""
    }
    if let flag = fields["continue-on-error"]?.value {
      step.continueOnError = self.flag(flag, "continue-on-error") ?? false
    }
    if let timeout = fields["timeout-minutes"]?.value { step.timeout = self.timeout(timeout) }
    if let folder = fields["working-directory"]?.value {
      step.workingDirectory = self.template(folder, "working-directory", scope) ?? ""
    }
    if let shell = fields["shell"]?.value { step.shell = self.text(shell, "shell") ?? "" }
    return step
  }
}
