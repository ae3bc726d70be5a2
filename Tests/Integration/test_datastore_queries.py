"""Google's client for Datastore: queries and aggregations."""

import pytest
from google.api_core import exceptions
from google.cloud import datastore as library
from google.cloud.datastore.query import And, Or, PropertyFilter

# The planets as (name, order, moons, kind, rings), and their moons' discoverers as children.
PLANETS = [
    ("Mercury", 1, 0, "rock", False),
    ("Venus", 2, 0, "rock", False),
    ("Earth", 3, 1, "rock", False),
    ("Mars", 4, 2, "rock", False),
    ("Jupiter", 5, 95, "gas", True),
    ("Saturn", 6, 146, "gas", True),
    ("Uranus", 7, 28, "ice", True),
    ("Neptune", 8, 16, "ice", True),
]


@pytest.fixture
def planets(client):
    """The client of a datastore that has the planets."""
    made = []
    for name, order, moons, kind, rings in PLANETS:
        planet = library.Entity(client.key("Star", "Sun", "Planet", name))
        planet.update(
            name=name, order=order, moons=moons, kind=kind, rings=rings,
            letters=sorted(set(name.lower())), size={"class": kind, "first": name[0]},
        )
        made.append(planet)
    client.put_multi(made)
    return client


def names(query, **options):
    return [planet["name"] for planet in query.fetch(**options)]


def ask(client, *filters, **options):
    """A query for planets."""
    query = client.query(kind="Planet", **options)
    for condition in filters:
        query.add_filter(filter=condition)
    return query


@pytest.mark.parametrize(
    "operator, value, expected",
    [
        ("=", 1, ["Earth"]),
        ("<", 1, ["Mercury", "Venus"]),
        ("<=", 1, ["Mercury", "Venus", "Earth"]),
        (">", 28, ["Jupiter", "Saturn"]),
        (">=", 28, ["Uranus", "Jupiter", "Saturn"]),
        ("!=", 0, ["Earth", "Mars", "Neptune", "Uranus", "Jupiter", "Saturn"]),
        ("IN", [2, 95, 7], ["Jupiter", "Mars"]),
        ("NOT_IN", [0, 95, 146], ["Earth", "Mars", "Neptune", "Uranus"]),
    ],
)
def test_each_operator(planets, operator, value, expected):
    # Inequalities order results by their property, others by key.
    assert names(ask(planets, PropertyFilter("moons", operator, value))) == expected


def test_conditions_are_combined(planets):
    gas, rock = PropertyFilter("kind", "=", "gas"), PropertyFilter("kind", "=", "rock")
    many, few = PropertyFilter("moons", ">", 100), PropertyFilter("moons", "<", 1)
    assert names(ask(planets, And([gas, many]))) == ["Saturn"]
    assert sorted(names(ask(planets, Or([many, few])))) == ["Mercury", "Saturn", "Venus"]
    either = Or([And([gas, many]), And([rock, PropertyFilter("order", "=", 3)])])
    assert sorted(names(ask(planets, either))) == ["Earth", "Saturn"]
    # One with another after another is AND.
    assert names(ask(planets, gas, PropertyFilter("order", "=", 5))) == ["Jupiter"]
    # Inequalities on several properties.
    both = And([PropertyFilter("order", ">", 2), PropertyFilter("moons", "<", 20)])
    assert sorted(names(ask(planets, both))) == ["Earth", "Mars", "Neptune"]


def test_orders(planets):
    assert names(ask(planets, order=["-moons"]))[:3] == ["Saturn", "Jupiter", "Uranus"]
    assert names(ask(planets, order=["kind", "-name"])) == [
        "Saturn", "Jupiter", "Uranus", "Neptune", "Venus", "Mercury", "Mars", "Earth",
    ]
    assert names(ask(planets, order=["__key__"]))[0] == "Earth"
    assert names(ask(planets, order=["-__key__"]))[0] == "Venus"
    # What lacks the property is not found.
    bare = library.Entity(planets.key("Planet", "Bare"))
    planets.put(bare)
    assert len(list(ask(planets, order=["name"]).fetch())) == len(PLANETS)


