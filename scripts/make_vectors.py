#!/usr/bin/env python3
"""Prints Tests/RPC/RPCProtobufTests/Vectors.swift: encodings that Python's protobuf makes.

The tests build the same values in Swift, so that two implementations must agree. Needs protoc and
the Python package protobuf. Run it when everything.proto changes:

    python3 scripts/make_vectors.py > Tests/RPC/RPCProtobufTests/Vectors.swift
"""

import os
import subprocess
import tempfile

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def pool_of(*files):
    with tempfile.NamedTemporaryFile() as output:
        subprocess.run(
            ["protoc", "-I", f"{ROOT}/proto", "-I", "/usr/include", "--include_imports",
             "-o", output.name, *files], check=True)
        files = descriptor_pb2.FileDescriptorSet.FromString(output.read())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return pool


POOL = pool_of("testing/everything/v1/everything.proto")


def message(name, **fields):
    descriptor = POOL.FindMessageTypeByName(f"testing.everything.v1.{name}")
    return json_format.ParseDict(fields, message_factory.GetMessageClass(descriptor)())


def base64(text):
    import base64 as b
    return b.b64encode(text.encode("latin-1")).decode()


INT64 = (1 << 63) - 1
VECTORS = {
    "scalars": message(
        "Everything", aDouble=1.5, aFloat=-2.25, anInt64=str(-INT64 - 1), aUint64=str((1 << 64) - 1),
        anInt32=-1, aFixed64="7", aFixed32=4294967295, aBool=True, aString="zwölf\0 nach 🕛",
        someBytes=base64("\0\xff\x80"), aUint32=300, anSfixed32=-5, anSfixed64=str(-6),
        anSint32=-2147483648, anSint64=str(-INT64 - 1), aColour="COLOUR_NEGATIVE",
        aPoint={"x": -1, "y": 1}, time="2026-11-24T13:27:00.5Z", last="end"),
    "repeated": message(
        "Everything", doubles=[0, -0.5, 1e300], floats=[0.5], int64s=["-1", "0", str(INT64)],
        uint64s=[str((1 << 64) - 1)], int32s=[-2147483648, 0, 150], fixed64s=["1", "2"],
        fixed32s=[3], bools=[True, False, True], strings=["", "a", "ß" * 100],
        byteStrings=["", base64("xyz")], uint32s=[0, 4294967295], sfixed32s=[-1],
        sfixed64s=[str(-1)], sint32s=[-1, 1, -2147483648], sint64s=[str(-INT64 - 1)],
        colours=["COLOUR_RED", "COLOUR_LAST", "COLOUR_NEGATIVE", "COLOUR_UNSPECIFIED"],
        points=[{}, {"x": 7}], unpacked=[1, -1, 300], unpackedColours=["COLOUR_3D"]),
    "present": message(
        "Everything", maybeDouble=0, maybeInt64="0", maybeBool=False, maybeString="",
        maybeBytes="", maybeColour="COLOUR_UNSPECIFIED", maybePoint={}, only=""),
    "maps": message(
        "Everything", byInt32={"-1": "minus"}, byInt64={str(-INT64 - 1): base64("b")},
        byUint32={"0": 0.5}, byUint64={str((1 << 64) - 1): True},
        bySint32={"-7": "COLOUR_DARK_BLUE"}, bySint64={"-8": {"x": 1}}, byFixed32={"9": 1.25},
        byFixed64={"10": 11}, bySfixed32={"-12": "-13"}, bySfixed64={"-14": "15"},
        byBool={"true": -16}, byString={"inner": {"aString": "deep", "byBool": {"false": 1}}}),
    "choice": message("Everything", inner={"buildId": "0"}),
    "json": message("Everything", anyJson={"a": [1, None, {"b": "c"}], "d": True}),
    "tree": message(
        "Tree", label="root", left={"label": "l", "right": {"next": {"label": "n"}}},
        children=[{"label": "c"}, {}], named={"x": {"wrapped": {"tree": {}, "depth": "DEEP"}}}),
    "words": message(
        "Words", base="1", init="2", self="3", type="4", **{"class": "5", "in": "16", "case": "31"},
        hash="6", hashValue="8", unknownFields="9", nItems="10", items=["11"], entries={"k": "v"}),
}


def main():
    print("// swift-format-ignore-file")
    print("// Made by scripts/make_vectors.py: encodings by Python's protobuf. Do not edit.\n")
    print("enum Vectors {")
    for name, value in VECTORS.items():
        data = value.SerializeToString(deterministic=True)
        print(f"  static let {name}: [UInt8] = [")
        for start in range(0, len(data), 16):
            print("    " + ", ".join(f"0x{byte:02x}" for byte in data[start:start + 16]) + ",")
        print("  ]\n")
    print("}")


if __name__ == "__main__":
    main()
