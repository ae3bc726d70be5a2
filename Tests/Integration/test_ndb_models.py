"""Google's ndb: models, properties and keys."""

import datetime
import pickle

import pytest
from google.api_core import exceptions
from google.cloud import ndb

pytestmark = pytest.mark.usefixtures("context")


class Address(ndb.Model):
    street = ndb.StringProperty()
    city = ndb.StringProperty()


class Letter(ndb.Model):
    to = ndb.StringProperty()
    lines = ndb.StringProperty(repeated=True)


class Everything(ndb.Model):
    whole = ndb.IntegerProperty()
    real = ndb.FloatProperty()
    flag = ndb.BooleanProperty()
    short = ndb.StringProperty()
    long = ndb.TextProperty()
    raw = ndb.BlobProperty()
    packed = ndb.BlobProperty(compressed=True)
    packed_text = ndb.TextProperty(compressed=True)
    moment = ndb.DateTimeProperty()
    day = ndb.DateProperty()
    hour = ndb.TimeProperty()
    made = ndb.DateTimeProperty(auto_now_add=True)
    changed = ndb.DateTimeProperty(auto_now=True)
    place = ndb.GeoPtProperty()
    other = ndb.KeyProperty()
    json = ndb.JsonProperty()
    packed_json = ndb.JsonProperty(compressed=True)
    pickled = ndb.PickleProperty()
    generic = ndb.GenericProperty()
    inner = ndb.StructuredProperty(Address)
    inners = ndb.StructuredProperty(Address, repeated=True)
    local = ndb.LocalStructuredProperty(Address)
    locals = ndb.LocalStructuredProperty(Letter, repeated=True, compressed=True)
    numbers = ndb.IntegerProperty(repeated=True)
    choice = ndb.StringProperty(choices=["a", "b"])
    unset = ndb.StringProperty(default="a default")
    upper = ndb.ComputedProperty(lambda self: (self.short or "").upper())
    renamed = ndb.IntegerProperty("r")


def example():
    return Everything(
        whole=-(2**63), real=0.1, flag=True, short="Grüße", long="x" * 5000, raw=b"\0\xff" * 2000,
        packed=b"a" * 100_000, packed_text="b" * 100_000,
        moment=datetime.datetime(1969, 12, 31, 23, 59, 59, 999999), day=datetime.date(2024, 2, 29),
        hour=datetime.time(23, 59, 59, 1), place=ndb.GeoPt(52.5, -13.25),
        other=ndb.Key("Other", "name", "Child", 7),
        json={"a": [1, None, {"b": "ü"}]}, packed_json=[{"n": n} for n in range(500)],
        pickled={"set": {1, 2}, "day": datetime.date(2000, 1, 1)}, generic=12.5,
        inner=Address(street="Weg 1", city="Ort"), local=Address(city="Stadt"),
        inners=[Address(street=f"Weg {n}", city="Ort") for n in range(3)],
        locals=[Letter(to="A", lines=["x", "y"]), Letter()],
        numbers=[3, 1, 2, 2], choice="b", renamed=5,
    )


def test_every_property_comes_back():
    written = example()
    key = written.put()
    read = key.get(use_cache=False)
    assert read == written
    assert read is not written
    assert read.upper == "GRÜSSE"
    assert read.unset == "a default"
    assert read.inners[2].street == "Weg 2"
    assert read.locals[0].lines == ["x", "y"]
    assert read.json == {"a": [1, None, {"b": "ü"}]}
    assert read.pickled["set"] == {1, 2}
    assert abs((read.made - datetime.datetime.utcnow()).total_seconds()) < 60
    assert pickle.loads(pickle.dumps(read)) == read


def test_nothing_is_a_value_too():
    key = Everything().put()
    read = key.get()
    assert read.whole is None and read.inner is None and read.local is None
    assert read.numbers == [] and read.inners == [] and read.locals == []
    assert read.upper == ""


