"""Random queries of Google's Datastore API, from a seed."""

from google.cloud.datastore_v1.types import datastore, entity, query
from random_requests import ELEMENTS, PROJECT, PROPERTIES, Mutation, Requests

# Of values that are structures.
NESTED = ("a.x", "b.y", "c.y.z")

Aggregation = query.AggregationQuery.Aggregation
Composite = query.CompositeFilter.Operator
Operator = query.PropertyFilter.Operator


class Queries(Requests):
    """Makes requests and queries of whatever `may` allows, by name."""

    # Filters

    def filter(self, name, operator, value):
        return query.Filter(
            property_filter={"property": {"name": name}, "op": operator, "value": value}
        )

    def scalars(self):
        values = [self.scalar() for _ in range(self.random.randint(1, 3))]
        return entity.Value(array_value={"values": values})

    def filter_of_property(self):
        name = self.random.choice(PROPERTIES)
        if self.chance(1, 8):
            name = self.random.choice(NESTED)
        operators = [Operator.EQUAL] * 3 + [
            Operator.LESS_THAN, Operator.LESS_THAN_OR_EQUAL, Operator.GREATER_THAN,
            Operator.GREATER_THAN_OR_EQUAL,
        ]
        if self.may("IN, NOT_IN and !="):
            operators += [Operator.IN, Operator.NOT_IN, Operator.NOT_EQUAL]
        operator = self.random.choice(operators)
        if operator in (Operator.IN, Operator.NOT_IN):
            return self.filter(name, operator, self.scalars())
        if self.chance(1, 8):
            return self.filter(ELEMENTS, Operator.EQUAL, self.element())
        return self.filter(name, operator, self.scalar())

    def filter_of_key(self, kind="Kind"):
        operator = self.random.choice([
            Operator.EQUAL, Operator.LESS_THAN, Operator.GREATER_THAN_OR_EQUAL,
        ])
        return self.filter("__key__", operator, entity.Value(key_value=self.key(kind)))

    def ancestor(self):
        path = [entity.Key.PathElement(kind="Parent", id=self.random.randint(1, 2))]
        key = entity.Key(partition_id=self.partition(), path=path)
        return self.filter("__key__", Operator.HAS_ANCESTOR, entity.Value(key_value=key))

    def condition(self):
        filters = [self.filter_of_property() for _ in range(self.random.randrange(3))]
        if not self.may("several inequalities"):
            filters = filters[:1]
        if self.chance(1, 6) and (
            not filters or self.may("several inequalities")
        ):
            filters.append(self.filter_of_key())
        composite = Composite.AND
        if len(filters) > 1 and self.chance(1, 3) and self.may("OR"):
            composite = Composite.OR
        elif self.chance(1, 6):
            filters.append(self.ancestor())
        if not self.may("exclusions beside others"):
            others = [part for part in filters if not is_exclusion(part)]
            is_choice = composite == Composite.OR or any(
                part.property_filter.op == Operator.IN for part in filters
            )
            if len(filters) - len(others) > 1 or is_choice:
                filters = others
        if self.chance(1, 8) and self.may("OR"):
            filters = [*[part for part in filters if not is_exclusion(part)], self.either()]
            composite = Composite.AND
        return together(composite, filters)

    def either(self):
        """A choice of filters that are each for equality, some of them together."""
        def same():
            return self.filter(self.random.choice(PROPERTIES), Operator.EQUAL, self.scalar())

        both = together(Composite.AND, [same(), same()])
        return together(Composite.OR, [both, same()])

    # Queries

    def query(self):
        made = query.Query(kind=[{"name": "Kind"}])
        condition = self.condition()
        if condition:
            made.filter = condition
        for name in self.orders(condition):
            made.order.append({"property": {"name": name}, "direction": self.random.randint(1, 2)})
        finds_one = condition and one_key(condition) and not self.may("orders beside one key")
        if self.chance(1, 6) and not finds_one:
            self.add_distinct(made)
        else:
            self.add_projection(made)
        names = [order.property.name for order in made.order]
        if not self.may("ties of descending values") and "__key__" not in names and names:
            made.order.append({"property": {"name": "__key__"}, "direction": 1})
        self.add_limits(made)
        return made

    def orders(self, condition):
        """The names of what a query with this condition may be ordered by."""
        names = self.random.sample(PROPERTIES + ("__key__",), self.random.randrange(3))
        if self.chance(1, 8):
            names = [self.random.choice(NESTED)]
        unequal = inequalities(condition)
        if unequal and not self.may("other orders than the inequality's"):
            names = unequal[: len(names)]
        if "__key__" in names and not self.may("orders behind the key's"):
            names = names[: names.index("__key__") + 1]
        if unequal and not self.may("the key's order over inequalities"):
            names = [name for name in names if name != "__key__"]
        if condition and one_key(condition) and not self.may("orders beside one key"):
            names = []
        return names

    def add_projection(self, made):
        dice = self.random.randrange(8)
        if dice == 0:
            made.projection = [{"property": {"name": "__key__"}}]
        elif dice == 1:
            names = self.random.sample(PROPERTIES + NESTED, self.random.randint(1, 2))
            made.projection = [{"property": {"name": name}} for name in names]

    def add_distinct(self, made):
        """One result for each of a property's values; the first orders must be theirs."""
        names = self.random.sample(PROPERTIES, self.random.randint(1, 2))
        unequal = inequalities(made.filter)
        if unequal and not self.may("other orders than the inequality's"):
            names = [name for name in names if name in unequal] or unequal[:1]
        made.distinct_on = [{"name": name} for name in names]
        if self.chance(2, 3) or not self.may_find_distinct_entities():
            others = [name for name in PROPERTIES if name not in names and self.chance(1, 3)]
            made.projection = [{"property": {"name": name}} for name in names + others]
        orders = [order for order in made.order if order.property.name not in names]
        first = [{"property": {"name": name}, "direction": self.random.randint(1, 2)}
                 for name in names]
        several = len(names) > 1 or len(made.projection) > 1
        without = self.may("orders of several distinct properties") or not several
        made.order = first + orders if orders or not without or self.chance(2, 3) else []

    def may_find_distinct_entities(self):
        """Where arrays are asked for these are not the same everywhere."""
        return not self.may("arrays") or self.may("distinct entities of several values")

    def add_limits(self, made):
        if self.chance(1, 3):
            made.limit = self.random.randint(0, 6)
        if self.chance(1, 4):
            made.offset = self.random.randint(0, 4)

    def kindless(self):
        """A query for entities of any kind."""
        made = query.Query()
        filters = []
        if self.chance(1, 2):
            filters.append(self.filter_of_key(None))
        if self.chance(1, 3):
            filters.append(self.ancestor())
        condition = together(Composite.AND, filters)
        if condition:
            made.filter = condition
        if self.chance(1, 2):
            made.order = [{"property": {"name": "__key__"}, "direction": 1}]
        if self.chance(1, 4):
            made.projection = [{"property": {"name": "__key__"}}]
        self.add_limits(made)
        return made

    def metadata(self):
        """A query for what a server knows of its own entities."""
        kind = self.random.choice(["__kind__", "__namespace__", "__property__", "__property__"])
        made = query.Query(kind=[{"name": kind}])
        filters = [
            self.filter("__key__", operator, entity.Value(key_value=self.metadata_key(kind)))
            for operator in (Operator.GREATER_THAN_OR_EQUAL, Operator.LESS_THAN)
            if self.chance(1, 4)
        ]
        if kind == "__property__" and self.chance(1, 3):
            key = entity.Value(key_value=self.metadata_key("__kind__"))
            filters.append(self.filter("__key__", Operator.HAS_ANCESTOR, key))
        if kind == "__namespace__":
            filters = list(self.own_namespaces())
        condition = together(Composite.AND, filters)
        if condition:
            made.filter = condition
        if self.chance(1, 2):
            made.projection = [{"property": {"name": "__key__"}}]
        if self.chance(1, 3):
            made.order = [{"property": {"name": "__key__"}, "direction": 1}]
        self.add_limits(made)
        return made

    def own_namespaces(self):
        """Filters that leave out those of other tests."""
        for operator, name in [
            (Operator.GREATER_THAN_OR_EQUAL, self.namespace),
            (Operator.LESS_THAN, self.namespace + self.random.choice([".", "0", "a"])),
        ]:
            path = [entity.Key.PathElement(kind="__namespace__", name=name)]
            key = entity.Key(partition_id=self.partition(), path=path)
            yield self.filter("__key__", operator, entity.Value(key_value=key))

    def elsewhere(self):
        """A commit to namespaces of the test's own, behind the one of all else."""
        keys = [
            entity.Key(
                partition_id={
                    "project_id": PROJECT, "database_id": self.database,
                    "namespace_id": self.namespace + end,
                },
                path=[{"kind": "Kind", "id": 1}],
            ) for end in ("-", "-a", "0")
        ]
        return datastore.CommitRequest(
            project_id=PROJECT, mode=datastore.CommitRequest.Mode.NON_TRANSACTIONAL,
            mutations=[Mutation(upsert=self.entity(key)) for key in keys],
        )

    def metadata_key(self, kind):
        path = [entity.Key.PathElement(kind="__kind__", name=self.random.choice("KLO") + "ind")]
        if kind == "__property__":
            name = self.random.choice(PROPERTIES + NESTED)
            path.append(entity.Key.PathElement(kind="__property__", name=name))
        return entity.Key(partition_id=self.partition(), path=path)

    def aggregation(self):
        made = []
        for number in range(self.random.randint(1, 3)):
            name, operand = self.random.choice([
                ("count", {}), ("count", {"up_to": self.random.randint(1, 5)}),
                ("sum", {"property": {"name": "a"}}), ("avg", {"property": {"name": "a"}}),
                ("sum", {"property": {"name": "b"}}), ("avg", {"property": {"name": "b.y"}}),
            ])
            made.append(Aggregation(alias=f"n{number}", **{name: operand}))
        nested = self.query()
        nested.projection = []
        nested.distinct_on = []
        return query.AggregationQuery(nested_query=nested, aggregations=made)

    # Requests

    def run(self, asked):
        """The call that asks for a query's results."""
        return datastore.RunQueryRequest(
            project_id=PROJECT, partition_id=self.partition(), query=asked
        )

    # Cursors

    def has_cursors(self, asked):
        """Whether a server takes the cursors that it gives."""
        names = [order.property.name for order in asked.order]
        if len(names) > 1 and not self.may("pages"):
            return False
        unequal = inequalities(asked.filter)
        if unequal and not self.may("cursors over inequalities"):
            return False
        by_key = "__key__" in names + unequal
        return not by_key or not asked.projection or self.may("pages of projections")

    def has_reversed_cursors(self, asked):
        """Whether a server takes them where all orders are turned."""
        return not asked.projection or self.may("reversed cursors of projections")



def together(composite, filters):
    """One filter of several; nothing of none."""
    if len(filters) > 1:
        return query.Filter(composite_filter={"op": composite, "filters": filters})
    return filters[0] if filters else None


def inequalities(condition):
    """The properties that a condition compares otherwise than for equality."""
    if not condition:
        return []
    if condition.composite_filter.filters:
        return [name for part in condition.composite_filter.filters for name in inequalities(part)]
    same = (Operator.EQUAL, Operator.HAS_ANCESTOR, Operator.IN)
    only = condition.property_filter
    return [only.property.name] if only.property.name and only.op not in same else []


def is_exclusion(condition):
    return condition.property_filter.op in (Operator.NOT_IN, Operator.NOT_EQUAL)


def one_key(condition):
    """Whether a condition asks for an entity by its key."""
    if condition.composite_filter.filters:
        return any(one_key(part) for part in condition.composite_filter.filters)
    only = condition.property_filter
    return only.property.name == "__key__" and only.op == Operator.EQUAL
