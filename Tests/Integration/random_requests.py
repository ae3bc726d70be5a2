"""Random requests of Google's Datastore API, from a seed, and answers in a form that can be compared."""

import random
import struct

from google.cloud.datastore_v1.types import datastore, entity, query
from google.protobuf import timestamp_pb2

PROJECT = "differential"
KINDS = ("Kind", "Other")
PROPERTIES = ("a", "b", "c")

Aggregation = query.AggregationQuery.Aggregation
Mutation = datastore.Mutation
Operator = query.PropertyFilter.Operator


class Requests:
    """Makes requests of whatever `may` allows, by name."""

    def __init__(self, seed, namespace, may):
        self.random = random.Random(seed)
        self.namespace = namespace
        self.may = may

    def chance(self, wins, of):
        return self.random.randrange(of) < wins

    # Keys and values

    def partition(self):
        return entity.PartitionId(project_id=PROJECT, namespace_id=self.namespace)

    def key(self, kind=None):
        path = []
        if self.chance(1, 4):
            path.append(entity.Key.PathElement(kind="Parent", id=self.random.randint(1, 2)))
        last = entity.Key.PathElement(kind=kind or self.random.choice(KINDS))
        if self.chance(1, 3):
            last.name = self.random.choice(["x", "y", "ü", "1"])
        else:
            last.id = self.random.randint(1, 8)
        path.append(last)
        return entity.Key(partition_id=self.partition(), path=path)

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
        return self.random.choice(kinds)()

    def elements(self):
        return [self.scalar() for _ in range(self.random.randrange(4))]

    def value(self):
        dice = self.random.randrange(10)
        if dice == 0:
            value = self.scalar()
            value.exclude_from_indexes = True
            return value
        if dice in (1, 2) and self.may("arrays"):
            return entity.Value(
                array_value={"values": self.elements()}
            )
        if dice == 3:
            inner = entity.Entity(properties={"x": self.scalar(), "y": self.scalar()})
            return entity.Value(entity_value=inner)
        return self.scalar()

    def entity(self, key):
        names = [name for name in PROPERTIES if self.chance(4, 5)]
        return entity.Entity(key=key, properties={name: self.value() for name in names})

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
        if self.may("arrays"):
            choices.append(("append_missing_elements", elements))
            choices.append(("remove_all_from_array", elements))
        name, operand = self.random.choice(choices)
        path = self.random.choice(["a", "b", "d", "a.x"])
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

    # Queries

    def filter_of_property(self):
        name = self.random.choice(PROPERTIES)
        operators = [Operator.EQUAL] * 3 + [
            Operator.LESS_THAN, Operator.LESS_THAN_OR_EQUAL, Operator.GREATER_THAN,
            Operator.GREATER_THAN_OR_EQUAL,
        ]
        if self.may("IN, NOT_IN and !="):
            operators += [Operator.IN, Operator.NOT_IN, Operator.NOT_EQUAL]
        operator = self.random.choice(operators)
        value = self.scalar()
        if operator in (Operator.IN, Operator.NOT_IN):
            value = entity.Value(
                array_value={"values": [self.scalar() for _ in range(self.random.randint(1, 3))]}
            )
        return query.Filter(property_filter={"property": {"name": name}, "op": operator,
                                             "value": value})

    def filter_of_key(self):
        operator = self.random.choice([
            Operator.EQUAL, Operator.LESS_THAN, Operator.GREATER_THAN_OR_EQUAL,
        ])
        value = entity.Value(key_value=self.key("Kind"))
        return query.Filter(property_filter={"property": {"name": "__key__"}, "op": operator,
                                             "value": value})

    def ancestor(self):
        path = [entity.Key.PathElement(kind="Parent", id=self.random.randint(1, 2))]
        key = entity.Key(partition_id=self.partition(), path=path)
        return query.Filter(property_filter={
            "property": {"name": "__key__"}, "op": Operator.HAS_ANCESTOR,
            "value": entity.Value(key_value=key),
        })

    def condition(self):
        filters = [self.filter_of_property() for _ in range(self.random.randrange(3))]
        if not self.may("several inequalities"):
            filters = filters[:1]
        if self.chance(1, 6) and (
            not filters or self.may("several inequalities")
        ):
            filters.append(self.filter_of_key())
        composite = query.CompositeFilter.Operator.AND
        if len(filters) > 1 and self.chance(1, 3) and self.may("OR"):
            composite = query.CompositeFilter.Operator.OR
        elif self.chance(1, 6):
            filters.append(self.ancestor())
        if not self.may("exclusions beside others"):
            others = [part for part in filters if not is_exclusion(part)]
            is_choice = composite == query.CompositeFilter.Operator.OR or any(
                part.property_filter.op == Operator.IN for part in filters
            )
            if len(filters) - len(others) > 1 or is_choice:
                filters = others
        if not filters:
            return None
        if len(filters) == 1:
            return filters[0]
        return query.Filter(composite_filter={"op": composite, "filters": filters})

    def query(self):
        made = query.Query(kind=[{"name": "Kind"}])
        condition = self.condition()
        if condition:
            made.filter = condition
        names = self.random.sample(PROPERTIES + ("__key__",), self.random.randrange(3))
        unequal = inequalities(condition)
        if unequal and not self.may("other orders than the inequality's"):
            names = unequal[: len(names)]
        if "__key__" in names and not self.may("orders behind the key's"):
            names = names[: names.index("__key__") + 1]
        if unequal and not self.may("the key's order over inequalities"):
            names = [name for name in names if name != "__key__"]
        if condition and one_key(condition) and not self.may("orders beside one key"):
            names = []
        for name in names:
            made.order.append({"property": {"name": name}, "direction": self.random.randint(1, 2)})
        if not self.may("ties of descending values") and "__key__" not in names and names:
            made.order.append({"property": {"name": "__key__"}, "direction": 1})
        dice = self.random.randrange(8)
        if dice == 0:
            made.projection = [{"property": {"name": "__key__"}}]
        elif dice == 1:
            names = self.random.sample(PROPERTIES, self.random.randint(1, 2))
            made.projection = [{"property": {"name": name}} for name in names]
        if self.chance(1, 3):
            made.limit = self.random.randint(0, 6)
        if self.chance(1, 4):
            made.offset = self.random.randint(0, 4)
        return made

    def aggregation(self):
        made = []
        for number in range(self.random.randint(1, 3)):
            name, operand = self.random.choice([
                ("count", {}), ("count", {"up_to": self.random.randint(1, 5)}),
                ("sum", {"property": {"name": "a"}}), ("avg", {"property": {"name": "a"}}),
                ("sum", {"property": {"name": "b"}}),
            ])
            made.append(Aggregation(alias=f"n{number}", **{name: operand}))
        nested = self.query()
        nested.projection = []
        return query.AggregationQuery(nested_query=nested, aggregations=made)


def inequalities(condition):
    """The properties that a condition compares otherwise than for equality."""
    if not condition:
        return []
    if condition.composite_filter.filters:
        return [name for part in condition.composite_filter.filters for name in inequalities(part)]
    same = (Operator.EQUAL, Operator.HAS_ANCESTOR, Operator.IN)
    only = condition.property_filter
    return [] if only.op in same else [only.property.name]


def is_exclusion(condition):
    return condition.property_filter.op in (Operator.NOT_IN, Operator.NOT_EQUAL)


def one_key(condition):
    """Whether a condition asks for an entity by its key."""
    if condition.composite_filter.filters:
        return any(one_key(part) for part in condition.composite_filter.filters)
    only = condition.property_filter
    return only.property.name == "__key__" and only.op == Operator.EQUAL


# Answers


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
