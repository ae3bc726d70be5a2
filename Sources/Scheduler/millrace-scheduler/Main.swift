import SchedulerService
import ServiceRuntime

@main
struct Program {
  static func main() async { await ServiceRuntime.run(SchedulerProgram.self) }
}
