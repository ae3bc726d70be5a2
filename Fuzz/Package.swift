// swift-tools-version: 6.2
import PackageDescription

// libFuzzer's driver for the targets in Sources/RPC/RPCFuzzing; `make fuzz` builds and runs it.
let package = Package(
  name: "fuzz",
  platforms: [.macOS(.v15)],
  dependencies: [.package(name: "millrace", path: "..")],
  targets: [
    .executableTarget(
      name: "rpc-fuzz", dependencies: [.product(name: "RPCFuzzing", package: "millrace")],
      swiftSettings: [
        .swiftLanguageMode(.v6), .treatAllWarnings(as: .error),
        .unsafeFlags(["-parse-as-library"]),
      ])
  ]
)
