import RPCCore
import RPCTransport

/// Tells clients such as `grpcurl` what a server's services look like: `grpc.reflection.v1`.
///
/// It knows the files that the services were generated from, and all that those import.
public struct ReflectionService: ReflectionV1.ServerReflectionService {
  private typealias Answer = ReflectionV1.ServerReflectionResponse.MessageResponse

  private let services: [String]
  private let files: [String: FileDescriptor]
  private let fileOfSymbol: [String: FileDescriptor]

  /// Tells of services.
  ///
  /// - Parameter services: What the server offers; reflection itself is added.
  public init(services: [any RPCService]) {
    let descriptors =
      services.map(\.descriptor) + [
        ReflectionV1.serverReflectionServiceDescriptor,
        ReflectionV1Alpha.serverReflectionServiceDescriptor,
      ]
    var files: [String: FileDescriptor] = [:]
    var fileOfSymbol: [String: FileDescriptor] = [:]
    for descriptor in descriptors {
      for file in descriptor.file.closure where files[file.name] == nil {
        files[file.name] = file
        for symbol in file.symbols { fileOfSymbol[symbol] = file }
      }
    }
    self.services = descriptors.map(\.fullName).sorted()
    self.files = files
    self.fileOfSymbol = fileOfSymbol
  }

  /// The same service under the name that older clients ask for.
  public var alpha: some RPCService { AlphaReflectionService(reflection: self) }

  /// Answers each question with files, names, or an error in the response: the call itself goes on.
  public func serverReflectionInfo(
    _ requests: RequestStream<ReflectionV1.ServerReflectionRequest>,
    responses: ResponseWriter<ReflectionV1.ServerReflectionResponse>, context: ServerContext
  ) async throws {
    for try await request in requests {
      try await responses.send(self.answer(request))
    }
  }

  func answer(
    _ request: ReflectionV1.ServerReflectionRequest
  ) -> ReflectionV1.ServerReflectionResponse {
    ReflectionV1.ServerReflectionResponse(
      validHost: request.host, originalRequest: request,
      messageResponse: self.answer(to: request.messageRequest))
  }

  private func answer(
    to request: ReflectionV1.ServerReflectionRequest.MessageRequest?
  ) -> Answer {
    switch request {
    case .listServices:
      .listServicesResponse(
        ReflectionV1.ListServiceResponse(
          service: self.services.map { ReflectionV1.ServiceResponse(name: $0) }))
    case .fileByFilename(let name):
      self.answer(with: self.files[name], orElse: "there is no file \"\(name)\"")
    case .fileContainingSymbol(let symbol):
      self.answer(
        with: self.fileOfSymbol[symbol], orElse: "no file defines the symbol \"\(symbol)\"")
    case .fileContainingExtension(let request):
      self.refuse("\(request.containingType) has no extension \(request.extensionNumber)")
    case .allExtensionNumbersOfType(let type):
      self.fileOfSymbol[type] == nil
        ? self.refuse("there is no message \"\(type)\"")
        : .allExtensionNumbersResponse(ReflectionV1.ExtensionNumberResponse(baseTypeName: type))
    case nil:
      .errorResponse(
        ReflectionV1.ErrorResponse(
          errorCode: Int32(StatusCode.invalidArgument.rawValue),
          errorMessage: "the request asks for nothing"))
    }
  }

  private func answer(with file: FileDescriptor?, orElse message: String) -> Answer {
    guard let file else { return self.refuse(message) }
    return .fileDescriptorResponse(
      ReflectionV1.FileDescriptorResponse(fileDescriptorProto: file.closure.map(\.serialized)))
  }

  private func refuse(_ message: String) -> Answer {
    .errorResponse(
      ReflectionV1.ErrorResponse(
        errorCode: Int32(StatusCode.notFound.rawValue), errorMessage: message))
  }
}

/// `grpc.reflection.v1alpha`, whose messages are the same bytes as v1's.
private struct AlphaReflectionService: ReflectionV1Alpha.ServerReflectionService {
  let reflection: ReflectionService

  func serverReflectionInfo(
    _ requests: RequestStream<ReflectionV1Alpha.ServerReflectionRequest>,
    responses: ResponseWriter<ReflectionV1Alpha.ServerReflectionResponse>, context: ServerContext
  ) async throws {
    for try await request in requests {
      let translated = try ReflectionV1.ServerReflectionRequest(decoding: request.encoded())
      let answer = self.reflection.answer(translated)
      try await responses.send(
        ReflectionV1Alpha.ServerReflectionResponse(decoding: answer.encoded()))
    }
  }
}
