#!/usr/bin/env python3
"""Compares our own files for public contracts with the descriptors that their owners publish.

Everything that the wire or a client's code depends on must be the same: names, numbers, types,
labels, presence, oneofs, packing, enum values, services, methods and their streams. What we have
must be there; what we leave out must be listed in OMITTED, so that nothing is forgotten.

Needs protoc and the PyPI packages google-cloud-datastore, googleapis-common-protos,
grpcio-health-checking, grpcio-reflection and, unpacked only, buildgrid (`pip install --no-deps`),
which carries the Remote Execution API and ByteStream. A contract whose package is not installed is
said to be skipped. BAZEL_REMOTE_APIS may name a checkout of github.com/bazelbuild/remote-apis to
compare with instead.
"""

import ast
import importlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile

from google.protobuf import descriptor_pb2

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
Field = descriptor_pb2.FieldDescriptorProto

# Our file, and the module whose DESCRIPTOR is the contract.
CONTRACTS = {
    "google/rpc/status.proto": "google.rpc.status_pb2",
    "google/rpc/error_details.proto": "google.rpc.error_details_pb2",
    "google/type/latlng.proto": "google.type.latlng_pb2",
    "grpc/health/v1/health.proto": "grpc_health.v1.health_pb2",
    "grpc/reflection/v1alpha/reflection.proto": "grpc_reflection.v1alpha.reflection_pb2",
}

# The Datastore's package has Python classes of proto-plus instead of descriptors' modules.
DATASTORE = {
    "google/datastore/v1/datastore.proto": "google.cloud.datastore_v1.types.datastore",
    "google/datastore/v1/entity.proto": "google.cloud.datastore_v1.types.entity",
    "google/datastore/v1/query.proto": "google.cloud.datastore_v1.types.query",
    "google/datastore/v1/aggregation_result.proto":
        "google.cloud.datastore_v1.types.aggregation_result",
    "google/datastore/v1/query_profile.proto": "google.cloud.datastore_v1.types.query_profile",
}

# The same messages under another package name: reflection v1 is v1alpha, renamed.
RENAMED = {
    "grpc/reflection/v1/reflection.proto":
        ("grpc_reflection.v1alpha.reflection_pb2", "grpc.reflection.v1alpha", "grpc.reflection.v1"),
}

# From buildgrid's wheel, by the path of the generated module in it.
BUILDGRID = {
    "build/bazel/remote/execution/v2/remote_execution.proto":
        "build/bazel/remote/execution/v2/remote_execution_pb2.py",
    "build/bazel/semver/semver.proto": "build/bazel/semver/semver_pb2.py",
    "google/bytestream/bytestream.proto": "google/bytestream/bytestream_pb2.py",
}

REAPI = "build.bazel.remote.execution.v2."
# What the contracts have and ours leave out on purpose: execution and blob splitting.
OMITTED = {REAPI + name for name in [
    "Execution", "ExecutionPolicy", "ExecuteRequest", "LogFile", "ExecuteResponse",
    "ExecutionStage", "ExecuteOperationMetadata", "WaitExecutionRequest", "SplitBlobRequest",
    "SplitBlobResponse", "SpliceBlobRequest", "SpliceBlobResponse", "ChunkingFunction",
    "ContentAddressableStorage.SplitBlob", "ContentAddressableStorage.SpliceBlob",
]}

# What the Remote Execution API has got since buildgrid copied it.
NEWER = {REAPI + name for name in [
    "CacheCapabilities.split_blob_support", "CacheCapabilities.splice_blob_support",
    "CacheCapabilities.fast_cdc_2020_params", "CacheCapabilities.rep_max_cdc_params",
    "CacheCapabilities.max_cas_blob_size_bytes", "DigestFunction.Value.GITSHA1",
    "FastCdc2020Params", "RepMaxCdcParams",
]}


def listed(name, names):
    """Whether a list has a name, or what it is in."""
    return any(name == listed or name.startswith(listed + ".") for listed in names)


