// swift-tools-version: 6.2
import PackageDescription

// Every target has a place: its folder under `Sources/` (or `Tests/`), and a layer. A target may
// depend on lower layers, and on its own layer only where it says so with `beside`. The loop at
// the end of this file stops the build, with a sentence, at any arrow that points up.

enum Layer: Int {
  case systemLibrary, rpcCore, rpcWire, rpcTransport, rpc
  case redis, domain, shared, core, service, program
}

struct Place {
  var name: String
  var folder: String
  var layer: Layer
  var kind: Kind = .library
  var uses: [String] = []
  var beside: [String] = []
  var products: [Target.Dependency] = []
  var c: [String] = []

  enum Kind {
    case library, generatedC, program
    case systemLibrary(pkgConfig: String)
  }
}

func nio(_ names: String...) -> [Target.Dependency] {
  names.map { .product(name: $0, package: "swift-nio") }
}
let logging: Target.Dependency = .product(name: "Logging", package: "swift-log")
let ssl: Target.Dependency = .product(name: "NIOSSL", package: "swift-nio-ssl")
let crypto: Target.Dependency = .product(name: "Crypto", package: "swift-crypto")
let cryptoExtras: Target.Dependency = .product(name: "CryptoExtras", package: "swift-crypto")
let arguments: Target.Dependency = .product(
  name: "ArgumentParser", package: "swift-argument-parser")
let deques: Target.Dependency = .product(name: "DequeModule", package: "swift-collections")
let heaps: Target.Dependency = .product(name: "HeapModule", package: "swift-collections")
let collections: Target.Dependency = .product(name: "Collections", package: "swift-collections")
let yams: Target.Dependency = .product(name: "Yams", package: "Yams")

