// swift-tools-version: 6.2
import PackageDescription

// swift-protobuf's codec, for scripts/bench-codec. A package of its own, so that the other
// benchmarks are built without it. Its messages stand in the program's own module, where the
// compiler can do most for them.

let package = Package(
  name: "swift-protobuf-peer",
  platforms: [.macOS(.v15)],
  dependencies: [
    .package(url: "https://github.com/apple/swift-protobuf", exact: "1.39.0", traits: [])
  ],
  targets: [
    .executableTarget(
      name: "codec-bench",
      dependencies: [.product(name: "SwiftProtobuf", package: "swift-protobuf")],
      swiftSettings: [.swiftLanguageMode(.v6), .treatAllWarnings(as: .error)])
  ]
)