def compile_protos(paths, includes):
    """The descriptors of protos, by file name."""
    with tempfile.NamedTemporaryFile() as output:
        command = ["protoc", "--include_imports", "-o", output.name]
        for include in includes:
            command += ["-I", include]
        subprocess.run(command + list(paths), check=True)
        files = descriptor_pb2.FileDescriptorSet.FromString(output.read())
    return {file.name: file for file in files.file}


def facts(file):
    """All that matters of a file, as a dictionary from full names to what they are."""
    result = {}

    def default_packed(field):
        scalar = field.type not in (Field.TYPE_STRING, Field.TYPE_BYTES, Field.TYPE_MESSAGE)
        if field.label != Field.LABEL_REPEATED or not scalar:
            return None
        if field.options.HasField("packed"):
            return field.options.packed
        return file.syntax == "proto3"

    def enum(value, scope):
        result[f"{scope}{value.name}"] = ("enum",)
        for number in value.value:
            result[f"{scope}{value.name}.{number.name}"] = ("enum value", number.number)

    def message(value, scope):
        name = f"{scope}{value.name}"
        result[name] = ("message", "map entry" if value.options.map_entry else "")
        for field in value.field:
            oneof = ""
            if field.HasField("oneof_index") and not field.proto3_optional:
                oneof = value.oneof_decl[field.oneof_index].name
            result[f"{name}.{field.name}"] = (
                "field", field.number, Field.Type.Name(field.type),
                Field.Label.Name(field.label), field.type_name, f"oneof {oneof}",
                "optional" if field.proto3_optional else "", f"packed {default_packed(field)}",
                f"json {field.json_name}" if field.json_name else "")
        for nested in value.nested_type:
            message(nested, name + ".")
        for nested in value.enum_type:
            enum(nested, name + ".")

    scope = file.package + "."
    for value in file.message_type:
        message(value, scope)
    for value in file.enum_type:
        enum(value, scope)
    for service in file.service:
        result[scope + service.name] = ("service",)
        for method in service.method:
            result[f"{scope}{service.name}.{method.name}"] = (
                "method", method.input_type, method.output_type,
                "requests stream" if method.client_streaming else "",
                "responses stream" if method.server_streaming else "")
    return result


def proto_of(module):
    """The descriptor of a generated module, as a FileDescriptorProto."""
    proto = descriptor_pb2.FileDescriptorProto()
    importlib.import_module(module).DESCRIPTOR.CopyToProto(proto)
    return proto


def datastore_facts(modules):
    """The same facts from proto-plus classes; they carry no services and no JSON names."""
    import enum as python_enum

    import proto

    messages, result = {}, {}
    for module in modules:
        for value in vars(importlib.import_module(module)).values():
            if isinstance(value, type) and issubclass(value, proto.Message):
                file = value.pb().DESCRIPTOR.file
                messages[file.name] = file
            elif isinstance(value, type) and issubclass(value, python_enum.Enum):
                pass
    for file in messages.values():
        copy = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(copy)
        if copy.package == "google.datastore.v1":
            result.update(facts(copy))
    return result


def datastore_methods():
    """What the client really calls, from its transport: path, request, response."""
    module = importlib.import_module("google.cloud.datastore_v1.services.datastore.transports.grpc")
    source = open(module.__file__, encoding="utf-8").read()
    return {
        match[0]: (match[1], match[2])
        for match in re.findall(
            r'"/google\.datastore\.v1\.Datastore/(\w+)",\s*request_serializer=\w+\.(\w+)\.serialize,'
            r"\s*response_deserializer=\w+\.(\w+)\.deserialize", source)
    }


