import Domain
import PipelineSyntax
import Testing

/// The mistakes of a text, as `line:column: message; suggestion`.
func mistakes(_ text: String) -> [String] {
  do {
    _ = try PipelineFile.read(Array(text.utf8))
    return []
  } catch {
    return error.mistakes.map(\.description)
  }
}

@Test
func aWholePipelineIsRead() throws {
  let text = """
    name: Demo
    on: [push, manual]
    env:
      LEVEL: 2
      EMPTY:
    concurrency:
      group: deploy-${{ env.LEVEL }}
      cancel-in-progress: true
    jobs:
      build:
        name: Build ${{ matrix.cc }}
        runs-on: {pool: big, labels: [linux, "${{ matrix.cc }}"]}
        resources: {cpu: 2, memory: 4GiB}
        strategy:
          fail-fast: false
          max-parallel: 3
          matrix:
            cc: [gcc, clang]
            exclude:
              - cc: clang
            include:
              - {cc: tcc, extra: yes}
        timeout-minutes: 1.5
        retry: {limit: 2, on: [failure, timeout]}
        steps:
          - uses: checkout
          - id: make
            name: Make it
            run: |
              make CC=${{ matrix.cc }}
              echo *.o
            env: {A: "1"}
            shell: sh
            working-directory: src
            continue-on-error: true
            timeout-minutes: 10
          - uses: artifacts
            if: steps.make.outcome == 'success' && always()
            with:
              path: "a\\nb"
      test:
        needs: build
        if: needs.build.result != 'failure'
        runs-on: linux
        retry: 1
        steps:
          - run: ./test
    notify:
      - uses: webhook
        with: {url: "http://127.0.0.1:1/"}
        on: failure
    """
  let pipeline = try PipelineFile.read(Array(text.utf8))
  #expect(pipeline.name == "Demo")
  #expect(pipeline.environment == ["LEVEL": "2", "EMPTY": ""])
  #expect(pipeline.concurrency?.cancelInProgress == true)
  #expect(pipeline.concurrency?.group == "deploy-${{ env.LEVEL }}")
  let build = pipeline.jobs[0]
  #expect(build.pool == "big")
  #expect(build.labels == ["linux", "${{ matrix.cc }}"])
  #expect(build.cpu == "2")
  #expect(!build.failFast)
  #expect(build.maximumParallel == 3)
  #expect(try build.matrix?.legs().map(\.label) == ["gcc", "tcc, yes"])
  #expect(build.timeout == .seconds(90))
  #expect(build.retry == Pipeline.Retry(limit: 2, outcomes: [.failed, .timedOut]))
  #expect(build.steps.count == 3)
  #expect(build.steps[1].action == .run("make CC=${{ matrix.cc }}\necho *.o\n"))
  #expect(build.steps[1].continueOnError)
  #expect(build.steps[1].timeout == .seconds(600))
  #expect(build.steps[2].inputs == ["path": "a\nb"])
  #expect(pipeline.jobs[1].needs == ["build"])
  #expect(pipeline.jobs[1].retry.limit == 1)
  #expect(pipeline.notifications[0].onFailure)
  #expect(!pipeline.notifications[0].onSuccess)
}

@Test
func everyMistakeIsToldInOneAnswer() {
  let text = """
    name: demo
    jbos: {}
    jobs:
      build:
        step: []
        resources: {cpu: lots}
        steps:
          - run: make
            uses: checkout
          - rum: make
      test:
        needs: [biuld]
        steps: make
    """
  #expect(
    mistakes(text) == [
      "2:1: unknown key \"jbos\" in a pipeline; did you mean \"jobs\"?",
      "5:5: unknown key \"step\" in job \"build\"; did you mean \"steps\"?",
      "6:22: `cpu` is \"lots\"; write a number of CPUs: 2, 0.5 or 500m",
      "9:9: a step with both `run` and `uses`; make two steps of it",
      "10:9: unknown key \"rum\" in a step; did you mean \"run\"?",
      "12:13: job \"test\" needs \"biuld\", which is no job; did you mean \"build\"?",
      "13:12: `steps` is \"make\"; write a list: items that begin with \"- \"",
    ])
}