let allPlaces: [Place] = [
  // C libraries, as their headers are.
  Place(
    name: "CNghttp2", folder: "C", layer: .systemLibrary,
    kind: .systemLibrary(pkgConfig: "libnghttp2")),
  Place(
    name: "CProtobufC", folder: "C", layer: .systemLibrary,
    kind: .systemLibrary(pkgConfig: "libprotobuf-c")),
  Place(
    name: "CHiredis", folder: "C", layer: .systemLibrary,
    kind: .systemLibrary(pkgConfig: "hiredis")),
  Place(
    name: "CSQLite", folder: "C", layer: .systemLibrary,
    kind: .systemLibrary(pkgConfig: "sqlite3")),
  Place(
    name: "CPostgres", folder: "C", layer: .systemLibrary,
    kind: .systemLibrary(pkgConfig: "libpq")),
  Place(name: "CZlib", folder: "C", layer: .systemLibrary, kind: .systemLibrary(pkgConfig: "zlib")),
  // C of our own: what starting processes needs and Swift's view of the C library leaves out.
  Place(name: "CProcess", folder: "C", layer: .systemLibrary, kind: .generatedC),

  // The RPC library, which knows nothing of builds.
  Place(name: "RPCCore", folder: "RPC", layer: .rpcCore),
  Place(
    name: "RPCHTTP2", folder: "RPC", layer: .rpcWire, uses: ["CNghttp2", "RPCCore"],
    products: [deques]),
  Place(name: "RPCProtobuf", folder: "RPC", layer: .rpcWire, uses: ["CProtobufC", "RPCCore"]),
  Place(name: "RPCCompression", folder: "RPC", layer: .rpcWire, uses: ["CZlib", "RPCCore"]),
  Place(
    name: "RPCTransport", folder: "RPC", layer: .rpcTransport,
    uses: ["RPCCore", "RPCHTTP2", "RPCCompression"],
    products: nio("NIOCore", "NIOPosix") + [ssl, heaps]),
  Place(
    name: "CRPCProtos", folder: "RPC", layer: .rpcWire, kind: .generatedC, beside: ["CProtobufC"]
  ),
  // For the tests of RPCProtobuf.
  Place(
    name: "CEverythingProtos", folder: "RPC", layer: .rpcWire, kind: .generatedC,
    beside: ["CProtobufC", "CRPCProtos"]),
  // For the examples of docs/rpc.
  Place(
    name: "CGreeterProtos", folder: "RPC", layer: .rpcWire, kind: .generatedC,
    beside: ["CProtobufC"]),
  Place(
    name: "RPC", folder: "RPC", layer: .rpc,
    uses: ["RPCCore", "RPCProtobuf", "RPCTransport", "CRPCProtos"],
    products: nio("NIOCore", "NIOPosix") + [logging]),
  // Hooks into what programs measure and trace with; whoever does neither links neither.
  Place(
    name: "RPCMetrics", folder: "RPC", layer: .rpc, uses: ["RPCCore", "RPCTransport"],
    products: [.product(name: "Metrics", package: "swift-metrics")]),
  Place(
    name: "RPCTracing", folder: "RPC", layer: .rpc, uses: ["RPCCore", "RPCTransport"],
    products: [
      .product(name: "Tracing", package: "swift-distributed-tracing"),
      .product(name: "Instrumentation", package: "swift-distributed-tracing"),
      .product(name: "ServiceContextModule", package: "swift-service-context"),
    ]),
  // What strangers send, for the fuzzer in the package Fuzz and for the test that replays its corpus.
  Place(
    name: "RPCFuzzing", folder: "RPC", layer: .shared,
    uses: ["RPC", "RPCCompression", "RPCCore", "RPCHTTP2", "RPCProtobuf"]),
  // For tests of services, and of what stands on the transport.
  Place(
    name: "RPCTesting", folder: "RPC", layer: .rpc, uses: ["RPCCore", "RPCHTTP2", "RPCTransport"],
    products: nio("NIOCore", "NIOPosix")),

  // Redis.
  Place(name: "RedisWire", folder: "Redis", layer: .redis, uses: ["CHiredis"]),
  Place(
    name: "RedisClient", folder: "Redis", layer: .redis, beside: ["RedisWire"],
    products: nio("NIOCore", "NIOPosix") + [logging]),

  // A real redis-server for one test; only tests use it.
  Place(name: "RedisTesting", folder: "Redis", layer: .redis),

  // What the services share.
  Place(name: "Domain", folder: "Shared", layer: .domain),
  Place(
    name: "CBuildProtos", folder: "Shared", layer: .domain, kind: .generatedC,
    uses: ["CProtobufC", "CRPCProtos"]),
  Place(
    name: "BuildProtos", folder: "Shared", layer: .shared,
    uses: ["CBuildProtos", "CRPCProtos", "CProtobufC", "RPCCore", "RPCProtobuf", "RPC"]),
  Place(
    name: "PipelineSyntax", folder: "Shared", layer: .shared, uses: ["Domain"], products: [yams]),
  Place(
    name: "DomainMapping", folder: "Shared", layer: .shared, uses: ["Domain", "RPC"],
    beside: ["BuildProtos"]),
  Place(
    name: "ServiceRuntime", folder: "Shared", layer: .shared, uses: ["Domain", "RPC"],
    products: nio("NIOCore", "NIOPosix", "NIOHTTP1") + [logging, yams]),
  Place(
    name: "PluginKit", folder: "Shared", layer: .shared, uses: ["RPC"], beside: ["BuildProtos"]),

  // The services: a pure core, a shell, a program.
  Place(
    name: "SchedulerCore", folder: "Scheduler", layer: .core, uses: ["Domain"],
    products: [collections]),
  Place(
    name: "SchedulerService", folder: "Scheduler", layer: .service,
    uses: [
      "SchedulerCore", "Domain", "PipelineSyntax", "BuildProtos", "DomainMapping", "RPC",
      "ServiceRuntime",
    ],
    products: nio("NIOCore") + [logging, crypto]),
  Place(
    name: "millrace-scheduler", folder: "Scheduler", layer: .program, kind: .program,
    uses: ["SchedulerService", "ServiceRuntime"]),

  Place(
    name: "ExecutorAllocatorCore", folder: "ExecutorAllocator", layer: .core, uses: ["Domain"],
    products: [
      heaps,
      deques,
    ]),
  Place(
    name: "ExecutorAllocatorService", folder: "ExecutorAllocator", layer: .service,
    uses: [
      "ExecutorAllocatorCore", "Domain", "RedisWire", "RedisClient", "BuildProtos",
      "DomainMapping", "RPC", "ServiceRuntime",
    ],
    products: nio("NIOCore", "NIOPosix") + [logging]),
  Place(
    name: "millrace-executor-allocator", folder: "ExecutorAllocator", layer: .program,
    kind: .program, uses: ["ExecutorAllocatorService", "ServiceRuntime"]),

  Place(
    name: "PluginRunnerCore", folder: "PluginRunner", layer: .core, uses: ["Domain"],
    products: [collections]),
  Place(
    name: "PluginRunnerService", folder: "PluginRunner", layer: .service,
    uses: [
      "PluginRunnerCore", "Domain", "DomainMapping", "PluginKit", "BuildProtos", "RPC",
      "ServiceRuntime", "CProcess",
    ],
    products: nio("NIOCore", "NIOPosix") + [logging, crypto]),
  Place(
    name: "CorePlugins", folder: "PluginRunner", layer: .service,
    uses: ["PluginKit", "BuildProtos", "RPC"], products: [crypto]),
  Place(
    name: "millrace-plugin-runner", folder: "PluginRunner", layer: .program, kind: .program,
    uses: ["PluginRunnerService", "ServiceRuntime"]),
  Place(
    name: "millrace-core-plugin", folder: "PluginRunner", layer: .program, kind: .program,
    uses: ["CorePlugins", "PluginKit"]),
  // In C: between fork and exec nothing may touch the Swift runtime.
  Place(
    name: "millrace-step-supervisor", folder: "PluginRunner", layer: .program, kind: .program,
    uses: ["CProcess"]),

  Place(
    name: "DatastoreGatewayCore", folder: "DatastoreGateway", layer: .core, uses: ["Domain"],
    products: [collections]),
  // What judges the gateway's queries; only tests use it.
  Place(
    name: "DatastoreGatewayTesting", folder: "DatastoreGateway", layer: .service,
    uses: ["DatastoreGatewayCore", "Domain"]),
  Place(
    name: "DatastoreGatewayService", folder: "DatastoreGateway", layer: .service,
    uses: [
      "DatastoreGatewayCore", "Domain", "CSQLite", "CPostgres", "CZlib", "BuildProtos", "RPC",
      "ServiceRuntime",
    ],
    products: nio("NIOCore", "NIOPosix", "NIOHTTP1") + [logging, crypto, cryptoExtras, ssl]),
  Place(
    name: "millrace-datastore-gateway", folder: "DatastoreGateway", layer: .program,
    kind: .program, uses: ["DatastoreGatewayService", "ServiceRuntime"]),

  Place(
    name: "ContentCacheCore", folder: "ContentCache", layer: .core, uses: ["Domain"],
    products: [collections]),
  Place(
    name: "ContentCacheService", folder: "ContentCache", layer: .service,
    uses: ["ContentCacheCore", "Domain", "BuildProtos", "RPC", "ServiceRuntime"],
    products: nio("NIOCore", "NIOPosix") + [logging, crypto]),
  Place(
    name: "millrace-content-cache", folder: "ContentCache", layer: .program, kind: .program,
    uses: ["ContentCacheService", "ServiceRuntime"]),

  // Every core in one world, for tests and for planning.
  Place(
    name: "Simulation", folder: "Simulation", layer: .service,
    uses: ["SchedulerCore", "ExecutorAllocatorCore", "PluginRunnerCore", "Domain"],
    products: [collections]),
  Place(
    name: "simulate", folder: "Tools", layer: .program, kind: .program, uses: ["Simulation"]),
  Place(
    name: "core-bench", folder: "Tools", layer: .program, kind: .program,
    uses: ["SchedulerCore", "ExecutorAllocatorCore", "Domain"], products: [collections]),

  // Tools.
  Place(name: "ProtocRPCSwift", folder: "Tools", layer: .core),
  Place(
    name: "protoc-gen-rpc-swift", folder: "Tools", layer: .program, kind: .program,
    uses: ["ProtocRPCSwift"]),
  Place(
    name: "CommandLineInterface", folder: "Tools", layer: .service,
    uses: ["Domain", "PipelineSyntax", "BuildProtos", "RPC"],
    products: nio("NIOCore", "NIOPosix") + [logging, arguments, crypto]),
  Place(
    name: "millrace", folder: "Tools", layer: .program, kind: .program,
    uses: ["CommandLineInterface"]),
]

