import BuildProtos
import Glibc
import PluginKit
import Synchronization

/// One warm plugin process, which carries out one call at a time.
final class PluginProcess: Sendable {
  /// How a call ended.
  enum Answer: Sendable {
    case described(PluginV1.DescribeResponse)
    case finished(PluginV1.StepFinished)
    /// The process crashed, spoke garbage or broke a bound: it is of no further use.
    case broken(String)
  }

  /// Who hears what happens in a call; both are called on the process' own threads and may wait.
  struct Listener: Sendable {
    var output: @Sendable (ArraySlice<UInt8>) -> Void
    var event: @Sendable (PluginV1.StepEvent) -> Void
  }

  private struct Call {
    var id: UInt64
    var listener: Listener
    var answer: Promise<Answer>
  }

  private struct State {
    var call: Call?
    var lastID: UInt64 = 0
    var broken: String?
  }

  /// Frames on their way to the process. One is written at a time, whole, by whoever found nobody
  /// at it; those behind it wait here: a call's, and the cancellation of it, so there are few.
  private struct Outbox {
    typealias Frame = (bytes: [UInt8], written: Promise<String?>?)

    var frames: [Frame] = []
    var isBeingEmptied = false
    /// Nothing more is written; the last writer closes the pipe.
    var isClosed = false
  }

  let name: String
  private let process: SupervisedProcess
  private let input: Descriptor
  private let outbox = Mutex(Outbox())
  private let state = Mutex(State())

  /// Starts the process and the threads that read from it.
  static func start(
    name: String, _ launch: SupervisedProcess.Launch
  ) throws(SystemError) -> PluginProcess {
    let input = try Descriptor.pipe()
    let output = try Descriptor.pipe()
    let errors = try Descriptor.pipe()
    let process = try SupervisedProcess.launch(
      launch, input: input.read.raw, output: output.write.raw, error: errors.write.raw)
    for end in [input.read, output.write, errors.write] { end.close() }
    let plugin = PluginProcess(name: name, process: process, input: input.write)
    Threads.start("plugin-out") { plugin.readMessages(from: output.read) }
    Threads.start("plugin-err") { plugin.readErrors(from: errors.read) }
    return plugin
  }

  private init(name: String, process: SupervisedProcess, input: Descriptor) {
    self.name = name
    self.process = process
    self.input = input
  }

  /// Whether another call may go to it.
  var isUsable: Bool { self.state.withLock { $0.broken == nil && $0.call == nil } }

  /// Makes a call and waits for its end. From `begun` on, it can be cancelled.
  func call(
    _ message: PluginV1.HostMessage.Call, listener: Listener, begun: () -> Void = {}
  ) async -> Answer {
    let answer = Promise<Answer>()
    let id: UInt64? = self.state.withLock { state in
      guard state.broken == nil else { return nil }
      precondition(state.call == nil, "plugin \(self.name) has a call already")
      state.lastID += 1
      state.call = Call(id: state.lastID, listener: listener, answer: answer)
      return state.lastID
    }
    guard let id else { return .broken(self.state.withLock { $0.broken } ?? "") }
    let frame = MessageFrames.frame(PluginV1.HostMessage(callID: id, call: message))
    guard frame.count <= MessageFrames.maximumMessageBytes else {
      self.state.withLock { $0.call = nil }
      return .broken("the call is \(MessageFrames.FrameError.tooLarge(frame.count))")
    }
    // A plugin that does not read makes this write wait; the step's timeout kills it, and so ends
    // the wait.
    let written = Promise<String?>()
    self.send(frame, written)
    begun()
    if let problem = await written.value() { self.fail(problem, unlessItEndedByItself: true) }
    let result = await answer.value()
    // What the call left running ends with it.
    await self.process.sweep()
    return result
  }

  /// Asks the plugin to end its call early.
  func cancel(reason: String) {
    guard let id = self.state.withLock({ $0.call?.id }) else { return }
    let frame = MessageFrames.frame(
      PluginV1.HostMessage(
        callID: id, call: .cancel(PluginV1.CancelRequest(reason: reason))))
    self.send(frame, nil)
  }

  /// Ends the process and everything below it.
  func kill() {
    self.process.kill()
  }

  /// Takes it out of use, with everything below it. It has no call, so nothing is lost.
  func retire() {
    self.state.withLock { $0.broken = $0.broken ?? "retired" }
    let isIdle = self.outbox.withLock { outbox in
      outbox.isClosed = true
      return !outbox.isBeingEmptied
    }
    if isIdle { self.input.close() }
    self.process.kill()
  }

  /// Returns when no process of it is left.
  func ended() async {
    _ = await self.process.ended()
  }

