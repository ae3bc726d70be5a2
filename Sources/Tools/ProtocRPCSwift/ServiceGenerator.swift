/// Makes a server's protocol and a client's struct of a proto's service.
struct ServiceGenerator {
  var model: ServiceModel
  var types: TypeTable
  var visibility: String
  var namespace: String
  /// The static member that holds the file's descriptor.
  var file: String

  /// `SchedulerService` and `Datastore` to `Scheduler` and `Datastore`.
  private static func base(of service: ServiceModel) -> String {
    let name = Naming.type(service.name)
    return name.hasSuffix("Service") && name != "Service" ? String(name.dropLast(7)) : name
  }

  /// The types that are made of a service.
  static func typeNames(of service: ServiceModel) -> [String] {
    ["Service", "Methods", "Client"].map { Self.base(of: service) + $0 }
  }

  /// What a method is called, without backticks.
  static func name(of method: ServiceModel.Method) -> String {
    Naming.lowerFirst(Naming.type(method.name))
  }

  private var base: String { Self.base(of: self.model) }
  private var protocolName: String { self.base + "Service" }
  private var descriptorName: String { Naming.lowerFirst(self.base) + "ServiceDescriptor" }
  private var methodsName: String { self.base + "Methods" }

  private func known(_ name: String) -> String { self.types.known(name) }

  /// What serves a method with one request and one response.
  private func handlerName(_ method: ServiceModel.Method) -> String {
    Naming.type(method.name) + "Serving"
  }

  private func name(_ method: ServiceModel.Method) -> String {
    Naming.quoted(Self.name(of: method))
  }

  func write(to text: inout SwiftText) throws(GeneratorError) {
    try self.writeProtocol(&text)
    text.line()
    self.writeRegistration(&text)
    text.line()
    try self.writeMethods(&text)
    text.line()
    try self.writeClient(&text)
  }

  private func writeProtocol(_ text: inout SwiftText) throws(GeneratorError) {
    try text.block("extension \(self.namespace)") { (text) throws(GeneratorError) in
      text.document(self.model.comment, fallback: "Serves `\(self.model.fullName)`.")
      try text.block(
        "\(self.visibility) protocol \(self.protocolName): \(self.known("RPCService"))"
      ) { (text) throws(GeneratorError) in
        for (index, method) in self.model.methods.enumerated() {
          if index > 0 { text.line() }
          let input = try self.types[method.input].swiftName
          let output = try self.types[method.output].swiftName
          let request =
            method.streamsRequests
            ? "_ requests: \(self.known("RequestStream"))<\(input)>" : "_ request: \(input)"
          let responses =
            method.streamsResponses
            ? "responses: \(self.known("ResponseWriter"))<\(output)>, " : ""
          let result = method.streamsResponses ? "" : " -> \(output)"
          text.document(method.comment)
          text.line("func \(self.name(method))(")
          text.line("  \(request), \(responses)context: \(self.known("ServerContext"))")
          text.line(") async throws\(result)")
        }
      }
    }
  }

  private func writeRegistration(_ text: inout SwiftText) {
    let v = self.visibility
    text.block("extension \(self.namespace).\(self.protocolName)") { text in
      text.block("\(v) var descriptor: \(self.known("ServiceDescriptor"))") { text in
        text.line("\(self.namespace).\(self.descriptorName)")
      }
      text.line()
      // So that the module that implements it makes a form of its own: a call takes two steps less.
      if v == "public" { text.line("@inlinable") }
      text.block("\(v) func registerMethods(with router: inout \(self.known("Router")))") { text in
        for method in self.model.methods {
          let methods = "\(self.namespace).\(self.methodsName)"
          let descriptor = "\(methods).\(self.name(method))"
          if method.isUnary {
            text.line(
              "router.unary(\(descriptor), by: \(methods).\(self.handlerName(method))(service: self))"
            )
            continue
          }
          let (kind, call) =
            switch (method.streamsRequests, method.streamsResponses) {
            case (true, false): ("clientStreaming", "$0, context: $1")
            case (false, _): ("serverStreaming", "$0, responses: $1, context: $2")
            case (true, true): ("bidirectional", "$0, responses: $1, context: $2")
            }
          text.block("router.\(kind)(\(descriptor))") { text in
            text.line("try await self.\(self.name(method))(\(call))")
          }
        }
      }
    }
  }