/// A test target, and what it looks into.
let allTests: [(name: String, folder: String, uses: [String], products: [Target.Dependency])] = [
  ("RPCCoreTests", "RPC", ["RPCCore"], []),
  (
    "RPCProtobufTests", "RPC",
    [
      "RPCProtobuf", "RPCCore", "RPC", "BuildProtos", "CRPCProtos", "CEverythingProtos",
      "CProtobufC",
    ], []
  ),
  (
    "RPCTransportTests", "RPC",
    ["CNghttp2", "RPCCore", "RPCHTTP2", "RPCCompression", "RPCTransport", "RPCTesting"],
    nio("NIOCore", "NIOPosix", "NIOEmbedded") + [ssl]
  ),
  (
    "RPCTests", "RPC",
    ["RPC", "RPCCore", "RPCProtobuf", "RPCTransport", "RPCTesting", "RPCMetrics", "RPCTracing"],
    [
      .product(name: "Metrics", package: "swift-metrics"),
      .product(name: "MetricsTestKit", package: "swift-metrics"),
      .product(name: "Tracing", package: "swift-distributed-tracing"),
      .product(name: "Instrumentation", package: "swift-distributed-tracing"),
      .product(name: "InMemoryTracing", package: "swift-distributed-tracing"),
      .product(name: "ServiceContextModule", package: "swift-service-context"),
    ]
  ),
  ("RPCFuzzingTests", "RPC", ["RPCFuzzing"], []),
  (
    "RPCExamplesTests", "RPC",
    [
      "RPC", "RPCCore", "RPCProtobuf", "RPCTransport", "RPCTesting", "RPCMetrics", "RPCTracing",
      "CGreeterProtos", "CProtobufC",
    ],
    nio("NIOCore", "NIOPosix") + [
      .product(name: "Metrics", package: "swift-metrics"),
      .product(name: "MetricsTestKit", package: "swift-metrics"),
    ]
  ),
  ("RedisWireTests", "Redis", ["RedisWire"], []),
  (
    "RedisClientTests", "Redis", ["RedisWire", "RedisClient", "RedisTesting"],
    nio("NIOCore", "NIOPosix") + [logging]
  ),
  ("DomainTests", "Shared", ["Domain"], []),
  ("PipelineSyntaxTests", "Shared", ["Domain", "PipelineSyntax"], []),
  (
    "ServiceRuntimeTests", "Shared", ["ServiceRuntime", "RPC"],
    nio("NIOCore", "NIOPosix") + [logging]
  ),
  ("PluginKitTests", "Shared", ["PluginKit", "BuildProtos", "RPC"], []),
  ("SchedulerCoreTests", "Scheduler", ["SchedulerCore", "Domain"], []),
  (
    "SchedulerServiceTests", "Scheduler",
    [
      "SchedulerService", "SchedulerCore", "DatastoreGatewayService", "DatastoreGatewayCore",
      "Domain", "BuildProtos", "RPC", "ServiceRuntime",
    ], nio("NIOCore", "NIOPosix") + [logging]
  ),
  ("ExecutorAllocatorCoreTests", "ExecutorAllocator", ["ExecutorAllocatorCore", "Domain"], []),
  (
    "ExecutorAllocatorServiceTests", "ExecutorAllocator",
    [
      "ExecutorAllocatorService", "ExecutorAllocatorCore", "Domain", "RedisClient", "RedisWire",
      "RedisTesting", "Simulation", "BuildProtos", "RPC", "ServiceRuntime",
    ], nio("NIOCore", "NIOPosix") + [logging]
  ),
  ("PluginRunnerCoreTests", "PluginRunner", ["PluginRunnerCore", "Domain"], []),
  (
    "PluginRunnerServiceTests", "PluginRunner",
    [
      "PluginRunnerService", "PluginRunnerCore", "Domain", "BuildProtos", "PluginKit", "RPC",
      "ServiceRuntime",
    ], nio("NIOCore", "NIOPosix") + [logging]
  ),
  ("CorePluginsTests", "PluginRunner", ["CorePlugins", "PluginKit", "BuildProtos", "RPC"], []),
  (
    "DatastoreGatewayCoreTests", "DatastoreGateway",
    ["DatastoreGatewayCore", "DatastoreGatewayTesting", "Domain"], []
  ),
  (
    "DatastoreGatewayServiceTests", "DatastoreGateway",
    [
      "DatastoreGatewayService", "DatastoreGatewayCore", "DatastoreGatewayTesting", "BuildProtos",
      "CSQLite", "CPostgres", "Domain", "RPC", "ServiceRuntime",
    ], nio("NIOCore", "NIOPosix", "NIOHTTP1") + [logging, crypto, cryptoExtras]
  ),
  ("ContentCacheCoreTests", "ContentCache", ["ContentCacheCore", "Domain"], []),
  (
    "ContentCacheServiceTests", "ContentCache",
    ["ContentCacheService", "ContentCacheCore", "BuildProtos", "Domain", "RPC", "ServiceRuntime"],
    []
  ),
  ("SimulationTests", "Simulation", ["Simulation", "Domain"], []),
  ("ProtocRPCSwiftTests", "Tools", ["ProtocRPCSwift"], []),
  (
    "CommandLineInterfaceTests", "Tools",
    ["CommandLineInterface", "Domain", "BuildProtos", "RPC"], []
  ),
]

