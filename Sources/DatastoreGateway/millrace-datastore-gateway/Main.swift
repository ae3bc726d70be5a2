import DatastoreGatewayService
import ServiceRuntime

@main
struct Program {
  static func main() async { await ServiceRuntime.run(DatastoreGateway.self) }
}