def test_limits_and_offsets(planets):
    query = ask(planets, order=["order"])
    assert names(query, limit=2) == ["Mercury", "Venus"]
    assert names(query, limit=2, offset=3) == ["Mars", "Jupiter"]
    assert names(query, offset=7) == ["Neptune"]
    assert names(query, offset=100) == []
    assert names(query, limit=0) == []


def test_a_cursor_leads_back_where_the_order_is_reversed(planets):
    query = planets.query(kind="Planet", order=["order"])
    there = query.fetch(limit=3)
    passed = [planet.key for planet in there]
    everything = [planet.key for planet in query.fetch()]
    back = planets.query(kind="Planet", order=["-order"])
    assert [p.key for p in back.fetch(start_cursor=there.next_page_token)] == passed[::-1]
    upto = back.fetch(end_cursor=there.next_page_token)
    assert [p.key for p in upto] == everything[3:][::-1]


def test_pages_and_cursors(planets):
    query = ask(planets, order=["-order"])
    first = query.fetch(limit=3)
    assert [planet["name"] for planet in next(first.pages)] == ["Neptune", "Uranus", "Saturn"]
    cursor = first.next_page_token
    # What was written before the cursor does not move it.
    far = library.Entity(planets.key("Planet", "Pluto"))
    far.update(name="Pluto", order=9, moons=5, kind="dwarf", rings=False)
    planets.put(far)
    second = query.fetch(limit=3, start_cursor=cursor)
    assert [planet["name"] for planet in second] == ["Jupiter", "Mars", "Earth"]
    assert names(query, start_cursor=second.next_page_token) == ["Venus", "Mercury"]
    upto = query.fetch(end_cursor=cursor)
    assert [planet["name"] for planet in upto] == ["Pluto", "Neptune", "Uranus", "Saturn"]
    with pytest.raises(exceptions.InvalidArgument):
        names(query, start_cursor=b"bm9uZQ==")


def test_keys_alone(planets):
    query = ask(planets, PropertyFilter("kind", "=", "ice"))
    query.keys_only()
    found = list(query.fetch())
    assert sorted(planet.key.name for planet in found) == ["Neptune", "Uranus"]
    assert all(len(planet) == 0 for planet in found)


def test_projections(planets):
    found = ask(planets, projection=["kind", "name"], order=["kind", "name"])
    assert [dict(planet) for planet in found.fetch(limit=2)] == [
        {"kind": "gas", "name": "Jupiter"}, {"kind": "gas", "name": "Saturn"},
    ]
    # Each element of an array is a result.
    letters = ask(planets, PropertyFilter("name", "=", "Mars"), projection=["letters"])
    assert [planet["letters"] for planet in letters.fetch()] == ["a", "m", "r", "s"]
    kinds = ask(planets, projection=["kind"], distinct_on=["kind"])
    assert [planet["kind"] for planet in kinds.fetch()] == ["gas", "ice", "rock"]
    first = ask(planets, distinct_on=["kind"], order=["kind", "-moons"])
    assert names(first) == ["Saturn", "Uranus", "Mars"]
    with pytest.raises(exceptions.InvalidArgument):
        list(ask(planets, PropertyFilter("kind", "=", "gas"), projection=["kind"]).fetch())


def test_arrays_and_embedded_entities(planets):
    j = PropertyFilter("letters", "=", "j")
    assert names(ask(planets, j)) == ["Jupiter"]
    both = And([PropertyFilter("letters", "=", "n"), PropertyFilter("letters", "=", "u")])
    assert sorted(names(ask(planets, both))) == ["Neptune", "Saturn", "Uranus", "Venus"]
    # Both inequalities are about one element.
    between = And([PropertyFilter("letters", ">", "k"), PropertyFilter("letters", "<", "n")])
    assert sorted(set(names(ask(planets, between)))) == ["Mars", "Mercury"]
    assert names(ask(planets, PropertyFilter("size.first", "=", "N"))) == ["Neptune"]


