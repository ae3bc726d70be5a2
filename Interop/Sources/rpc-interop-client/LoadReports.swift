import InteropProtos
import RPC

/// The cases of ORCA load reports. Other clients see them with a load-balancing policy of their own;
/// here the call and the stream that carry them are asked.
extension Cases {
  private static let first = Interop.TestOrcaReport(
    cpuUtilization: 0.8210, memoryUtilization: 0.5847, utilization: ["util": 0.30499])
  private static let second = Interop.TestOrcaReport(
    cpuUtilization: 0.29309, memoryUtilization: 0.2, utilization: ["util": 0.2039])

  /// The report comes with the trailers of its call.
  func loadReportOfACall() async throws {
    var wanted = Self.first
    wanted.requestCost = ["cost": 3456.32]
    let received = ReceivedMetadata()
    var options = self.options
    options.receivedMetadata = received
    _ = try await self.service.unaryCall(
      Interop.SimpleRequest(orcaPerQueryReport: wanted), options: options)
    guard let bytes = received.trailing.binary(for: "endpoint-load-metrics-bin") else {
      throw Mismatch("there is no load report in the trailing metadata \(received.trailing)")
    }
    try self.check(ORCA.OrcaLoadReport(decoding: bytes), wanted)
  }

  /// Reports come on a stream of their own, and change with what the server is told.
  func loadReportsBesideCalls() async throws {
    let reports = try await ORCAService.OpenRcaClient(self.channel).streamCoreMetrics(
      ORCAService.OrcaLoadReportRequest(
        reportInterval: GoogleProtobuf.Duration(seconds: 1)),
      options: CallOptions(timeout: .seconds(30)))
    var iterator = reports.makeAsyncIterator()
    let call = try await self.service.fullDuplexCall(options: CallOptions(timeout: .seconds(30)))
    var responses = call.responses.makeAsyncIterator()
    for wanted in [Self.first, Self.second] {
      try await call.send(
        Interop.StreamingOutputCallRequest(
          responseParameters: [Interop.ResponseParameters(size: 1)], orcaOobReport: wanted))
      guard try await responses.next() != nil else {
        throw Mismatch("the call that tells what to report has ended")
      }
      // One may have been on its way.
      var report = try await iterator.next()
      for _ in 0..<5 where report.map({ self.isReport($0, wanted) }) == false {
        report = try await iterator.next()
      }
      guard let report else { throw Mismatch("the reports have ended") }
      try self.check(report, wanted)
    }
    await call.finishSending()
  }

  private func isReport(_ report: ORCA.OrcaLoadReport, _ wanted: Interop.TestOrcaReport) -> Bool {
    report.cpuUtilization == wanted.cpuUtilization
      && report.memUtilization == wanted.memoryUtilization
      && report.requestCost == wanted.requestCost && report.utilization == wanted.utilization
  }

  private func check(_ report: ORCA.OrcaLoadReport, _ wanted: Interop.TestOrcaReport) throws {
    guard self.isReport(report, wanted) else {
      throw Mismatch("wanted the report \(wanted), got \(report)")
    }
  }
}
