import DatastoreGatewayService
import Glibc
import ServiceRuntime

@main
struct Program {
  static func main() async {
    let arguments = CommandLine.arguments.dropFirst()
    guard arguments.first == "check" else { return await ServiceRuntime.run(DatastoreGateway.self) }
    exit(
      CheckCommand.run(
        arguments: Array(arguments.dropFirst()), environment: ServiceRuntime.environment,
        print: ServiceRuntime.print))
  }
}