def test_each_property_can_be_asked_for():
    key = example().put()
    for condition in [
        Everything.whole == -(2**63), Everything.real == 0.1, Everything.flag == True,  # noqa: E712
        Everything.short == "Grüße",
        Everything.moment == datetime.datetime(1969, 12, 31, 23, 59, 59, 999999),
        Everything.day == datetime.date(2024, 2, 29), Everything.hour == datetime.time(23, 59, 59, 1),
        Everything.place == ndb.GeoPt(52.5, -13.25),
        Everything.other == ndb.Key("Other", "name", "Child", 7),
        Everything.inner.city == "Ort", Everything.inners.street == "Weg 1",
        Everything.numbers == 3, Everything.choice == "b", Everything.upper == "GRÜSSE",
        Everything.renamed == 5, Everything.inner == Address(street="Weg 1", city="Ort"),
    ]:
        assert Everything.query(condition).get(keys_only=True) == key, condition


def test_a_changed_model_reads_what_was_stored():
    class Before(ndb.Model):
        number = ndb.IntegerProperty()
        gone = ndb.StringProperty()

        @classmethod
        def _get_kind(cls):
            return "Changing"

    key = Before(number=1, gone="x").put()

    class After(ndb.Expando):
        number = ndb.IntegerProperty()

        @classmethod
        def _get_kind(cls):
            return "Changing"

    read = key.get()
    assert (read.number, read.gone) == (1, "x")
    After(key=key, number=2, gone=5).put()
    assert (key.get().number, key.get().gone) == (2, 5)
    assert After.query(ndb.GenericProperty("gone") == 5).count() == 1


def test_expando_and_polymodel():
    class Loose(ndb.Expando):
        pass

    key = Loose(a=1, b="two", c=[1, 2]).put()
    read = key.get()
    assert (read.a, read.b, read.c) == (1, "two", [1, 2])

    class Animal(ndb.PolyModel):
        name = ndb.StringProperty()

    class Cat(Animal):
        lives = ndb.IntegerProperty(default=9)

    cat, animal = Cat(name="Tom").put(), Animal(name="It").put()
    assert cat.get().lives == 9
    assert {found.key for found in Animal.query()} == {cat, animal}
    assert [found.key for found in Cat.query()] == [cat]


def test_keys_ids_and_parents():
    parent = Address(id="parent").put()
    child = Address(id=7, parent=parent, city="x").put()
    assert child.parent() == parent
    assert child.get().key.flat() == ("Address", "parent", "Address", 7)
    assert ndb.Key(urlsafe=child.urlsafe()) == child
    made = Address().put()
    assert isinstance(made.id(), int)
    assert Address.get_by_id(7, parent=parent).city == "x"
    assert Address.get_by_id("none") is None


def test_get_or_insert():
    first = Address.get_or_insert("only", city="first")
    second = Address.get_or_insert("only", city="second")
    assert (first.city, second.city) == ("first", "first")


def test_ids_are_allocated():
    keys = Address.allocate_ids(10)
    assert len({key.id() for key in keys}) == 10
    below = Address.allocate_ids(2, parent=keys[0])
    assert all(key.parent() == keys[0] for key in below)


def test_many_at_once():
    keys = ndb.put_multi([Address(id=n, city=str(n)) for n in range(1, 701)])
    assert [address.city for address in ndb.get_multi(keys)] == [str(n) for n in range(1, 701)]
    ndb.delete_multi(keys[:699])
    assert [address and address.city for address in ndb.get_multi(keys)][-2:] == [None, "700"]


def test_namespaces(namespace):
    key = Address(id=1, city="here").put()
    other = Address(id=1, city="there", namespace=namespace + "-2").put()
    assert key.get().city == "here"
    assert other.get().city == "there"
    assert [address.city for address in Address.query(namespace=namespace + "-2")] == ["there"]


def test_hooks_and_validators():
    class Hooked(ndb.Model):
        name = ndb.StringProperty(validator=lambda prop, value: value.strip())
        calls = []

        def _pre_put_hook(self):
            self.calls.append("pre")

        def _post_put_hook(self, future):
            self.calls.append(future.result().id())

    Hooked(id="h", name="  x ").put()
    assert Hooked.calls == ["pre", "h"]
    assert Hooked.get_by_id("h").name == "x"


def test_what_cannot_be_stored_is_refused():
    with pytest.raises(exceptions.InvalidArgument):
        Address(id="__x__").put()

    class Short(ndb.Model):
        text = ndb.GenericProperty()

    with pytest.raises(exceptions.InvalidArgument):
        Short(text="x" * 1501).put()