/// A pipeline of one job `a` with one step, and these lines at its place.
private func job(_ lines: String, steps: String = "[{run: make}]") -> String {
  "jobs:\n  a:\n    steps: \(steps)\n    \(lines)\n"
}

private let placed: [(String, String)] = [
  ("jobs: {}", "1:7: `jobs` is empty"),
  ("name: x", "1:1: no `jobs`"),
  ("[1]", "1:1: a pipeline is a list"),
  ("", "1:1: the file is empty"),
  ("jobs:\n  a: {}", "2:3: job \"a\" has no `steps`"),
  ("jobs:\n  a: {steps: []}", "2:14: job \"a\" has no step"),
  ("jobs:\n  1a: {steps: [{run: x}]}", "2:3: a job's id is \"1a\""),
  (job("timeout-minutes: soon"), "4:22: `timeout-minutes` is \"soon\""),
  (job("timeout-minutes: 0"), "4:22: `timeout-minutes` is \"0\""),
  (job("retry: 99"), "4:12: `retry` is \"99\"; write a whole number from 0 to 10"),
  (job("retry: {on: [never]}"), "4:18: unknown value of `on` \"never\""),
  (job("env: [A]"), "4:10: `env` is a list"),
  (job("env: {1A: x}"), "4:11: `env` has the name \"1A\""),
  (job("env: {A: [1]}"), "4:14: `env.A` is a list"),
  (job("resources: {memory: 4 gigs}"), "4:25: `memory` is \"4 gigs\""),
  (job("runs-on: {labels: [{a: b}]}"), "4:24: `runs-on` has a mapping"),
  (job("runs-on: \"a b\""), "4:14: the label \"a b\""),
  (job("strategy: {matrix: [1]}"), "4:24: `matrix` is a list"),
  (job("strategy: {matrix: {v: []}}"), "4:28: `matrix.v` is empty"),
  (job("strategy: {matrix: {v: [1], exclude: [{w: 1}]}}"), "4:33: `exclude` speaks of \"w\""),
  (job("strategy: {fail-fast: maybe}"), "4:27: `fail-fast` is \"maybe\"; write true or false"),
  (job("strategy: {matrix: {v: [1, 1]}}"), "2:3: in job \"a\", the matrix has two legs"),
  (job("if: matrix.x == 1"), "4:9: \"matrix.x\" means nothing here"),
  (job("if: success() &&"), "4:21: a bad expression in `if`: found the end"),
  (job("if: \"sucess()\""), "4:10: a bad expression in `if`: unknown function \"sucess\""),
  (job("needs: a"), "2:3: `needs` has a cycle: a -> a"),
  (job("name: ${{ env.A"), "4:14: a bad expression in `name`"),
  (job("", steps: "[{run: 'x ${{ steps.b.outcome }}'}]"), "3:26: no step before this one"),
  (job("", steps: "[{run: x, with: {a: b}}]"), "3:22: `with` beside `run`"),
  (job("", steps: "[{uses: a, shell: sh}]"), "3:23: `shell` beside `uses`"),
  (job("", steps: "[{uses: a b}]"), "3:20: `uses` is \"a b\""),
  (job("", steps: "[{run: x, id: b}, {run: y, id: b}]"), "3:43: the step id \"b\""),
  (job("", steps: "[{run: x, if: [a]}]"), "3:26: `if` is a list"),
  (job("") + "on: psuh", "5:5: unknown event \"psuh\"; did you mean \"push\"?"),
  (job("") + "notify: [{with: {}}]", "5:10: a notification without `uses`"),
  (job("") + "notify: [{uses: x, on: [failed]}]", "5:25: unknown value of `on` \"failed\""),
  (job("") + "concurrency: {cancel-in-progress: true}", "5:14: concurrency has no `group`"),
  (job("") + "<<: {}", "5:1: unknown key \"<<\" in a pipeline; merging is not supported"),
]

@Test(arguments: placed)
func aMistakeIsToldWithItsPlace(text: String, expected: String) {
  let found = mistakes(text)
  #expect(found.contains { $0.hasPrefix(expected) }, "\(found)")
  #expect(found.count == 1, "\(found)")
}