def test_ancestors(planets):
    sun = planets.key("Star", "Sun")
    other = library.Entity(planets.key("Star", "Vega", "Planet", "b"))
    other.update(name="b", moons=0)
    planets.put(other)
    assert len(list(planets.query(kind="Planet", ancestor=sun).fetch())) == len(PLANETS)
    assert names(ask(planets, PropertyFilter("moons", "=", 0), ancestor=other.key)) == ["b"]
    everything = planets.query(ancestor=sun)
    assert len(list(everything.fetch())) == len(PLANETS)
    # An ancestor belongs to its own descendants.
    assert [found.key.name for found in planets.query(ancestor=other.key).fetch()] == ["b"]


def test_keys_are_compared(planets):
    sun = planets.key("Star", "Sun")
    after = planets.query(kind="Planet")
    after.key_filter(planets.key("Planet", "Saturn", parent=sun), ">")
    assert names(after) == ["Uranus", "Venus"]
    same = planets.query(kind="Planet")
    same.key_filter(planets.key("Planet", "Mars", parent=sun), "=")
    assert names(same) == ["Mars"]


def test_types_stand_beside_each_other(client):
    values = [None, -1, 7, True, "a", b"b", 0.5, client.key("Z", 1)]
    client.put_multi([made_of(client, number + 1, value) for number, value in enumerate(values)])
    found = [thing.key.id for thing in client.query(kind="Mixed", order=["value"]).fetch()]
    assert found == list(range(1, len(values) + 1))
    above = client.query(kind="Mixed")
    above.add_filter(filter=PropertyFilter("value", ">", True))
    assert [thing.key.id for thing in above.fetch()] == [5, 6, 7, 8]


def made_of(client, number, value):
    mixed = library.Entity(client.key("Mixed", number))
    mixed["value"] = value
    return mixed


def test_unindexed_properties_are_not_found(client):
    hidden = library.Entity(client.key("Thing", 1), exclude_from_indexes=("secret",))
    hidden.update(secret=1, open=1)
    client.put(hidden)
    for name, count in [("secret", 0), ("open", 1)]:
        query = client.query(kind="Thing")
        query.add_filter(filter=PropertyFilter(name, "=", 1))
        assert len(list(query.fetch())) == count


def test_long_results_come_in_batches(client):
    for begin in range(0, 2500, 500):
        client.put_multi([numbered(client, n) for n in range(begin + 1, begin + 501)])
    found = [thing["n"] for thing in client.query(kind="Long", order=["-n"]).fetch()]
    assert found == list(range(2500, 0, -1))
    pages = client.query(kind="Long", order=["n"]).fetch(limit=1200, offset=1100)
    assert [thing["n"] for thing in pages] == list(range(1101, 2301))
    count = client.aggregation_query(client.query(kind="Long")).count()
    assert [result[0].value for result in count.fetch()] == [2500]


def numbered(client, number):
    thing = library.Entity(client.key("Long", number))
    thing["n"] = number
    return thing


def test_metadata(planets):
    def ids(kind, **options):
        query = planets.query(kind=kind, **options)
        query.keys_only()
        return [thing.key.id_or_name for thing in query.fetch()]

    assert ids("__kind__") == ["Planet"]
    assert planets.namespace in ids("__namespace__")
    properties = ids("__property__", ancestor=planets.key("__kind__", "Planet"))
    assert properties == [
        "kind", "letters", "moons", "name", "order", "rings", "size.class", "size.first",
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda query: query.add_filter(filter=PropertyFilter("moons", "IN", [])),
        lambda query: query.add_filter(filter=PropertyFilter("moons", "IN", list(range(31)))),
        lambda query: query.add_filter(filter=PropertyFilter("moons", "NOT_IN", list(range(11)))),
        lambda query: query.add_filter(filter=PropertyFilter("size", "=", {"a": [1]})),
    ],
)
def test_what_cannot_be_asked_is_refused(planets, change):
    query = planets.query(kind="Planet")
    change(query)
    with pytest.raises((exceptions.InvalidArgument, ValueError)):
        list(query.fetch())


# Aggregations


def numbers(query, **options):
    """What an aggregation came to, by alias."""
    return {result.alias: result.value for row in query.fetch(**options) for result in row}


