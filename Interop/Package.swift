// swift-tools-version: 6.2
import PackageDescription

// gRPC's interoperability tests: a server for other implementations' clients, and a client for
// their servers; and the program that protobuf's conformance tests ask. A package of its own, so that
// nobody who uses Millrace builds it.

let settings: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .treatAllWarnings(as: .error),
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("MemberImportVisibility"),
]

let package = Package(
  name: "interop",
  platforms: [.macOS(.v15)],
  dependencies: [
    .package(name: "millrace", path: ".."),
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
  ],
  targets: [
    // The product for the headers of the well-known types, which a C target cannot name by itself.
    .target(name: "CInteropProtos", dependencies: [.product(name: "RPC", package: "millrace")]),
    .target(
      name: "InteropProtos",
      dependencies: ["CInteropProtos", .product(name: "RPC", package: "millrace")],
      swiftSettings: settings),
    .target(name: "CConformanceProtos", dependencies: [.product(name: "RPC", package: "millrace")]),
    .target(
      name: "ConformanceProtos",
      dependencies: ["CConformanceProtos", .product(name: "RPC", package: "millrace")],
      swiftSettings: settings),
    .executableTarget(
      name: "rpc-conformance",
      dependencies: ["ConformanceProtos", .product(name: "RPC", package: "millrace")],
      swiftSettings: settings),
    .target(name: "InteropArguments", swiftSettings: settings),
    .executableTarget(
      name: "rpc-interop-server",
      dependencies: [
        "InteropArguments", "InteropProtos", .product(name: "RPC", package: "millrace"),
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ], swiftSettings: settings),
    .executableTarget(
      name: "rpc-interop-client",
      dependencies: [
        "InteropArguments", "InteropProtos", .product(name: "RPC", package: "millrace"),
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ], swiftSettings: settings),
  ]
)
