import BuildProtos
import Synchronization

/// What a log's reader is told of the attempt it belongs to.
final class StepProgress: Sendable {
  private struct State {
    var marks = StepMarks()
    var steps: [Int: TypesV1.StepStatus] = [:]
    var waiter: CheckedContinuation<Void, Never>?
    var isAbandoned = false
    var stop: (@Sendable () -> Void)?
  }

  /// What the reader does next.
  enum Next: Sendable {
    case heading(TypesV1.StepStatus)
    case bytes(upTo: Int64)
  }

  private let state = Mutex(State())

  /// The attempt is like this now.
  func update(_ attempt: SchedulerV1.Attempt) {
    let waiter = self.state.withLock { state in
      for step in attempt.steps { state.steps[Int(step.index)] = step }
      let begun = attempt.steps.filter { step in
        // A step that was skipped never began; one that was refused before it began has no bytes.
        step.state != .pending && step.state != .unspecified && step.outcome != .skipped
      }
      state.marks.update(
        begun.map { step in
          StepMarks.Mark(
            index: Int(step.index), start: step.logStart,
            end: step.state == .finished ? step.logEnd : nil)
        }, finished: attempt.outcome != .unspecified)
      defer { state.waiter = nil }
      return state.waiter
    }
    waiter?.resume()
  }

  /// What comes at an offset; suspends until that is known, or the task is cancelled. One reader at
  /// a time.
  func next(at offset: Int64) async throws(CancellationError) -> Next {
    while true {
      let next = self.state.withLock { state -> Next? in
        switch state.marks.next(at: offset) {
        case .heading(let index): return state.steps[index].map { .heading($0) }
        case .bytes(let end): return .bytes(upTo: end)
        case .wait: return state.isAbandoned ? .bytes(upTo: .max) : nil
        }
      }
      if let next { return next }
      await self.changed(at: offset)
      if Task.isCancelled { throw CancellationError() }
    }
  }

  /// What ends the reader's present stream, which follows a log that may grow.
  func reading(_ stop: @escaping @Sendable () -> Void) {
    let isLate = self.state.withLock { state in
      state.stop = stop
      return state.isAbandoned
    }
    if isLate { stop() }
  }

  /// The attempt is over, and its log will not grow: the reader takes what is there and ends.
  func abandon() {
    let (waiter, stop) = self.state.withLock { state in
      state.isAbandoned = true
      defer { state.waiter = nil }
      return (state.waiter, state.stop)
    }
    stop?()
    waiter?.resume()
  }

  var isAbandoned: Bool { self.state.withLock { $0.isAbandoned } }

  private func changed(at offset: Int64) async {
    await withTaskCancellationHandler {
      await withCheckedContinuation { continuation in
        let isKnown = self.state.withLock { state in
          // An update may have come since `next` looked.
          var marks = state.marks
          if state.isAbandoned || Task.isCancelled || marks.next(at: offset) != .wait {
            return true
          }
          state.waiter = continuation
          return false
        }
        if isKnown { continuation.resume() }
      }
    } onCancel: {
      let waiter = self.state.withLock { state in
        defer { state.waiter = nil }
        return state.waiter
      }
      waiter?.resume()
    }
  }
}
