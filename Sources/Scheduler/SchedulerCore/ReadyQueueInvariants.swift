import Domain
import OrderedCollections

/// For invariants and tests.
extension ReadyQueue {
  /// All that is taken in, in no order.
  var tickets: some Sequence<Ticket> { self.places.keys }

  /// Lines of whose projects more, or fewer, jobs may begin than is known of them.
  var linesInDoubt: [Shape] {
    guard self.limits.haveProjects else { return [] }
    return self.lines.filter { shape, line in
      guard shape.isForJobs else { return false }
      return line.room != line.waiting.projects.reduce(0) { $0 + self.room(of: $1, shape) }
    }.keys.sorted()
  }

  var lineCounts: [(shape: Shape, wanted: Int, open: Int)] {
    self.lines.sorted { $0.key < $1.key }.filter { !self.short.contains($0.key) }
      .map { shape, line in (shape, self.wanted(line, shape), line.open.count) }
  }
}
