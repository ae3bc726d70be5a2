#!/bin/sh
# Makes the committed C and Swift of every proto anew: `make generate`.
#
# Needs protoc and protoc-gen-c (Debian: protobuf-compiler protobuf-c-compiler libprotobuf-dev).
# RPC_SWIFT_PLUGIN names a built protoc-gen-rpc-swift; without it one is built.
set -eu
cd "$(dirname "$0")/.."

plugin=${RPC_SWIFT_PLUGIN:-}
if [ -z "$plugin" ]; then
  swift build --product protoc-gen-rpc-swift
  plugin=$(swift build --show-bin-path)/protoc-gen-rpc-swift
fi
if [ "${1:-}" = "--check" ]; then
  root=$(mktemp -d)
  trap 'rm -rf "$root"' EXIT
else
  root=.
fi

# generate OPTIONS C-FOLDER SWIFT-FOLDER PROTO..., protos below $protos
protos=proto
generate() {
  options=$1 c=$2 swift=$3
  shift 3
  rm -rf "${root:?}/$c" "${root:?}/$swift"
  mkdir -p "$root/$c" "$root/$swift"
  protoc -I "$protos" -I /usr/include --plugin=protoc-gen-rpc-swift="$plugin" \
    --rpc-swift_out="$root/$c" --rpc-swift_opt="emit=c,$options" "$@"
  protoc -I "$protos" -I /usr/include --plugin=protoc-gen-rpc-swift="$plugin" \
    --rpc-swift_out="$root/$swift" --rpc-swift_opt="emit=swift,$options" "$@"
  if [ "$root" != . ]; then
    diff -r "$c" "$root/$c"
    diff -r "$swift" "$root/$swift"
  fi
}

# What the RPC library carries: the well-known types, rich errors, health and reflection.
well_known="any duration empty field_mask struct timestamp wrappers"
generate module=RPC,c_module=CRPCProtos Sources/RPC/CRPCProtos Sources/RPC/RPC/Generated \
  $(for name in $well_known; do echo "google/protobuf/$name.proto"; done) \
  $(cd proto && find google/rpc grpc -name '*.proto' | LC_ALL=C sort)

# What the services speak: our own protos, and the public contracts.
generate module=BuildProtos,c_module=CBuildProtos Sources/Shared/CBuildProtos \
  Sources/Shared/BuildProtos \
  $(cd proto && find build google millrace -name '*.proto' ! -path 'google/rpc/*' | LC_ALL=C sort)

# What the tests of the generator and of RPCProtobuf take apart.
generate module=EverythingProtos,c_module=CEverythingProtos,visibility=package \
  Sources/RPC/CEverythingProtos Tests/RPC/RPCProtobufTests/Generated \
  $(cd proto && find testing/everything -name '*.proto' | LC_ALL=C sort)
# What the examples of docs/rpc speak.
generate module=GreeterProtos,c_module=CGreeterProtos,visibility=package \
  Sources/RPC/CGreeterProtos Tests/RPC/RPCExamplesTests/Generated testing/greeter/v1/greeter.proto
# What protoc asks for, as the generator's own test replays it.
golden=Tests/Tools/Golden
mkdir -p "$root/$golden"
recorder=$(mktemp)
# Its answer says that it knows of `optional`, and has no files.
printf '#!/bin/sh\ncat > "%s"\nprintf "\\020\\001"\n' "$root/$golden/everything.request" > "$recorder"
chmod +x "$recorder"
protoc -I proto -I /usr/include --plugin=protoc-gen-record="$recorder" --record_out="$root/$golden" \
  --record_opt=emit=swift,module=EverythingProtos,c_module=CEverythingProtos,visibility=package \
  testing/everything/v1/everything.proto
rm -f "$recorder"
if [ "$root" != . ]; then diff -r "$golden" "$root/$golden"; fi

# What the benchmarks and the tests with other implementations speak.
protos=Benchmarks/proto
generate module=EchoProtos,c_module=CEchoProtos Benchmarks/Sources/CEchoProtos \
  Benchmarks/Sources/EchoProtos echo.proto
generate module=ReportProtos,c_module=CReportProtos Benchmarks/Sources/CReportProtos \
  Benchmarks/Sources/ReportProtos report.proto
protos=Interop/proto
generate module=InteropProtos,c_module=CInteropProtos Interop/Sources/CInteropProtos \
  Interop/Sources/InteropProtos interop.proto \
  $(cd Interop/proto && find xds -name '*.proto' | LC_ALL=C sort)
generate module=ConformanceProtos,c_module=CConformanceProtos Interop/Sources/CConformanceProtos \
  Interop/Sources/ConformanceProtos conformance.proto conformance_messages.proto
