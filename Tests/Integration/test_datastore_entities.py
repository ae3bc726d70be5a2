"""Google's client for Datastore: entities, keys, ids, namespaces and databases."""

import datetime

import pytest
from google.api_core import exceptions
from google.cloud import datastore as library
from google.cloud.datastore.helpers import GeoPoint

UTC = datetime.timezone.utc


def entity(client, *path, exclude=(), **properties):
    """An entity that is not stored yet."""
    made = library.Entity(client.key(*path), exclude_from_indexes=exclude)
    made.update(properties)
    return made


def test_every_type_of_value_comes_back(client):
    other = client.key("Other", "name")
    inner = library.Entity(exclude_from_indexes=("text",))
    inner.update({"number": 1, "text": "x" * 2000})
    written = entity(
        client, "Thing", 1, exclude=("long",),
        null=None, yes=True, number=-(2**63), double=2.5, text="Grüße\0", blob=b"\x00\xff",
        time=datetime.datetime(2020, 2, 29, 12, 30, 15, 123456, tzinfo=UTC),
        place=GeoPoint(-12.5, 179.25), key=other, inner=inner, empty=[], list=[1, "two", None, 3.0],
        long="y" * 5000, infinite=float("inf"),
    )
    client.put(written)
    read = client.get(written.key)
    assert dict(read) == dict(written)
    assert read.key == written.key
    assert read.exclude_from_indexes == {"long"}
    assert read["inner"].exclude_from_indexes == {"text"}
    assert type(read["number"]) is int and type(read["double"]) is float


def test_an_entity_is_made_changed_and_deleted(client):
    written = entity(client, "Thing", "a", number=1)
    assert client.get(written.key) is None
    client.put(written)
    written["number"] = 2
    client.put(written)
    assert client.get(written.key)["number"] == 2
    client.delete(written.key)
    assert client.get(written.key) is None
    # Nothing happens to what is not there.
    client.delete(written.key)


def test_an_incomplete_key_is_completed(client):
    made = [entity(client, "Thing", number=number) for number in range(5)]
    client.put_multi(made)
    assert len({thing.key.id for thing in made}) == 5
    assert [thing["number"] for thing in client.get_multi([thing.key for thing in made])]
    below = library.Entity(client.key("Child", parent=made[0].key))
    client.put(below)
    assert below.key.parent == made[0].key
    assert client.get(below.key) is not None


def test_missing_and_deferred_keys_are_told(client):
    client.put(entity(client, "Thing", 1))
    missing = []
    found = client.get_multi([client.key("Thing", 1), client.key("Thing", 2)], missing=missing)
    assert [thing.key.id for thing in found] == [1]
    assert [thing.key.id for thing in missing] == [2]


def test_large_lookups_are_answered_in_parts(client):
    blob = b"x" * 900_000
    keys = [client.key("Large", number) for number in range(1, 9)]
    for key in keys:
        large = library.Entity(key, exclude_from_indexes=("blob",))
        large["blob"] = blob
        client.put(large)
    found = client.get_multi(keys)
    assert sorted(thing.key.id for thing in found) == list(range(1, 9))
    assert len(list(client.query(kind="Large").fetch())) == 8


def test_a_thousand_entities_at_once(client):
    client.put_multi([entity(client, "Many", number, n=number) for number in range(1, 501)])
    client.put_multi([entity(client, "Many", number, n=number) for number in range(501, 1001)])
    assert len(client.get_multi([client.key("Many", number) for number in range(1, 1001)])) == 1000
    client.delete_multi([client.key("Many", number) for number in range(1, 501)])
    assert [thing.key.id for thing in client.query(kind="Many", order=["n"]).fetch(limit=1)] == [501]


def test_namespaces_are_apart(client):
    key = client.key("Thing", 1)
    client.put(entity(client, "Thing", 1, here=True))
    other = library.Client(project="test", namespace=client.namespace + "-other")
    assert other.get(other.key("Thing", 1)) is None
    other.put(entity(other, "Thing", 1, here=False))
    assert client.get(key)["here"] is True
    assert list(client.query(kind="Thing", namespace=other.namespace).fetch())[0]["here"] is False
    # A key of another namespace can be read and written by name.
    assert client.get(client.key("Thing", 1, namespace=other.namespace))["here"] is False


