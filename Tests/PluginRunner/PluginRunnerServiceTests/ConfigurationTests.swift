import Glibc
import Logging
import NIOPosix
import RPC
import ServiceRuntime
import Testing

@testable import PluginRunnerService

@Suite struct ConfigurationTests {
  func configuration(
    _ values: [String: String], listen: String = "127.0.0.1:7103"
  ) throws -> Configuration {
    let settings = SettingValues(
      ServiceRuntime.commonSettings(of: Runner.self) + Runner.settings,
      values: values.merging(["programs": Programs.folder]) { own, _ in own })
    return try Configuration(
      ServiceEnvironment(
        settings: settings, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
        metrics: MetricsRegistry(), eventLoopGroup: MultiThreadedEventLoopGroup.singleton,
        dataDirectory: "/tmp", listen: ListenAddress(listen)))
  }

  func advertised(_ advertise: String, listen: String) throws -> String {
    try self.configuration(["advertise": advertise], listen: listen).advertise
  }

  @Test func foldersAreNamedWithoutLinks() throws {
    let folder = try TestFolder()
    symlink(folder.path, folder.path + "/link")
    let configuration = try self.configuration([
      "hidden": folder.path + "/link", "checkout-roots": "\(folder.path)/link, /srv",
    ])
    #expect(configuration.hidden == [folder.path, "/tmp"])
    #expect(configuration.checkoutRoots == [folder.path, "/srv"])
    #expect(try self.configuration([:]).hidden == ["/tmp"])
    #expect(try self.configuration([:]).checkoutRoots == [])
  }

  @Test(arguments: ["hidden", "checkout-roots"]) func aFolderIsAnAbsolutePath(name: String) {
    let error = #expect(throws: SettingError.self) { try self.configuration([name: "src"]) }
    #expect(error?.setting == name)
    #expect(error?.reason == "src is no absolute path")
  }

  @Test(arguments: [
    ("", "0.0.0.0:7103", "every address of this machine (0.0.0.0:7103)"),
    ("", "[::]:7103", "every address of this machine ([::]:7103)"),
    ("0.0.0.0:7103", "0.0.0.0:7103", "give the one under which others reach this"),
    ("runner", "127.0.0.1:7103", "there is no port"),
  ])
  func anAddressThatSaysNothingIsRefused(advertise: String, listen: String, why: String) {
    let error = #expect(throws: SettingError.self) {
      try self.advertised(advertise, listen: listen)
    }
    #expect(error?.setting == "advertise")
    #expect(error?.reason.contains(why) == true, "\(error?.reason ?? "")")
  }

  @Test(arguments: [
    ("", "127.0.0.1:7103"), ("", "unix:/run/runner.sock"), ("runner:7103", "0.0.0.0:7103"),
  ])
  func anAddressThatOthersCanReachIsTaken(advertise: String, listen: String) throws {
    #expect(try self.advertised(advertise, listen: listen) == advertise)
  }
}
