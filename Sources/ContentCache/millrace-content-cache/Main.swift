import ContentCacheService
import ServiceRuntime

@main
struct Program {
  static func main() async { await ServiceRuntime.run(ContentCache.self) }
}
