/// A method's path and types, as one value that routers and channels take.
public struct MethodDescriptor<Request: RPCMessage, Response: RPCMessage>: Sendable {
  /// `/package.Service/Method`, as it stands in HTTP/2's `:path`.
  public let path: String
  /// Whether the path is one. Found out once, for every call asks.
  package let isWellFormed: Bool

  /// The method of a path, `/package.Service/Method`.
  ///
  /// Calls of one whose path is not like that fail with `invalidArgument`; a router stops the
  /// program.
  public init(_ path: String) {
    self.path = path
    self.isWellFormed = isMethodPath(path)
  }

  /// What a call of a method that is none fails with.
  package var error: RPCError {
    ConfigurationError(
      "the method's path", "\"\(self.path)\"", expected: "/package.Service/Method"
    ).callError
  }
}

/// Two names with a slash before each, of printable ASCII without spaces.
package func isMethodPath(_ path: String) -> Bool {
  guard path.utf8.first == UInt8(ascii: "/"), path.utf8.last != UInt8(ascii: "/"),
    let slash = path.utf8.lastIndex(of: UInt8(ascii: "/"))
  else { return false }
  return path.utf8.distance(from: path.utf8.startIndex, to: slash) > 1
    && path.utf8.allSatisfy { (0x21...0x7e).contains($0) }
}

/// A service's name, methods and the file that defines it: what reflection tells about it.
public struct ServiceDescriptor: Sendable {
  /// For example `grpc.health.v1.Health`.
  public let fullName: String
  /// The methods' names, in the order of the file.
  public let methods: [String]
  /// The file that defines it.
  public let file: FileDescriptor

  /// For generated code, and for services that are made without it.
  public init(fullName: String, methods: [String], file: FileDescriptor) {
    self.fullName = fullName
    self.methods = methods
    self.file = file
  }
}

/// A `.proto` file that generated code was made from.
public final class FileDescriptor: Sendable {
  /// Its path as others import it, for example `grpc/health/v1/health.proto`.
  public let name: String
  /// The proto's `package`; the names of what it defines begin with it.
  public let package: String
  /// An encoded `google.protobuf.FileDescriptorProto`.
  public let serialized: [UInt8]
  /// Full names of everything the file defines: messages, fields, oneofs, enums, enum values,
  /// services and methods.
  public let symbols: [String]
  /// The files it imports.
  public let dependencies: [FileDescriptor]

  /// A file with its encoding, and what is found in it.
  public init(
    name: String, package: String, serialized: [UInt8], symbols: [String],
    dependencies: [FileDescriptor]
  ) {
    self.name = name
    self.package = package
    self.serialized = serialized
    self.symbols = symbols
    self.dependencies = dependencies
  }

  /// For generated code, which carries the encoded file as base64: a string literal compiles far
  /// faster than an array of numbers.
  public convenience init(
    name: String, package: String, base64: StaticString, symbols: [String],
    dependencies: [FileDescriptor]
  ) {
    self.init(
      name: name, package: package, serialized: Self.decode(base64), symbols: symbols,
      dependencies: dependencies)
  }

  /// The file and everything it stands on, each once, dependencies before what needs them.
  public var closure: [FileDescriptor] {
    var seen: Set<String> = []
    var files: [FileDescriptor] = []
    func visit(_ file: FileDescriptor) {
      guard seen.insert(file.name).inserted else { return }
      for dependency in file.dependencies { visit(dependency) }
      files.append(file)
    }
    visit(self)
    return files
  }

  private static func decode(_ base64: StaticString) -> [UInt8] {
    base64.withUTF8Buffer { text in
      var bytes: [UInt8] = []
      bytes.reserveCapacity(text.count / 4 * 3)
      var bits: UInt32 = 0
      var count = 0
      for character in text {
        let value: UInt8
        switch character {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"): value = character - UInt8(ascii: "A")
        case UInt8(ascii: "a")...UInt8(ascii: "z"): value = character - UInt8(ascii: "a") + 26
        case UInt8(ascii: "0")...UInt8(ascii: "9"): value = character - UInt8(ascii: "0") + 52
        case UInt8(ascii: "+"): value = 62
        case UInt8(ascii: "/"): value = 63
        default: continue  // Padding, and the line ends between.
        }
        bits = bits << 6 | UInt32(value)
        count += 6
        if count >= 8 {
          count -= 8
          bytes.append(UInt8(truncatingIfNeeded: bits >> UInt32(count)))
        }
      }
      return bytes
    }
  }
}
