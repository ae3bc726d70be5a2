import Domain

extension PluginRunner {
  /// What must hold after every input; each breach as a sentence. For tests and the simulation.
  package var brokenInvariants: [String] {
    var broken: [String] = []
    let holding = self.jobs.values.filter { $0.endedAt == nil }
    let sum = holding.reduce(Resources.none) { $0 + $1.spec.resources }
    if sum != self.held { broken.append("jobs hold \(sum), but \(self.held) is accounted for") }
    if !self.profile.capacity.fits(self.held) {
      broken.append("\(self.held) is held of a capacity of \(self.profile.capacity)")
    }
    if self.finished.count != self.jobs.count - holding.count {
      broken.append("\(self.finished.count) attempts listed as over, of \(self.jobs.count) known")
    }
    for job in self.jobs.values {
      let attempt = job.spec.attempt
      for (position, event) in job.log.events.enumerated()
      where event.sequence != Int64(position + 1) {
        broken.append("event \(position + 1) of \(attempt) has number \(event.sequence)")
      }
      let ends = job.log.events.filter { if case .finished = $0.what { true } else { false } }
      if ends.count != (job.endedAt == nil ? 0 : 1) {
        broken.append("\(attempt) has \(ends.count) last events")
      }
    }
    return broken
  }
}
