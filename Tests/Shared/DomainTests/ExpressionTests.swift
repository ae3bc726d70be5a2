import Domain
import Testing

private let names: [[String]: ExpressionValue] = [
  ["matrix", "os"]: .string("linux"),
  ["matrix", "level"]: .string("2"),
  ["env", "EMPTY"]: .string(""),
  ["needs", "build", "result"]: .string("success"),
  ["steps", "odd-name", "outcome"]: .string("failure"),
]

private func value(
  _ text: String, _ status: StatusFacts = StatusFacts()
) throws -> ExpressionValue {
  try Expression(parsing: text).value(status) { names[$0] }
}

@Test(
  arguments: [
    ("1", .number(1)), ("-2.5", .number(-2.5)), ("'it''s'", .string("it's")), ("null", .null),
    ("true && false", .bool(false)), ("!true", .bool(false)), ("!!1", .bool(true)),
    ("matrix.os", .string("linux")), ("matrix['os']", .string("linux")), ("matrix.none", .null),
    ("matrix.os == 'LINUX'", .bool(true)), ("matrix.level == 2", .bool(true)),
    ("matrix.level > 1.5", .bool(true)), ("matrix.os > 1", .bool(false)),
    ("matrix.os != 'mac'", .bool(true)), ("env.EMPTY || 'cc'", .string("cc")),
    ("matrix.os == 'linux' && 'gcc' || 'clang'", .string("gcc")),
    ("1 == 1 || nothing.here && false", .bool(true)), ("(1 == 2 || true) && 3", .number(3)),
    ("needs.build.result == 'success'", .bool(true)),
    ("steps.odd-name.outcome", .string("failure")), ("null == 0", .bool(true)),
    ("'a' <= 'B'", .bool(true)), ("2 >= 2", .bool(true)), ("'' == false", .bool(true)),
    ("contains('Hello', 'ELL')", .bool(true)), ("startsWith(matrix.os, 'lin')", .bool(true)),
    ("endsWith('x.c', '.h')", .bool(false)), ("contains('a', 'abc')", .bool(false)),
  ] as [(String, ExpressionValue)])
func anExpressionComesToItsValue(text: String, expected: ExpressionValue) throws {
  #expect(try value(text) == expected)
}

@Test(
  arguments: [
    ("success()", true, false, false), ("failure()", false, true, false),
    ("cancelled()", false, false, true), ("always()", true, true, true),
    ("failure() || cancelled()", false, true, true),
  ])
func statusFunctionsLookAtHowThingsStand(
  text: String, whenFine: Bool, whenFailed: Bool, whenCancelled: Bool
) throws {
  #expect(try value(text, StatusFacts()) == .bool(whenFine))
  #expect(try value(text, StatusFacts(anyFailed: true)) == .bool(whenFailed))
  #expect(try value(text, StatusFacts(anyFailed: true, cancelled: true)) == .bool(whenCancelled))
}

@Test(
  arguments: [
    ("", 0, "empty"), ("1 +", 2, "\"+\""), ("a = 1", 2, "did you mean \"==\""),
    ("\"x\"", 0, "single quotes"), ("'open", 0, "closing quote"), ("(1", 2, "\")\""),
    ("sucess()", 0, "did you mean success()"), ("frobnicate(1)", 0, "there are success()"),
    ("always(1)", 0, "takes 0"), ("contains('a')", 0, "takes 2"), ("a b", 2, "\"b\""),
    ("a.", 2, "name behind"), ("a[1]", 2, "single quotes"), ("1x", 0, "no number"),
    ("a == ", 5, "the end"), ("a & b", 2, "did you mean \"&&\""),
  ])
func aWrongExpressionSaysWhatAndWhere(text: String, offset: Int, part: String) {
  let error = #expect(throws: Domain.Expression.ParseError.self) {
    try Expression(parsing: text)
  }
  #expect(error?.offset == offset)
  #expect(error?.message.contains(part) == true, "\(error?.message ?? "")")
}