  // MARK: What goes to it

  /// Has a frame written, behind those that came before; `written` hears of a problem, or of none.
  private func send(_ frame: [UInt8], _ written: Promise<String?>?) {
    let isFirst = self.outbox.withLock { outbox in
      outbox.frames.append((frame, written))
      defer { outbox.isBeingEmptied = true }
      return !outbox.isBeingEmptied
    }
    guard isFirst else { return }
    if frame.count <= Self.smallFrame, self.hasRoom, let next = self.nextFrame() {
      self.write(next)
      if self.isOutboxEmpty() { return }
    }
    // On a thread of its own: a pipe that is full waits for the plugin to read.
    Threads.start("plugin-in") { self.emptyOutbox() }
  }

  /// A pipe with any room at all takes so many bytes at once; see pipe(7), PIPE_BUF.
  private static let smallFrame = 4_096

  private var hasRoom: Bool {
    var wait = pollfd(fd: self.input.raw, events: Int16(POLLOUT), revents: 0)
    return poll(&wait, 1, 0) == 1
  }

  private func emptyOutbox() {
    while let frame = self.nextFrame() { self.write(frame) }
  }

  private func write(_ frame: Outbox.Frame) {
    do {
      try MessageFrames.write(frame.bytes, to: self.input.raw)
      frame.written?.fulfil(nil)
    } catch {
      frame.written?.fulfil("it does not take calls: \(error)")
    }
  }

  /// The next frame, or nil and nobody is at it any more.
  private func nextFrame() -> Outbox.Frame? {
    self.outbox.withLock { outbox in
      if outbox.isClosed { self.input.close() }
      guard outbox.frames.isEmpty else { return outbox.frames.removeFirst() }
      outbox.isBeingEmptied = false
      return nil
    }
  }

  /// Whether no frame waits, and so nobody is at it any more.
  private func isOutboxEmpty() -> Bool {
    self.outbox.withLock { outbox in
      guard outbox.frames.isEmpty else { return false }
      if outbox.isClosed { self.input.close() }
      outbox.isBeingEmptied = false
      return true
    }
  }

  // MARK: Its threads

  private func readMessages(from output: Descriptor) {
    var reader = MessageFrames.Reader(output.raw)
    do {
      while let message = try reader.next(PluginV1.PluginMessage.self) { self.received(message) }
      self.fail(nil)
    } catch {
      self.fail("it sent \(error)")
    }
  }

  private func received(_ message: PluginV1.PluginMessage) {
    guard let call = self.state.withLock({ $0.call }), call.id == message.callID else {
      return  // The end of a call that was given up.
    }
    switch message.answer {
    case .describe(let description):
      self.finish(call, .described(description))
    case .stepEvent(let step):
      switch step.event {
      case .log(let log): call.listener.output(log.data[...])
      case .finished(let finished): self.finish(call, .finished(finished))
      case .artifact, .output: call.listener.event(step)
      case nil: break
      }
    case nil:
      break
    }
  }

  private func readErrors(from errors: Descriptor) {
    var chunk = [UInt8](repeating: 0, count: 64 << 10)
    while true {
      let count = read(errors.raw, &chunk, chunk.count)
      if count < 0 && errno == EINTR { continue }
      guard count > 0 else { return }
      self.state.withLock { $0.call?.listener }?.output(chunk[..<count])
    }
  }

  private func finish(_ call: Call, _ answer: Answer) {
    self.state.withLock { state in
      if state.call?.id == call.id { state.call = nil }
    }
    call.answer.fulfil(answer)
  }

  /// The process is of no further use. With no reason given, its own end is the reason; the same
  /// where the reason may be no more than a sign of that end.
  private func fail(_ reason: String?, unlessItEndedByItself: Bool = false) {
    self.process.kill()
    // Unstructured: the wait for the processes' end is short, and it has no caller to belong to.
    Task {
      let end = await self.process.ended()
      var why = reason ?? Self.words(for: end)
      if unlessItEndedByItself, case .exited(_, let signal, _, _) = end, signal != SIGKILL {
        why = Self.words(for: end)
      }
      let call = self.state.withLock { state in
        state.broken = state.broken ?? why
        defer { state.call = nil }
        return state.call
      }
      call?.answer.fulfil(.broken(why))
    }
  }

  private static func words(for end: SupervisedProcess.Exit) -> String {
    switch end {
    case .exited(_, let signal, _, _) where signal != 0: "it was ended by signal \(signal)"
    case .exited(let code, _, _, _): "it ended with exit code \(code) before its answer"
    case .notStarted(let why), .supervisorLost(let why): why
    }
  }
}
