import CommandLineInterface
import Testing

@Suite struct LogLines {
  @Test func linesAreWholeWhereverTheBytesAreCut() {
    let text = Array("one\ntwo\n\nthree".utf8)
    for cut in 0...text.count {
      var assembler = LineAssembler()
      var lines = assembler.append(text[..<cut]) + assembler.append(text[cut...])
      if let last = assembler.finish() { lines.append(last) }
      #expect(
        lines.map { String(decoding: $0, as: UTF8.self) } == ["one", "two", "", "three"])
    }
  }

  @Test func aLineThatDoesNotEndIsCutInPieces() {
    var assembler = LineAssembler()
    let piece = [UInt8](repeating: 0x61, count: LineAssembler.maximumLineBytes)
    var lines: [ArraySlice<UInt8>] = []
    for _ in 0..<10 { lines += assembler.append(piece[...]) }
    if let last = assembler.finish() { lines.append(last) }
    #expect(lines.map(\.count) == Array(repeating: LineAssembler.maximumLineBytes, count: 10))
  }
}

@Suite struct Headings {
  @Test func aHeadingStandsBeforeTheFirstByteOfItsStep() {
    var marks = StepMarks()
    marks.update(
      [.init(index: 0, start: 0, end: 10), .init(index: 1, start: 10, end: nil)],
      finished: false)
    let answers = [0, 0, 10, 10].map { marks.next(at: $0) }
    #expect(
      answers == [
        .heading(index: 0), .bytes(upTo: 10), .heading(index: 1), .bytes(upTo: .max),
      ])
  }

  @Test func bytesBehindAStepWaitForTheNextOnesName() {
    var marks = StepMarks()
    let early = marks.next(at: 0)
    #expect(early == .wait)
    marks.update([.init(index: 0, start: 0, end: 10)], finished: false)
    let answers = [0, 0, 10].map { marks.next(at: $0) }
    #expect(answers == [.heading(index: 0), .bytes(upTo: 10), .wait])
    marks.update(
      [.init(index: 0, start: 0, end: 10), .init(index: 2, start: 10, end: nil)],
      finished: false)
    let next = marks.next(at: 10)
    #expect(next == .heading(index: 2))
  }

  @Test func stepsWithoutOutputHaveTheirHeadings() {
    var marks = StepMarks()
    marks.update(
      [.init(index: 1, start: 4, end: 4), .init(index: 0, start: 4, end: 4)], finished: true)
    let answers = (0..<3).map { _ in marks.next(at: 4) }
    #expect(answers == [.heading(index: 0), .heading(index: 1), .bytes(upTo: .max)])
  }

  @Test func aFinishedAttemptHoldsNothingBack() {
    var marks = StepMarks()
    marks.update([], finished: true)
    let next = marks.next(at: 0)
    #expect(next == .bytes(upTo: .max))
  }
}
