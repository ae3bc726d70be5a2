import PluginRunnerService
import ServiceRuntime

@main struct Program {
  static func main() async { await ServiceRuntime.run(Runner.self) }
}
