import Glibc
import ProtocRPCSwift

/// The plugin that protoc runs for `--rpc-swift_out`.
@main
struct Main {
  static func main() {
    let arguments = CommandLine.arguments.dropFirst()
    guard arguments.isEmpty else {
      let isHelp = arguments.contains("--help") || arguments.contains("-h")
      _ = Plugin.writeAll(Array(Plugin.help.utf8), to: isHelp ? 1 : 2)
      exit(isHelp ? 0 : 2)
    }
    guard Plugin.writeAll(Plugin.respond(to: Plugin.readAll(0)), to: 1) else {
      _ = Plugin.writeAll(Array("protoc-gen-rpc-swift: cannot write the answer\n".utf8), to: 2)
      exit(1)
    }
  }
}
