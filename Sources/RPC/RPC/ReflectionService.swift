import RPCCore
import RPCTransport
import Synchronization

/// Tells clients such as `grpcurl` what a server's services look like: `grpc.reflection.v1`.
///
/// It knows the files that the services were generated from, and all that those import.
public struct ReflectionService: ReflectionV1.ServerReflectionService {
  private typealias Answer = ReflectionV1.ServerReflectionResponse.MessageResponse

  /// Which of the two reflections its server has; of one that several servers share, any of them.
  fileprivate final class Offered: Sendable {
    private let names = Mutex<Set<String>>([])

    var all: Set<String> { self.names.withLock { $0 } }

    func add(_ service: ServiceDescriptor) {
      _ = self.names.withLock { $0.insert(service.fullName) }
    }
  }

  private let services: Set<String>
  private let files: [String: FileDescriptor]
  private let fileOfSymbol: [String: FileDescriptor]
  private let messages: Set<String>
  fileprivate let offered = Offered()

  /// Tells of services.
  ///
  /// - Parameter services: What the server offers; reflection itself is added, ``alpha`` where it is
  ///   one of the server's services too.
  public init(services: [any RPCService]) {
    let descriptors = services.map(\.descriptor)
    let own = [
      ReflectionV1.serverReflectionServiceDescriptor,
      ReflectionV1Alpha.serverReflectionServiceDescriptor,
    ]
    var files: [String: FileDescriptor] = [:]
    var fileOfSymbol: [String: FileDescriptor] = [:]
    var messages: Set<String> = []
    for descriptor in descriptors + own {
      for file in descriptor.file.closure where files[file.name] == nil {
        files[file.name] = file
        for symbol in file.symbols { fileOfSymbol[symbol] = file }
        messages.formUnion(messageNames(in: file))
      }
    }
    self.services = Set(descriptors.map(\.fullName))
    self.files = files
    self.fileOfSymbol = fileOfSymbol
    self.messages = messages
  }

  /// Adds the method, and the service to those that it tells of.
  public func registerMethods(with router: inout Router) {
    self.offered.add(self.descriptor)
    router.bidirectional(ReflectionV1.ServerReflectionMethods.serverReflectionInfo) {
      try await self.serverReflectionInfo($0, responses: $1, context: $2)
    }
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
          service: self.services.union(self.offered.all).sorted().map {
            ReflectionV1.ServiceResponse(name: $0)
          }))
    case .fileByFilename(let name):
      self.answer(with: self.files[name], orElse: "there is no file \"\(name)\"")
    case .fileContainingSymbol(let symbol):
      self.answer(
        with: self.fileOfSymbol[symbol], orElse: "no file defines the symbol \"\(symbol)\"")
    case .fileContainingExtension(let request):
      self.refuse("\(request.containingType) has no extension \(request.extensionNumber)")
    case .allExtensionNumbersOfType(let type):
      self.messages.contains(type)
        ? .allExtensionNumbersResponse(ReflectionV1.ExtensionNumberResponse(baseTypeName: type))
        : self.refuse("there is no message \"\(type)\"")
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

  func registerMethods(with router: inout Router) {
    self.reflection.offered.add(self.descriptor)
    router.bidirectional(ReflectionV1Alpha.ServerReflectionMethods.serverReflectionInfo) {
      try await self.serverReflectionInfo($0, responses: $1, context: $2)
    }
  }

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

/// The full names of the messages that a file defines, those within others among them. Its symbols do not
/// say what they are.
private func messageNames(in file: FileDescriptor) -> Set<String> {
  var names: Set<String> = []
  /// - Parameter nested: The number of the field that holds messages: 4 of a `FileDescriptorProto`, 3 of
  ///   a `DescriptorProto`, whose field 1 is its name.
  func visit(
    _ fields: [(number: UInt64, bytes: ArraySlice<UInt8>)], _ scope: String, nested: UInt64
  ) {
    for field in fields where field.number == nested {
      let inner = textsAndMessages(of: field.bytes)
      guard let name = inner.first(where: { $0.number == 1 }) else { continue }
      let text = String(decoding: name.bytes, as: UTF8.self)
      let fullName = scope.isEmpty ? text : "\(scope).\(text)"
      names.insert(fullName)
      visit(inner, fullName, nested: 3)
    }
  }
  visit(textsAndMessages(of: file.serialized[...]), file.package, nested: 4)
  return names
}

/// The fields of an encoded message that have a length; the others are skipped.
private func textsAndMessages(
  of message: ArraySlice<UInt8>
) -> [(number: UInt64, bytes: ArraySlice<UInt8>)] {
  var rest = message
  func varint() -> UInt64? {
    var value: UInt64 = 0
    for shift in stride(from: UInt64(0), to: 70, by: 7) {
      guard let byte = rest.popFirst() else { return nil }
      value |= UInt64(byte & 0x7f) << shift
      if byte & 0x80 == 0 { return value }
    }
    return nil
  }
  var fields: [(number: UInt64, bytes: ArraySlice<UInt8>)] = []
  while let tag = varint() {
    switch tag & 7 {
    case 0: _ = varint()
    case 1: rest = rest.dropFirst(8)
    case 2:
      guard let length = varint(), length <= rest.count else { return fields }
      fields.append((tag >> 3, rest.prefix(Int(length))))
      rest = rest.dropFirst(Int(length))
    case 5: rest = rest.dropFirst(4)
    default: return fields
    }
  }
  return fields
}
