import DatastoreGatewayService
import Glibc
import ServiceRuntime

@main
struct Program {
  static func main() async {
    let arguments = CommandLine.arguments.dropFirst()
    guard let command = arguments.first.flatMap(StoreCommand.init(rawValue:)) else {
      return await ServiceRuntime.run(DatastoreGateway.self)
    }
    exit(
      await command.run(
        arguments: Array(arguments.dropFirst()), environment: ServiceRuntime.environment,
        print: ServiceRuntime.print))
  }
}
