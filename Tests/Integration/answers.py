"""Answers of Google's Datastore API in a form that can be compared."""

import struct

from google.cloud.datastore_v1.types import entity


def path_of(key):
    return tuple(
        (part.kind, part.name if entity.Key.PathElement.pb(part).WhichOneof("id_type") == "name"
         else part.id) for part in key.path
    )


def value_of(value):
    """Type and content, equal exactly if the values are."""
    pb = entity.Value.pb(value)
    kind = pb.WhichOneof("value_type")
    flags = ("unindexed",) if pb.exclude_from_indexes else ()
    if kind == "array_value":
        return (kind, tuple(value_of(element) for element in value.array_value.values))
    if kind == "entity_value":
        return (kind, properties_of(value.entity_value)) + flags
    if kind == "key_value":
        return (kind, path_of(value.key_value)) + flags
    if kind == "double_value":
        # Zero has a sign, and NaN is itself.
        return (kind, struct.pack(">d", pb.double_value)) + flags
    content = getattr(pb, kind)
    return (kind, content if isinstance(content, (int, bool, str, bytes)) else str(content)) + flags


def properties_of(stored):
    return tuple(sorted((name, value_of(value)) for name, value in stored.properties.items()))


def entity_of(result):
    return path_of(result.entity.key), properties_of(result.entity)
