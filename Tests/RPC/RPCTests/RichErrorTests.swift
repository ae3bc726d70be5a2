import RPC
import RPCTesting
import Testing

@Suite struct RichErrorTests {
  private struct Refusing: HealthV1.HealthService {
    func check(
      _ request: HealthV1.HealthCheckRequest, context: ServerContext
    ) async throws -> HealthV1.HealthCheckResponse {
      throw RPCError(
        .invalidArgument, "the service is empty",
        details: GoogleRPC.BadRequest(
          fieldViolations: [.init(field: "service", description: "is empty")]),
        GoogleRPC.RetryInfo(retryDelay: GoogleProtobuf.Duration(seconds: 3)))
    }

    func list(
      _ request: HealthV1.HealthListRequest, context: ServerContext
    ) async throws -> HealthV1.HealthListResponse {
      throw RPCError(.unimplemented, "no list")
    }

    func watch(
      _ request: HealthV1.HealthCheckRequest,
      responses: ResponseWriter<HealthV1.HealthCheckResponse>, context: ServerContext
    ) async throws {
      throw RPCError(.unimplemented, "no watch")
    }
  }

  @Test func detailsTravelWithTheStatus() async throws {
    try await withInMemoryServer([Refusing()]) { channel in
      let error = await #expect(throws: RPCError.self) {
        try await HealthV1.HealthClient(channel).check(HealthV1.HealthCheckRequest())
      }
      #expect(error?.code == .invalidArgument)
      #expect(error?.message == "the service is empty")
      #expect(error?.details.count == 2)
      let violations = error?.detail(GoogleRPC.BadRequest.self)?.fieldViolations
      #expect(violations?.map(\.field) == ["service"])
      #expect(error?.detail(GoogleRPC.RetryInfo.self)?.retryDelay?.seconds == 3)
      #expect(error?.detail(GoogleRPC.DebugInfo.self) == nil)
    }
  }

  @Test func bytesThatAreNoStatusHaveNoDetails() {
    var error = RPCError(.internalError, "odd")
    error.statusDetails = [0xff, 0xff, 0xff]
    #expect(error.details.isEmpty)
    #expect(error.detail(GoogleRPC.ErrorInfo.self) == nil)
  }
}
