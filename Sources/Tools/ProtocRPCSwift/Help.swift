import Glibc

extension Plugin {
  /// What `--help` prints.
  package static let help = """
    protoc-gen-rpc-swift: a protoc plugin that makes Swift messages, service protocols and clients,
    over C code that protobuf-c's generator makes of the same protos.

      mkdir -p Sources/MyCProtos Sources/MyProtos
      protoc -I proto --rpc-swift_out=Sources/MyCProtos \\
        --rpc-swift_opt=emit=c,c_module=MyCProtos my/v1/my.proto
      protoc -I proto --rpc-swift_out=Sources/MyProtos \\
        --rpc-swift_opt=emit=swift,c_module=MyCProtos,module=MyProtos my/v1/my.proto

    Give all protos of a module in one run. The C files go into a C target of their own, which
    depends on the product RPC; the Swift files into a target that depends on that target and RPC.
    protoc-gen-rpc-swift is found on the PATH, or by protoc's --plugin=protoc-gen-rpc-swift=PATH.
    protoc-gen-c (Debian: protobuf-c-compiler) must be installed for emit=c. Only proto3.

    Options, separated by commas:
      emit=c|swift|all            what to write; all by default
      c_module=NAME               the C target; CProtos by default
      module=NAME                 the Swift target, so that it does not import itself
      visibility=public|package|internal
                                  of everything that is generated; public by default
      import=PREFIX:SWIFT:C       files whose path begins with PREFIX are not of this run: their
                                  types are in module SWIFT, their structs in module C. Known already:
                                  google/protobuf/, google/rpc/, grpc/health/ and grpc/reflection/ are
                                  in RPC.
      protoc_gen_c=PROGRAM        protobuf-c's generator

    The namespace of a package is its `option swift_prefix`, or its name: google.type is GoogleType.

    """

  /// Everything on a file descriptor.
  package static func readAll(_ descriptor: Int32) -> [UInt8] {
    CGenerator.readAll(descriptor)
  }

  /// Writes everything, or says that it could not.
  package static func writeAll(_ bytes: [UInt8], to descriptor: Int32) -> Bool {
    bytes.withUnsafeBytes { buffer in
      var rest = buffer[...]
      while !rest.isEmpty {
        let part = UnsafeRawBufferPointer(rebasing: rest)
        let count = write(descriptor, part.baseAddress, part.count)
        if count > 0 {
          rest = rest.dropFirst(count)
        } else if errno != EINTR {
          return false
        }
      }
      return true
    }
  }
}