@Test
func aLongerCycleNamesItsJobs() {
  let text = """
    jobs:
      a: {needs: c, steps: [{run: x}]}
      b: {needs: a, steps: [{run: x}]}
      c: {needs: [b], steps: [{run: x}]}
    """
  #expect(
    mistakes(text) == [
      "2:3: `needs` has a cycle: a -> c -> b -> a; take one of these jobs out of another's `needs`"
    ])
}

@Test
func expressionsInABlockOfTextAreFoundOnTheirLine() {
  let text = """
    jobs:
      a:
        strategy: {matrix: {cc: [gcc]}}
        steps:
          - run: |
              echo ${{ matrix.cc }}
              echo ${{ matrix.c }} ${{ 1 + }}
              echo ${{ env.ANY }}
    """
  #expect(
    mistakes(text).map { $0.prefix { $0 != ";" } } == [
      "7:38: a bad expression in `run`: \"+\" means nothing here"
    ])
  let fixed = text.replacingFirst("${{ 1 + }}", with: "")
  #expect(mistakes(fixed) == ["7:20: the matrix has no \"c\"; did you mean \"cc\"?"])
}

@Test
func duplicateKeysAreToldAllAtOnceBesideOtherMistakes() {
  let text = """
    env: {A: 1}
    jobs:
      a:
        steps: [{run: x}]
        steps: [{run: y}]
      b:
        stpes: []
        steps:
          - run: x
            name: one
            run: y
          - run: z
      a:
        steps: [{run: x}]
    env: {B: 1}
    """
  let found = mistakes(text)
  #expect(
    found == [
      "5:5: the key \"steps\" is here a second time; line 4 has it first; keep one of them",
      "7:5: unknown key \"stpes\" in job \"b\"; did you mean \"steps\"?",
      "11:9: the key \"run\" is here a second time; line 9 has it first; keep one of them",
      "13:3: the key \"a\" is here a second time; line 3 has it first; keep one of them",
      "15:1: the key \"env\" is here a second time; line 1 has it first; keep one of them",
    ], "\(found)")
}

@Test(
  arguments: [
    ("a: [1", 2, 1), ("jobs:\n  a: 'x", 2, 6), ("jobs:\n\ta: b", 2, 1), ("a: b: c", 1, 5),
    ("a: @b", 1, 4), ("a: {b: 1, b: 2}", 1, 5), ("a: 1\n---\nb: 2", 2, 1), ("a: \u{7}", 1, 4),
    ("jobs:\n  a: *nothing", 2, 6),
  ])
func whatIsNoYAMLIsToldWithItsPlace(text: String, line: Int, column: Int) {
  do {
    _ = try PipelineFile.read(Array(text.utf8))
    Issue.record("it was read")
  } catch {
    #expect(error.mistakes.count == 1)
    #expect(error.mistakes[0].line == line, "\(error)")
    #expect(abs(error.mistakes[0].column - column) <= 2, "\(error)")
  }
}

@Test
func aliasesStandForTheirValues() throws {
  let text = """
    jobs:
      a:
        env: &common {A: "*star", B: a *b}
        steps: &steps
          - run: echo *c
      b:
        env: *common
        steps: *steps
    """
  let pipeline = try PipelineFile.read(Array(text.utf8))
  #expect(pipeline.jobs[1].environment == ["A": "*star", "B": "a *b"])
  #expect(pipeline.jobs[1].steps == pipeline.jobs[0].steps)
  #expect(pipeline.jobs[0].steps[0].action == .run("echo *c"))
}

extension String {
  fileprivate func replacingFirst(_ text: String, with other: String) -> String {
    guard let range = self.firstRange(of: text) else { return self }
    return self.replacingCharacters(in: range, with: other)
  }

  private func firstRange(of text: String) -> Range<String.Index>? {
    var index = self.startIndex
    while index < self.endIndex {
      if self[index...].hasPrefix(text) { return index..<self.index(index, offsetBy: text.count) }
      index = self.index(after: index)
    }
    return nil
  }

  private func replacingCharacters(in range: Range<String.Index>, with other: String) -> String {
    String(self[..<range.lowerBound]) + other + String(self[range.upperBound...])
  }
}
