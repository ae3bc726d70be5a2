import ExecutorAllocatorService
import ServiceRuntime

@main
struct Program {
  static func main() async { await ServiceRuntime.run(ExecutorAllocator.self) }
}