def test_aggregations(planets):
    query = planets.aggregation_query(planets.query(kind="Planet"))
    query.count(alias="all").sum("moons", alias="moons").avg("moons", alias="mean")
    moons = [moons for _, _, moons, _, _ in PLANETS]
    assert numbers(query) == {
        "all": len(PLANETS), "moons": sum(moons), "mean": sum(moons) / len(moons),
    }
    # Texts are no numbers; the client reads null, the mean of nothing, as 0.
    names = planets.aggregation_query(planets.query(kind="Planet"))
    names.sum("name", alias="sum").avg("name", alias="mean").count(alias="all")
    assert numbers(names) == {"sum": 0, "mean": 0, "all": len(PLANETS)}
    # What lacks the property does not go into its numbers.
    planets.put(library.Entity(planets.key("Planet", "Bare")))
    query = planets.aggregation_query(planets.query(kind="Planet"))
    assert numbers(query.count(alias="all")) == {"all": len(PLANETS) + 1}
    assert numbers(query.sum("order", alias="sum")) == {"all": len(PLANETS), "sum": 36}
    # The first ones are those of the smallest numbers.
    assert numbers(query, limit=3) == {"all": 3, "sum": 6}


def test_aggregations_of_some(planets):
    ice = ask(planets, PropertyFilter("kind", "=", "ice"))
    assert numbers(planets.aggregation_query(ice).count(alias="n").sum("moons", alias="s")) == {
        "n": 2, "s": 44,
    }
    count = planets.aggregation_query(planets.query(kind="Planet")).count(alias="n")
    assert numbers(count, limit=3) == {"n": 3}
    either = Or([PropertyFilter("moons", ">", 90), PropertyFilter("order", "<", 3)])
    assert numbers(planets.aggregation_query(ask(planets, either)).count(alias="n")) == {"n": 4}
    nothing = ask(planets, PropertyFilter("kind", "=", "plasma"))
    empty = planets.aggregation_query(nothing).count(alias="n").avg("moons", alias="a")
    assert numbers(empty) == {"n": 0, "a": 0}
    # Without an alias each gets one.
    unnamed = planets.aggregation_query(planets.query(kind="Planet")).count().sum("order")
    assert sorted(numbers(unnamed)) == ["property_1", "property_2"]


def test_aggregations_in_a_transaction(planets):
    with planets.transaction():
        count = planets.aggregation_query(planets.query(kind="Planet")).count(alias="n")
        assert numbers(count) == {"n": len(PLANETS)}


def test_sums_of_doubles_and_integers(client):
    client.put_multi([made_of(client, n, value) for n, value in enumerate([1, 2.5, "x"], 1)])
    query = client.aggregation_query(client.query(kind="Mixed"))
    found = numbers(query.sum("value", alias="s").avg("value", alias="a"))
    assert found == {"s": 3.5, "a": 1.75}
    client.put(made_of(client, 9, 2**63 - 1))
    assert numbers(client.aggregation_query(client.query(kind="Mixed")).sum("value", alias="s")) == {
        "s": pytest.approx(2.0**63),
    }


def test_too_many_aggregations(planets):
    query = planets.aggregation_query(planets.query(kind="Planet"))
    for number in range(6):
        query.count(alias=f"n{number}")
    with pytest.raises(exceptions.InvalidArgument):
        numbers(query)


# Explain


def test_a_query_is_explained(planets):
    options = library.query_profile.ExplainOptions
    query = planets.query(kind="Planet", order=["-moons"], explain_options=options(analyze=False))
    asked = query.fetch()
    assert asked.explain_metrics.plan_summary.indexes_used[0]["properties"] == (
        "(moons DESC, __name__ DESC)"
    )
    assert list(asked) == []
    query = planets.query(kind="Planet", explain_options=options(analyze=True))
    asked = query.fetch(limit=3)
    assert len(list(asked)) == 3
    stats = asked.explain_metrics.execution_stats
    assert stats.results_returned == 3
    assert stats.read_operations == 3
    assert stats.execution_duration.total_seconds() > 0
    assert int(stats.debug_stats["documents_scanned"]) == 3
    assert "billing_details" in stats.debug_stats
