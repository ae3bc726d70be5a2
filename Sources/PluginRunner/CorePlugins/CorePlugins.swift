import Glibc
import PluginKit

/// The plugins that come with the runner, in one program: `millrace-core-plugin NAME`.
package enum CorePlugins {
  /// Serves the plugin that the first argument names.
  package static func run(_ arguments: [String]) async {
    switch arguments.dropFirst().first {
    case Checkout.name?: await Checkout.main()
    case Artifacts.name?: await Artifacts.main()
    case Webhook.name?: await Webhook.main()
    default:
      let usage = """
        usage: millrace-core-plugin checkout | artifacts | webhook
        It is started by millrace-plugin-runner and speaks millrace.plugin.v1 on its standard input
        and output.

        """
      _ = write(STDERR_FILENO, usage, usage.utf8.count)
      exit(2)
    }
  }
}