// With RPC_ALONE set, the package is the RPC library with its tests, and what those stand on:
// a sanitizer's build of everything takes four times as long (`scripts/sanitize`).
let isRPCAlone = Context.environment["RPC_ALONE"] != nil
let tests = allTests.filter { !isRPCAlone || $0.folder == "RPC" }
let usesByName = Dictionary(uniqueKeysWithValues: allPlaces.map { ($0.name, $0.uses + $0.beside) })
var kept: Set<String> = []
var left = tests.flatMap(\.uses)
while let name = left.popLast() {
  if kept.insert(name).inserted { left += usesByName[name] ?? [] }
}
let places = allPlaces.filter { !isRPCAlone || kept.contains($0.name) }

// MARK: - The rules

let placeByName = Dictionary(uniqueKeysWithValues: places.map { ($0.name, $0) })
for place in places {
  for name in place.uses + place.beside {
    guard let used = placeByName[name] else {
      fatalError("Package.swift: \(place.name) uses \(name), which is no target of this package.")
    }
    let allowsSame = place.beside.contains(name)
    if used.layer.rawValue > place.layer.rawValue {
      fatalError(
        "Package.swift: \(place.name) (layer \(place.layer)) must not import \(name) (layer "
          + "\(used.layer)): arrows point down, see docs/architecture.md.")
    }
    if used.layer == place.layer && !allowsSame {
      fatalError(
        "Package.swift: \(place.name) and \(name) are both in layer \(place.layer); name it under "
          + "`beside` if \(place.name) really stands on \(name), see docs/architecture.md.")
    }
  }
}

