// swift-tools-version: 6.2
import PackageDescription

// Programs that measure Millrace, each beside its peers. A package of its own, so that nobody who
// uses Millrace builds it.

let settings: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .treatAllWarnings(as: .error),
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("MemberImportVisibility"),
  .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
]

let package = Package(
  name: "benchmarks",
  platforms: [.macOS(.v15)],
  dependencies: [
    .package(name: "millrace", path: ".."),
    .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
  ],
  targets: [
    .target(name: "CEchoProtos"),
    .target(
      name: "EchoProtos",
      dependencies: ["CEchoProtos", .product(name: "RPC", package: "millrace")],
      swiftSettings: settings),
    .target(name: "CReportProtos"),
    .target(
      name: "ReportProtos",
      dependencies: ["CReportProtos", .product(name: "RPC", package: "millrace")],
      swiftSettings: settings),
    .executableTarget(
      name: "rpc-echo-server",
      dependencies: [
        "EchoProtos", .product(name: "RPC", package: "millrace"),
        .product(name: "RPCMetrics", package: "millrace"),
        .product(name: "RPCTracing", package: "millrace"),
        .product(name: "NIOCore", package: "swift-nio"),
        .product(name: "NIOPosix", package: "swift-nio"),
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ], swiftSettings: settings),
    .target(name: "ClosedLoop", swiftSettings: settings),
    .executableTarget(
      name: "rpc-bench",
      dependencies: [
        "ClosedLoop", "EchoProtos", .product(name: "RPC", package: "millrace"),
        .product(name: "NIOCore", package: "swift-nio"),
        .product(name: "NIOPosix", package: "swift-nio"),
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ], swiftSettings: settings),
    .executableTarget(
      name: "datastore-bench",
      dependencies: [
        "ClosedLoop", .product(name: "BuildProtos", package: "millrace"),
        .product(name: "RPC", package: "millrace"),
        .product(name: "NIOCore", package: "swift-nio"),
        .product(name: "NIOPosix", package: "swift-nio"),
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ], swiftSettings: settings),
    .executableTarget(
      name: "codec-bench",
      dependencies: [
        "EchoProtos", "ReportProtos", .product(name: "RPC", package: "millrace"),
      ], swiftSettings: settings),
    .executableTarget(
      name: "millrace-bench",
      dependencies: [
        .product(name: "BuildProtos", package: "millrace"),
        .product(name: "RPC", package: "millrace"),
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ], swiftSettings: settings),
  ]
)
