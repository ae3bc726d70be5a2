/// A gRPC client and server in Swift: small, fast, and without knowledge of what it carries.
///
/// `import RPC` is all that a program needs: it brings the core's values, the transport, and what
/// generated code stands on.
@_exported import RPCCore
@_exported import RPCProtobuf
@_exported import RPCTransport