let swiftSettings: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .treatAllWarnings(as: .error),
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("MemberImportVisibility"),
]
// Calls stay on their event loop: what awaits goes on where it was called. (SE-0461.)
let callSettings = swiftSettings + [.enableUpcomingFeature("NonisolatedNonsendingByDefault")]

let libraries = [
  // With what it exports again: else a change of those does not compile anew who only names RPC.
  "RPC": ["RPC", "RPCCore", "RPCProtobuf", "RPCTransport"], "RPCTesting": ["RPCTesting"],
  "RPCMetrics": ["RPCMetrics"],
  "RPCTracing": ["RPCTracing"], "RPCFuzzing": ["RPCFuzzing"], "PluginKit": ["PluginKit"],
  // The services' own calls: Benchmarks, a package of its own, makes them.
  "BuildProtos": ["BuildProtos"],
]

let package = Package(
  name: "millrace",
  platforms: [.macOS(.v15)],
  products: libraries.filter { kept.isSuperset(of: $0.value) || !isRPCAlone }
    .sorted { $0.key < $1.key }.map { .library(name: $0.key, targets: $0.value) }
    + places.filter { if case .program = $0.kind { true } else { false } }
    .map { .executable(name: $0.name, targets: [$0.name]) },
  dependencies: [
    .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
    .package(url: "https://github.com/apple/swift-nio-ssl", from: "2.37.6"),
    .package(url: "https://github.com/apple/swift-metrics", from: "2.13.0"),
    .package(url: "https://github.com/apple/swift-distributed-tracing", from: "1.7.3"),
    .package(url: "https://github.com/apple/swift-service-context", from: "1.5.1"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    .package(url: "https://github.com/apple/swift-crypto", from: "4.5.2"),
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
    .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
  ],
  targets: places.map { place in
    let path = "Sources/\(place.folder)/\(place.name)"
    let dependencies =
      (place.uses + place.beside).map { Target.Dependency.target(name: $0) } + place.products
    switch place.kind {
    case .systemLibrary(let pkgConfig):
      return .systemLibrary(name: place.name, path: path, pkgConfig: pkgConfig)
    case .generatedC:
      return .target(name: place.name, dependencies: dependencies, path: path)
    case .library:
      let makesCalls = place.folder == "RPC" || place.name.hasSuffix("Protos")
      return .target(
        name: place.name, dependencies: dependencies, path: path,
        swiftSettings: makesCalls ? callSettings : swiftSettings)
    case .program:
      return .executableTarget(
        name: place.name, dependencies: dependencies, path: path, swiftSettings: swiftSettings)
    }
  }
    + tests.map { test in
      .testTarget(
        name: test.name,
        dependencies: test.uses.map { .target(name: $0) } + test.products,
        path: "Tests/\(test.folder)/\(test.name)",
        // Read where they are.
        exclude: test.name == "RPCTransportTests" ? ["Certificates"] : [],
        swiftSettings: swiftSettings)
    }
)