def buildgrid_facts():
    """The Remote Execution API as buildgrid has it. Its modules are read, not imported: they are
    of another version of protobuf, and import what is not installed."""
    spec = importlib.util.find_spec("buildgrid")
    result = {}
    for name, path in BUILDGRID.items():
        result[name] = None
        file = os.path.join(list(spec.submodule_search_locations)[0], "_protos", path) if spec else ""
        if not os.path.exists(file):
            continue
        for node in ast.walk(ast.parse(open(file, encoding="utf-8").read())):
            # The descriptor is the one bytes literal of any length.
            if isinstance(node, ast.Constant) and isinstance(node.value, bytes) \
                    and len(node.value) > 200 and result[name] is None:
                result[name] = facts(descriptor_pb2.FileDescriptorProto.FromString(node.value))
    return result


def checkout_facts(checkout):
    """The Remote Execution API from a checkout of its own repository."""
    import google.api
    names = [name for name in BUILDGRID if name.startswith("build/")]
    with tempfile.TemporaryDirectory() as stubs:
        # Only the types' names are needed of what we leave out, and of HTTP annotations.
        common = os.path.dirname(os.path.dirname(list(google.api.__path__)[0]))
        os.makedirs(f"{stubs}/google/longrunning")
        with open(f"{stubs}/google/longrunning/operations.proto", "w", encoding="utf-8") as stub:
            stub.write('syntax = "proto3"; package google.longrunning; message Operation {}')
        theirs = compile_protos(names, [checkout, stubs, common, "/usr/include"])
    return {name: facts(theirs[name]) if name in theirs else None for name in BUILDGRID}


def without_json(values):
    return {
        name: tuple("" if str(part).startswith("json ") else part for part in fact)
        for name, fact in values.items()
    }


def compare(title, ours, theirs, problems, newer=()):
    ours, theirs = without_json(ours), without_json(theirs)
    count = len(problems)
    for name, fact in sorted(ours.items()):
        if name not in theirs and listed(name, newer):
            continue
        if name not in theirs:
            problems.append(f"{title}: {name} is ours alone")
        elif theirs[name] != fact:
            problems.append(f"{title}: {name} is {fact}, should be {theirs[name]}")
    for name in sorted(set(theirs) - set(ours)):
        if not listed(name, OMITTED):
            problems.append(f"{title}: {name} is missing: {theirs[name]}")
    if len(problems) == count:
        print(f"same: {title} ({len(ours)} names)")


def main():
    names = [*CONTRACTS, *DATASTORE, *RENAMED, *BUILDGRID]
    ours = compile_protos(names, [f"{ROOT}/proto", "/usr/include"])
    problems = []
    for name, module in CONTRACTS.items():
        compare(name, facts(ours[name]), facts(proto_of(module)), problems)

    for name, (module, old, new) in RENAMED.items():
        file = proto_of(module)
        text = file.SerializeToString()
        theirs = {
            fact.replace(old, new, 1): tuple(
                part.replace(f".{old}.", f".{new}.") if isinstance(part, str) else part
                for part in value)
            for fact, value in facts(descriptor_pb2.FileDescriptorProto.FromString(text)).items()
        }
        compare(name, facts(ours[name]), theirs, problems)

    datastore = {}
    methods = {}
    for name in DATASTORE:
        for fact, value in facts(ours[name]).items():
            if value[0] == "method":
                methods[fact.rsplit(".", 1)[1]] = tuple(t.rsplit(".", 1)[1] for t in value[1:3])
            elif value[0] != "service":
                datastore[fact] = value
    compare("google.datastore.v1", datastore, datastore_facts(DATASTORE.values()), problems)
    theirs = datastore_methods()
    if methods != theirs:
        problems.append(f"google.datastore.v1.Datastore: methods {methods}, should be {theirs}")
    else:
        print(f"same: google.datastore.v1.Datastore ({len(methods)} methods)")

    checkout = os.environ.get("BAZEL_REMOTE_APIS")
    for name, theirs in (checkout_facts(checkout) if checkout else buildgrid_facts()).items():
        if theirs is None:
            print(f"skipped: {name} is in no installed package")
        else:
            compare(name, facts(ours[name]), theirs, problems, () if checkout else NEWER)

    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
