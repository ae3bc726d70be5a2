import CommandLineInterface

@main
struct Program {
  static func main() async { await CommandLineInterface.main() }
}