def test_databases_are_apart(client):
    client.put(entity(client, "Thing", 1))
    named = library.Client(project="test", database="second", namespace=client.namespace)
    assert named.get(named.key("Thing", 1)) is None
    named.put(entity(named, "Thing", 1, number=2))
    assert named.get(named.key("Thing", 1))["number"] == 2
    assert "number" not in client.get(client.key("Thing", 1))


def test_ids_are_allocated_and_reserved(client):
    keys = client.allocate_ids(client.key("Thing"), 20)
    assert len({key.id for key in keys}) == 20
    client.reserve_ids_multi([client.key("Thing", 1234), client.key("Thing", 1235)])
    client.reserve_ids_sequential(client.key("Thing", 5000), 10)
    more = client.allocate_ids(client.key("Thing", parent=client.key("Parent", 1)), 5)
    assert all(key.parent == client.key("Parent", 1) for key in more)
    with pytest.raises(ValueError):
        client.allocate_ids(client.key("Thing", 1), 1)


@pytest.mark.parametrize(
    "properties, why",
    [
        ({"text": "x" * 1501}, "an indexed text has a limit"),
        ({"blob": b"x" * 1501}, "an indexed blob has a limit"),
        ({"__reserved__": 1}, "a reserved name"),
        ({"": 1}, "an empty name"),
    ],
)
def test_what_cannot_be_stored_is_refused(client, properties, why):
    bad = library.Entity(client.key("Thing", 1))
    bad.update(properties)
    with pytest.raises(exceptions.InvalidArgument):
        client.put(bad)
    assert client.get(bad.key) is None, why


def test_an_entity_has_a_size(client):
    large = library.Entity(client.key("Thing", 1), exclude_from_indexes=("a", "b"))
    large["a"] = "x" * 600_000
    client.put(large)
    large["b"] = "y" * 600_000
    with pytest.raises(exceptions.InvalidArgument):
        client.put(large)
    assert "b" not in client.get(large.key)


def test_a_reserved_kind_takes_no_entity(client):
    with pytest.raises(exceptions.InvalidArgument):
        client.put(entity(client, "__kind__", "x"))


def test_reserved_names_may_be_asked_for(client):
    assert client.get(client.key("__Stat_Total__", "total_entity_usage")) is None
    assert client.get(client.key("Thing", "__x__")) is None
    above = client.query(kind="Thing")
    above.key_filter(client.key("Thing", "__x__"), ">")
    assert list(above.fetch()) == []
    assert list(client.query(kind="Thing", ancestor=client.key("Thing", "__x__")).fetch()) == []
    # And a key is a value like any other.
    written = entity(client, "Thing", 1, kind=client.key("__kind__", "Thing"))
    client.put(written)
    assert client.get(written.key)["kind"] == client.key("__kind__", "Thing")


def test_a_namespace_is_of_letters_digits_dots_underscores_and_hyphens(client):
    for namespace in ["a b", "a/b", "é", "a:b"]:
        with pytest.raises(exceptions.InvalidArgument):
            client.put(library.Entity(client.key("Thing", 1, namespace=namespace)))
    client.put(library.Entity(client.key("Thing", 1, namespace="aZ0._-")))


def test_meanings_survive(client):
    written = entity(client, "Thing", 1, text="a", empty=[])
    written._meanings["text"] = (15, "a")
    client.put(written)
    read = client.get(written.key)
    assert read._meanings["text"] == (15, "a")
    assert read["empty"] == []


def test_an_eventual_read_is_answered(client):
    client.put(entity(client, "Thing", 1, number=1))
    assert client.get(client.key("Thing", 1), eventual=True)["number"] == 1
    found = client.query(kind="Thing").fetch(eventual=True)
    assert [thing["number"] for thing in found] == [1]


def test_the_past_is_read(client):
    thing = entity(client, "Thing", 1, number=1)
    client.put(thing)
    before = datetime.datetime.now(UTC)
    thing["number"] = 2
    client.put(thing)
    client.put(entity(client, "Thing", 2, number=3))
    assert client.get(thing.key, read_time=before)["number"] == 1
    assert client.get(client.key("Thing", 2), read_time=before) is None
    query = client.query(kind="Thing", order=["number"])
    assert [found["number"] for found in query.fetch(read_time=before)] == [1]
    assert [found["number"] for found in query.fetch()] == [2, 3]
    count = client.aggregation_query(query).count()
    assert [result[0].value for result in count.fetch(read_time=before)] == [1]
    with client.transaction(read_only=True, read_time=before):
        assert client.get(thing.key)["number"] == 1
