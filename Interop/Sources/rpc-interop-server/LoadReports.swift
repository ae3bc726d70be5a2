import InteropProtos
import RPC
import Synchronization

/// Tells clients how loaded the server is, as the last caller of `FullDuplexCall` wanted it told.
final class LoadReports: ORCAService.OpenRcaService {
  /// No client is told more often, whatever it asks for.
  private static let shortestInterval = Duration.milliseconds(100)

  private let report = Mutex(ORCA.OrcaLoadReport())

  func tell(_ report: Interop.TestOrcaReport) {
    self.report.withLock { $0 = ORCA.OrcaLoadReport(report) }
  }

  func streamCoreMetrics(
    _ request: ORCAService.OrcaLoadReportRequest, responses: ResponseWriter<ORCA.OrcaLoadReport>,
    context: ServerContext
  ) async throws {
    let wanted = request.reportInterval.map {
      Duration.seconds($0.seconds) + .nanoseconds(Int64($0.nanos))
    }
    let interval = min(max(wanted ?? .zero, Self.shortestInterval), .seconds(86_400))
    while true {
      try await responses.send(self.report.withLock { $0 })
      try await Task.sleep(for: interval)
    }
  }
}

extension ORCA.OrcaLoadReport {
  init(_ report: Interop.TestOrcaReport) {
    self.init(
      cpuUtilization: report.cpuUtilization, memUtilization: report.memoryUtilization,
      requestCost: report.requestCost, utilization: report.utilization)
  }
}