  private func writeMethods(_ text: inout SwiftText) throws(GeneratorError) {
    let v = self.visibility
    try text.block("extension \(self.namespace)") { (text) throws(GeneratorError) in
      text.line("/// What reflection tells of `\(self.model.fullName)`.")
      text.line("\(v) static let \(self.descriptorName) = \(self.known("ServiceDescriptor"))(")
      text.line("  fullName: \"\(self.model.fullName)\",")
      text.line(
        "  methods: [" + self.model.methods.map { "\"\($0.name)\"" }.joined(separator: ", ") + "],")
      text.line("  file: \(self.file))")
      text.line()
      text.line("/// The methods of `\(self.model.fullName)`.")
      try text.block("\(v) enum \(self.methodsName)") { (text) throws(GeneratorError) in
        for method in self.model.methods {
          text.line("\(v) static let \(self.name(method)) = \(self.known("MethodDescriptor"))<")
          text.line(
            "  \(try self.types[method.input].swiftName), "
              + "\(try self.types[method.output].swiftName)")
          text.line(">(\"/\(self.model.fullName)/\(method.name)\")")
        }
        for method in self.model.methods where method.isUnary {
          text.line()
          try self.writeHandler(method, &text)
        }
      }
    }
  }

  /// A type for each method, for the compiler to make one function of the way from the library to the service's.
  private func writeHandler(
    _ method: ServiceModel.Method, _ text: inout SwiftText
  ) throws(GeneratorError) {
    let isPublic = self.visibility == "public"
    let (input, output) = (try self.types[method.input], try self.types[method.output])
    if isPublic { text.line("@usableFromInline") }
    text.block(
      "struct \(self.handlerName(method))<Served_: \(self.namespace).\(self.protocolName)>: "
        + self.known("UnaryHandler")
    ) { text in
      if isPublic { text.line("@usableFromInline") }
      text.line("let service: Served_")
      text.line()
      if isPublic {
        text.line("@inlinable")
        text.block("init(service: Served_)") { $0.line("self.service = service") }
        text.line()
        text.line("@inlinable")
      }
      text.line("func handle(")
      text.line("  _ request: \(input.swiftName), _ context: \(self.known("ServerContext"))")
      text.block(") async throws -> \(output.swiftName)") {
        $0.line("try await self.service.\(self.name(method))(request, context: context)")
      }
    }
  }

  private func writeClient(_ text: inout SwiftText) throws(GeneratorError) {
    let v = self.visibility
    try text.block("extension \(self.namespace)") { (text) throws(GeneratorError) in
      text.line("/// Calls `\(self.model.fullName)`. Every call throws `RPCError`.")
      try text.block("\(v) struct \(self.base)Client: \(self.known("Sendable"))") {
        (text) throws(GeneratorError) in
        let channel = self.known("RPCChannel")
        text.line("\(v) let channel: \(channel)")
        text.line()
        text.block("\(v) init(_ channel: \(channel))") { $0.line("self.channel = channel") }
        for method in self.model.methods {
          let input = try self.types[method.input].swiftName
          let output = try self.types[method.output].swiftName
          let descriptor = "\(self.methodsName).\(self.name(method))"
          let (kind, result) =
            switch (method.streamsRequests, method.streamsResponses) {
            case (false, false): ("unary", output)
            case (false, true): ("serverStreaming", "\(self.known("ResponseStream"))<\(output)>")
            case (true, false):
              ("clientStreaming", "\(self.known("ClientStreamingCall"))<\(input), \(output)>")
            case (true, true):
              ("bidirectional", "\(self.known("BidirectionalCall"))<\(input), \(output)>")
            }
          let request = method.streamsRequests ? "" : "_ request: \(input), "
          let argument = method.streamsRequests ? "" : "request, "
          text.line()
          text.document(method.comment)
          text.line("\(v) func \(self.name(method))(")
          text.line(
            "  \(request)options: \(self.known("CallOptions")) = \(self.known("CallOptions"))()")
          text.block(") async throws -> \(result)") { text in
            text.line("try await self.channel.\(kind)(")
            text.line("  \(descriptor), \(argument)options: options)")
          }
        }
      }
    }
  }
}
