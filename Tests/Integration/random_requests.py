"""Random values and commits of Google's Datastore API, from a seed."""

import math
import random

from answers import path_of
from google.cloud.datastore_v1.types import datastore, entity
from google.protobuf import timestamp_pb2

PROJECT = "differential"
KINDS = ("Kind", "Other")
PROPERTIES = ("a", "b", "c")
# It holds arrays alone, and is only compared for equality.
ELEMENTS = "elements"
# What an indexed string or blob may be long.
LONGEST = 1500

# Its order among others is another in UTF-16.
HORSE = "\U0001f40e"
EXTREME_IDS = [
    {"id": -1}, {"id": -2**63}, {"id": 2**63 - 1}, {"name": "a\0b"}, {"name": "\uffff"},
    {"name": "x" * LONGEST}, {"name": "X"}, {"name": "x'`\"\\"},
]

Mutation = datastore.Mutation


class Requests:
    """Makes requests of whatever `may` allows, by name."""

    def __init__(self, seed, namespace, may):
        self.random = random.Random(seed)
        self.namespace = namespace
        self.may = may
        self.database = self.random.choice(["", "", "another"])

    def chance(self, wins, of):
        return self.random.randrange(of) < wins

    # Keys and values

    def partition(self):
        return entity.PartitionId(
            project_id=PROJECT, database_id=self.database, namespace_id=self.namespace
        )

    def key(self, kind=None):
        path = []
        if self.chance(1, 4):
            path.append(entity.Key.PathElement(kind="Parent", id=self.random.randint(1, 2)))
        last = entity.Key.PathElement(kind=kind or self.random.choice(KINDS))
        if self.chance(1, 12):
            last = entity.Key.PathElement(kind=last.kind, **self.extreme_id())
        elif self.chance(1, 3):
            last.name = self.random.choice(["x", "y", "ü", "1"])
        else:
            last.id = self.random.randint(1, 8)
        path.append(last)
        return entity.Key(partition_id=self.partition(), path=path)

    def extreme_id(self):
        beyond = [{"name": HORSE}] if self.may("names beyond the first plane") else []
        return self.random.choice(EXTREME_IDS + beyond)

    def scalar(self):
        def timestamp():
            time = timestamp_pb2.Timestamp(seconds=self.random.randint(0, 2))
            return entity.Value(timestamp_value=time)

        kinds = [
            lambda: entity.Value(null_value=0),
            lambda: entity.Value(boolean_value=self.chance(1, 2)),
            lambda: entity.Value(double_value=self.random.choice([-1.5, 0.0, 2.0, 2.5, 1e300])),
            lambda: entity.Value(string_value=self.random.choice(["", "x", "xy", "ü", "z"])),
            lambda: entity.Value(blob_value=self.random.choice([b"", b"x", b"\xff"])),
            timestamp,
            lambda: entity.Value(
                geo_point_value={"latitude": self.random.randint(-1, 1), "longitude": 1}
            ),
            lambda: entity.Value(key_value=self.key()),
        ]
        if self.chance(1, 2):
            return entity.Value(integer_value=self.random.randint(-2, 4))
        if self.chance(1, 12):
            return self.extreme()
        return self.random.choice(kinds)()

    def extreme(self):
        """A value at the end of what its type may be."""
        extremes = [
            {"integer_value": -2**63}, {"integer_value": 2**63 - 1}, {"integer_value": 2**53 + 1},
            {"double_value": -math.inf}, {"double_value": math.inf}, {"double_value": math.nan},
            {"double_value": -0.0}, {"double_value": 5e-324},
            {"string_value": "x" * LONGEST}, {"string_value": "x" * (LONGEST - 1)},
            {"string_value": "ü" * (LONGEST // 2)}, {"string_value": "\0"},
            {"string_value": "\uffff"}, {"string_value": HORSE},
            {"blob_value": b"\xff" * LONGEST}, {"blob_value": bytes(LONGEST)},
            {"geo_point_value": {"latitude": 90, "longitude": -180}},
            {"geo_point_value": {"latitude": -90, "longitude": 180}},
            {"timestamp_value": timestamp_pb2.Timestamp(seconds=-62135596800)},
            {"timestamp_value": timestamp_pb2.Timestamp(seconds=253402300799, nanos=999999000)},
            {"timestamp_value": timestamp_pb2.Timestamp(seconds=-1, nanos=1000)},
        ]
        return entity.Value(**self.random.choice(extremes))

    def element(self):
        """A value that an array may be asked for."""
        value = self.scalar()
        while "null_value" in value and not self.may("arrays"):
            value = self.scalar()
        return value

    def elements(self):
        return [self.scalar() for _ in range(self.random.randrange(4))]

    def value(self):
        dice = self.random.randrange(10)
        if dice == 0:
            value = self.scalar()
            if self.chance(1, 6):
                value = entity.Value(string_value="ü" * LONGEST)
            value.exclude_from_indexes = True
            return value
        if dice in (1, 2) and self.may("arrays"):
            elements = self.elements()
            if self.chance(1, 6):
                elements.append(self.structure())
            return entity.Value(array_value={"values": elements})
        if dice == 3:
            return self.structure()
        return self.scalar()

    def structure(self):
        inner = entity.Entity(properties={"x": self.scalar(), "y": self.scalar()})
        if self.chance(1, 6):
            inner.properties["y"] = entity.Value(entity_value={"properties": {"z": self.scalar()}})
        return entity.Value(entity_value=inner)

    def entity(self, key):
        names = [name for name in PROPERTIES if self.chance(4, 5)]
        properties = {name: self.value() for name in names}
        if self.chance(1, 3):
            properties[ELEMENTS] = entity.Value(array_value={"values": self.elements()})
        return entity.Entity(key=key, properties=properties)

    # Commits

    def mutation(self, key):
        operation = self.random.choice(["insert", "update", "upsert", "upsert", "delete"])
        if operation == "delete":
            return Mutation(delete=key)
        mutation = Mutation(**{operation: self.entity(key)})
        if self.chance(1, 4) and self.may("property masks"):
            paths = [self.random.choice(["a", "b", "c", "a.x", "c.y", "`a`", "none"])
                     for _ in range(self.random.randrange(3))]
            mutation.property_mask = datastore.PropertyMask(paths=paths)
        if self.chance(1, 4) and self.may("property transforms"):
            mutation.property_transforms = [
                self.transform() for _ in range(self.random.randint(1, 2))
            ]
        return mutation

    def transform(self):
        number = self.random.choice([
            entity.Value(integer_value=self.random.randint(-3, 3)),
            entity.Value(integer_value=2**63 - 1), entity.Value(double_value=0.5),
        ])
        elements = entity.ArrayValue(values=self.elements())
        choices = [("increment", number), ("maximum", number), ("minimum", number)]
        choices.append(("append_missing_elements", elements))
        choices.append(("remove_all_from_array", elements))
        name, operand = self.random.choice(choices)
        path = self.random.choice(["a", "b", "d", "a.x"])
        if operand is elements and (self.chance(1, 2) or not self.may("arrays")):
            path = ELEMENTS
        return datastore.PropertyTransform(property=path, **{name: operand})

    def commit(self):
        """Mutations of different entities, all or none: without a transaction some may hold."""
        mutations = {}
        for _ in range(self.random.randint(1, 5)):
            key = self.key()
            mutations[path_of(key)] = self.mutation(key)
        return datastore.CommitRequest(
            project_id=PROJECT, mode=datastore.CommitRequest.Mode.TRANSACTIONAL,
            single_use_transaction=datastore.TransactionOptions(read_write={}),
            mutations=list(mutations.values()),
        )
