import CorePlugins

@main struct Program {
  static func main() async { await CorePlugins.run(CommandLine.arguments) }
}