@Test
func anExpressionThatIsTooLongIsRefused() {
  let long = Array(repeating: "a", count: 1_000).joined(separator: " && ")
  #expect(throws: Domain.Expression.ParseError.self) { try Expression(parsing: long) }
  let deep = String(repeating: "(", count: 100_000)
  #expect(throws: Domain.Expression.ParseError.self) { try Expression(parsing: deep) }
}

@Test(
  arguments: [
    "matrix.os == 'it''s' && !(success() || a['b c'] <= -1.5)", "contains(a, 'b')", "null != true",
  ])
func anExpressionsTextParsesToTheSameExpression(text: String) throws {
  let expression = try Expression(parsing: text)
  #expect(try Expression(parsing: "\(expression)") == expression)
}

@Test(
  arguments: [
    ("plain", "plain"), ("", ""), ("a ${{ matrix.os }}-${{ matrix.level }} b", "a linux-2 b"),
    ("${{ '}}' }}", "}}"), ("$ {{ x }} ${ y }", "$ {{ x }} ${ y }"), ("${{ nothing.here }}!", "!"),
  ])
func aTemplatePutsValuesIntoText(text: String, expected: String) throws {
  #expect(try Template(parsing: text).text { names[$0] } == expected)
}

@Test
func aTemplateKeepsWhatCannotBeKnownYet() throws {
  let known: Domain.Expression.Lookup = { $0[0] == "matrix" ? names[$0] : nil }
  let text = "${{ matrix.os }} ${{ steps.a.outputs.b == matrix.level }} ${{ success() }}"
  let left = try Template(parsing: text).partialText(known)
  #expect(left == "linux ${{ (steps.a.outputs.b == '2') }} ${{ success() }}")
  let rest = try Template(parsing: left).text {
    $0 == ["steps", "a", "outputs", "b"] ? .number(2) : nil
  }
  #expect(rest == "linux true true")
}

@Test
func aValueThatLooksLikeAnExpressionDoesNotBecomeOne() throws {
  let evil: Domain.Expression.Lookup = { _ in .string("${{ secrets.all }}") }
  let once = try Template(parsing: "x ${{ matrix.a }} y").partialText(evil)
  #expect(try Template(parsing: once).text { _ in .string("leaked") } == "x ${{ secrets.all }} y")
}

@Test
func aTemplatesMistakeIsFoundByItsOccurrence() {
  let error = #expect(throws: Template.ParseError.self) {
    try Template(parsing: "${{ a }} ${{ b = }}")
  }
  #expect(error?.occurrence == 1)
  #expect(error?.offset == 3)
  #expect(throws: Template.ParseError.self) { try Template(parsing: "x ${{ open") }
}

@Test(
  arguments: [
    ("", true, false, false), ("true", true, false, false), ("${{ true }}", true, false, false),
    ("always()", true, true, true), (" ${{ failure() }} ", false, true, false),
    ("matrix.os == 'mac' || failure()", false, true, false), ("false", false, false, false),
  ])
func aConditionWithoutStatusFunctionMeansSuccess(
  text: String, whenFine: Bool, whenFailed: Bool, whenCancelled: Bool
) throws {
  let condition = try Condition(parsing: text)
  #expect(condition.holds(StatusFacts()) { names[$0] } == whenFine)
  #expect(condition.holds(StatusFacts(anyFailed: true)) { names[$0] } == whenFailed)
  #expect(condition.holds(StatusFacts(cancelled: true)) { names[$0] } == whenCancelled)
}

@Test
func aConditionsMistakeIsCountedFromTheStartOfItsText() {
  let error = #expect(throws: Domain.Expression.ParseError.self) {
    try Condition(parsing: "${{ a = 1 }}")
  }
  #expect(error?.offset == 6)
}

@Test(
  arguments: [
    ("stpes", "steps"), ("step", "steps"), ("nmae", "name"), ("ENV", "env"), ("banana", nil),
    ("timeout-minute", "timeout-minutes"),
  ] as [(String, String?)])
func aNearWordIsSuggested(word: String, expected: String?) {
  #expect(word.nearest(in: ["steps", "name", "env", "timeout-minutes"]) == expected)
}
