import ProtocRPCSwift
import Testing

@Suite struct NamingTests {
  @Test(arguments: [
    ("log_bytes", "logBytes"), ("build_id", "buildID"), ("id", "id"), ("uses_url", "usesURL"),
    ("id_type", "idType"), ("lease_ids", "leaseIds"), ("cpu_millis", "cpuMillis"),
    ("max_cpu_millis", "maxCPUMillis"), ("scalerMetadata", "scalerMetadata"), ("URL", "url"),
    ("gql_query", "gqlQuery"), ("hash_value", "hashValueField"), ("self", "selfField"),
    ("fast_cdc_2020_params", "fastCdc2020Params"), ("_odd__name_", "oddName"),
  ])
  func aFieldIsNamedAsSwiftNamesMembers(proto: String, swift: String) {
    #expect(Naming.member(proto) == swift)
  }

  @Test(arguments: [
    ("BUILD_STATE_QUEUED", "BuildState", "queued"),
    ("OUTCOME_OUT_OF_MEMORY", "Outcome", "outOfMemory"),
    ("MORE_RESULTS_AFTER_LIMIT", "MoreResultsType", "moreResultsAfterLimit"),
    ("COLOUR_3D", "Colour", "colour3d"), ("SHA256", "Value", "sha256"),
    ("HTTP_METHOD_GET", "HTTPMethod", "get"), ("ID_KIND_BUILD_ID", "IdKind", "buildID"),
    ("lowercase", "Colour", "lowercase"), ("COLOUR_UNRECOGNIZED", "Colour", "unrecognizedValue"),
  ])
  func anEnumsValueLosesItsPrefix(proto: String, type: String, swift: String) {
    #expect(Naming.enumCase(proto, of: type) == swift)
  }

  @Test(arguments: [
    ("default", "`default`"), ("in", "`in`"), ("case", "`case`"),
    ("await", "`await`"), ("message", "message"),
  ])
  func wordsOfTheLanguageAreQuoted(name: String, quoted: String) {
    #expect(Naming.quoted(name) == quoted)
  }

  @Test(arguments: [
    ("google.protobuf", "GoogleProtobuf"), ("my_company.api.v1", "MyCompanyApiV1"), ("", "Protos"),
  ])
  func aPackageWithoutAPrefixIsItsOwnNamespace(package: String, namespace: String) {
    #expect(Naming.namespace(package) == namespace)
  }

  @Test(arguments: [
    ("query_type", "QueryType"), ("Any", "AnyMessage"), ("Type", "TypeMessage"),
    ("lowerCase", "LowerCase"), ("Swift", "SwiftMessage"), ("RPCProtobuf", "RPCProtobufMessage"),
  ])
  func aTypeIsNamedAsSwiftNamesTypes(proto: String, swift: String) {
    #expect(Naming.type(proto) == swift)
  }

  @Test func protobufCsNamesAreFollowed() {
    #expect(Naming.cStruct("build.bazel.semver.SemVer") == "Build__Bazel__Semver__SemVer")
    #expect(Naming.cFunction("build.bazel.semver.SemVer") == "build__bazel__semver__sem_ver")
    #expect(Naming.cStruct("a.my_type") == "A__MyType")
    #expect(Naming.cMember("Data") == "data")
    #expect(Naming.cMember("default") == "default_")
    #expect(Naming.cMember("base") == "base_")
    #expect(Naming.cMember("n_items") == "n_items_")
    #expect(Naming.cCase("idType") == "id_type_case")
  }
}
