"""Queries written in GQL, at random in the ways that mean the same."""

import base64

from google.cloud.datastore_v1.types import entity, query
from random_queries import Composite, Operator
from random_requests import PROJECT

COMPARISONS = {
    Operator.LESS_THAN: "<", Operator.LESS_THAN_OR_EQUAL: "<=", Operator.GREATER_THAN: ">",
    Operator.GREATER_THAN_OR_EQUAL: ">=", Operator.EQUAL: "=", Operator.NOT_EQUAL: "!=",
    Operator.IN: "IN", Operator.NOT_IN: "NOT IN", Operator.HAS_ANCESTOR: "HAS ANCESTOR",
}
# Words of GQL that Google's servers take for no name, and ours does.
KEYWORDS = ("Parent",)
MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "!=": "!="}


class Writer:
    """Writes one query as a text with its bindings; any cursors are bound as `begin` and `end`."""

    def __init__(self, requests):
        self.requests = requests
        self.named = {}
        self.positional = []

    def written(self, asked):
        return self.bound(self.text(asked))

    def aggregated(self, asked):
        """The same of an aggregation."""
        nested = asked.nested_query
        numbers = ", ".join(
            f"{self.operation(part)} {self.word('AS')} {part.alias}" for part in asked.aggregations
        )
        short = not nested.order and not nested.offset and "limit" not in nested
        if short and self.chance(1, 2):
            return self.bound(" ".join([f"SELECT {numbers}", *self.source(nested)]))
        return self.bound(f"{self.word('AGGREGATE')} {numbers} OVER ({self.text(nested)})")

    def operation(self, part):
        if "sum" in part:
            return f"SUM({self.name(part.sum.property.name)})"
        if "avg" in part:
            return f"AVG({self.name(part.avg.property.name)})"
        return f"COUNT_UP_TO({part.count.up_to})" if "up_to" in part.count else "COUNT(*)"

    def text(self, asked):
        return " ".join([
            f"SELECT {self.selection(asked)}", *self.source(asked), *self.orders(asked),
            *self.limits(asked),
        ])

    def bound(self, text):
        return query.GqlQuery(
            query_string=text, allow_literals=True, named_bindings=self.named,
            positional_bindings=self.positional,
        )

    def chance(self, wins, of):
        return self.requests.chance(wins, of)

    def word(self, keyword):
        return keyword.lower() if self.chance(1, 4) else keyword

    # Clauses

    def name(self, name):
        quotes = name in KEYWORDS or self.chance(1, 3)
        return f"`{name}`" if quotes else name

    def names(self, names):
        return ", ".join(self.name(name) for name in names)

    def selection(self, asked):
        projected = self.names(part.property.name for part in asked.projection) or "*"
        distinct = [part.name for part in asked.distinct_on]
        if not distinct:
            return projected
        return f"{self.word('DISTINCT')} {self.word('ON')} ({self.names(distinct)}) {projected}"

    def source(self, asked):
        if asked.kind:
            yield f"{self.word('FROM')} {self.name(asked.kind[0].name)}"
        if "filter" in asked:
            yield f"{self.word('WHERE')} {self.condition(asked.filter)}"

    def orders(self, asked):
        orders = []
        for order in asked.order:
            name = self.name(order.property.name)
            direction = " DESC"
            if order.direction == query.PropertyOrder.Direction.ASCENDING:
                direction = self.requests.random.choice(["", " ASC"])
            orders.append(name + self.word(direction))
        if orders:
            yield f"ORDER BY {', '.join(orders)}"

    def limits(self, asked):
        limits, offsets = [], []
        if "limit" in asked:
            limits.append(self.value(entity.Value(integer_value=asked.limit)))
        if asked.end_cursor:
            limits.append("@end")
        if asked.start_cursor:
            offsets.append("@begin")
        if asked.offset:
            offsets.append(self.value(entity.Value(integer_value=asked.offset)))
        if limits:
            yield "LIMIT " + (f"FIRST({', '.join(limits)})" if len(limits) > 1 else limits[0])
        if offsets:
            yield f"OFFSET {' + '.join(offsets)}"

    # Conditions

    def condition(self, condition):
        composite = condition.composite_filter
        if composite.filters:
            word = self.word("AND" if composite.op == Composite.AND else "OR")
            return f" {word} ".join(
                f"({self.condition(part)})" if part.composite_filter.filters
                else self.condition(part) for part in composite.filters
            )
        only = condition.property_filter
        text = self.comparison(only)
        return f"({text})" if self.chance(1, 6) else text

    def comparison(self, only):
        name, sign, value = self.name(only.property.name), COMPARISONS[only.op], only.value
        if sign == "=" and "null_value" in value and self.chance(1, 2):
            return f"{name} IS NULL"
        if sign == "=" and self.chance(1, 4):
            return f"{name} CONTAINS {self.value(value)}"
        if sign in MIRRORED and self.chance(1, 4):
            return f"{self.value(value)} {MIRRORED[sign]} {name}"
        if sign == "HAS ANCESTOR" and self.chance(1, 4):
            return f"{self.value(value)} HAS DESCENDANT {name}"
        space = "" if sign in MIRRORED and self.chance(1, 4) else " "
        return f"{name}{space}{sign}{space}{self.value(value)}"

    # Values

    def value(self, value):
        """A literal, or a binding."""
        dice = self.requests.random.randrange(4)
        literal = self.literal(value)
        if literal and dice < 2:
            return literal
        parameter = query.GqlQueryParameter(value=value)
        if dice == 2:
            self.positional.append(parameter)
            return f"@{len(self.positional)}"
        name = f"n{len(self.named)}"
        self.named[name] = parameter
        return f"@{name}"

    def literal(self, value):
        """Nothing for a value that has none."""
        pb = entity.Value.pb(value)
        kind = pb.WhichOneof("value_type")
        if kind == "null_value":
            return self.word("NULL")
        if kind == "boolean_value":
            return self.word(str(pb.boolean_value).upper())
        if kind == "integer_value":
            return str(pb.integer_value)
        if kind == "double_value":
            number = repr(pb.double_value)
            return None if "n" in number else number
        if kind == "string_value":
            return self.quoted(pb.string_value)
        if kind == "blob_value":
            return f"BLOB('{base64.urlsafe_b64encode(pb.blob_value).decode().rstrip('=')}')"
        if kind == "timestamp_value":
            return f"DATETIME('{pb.timestamp_value.ToJsonString()}')"
        if kind == "key_value":
            return self.key(value.key_value)
        if kind == "array_value":
            literals = [self.literal(element) for element in value.array_value.values]
            return f"ARRAY({', '.join(literals)})" if all(literals) else None
        return None

    def quoted(self, text):
        quote = self.requests.random.choice(["'", '"'])
        return quote + text.replace("\\", "\\\\").replace(quote, 2 * quote) + quote

    def key(self, key):
        parts = []
        if self.chance(1, 4):
            parts.append(f"PROJECT('{PROJECT}')")
        if parts or self.chance(1, 2):
            parts.append(f"NAMESPACE('{key.partition_id.namespace_id}')")
        for part in key.path:
            parts.append(self.name(part.kind))
            parts.append(self.quoted(part.name) if part.name else str(part.id))
        return f"KEY({', '.join(parts)})"
