"""Random requests that are wrong in one thing, or seem to be, from a seed.

Servers need agree on the status alone. Each has a name, by which `may` leaves it out.
"""

from google.cloud.datastore_v1.types import datastore, entity, query
from google.protobuf import timestamp_pb2
from random_queries import Aggregation, Composite, Operator
from random_requests import LONGEST, PROJECT, Mutation
from random_transactions import Mode, Transactions

TOO_LONG = LONGEST + 1


class Mistakes(Transactions):
    """Gives wrong requests as the method's name and the request."""

    def mistakes(self):
        """All of them, by name."""
        made = {}
        for name, key in self.bad_keys().items():
            made[f"lookup of {name}"] = "lookup", datastore.LookupRequest(
                project_id=PROJECT, keys=[self.key(), key])
            made[f"insert of {name}"] = self.commit_of(Mutation(insert=entity.Entity(key=key)))
            made[f"delete of {name}"] = self.commit_of(Mutation(delete=key))
            value = entity.Value(key_value=key)
            made[f"value of {name}"] = self.commit_of(self.upsert({"a": value}))
            made[f"filter by {name}"] = self.asked(
                filter=self.filter("__key__", self.comparison(), value))
            made[f"ancestor of {name}"] = self.asked(
                filter=self.filter("__key__", Operator.HAS_ANCESTOR, value))
            made[f"allocation for {name}"] = "allocate_ids", datastore.AllocateIdsRequest(
                project_id=PROJECT, keys=[key])
            made[f"reservation of {name}"] = "reserve_ids", datastore.ReserveIdsRequest(
                project_id=PROJECT, keys=[key])
        for name, properties in self.bad_properties().items():
            made[f"entity with {name}"] = self.commit_of(self.upsert(properties))
        for name, mutations in self.bad_mutations().items():
            made[f"commit of {name}"] = self.commit_of(*mutations)
        for name, changes in self.bad_queries().items():
            made[f"query with {name}"] = self.asked(**changes)
        for name, filter in self.bad_filters().items():
            made[f"filter with {name}"] = self.asked(filter=filter)
        for name, asked in self.bad_aggregations().items():
            made[f"aggregation with {name}"] = "run_aggregation_query", (
                datastore.RunAggregationQueryRequest(
                    project_id=PROJECT, partition_id=self.partition(), aggregation_query=asked))
        for name, text in self.bad_texts().items():
            made[f"text with {name}"] = "run_query", datastore.RunQueryRequest(
                project_id=PROJECT, partition_id=self.partition(), gql_query=text)
        made.update(self.bad_requests())
        return made

    # Parts of requests

    def upsert(self, properties):
        return Mutation(upsert=entity.Entity(key=self.key(), properties=properties))

    def commit_of(self, *mutations):
        return "commit", datastore.CommitRequest(
            project_id=PROJECT, mode=Mode.NON_TRANSACTIONAL, mutations=mutations)

    def asked(self, **changes):
        made = query.Query({"kind": [{"name": "Kind"}], **changes})
        return "run_query", self.run(made)

    def comparison(self):
        return self.random.choice([Operator.EQUAL, Operator.LESS_THAN])

    def key_of(self, *path, **partition):
        partition = {
            "project_id": PROJECT, "database_id": self.database, "namespace_id": self.namespace,
            **partition,
        }
        return entity.Key(partition_id=partition, path=path)

    def reserved(self):
        return self.random.choice(["__a__", "__kind__x__", "_____", "__é__"])

    def long(self):
        return self.random.choice(["x" * TOO_LONG, "é" * (LONGEST // 2) + "x"])

    # Mistakes

    def bad_keys(self):
        good = {"kind": "Kind", "id": self.random.randint(1, 8)}
        return {
            "an incomplete key": self.key_of({"kind": "Numbered"}),
            "an incomplete parent": self.key_of({"kind": "Parent"}, good),
            "a key without a path": self.key_of(),
            "a key without a kind": self.key_of({"kind": "", "id": 1}),
            "a key with the id 0": self.key_of({"kind": "Kind", "id": 0}),
            "a key with a negative id": self.key_of({"kind": "Kind", "id": -1}),
            "a key with an empty name": self.key_of({"kind": "Kind", "name": ""}),
            "a key with a long name": self.key_of({"kind": "Kind", "name": self.long()}),
            "a key with a long kind": self.key_of({"kind": self.long(), "id": 1}),
            "a key with a reserved kind": self.key_of({"kind": self.reserved(), "id": 1}),
            "a key with a reserved name": self.key_of({"kind": "Kind", "name": self.reserved()}),
            "a key with a reserved parent": self.key_of({"kind": self.reserved(), "id": 1}, good),
            "a key with a name of underscores": self.key_of({"kind": "Kind", "name": "____"}),
            "a key with a name nearly reserved": self.key_of(
                {"kind": "Kind", "name": self.random.choice(["__a", "a__", "_a_", "___"])}),
            "a key of 101 elements": self.key_of(*[good] * 101),
            "a key of many bytes": self.key_of(*[{"kind": "Kind", "name": "x" * 1400}] * 5),
            "a key of another project": self.key_of(good, project_id="another"),
            "a key of another database": self.key_of(good, database_id="third"),
            "a key of a bad database": self.key_of(good, database_id="a b"),
            "a key of another namespace": self.key_of(good, namespace_id=self.namespace + "-"),
            "a key of a bad namespace": self.key_of(
                good, namespace_id=self.random.choice(["a b", "é", "a/b"])),
            "a key of a reserved namespace": self.key_of(good, namespace_id=self.reserved()),
            "a key of a long namespace": self.key_of(good, namespace_id="x" * 101),
        }

    def bad_properties(self):
        text, blob = {"string_value": self.long()}, {"blob_value": b"x" * TOO_LONG}
        hidden = {"exclude_from_indexes": True}
        return {
            "a long string": {"a": text},
            "a long blob": {"a": blob},
            "a long string in an array": {"a": {"array_value": {"values": [text]}}},
            "a long string in a structure": {"a": self.holding(text)},
            "a long string without an index": {"a": {**text, **hidden}},
            "a long string in a structure without an index": {
                "a": {**self.holding(text), **hidden}},
            "an array in an array": {"a": {"array_value": {"values": [{"array_value": {}}]}}},
            "an array without an index": {
                "a": {"array_value": {"values": [{"integer_value": 1}]}, **hidden}},
            "an empty array without an index": {"a": {"array_value": {}, **hidden}},
            "no value": {"a": {}},
            "an empty name": {"": {"integer_value": 1}},
            "a reserved name": {self.reserved(): {"integer_value": 1}},
            "a reserved name in a structure": {
                "a": {"entity_value": {"properties": {self.reserved(): {"integer_value": 1}}}}},
            "a long name": {self.long(): {"integer_value": 1}},
            "a name with a point": {"a.b": {"integer_value": 1}},
            "a place beyond the pole": {"a": {"geo_point_value": {"latitude": 90.5}}},
            "a place beyond the date line": {"a": {"geo_point_value": {"longitude": -180.5}}},
            "a time before the first year": {
                "a": {"timestamp_value": timestamp_pb2.Timestamp(seconds=-62135596801)}},
            "a time after the last year": {
                "a": {"timestamp_value": timestamp_pb2.Timestamp(seconds=253402300800)}},
            "a time with too many nanoseconds": {
                "a": {"timestamp_value": timestamp_pb2.Timestamp(nanos=1_000_000_000)}},
            "a meaning": {"a": {"integer_value": 1, "meaning": 18}},
            "deep structures": {"a": self.deep(21)},
            "nearly too deep structures": {"a": self.deep(19)},
        }

    def holding(self, value):
        return {"entity_value": {"properties": {"x": value}}}

    def deep(self, levels):
        value = {"integer_value": 1}
        for _ in range(levels):
            value = self.holding(value)
        return value

    def bad_mutations(self):
        key, one = self.key(), {"a": {"integer_value": 1}}
        stored = entity.Entity(key=key, properties=one)
        either = self.random.choice([Mutation(upsert=stored), Mutation(delete=key)])
        incomplete = entity.Entity(key=self.key_of({"kind": "Numbered"}))
        masked = {
            name: [Mutation(upsert=stored, property_mask={"paths": [path]})]
            for name, path in {
                "an empty path": "", "a path that ends with a point": "a.",
                "a path with two points": "a..b", "an open quote": "`a", "a reserved path": "__a__",
                "the key's path": "__key__", "a path with a space": "a b",
            }.items()
        }
        return {
            "the same entity twice": [Mutation(upsert=stored), either],
            "nothing": [Mutation()],
            "no entity's key": [Mutation(upsert=entity.Entity(properties=one))],
            "an update of an incomplete key": [Mutation(update=incomplete)],
            "an upsert of an incomplete key": [Mutation(upsert=incomplete)],
            "several incomplete keys": [Mutation(insert=incomplete), Mutation(insert=incomplete)],
            "a mask of a deletion": [Mutation(delete=key, property_mask={"paths": ["a"]})],
            "no mutations": [],
            **masked,
        }

    def bad_queries(self):
        def by(*names):
            return [{"property": {"name": name}} for name in names]

        equal = self.filter("a", Operator.EQUAL, self.scalar())
        return {
            "a negative limit": {"limit": -self.random.randint(1, 9)},
            "a negative offset": {"offset": -self.random.randint(1, 9)},
            "two kinds": {"kind": [{"name": "Kind"}, {"name": "Other"}]},
            "an empty kind": {"kind": [{"name": ""}]},
            "a reserved kind": {"kind": [{"name": "__a__"}]},
            "a long kind": {"kind": [{"name": self.long()}]},
            "a property projected twice": {"projection": by("a", "a")},
            "the key projected beside others": {"projection": by("__key__", "a")},
            "a projection without a name": {"projection": by("")},
            "a projection of what is equal": {"projection": by("a"), "filter": equal},
            "distinct values of what is equal": {"distinct_on": [{"name": "a"}], "filter": equal},
            "distinct values that come later": {
                "distinct_on": [{"name": "a"}], "order": by("b", "a")},
            "distinct values twice": {"distinct_on": [{"name": "a"}, {"name": "a"}]},
            "distinct keys": {"distinct_on": [{"name": "__key__"}]},
            "distinct values without a name": {"distinct_on": [{"name": ""}]},
            "an order without a name": {"order": by("")},
            "an order twice": {"order": by("a", "a")},
            "an order of a reserved name": {"order": by("__a__")},
            "a cursor of nobody's": {"start_cursor": b"\0" + self.random.randbytes(8)},
            "an end of nobody's": {"end_cursor": b"\0" + self.random.randbytes(8)},
            "properties of any kind": {"kind": [], "filter": equal},
            "an order of any kind": {"kind": [], "order": by("a")},
            "a projection of any kind": {"kind": [], "projection": by("a")},
            "a descending order of any kind": {
                "kind": [], "order": [{"property": {"name": "__key__"}, "direction": 2}]},
            "distinct values of any kind": {"kind": [], "distinct_on": [{"name": "a"}]},
        }

    def bad_filters(self):
        integer = entity.Value(integer_value=1)

        def array(count):
            values = [{"integer_value": n} for n in range(count)]
            return entity.Value(array_value={"values": values})

        unequal = self.random.choice([Operator.LESS_THAN, Operator.GREATER_THAN_OR_EQUAL])
        return {
            "no type": query.Filter(),
            "no operator": self.filter("a", 0, integer),
            "no property": self.filter("", Operator.EQUAL, integer),
            "a reserved property": self.filter("__a__", Operator.EQUAL, integer),
            "no value": self.filter("a", Operator.EQUAL, entity.Value()),
            "an array": self.filter("a", self.random.choice([Operator.EQUAL, unequal]), array(1)),
            "a structure": self.filter("a", Operator.EQUAL, entity.Value(self.holding(integer))),
            "a long string": self.filter("a", unequal, entity.Value(string_value=self.long())),
            "a key that is none": self.filter("__key__", Operator.EQUAL, integer),
            "an ancestor that is none": self.filter("__key__", Operator.HAS_ANCESTOR, integer),
            "an ancestor of a property": self.filter(
                "a", Operator.HAS_ANCESTOR, entity.Value(key_value=self.key())),
            "IN of nothing": self.filter("a", Operator.IN, array(0)),
            "IN of 30": self.filter("a", Operator.IN, array(30)),
            "IN of 31": self.filter("a", Operator.IN, array(31)),
            "IN of no array": self.filter("a", Operator.IN, integer),
            "NOT_IN of nothing": self.filter("a", Operator.NOT_IN, array(0)),
            "NOT_IN of 10": self.filter("a", Operator.NOT_IN, array(10)),
            "NOT_IN of 11": self.filter("a", Operator.NOT_IN, array(11)),
            "NOT_IN of no array": self.filter("a", Operator.NOT_IN, integer),
            "no parts": query.Filter(composite_filter={"op": Composite.AND}),
            "no composite operator": query.Filter(
                composite_filter={"filters": [self.filter("a", Operator.EQUAL, integer)]}),
            "two values of one property": query.Filter(composite_filter={
                "op": Composite.AND,
                "filters": [self.filter("a", Operator.EQUAL, integer),
                            self.filter("a", Operator.EQUAL, entity.Value(integer_value=2))]}),
            "two ancestors": query.Filter(composite_filter={
                "op": Composite.AND, "filters": [self.ancestor(), self.ancestor()]}),
        }

    def bad_aggregations(self):
        count = Aggregation(count={})
        nested = query.Query(kind=[{"name": "Kind"}])
        parts = {
            "none": [], "no operator": [Aggregation()], "five": [count] * 5, "six": [count] * 6,
            "an alias twice": [Aggregation(count={}, alias="n")] * 2,
            "a reserved alias": [Aggregation(count={}, alias="__n__")],
            "a limit of none": [Aggregation(count={"up_to": 0})],
            "a negative limit": [Aggregation(count={"up_to": -1})],
            "a sum of nothing": [Aggregation(sum={})],
            "a sum of an empty name": [Aggregation(sum={"property": {"name": ""}})],
            "a sum of keys": [Aggregation(sum={"property": {"name": "__key__"}})],
            "a mean of a reserved name": [Aggregation(avg={"property": {"name": "__a__"}})],
        }
        made = {name: query.AggregationQuery(nested_query=nested, aggregations=part)
                for name, part in parts.items()}
        made["no query"] = query.AggregationQuery(aggregations=[count])
        return made

    def bad_texts(self):
        texts = {
            "nothing": "", "half a query": "SELECT *", "no selection": "SELECT FROM Kind",
            "a word too many": "SELECT * FROM Kind b", "no value": "SELECT * FROM Kind WHERE a =",
            "a negative limit": "SELECT * FROM Kind LIMIT -1",
            "a large limit": "SELECT * FROM Kind LIMIT 2147483648",
            "a negative offset": "SELECT * FROM Kind OFFSET -1",
            "a large number": "SELECT * FROM Kind WHERE a = 9223372036854775808",
            "a small number": "SELECT * FROM Kind WHERE a = -9223372036854775808",
            "an open string": "SELECT * FROM Kind WHERE a = 'x",
            "an absent binding": "SELECT * FROM Kind WHERE a = @x",
            "an absent position": "SELECT * FROM Kind WHERE a = @1",
            "the position 0": "SELECT * FROM Kind WHERE a = @0",
            "a bad time": "SELECT * FROM Kind WHERE a = DATETIME('yesterday')",
            "a bad blob": "SELECT * FROM Kind WHERE a = BLOB('*')",
            "an incomplete key": "SELECT * FROM Kind WHERE __key__ = KEY(Kind)",
            "a key's id 0": "SELECT * FROM Kind WHERE __key__ = KEY(Kind, 0)",
            "a kind in quotes": "SELECT * FROM 'Kind'",
            "an order without BY": "SELECT * FROM Kind ORDER a",
            "a semicolon": "SELECT * FROM Kind;",
            "a comment": "SELECT * FROM Kind -- all",
            "an aggregation": "SELECT COUNT(*) FROM Kind",
            "DISTINCT of all": "SELECT DISTINCT * FROM Kind",
            "GROUP BY beside DISTINCT": "SELECT DISTINCT a FROM Kind GROUP BY a",
            "LIKE": "SELECT * FROM Kind WHERE a LIKE 'x'",
            "a property beside a property": "SELECT * FROM Kind WHERE a = b",
        }
        made = {name: query.GqlQuery(query_string=text, allow_literals=True)
                for name, text in texts.items()}
        one = query.GqlQueryParameter(value={"integer_value": 1})
        made["an unused position"] = query.GqlQuery(
            query_string="SELECT * FROM Kind", positional_bindings=[one])
        made["an unused name"] = query.GqlQuery(
            query_string="SELECT * FROM Kind", named_bindings={"x": one})
        made["a binding of a bad name"] = query.GqlQuery(
            query_string="SELECT * FROM Kind",
            named_bindings={self.random.choice(["x y", "1", "x-y"]): one})
        made["a literal"] = query.GqlQuery(query_string="SELECT * FROM Kind WHERE a = 1")
        made["a reserved binding"] = query.GqlQuery(
            query_string="SELECT * FROM Kind WHERE a = @__x__", named_bindings={"__x__": one})
        made["an empty binding"] = query.GqlQuery(
            query_string="SELECT * FROM Kind WHERE a = @x",
            named_bindings={"x": query.GqlQueryParameter()})
        return made

    def bad_requests(self):
        garbage = self.random.randbytes(8)
        lookup = {"project_id": PROJECT, "keys": [self.key()]}
        return {
            "lookup of nothing": ("lookup", datastore.LookupRequest(project_id=PROJECT)),
            "lookup without a project": ("lookup", datastore.LookupRequest(keys=lookup["keys"])),
            "lookup in a transaction of nobody's": ("lookup", datastore.LookupRequest(
                **lookup, read_options={"transaction": garbage})),
            "rollback of nobody's": ("rollback", datastore.RollbackRequest(
                project_id=PROJECT, transaction=garbage)),
            "rollback of nothing": ("rollback", datastore.RollbackRequest(project_id=PROJECT)),
            "commit without a transaction": ("commit", datastore.CommitRequest(
                project_id=PROJECT, mode=Mode.TRANSACTIONAL)),
            "commit of nobody's transaction": ("commit", datastore.CommitRequest(
                project_id=PROJECT, mode=Mode.TRANSACTIONAL, transaction=garbage)),
            "commit without a mode": ("commit", datastore.CommitRequest(project_id=PROJECT)),
            "commit with a transaction it does without": ("commit", datastore.CommitRequest(
                project_id=PROJECT, mode=Mode.NON_TRANSACTIONAL, transaction=garbage)),
            "query of nothing": ("run_query", datastore.RunQueryRequest(
                project_id=PROJECT, partition_id=self.partition())),
            "allocation of nothing": ("allocate_ids", datastore.AllocateIdsRequest(
                project_id=PROJECT)),
            "reservation of nothing": ("reserve_ids", datastore.ReserveIdsRequest(
                project_id=PROJECT)),
        }
