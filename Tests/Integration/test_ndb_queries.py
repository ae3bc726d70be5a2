"""Google's ndb: queries, iterators, projections, GQL and tasklets."""

import datetime

import pytest
from google.cloud import ndb

pytestmark = pytest.mark.usefixtures("context")


class Part(ndb.Model):
    name = ndb.StringProperty()
    weight = ndb.IntegerProperty()


class Tool(ndb.Model):
    name = ndb.StringProperty()
    kind = ndb.StringProperty()
    price = ndb.IntegerProperty()
    tags = ndb.StringProperty(repeated=True)
    parts = ndb.StructuredProperty(Part, repeated=True)
    bought = ndb.DateTimeProperty()


NAMES = ["awl", "brush", "chisel", "drill", "edger", "file", "gauge", "hammer"]


@pytest.fixture
def tools(context):
    """Eight tools below one shop."""
    shop = ndb.Key("Shop", "one")
    made = [
        Tool(
            id=name, parent=shop, name=name, kind=["hand", "power"][number % 2], price=number * 10,
            tags=[name[0], "all"], parts=[Part(name="grip", weight=number), Part(name="head")],
            bought=datetime.datetime(2020, 1, number + 1),
        )
        for number, name in enumerate(NAMES)
    ]
    ndb.put_multi(made)
    return made


def names(query, **options):
    return [tool.name for tool in query.fetch(**options)]


def test_filters(tools):
    assert names(Tool.query(Tool.kind == "hand").order(Tool.name)) == NAMES[::2]
    assert names(Tool.query(Tool.price > 20, Tool.price <= 40)) == ["drill", "edger"]
    assert names(Tool.query(Tool.price != 0).order(Tool.price)) == NAMES[1:]
    assert sorted(names(Tool.query(Tool.name.IN(["awl", "file", "none"])))) == ["awl", "file"]
    assert names(Tool.query(Tool.name.NOT_IN(NAMES[:6])).order(Tool.name)) == NAMES[6:]
    assert names(Tool.query(ndb.OR(Tool.price < 10, Tool.name == "hammer"))) == ["awl", "hammer"]
    both = ndb.AND(Tool.kind == "power", ndb.OR(Tool.price == 10, Tool.price == 20))
    assert names(Tool.query(both)) == ["brush"]
    assert names(Tool.query(Tool.bought > datetime.datetime(2020, 1, 7))) == ["hammer"]
    assert names(Tool.query(Tool.tags == "all", Tool.tags == "c")) == ["chisel"]
    assert names(Tool.query(Tool.parts.weight == 3)) == ["drill"]
    assert names(Tool.query(Tool.parts == Part(name="grip", weight=4))) == ["edger"]
    # Not of one and the same part: filtered by the client.
    assert names(Tool.query(Tool.parts == Part(name="head", weight=4))) == []


def test_orders_limits_and_offsets(tools):
    assert names(Tool.query().order(-Tool.price), limit=2) == ["hammer", "gauge"]
    assert names(Tool.query().order(Tool.kind, -Tool.price), limit=3) == ["gauge", "edger", "chisel"]
    assert names(Tool.query().order(Tool.price), limit=2, offset=5) == ["file", "gauge"]
    assert names(Tool.query().order(Tool.key), limit=1) == ["awl"]
    assert Tool.query().order(Tool.price).get().name == "awl"


def test_ancestors(tools):
    shop = ndb.Key("Shop", "one")
    Tool(id="stray", parent=ndb.Key("Shop", "two"), name="stray").put()
    assert len(names(Tool.query(ancestor=shop))) == len(NAMES)
    assert names(Tool.query(Tool.kind == "hand", ancestor=shop).order(-Tool.price))[0] == "gauge"
    assert {found.key.kind() for found in ndb.Query(ancestor=shop)} == {"Tool"}


def test_keys_alone_and_counts(tools):
    keys = Tool.query(Tool.kind == "power").fetch(keys_only=True)
    assert sorted(key.id() for key in keys) == NAMES[1::2]
    assert Tool.query().count() == len(NAMES)
    assert Tool.query(Tool.kind == "power").count(limit=2) == 2


def test_projections_and_distinct(tools):
    found = Tool.query().order(Tool.price).fetch(projection=[Tool.name, Tool.price])
    assert [(tool.name, tool.price) for tool in found][:2] == [("awl", 0), ("brush", 10)]
    with pytest.raises(ndb.exceptions.Error):
        found[0].kind
    kinds = Tool.query(projection=[Tool.kind], distinct=True).fetch()
    assert [tool.kind for tool in kinds] == ["hand", "power"]
    cheapest = Tool.query(
        projection=[Tool.kind, Tool.price], distinct_on=[Tool.kind]
    ).order(Tool.kind, Tool.price)
    assert [(tool.kind, tool.price) for tool in cheapest] == [("hand", 0), ("power", 10)]
    tags = Tool.query(projection=[Tool.tags], distinct=True).fetch()
    assert [tool.tags for tool in tags][:2] == [["a"], ["all"]]
    dates = Tool.query().order(-Tool.bought).fetch(1, projection=[Tool.bought])
    assert dates[0].bought == datetime.datetime(2020, 1, 8)


def test_iterators_and_cursors(tools):
    iterator = Tool.query().order(Tool.price).iter()
    assert [next(iterator).name for _ in range(3)] == NAMES[:3]
    cursor = iterator.cursor_after()
    assert iterator.has_next()
    later = Tool.query().order(Tool.price)
    assert names(later, start_cursor=cursor) == NAMES[3:]
    upto = Tool.query().order(Tool.price)
    assert names(upto, end_cursor=cursor) == NAMES[:3]
    parsed = ndb.Cursor(urlsafe=cursor.urlsafe())
    assert names(later, start_cursor=parsed, limit=1) == ["drill"]


def test_pages(tools):
    query = Tool.query().order(-Tool.price)
    found, cursor, more = query.fetch_page(5)
    assert ([tool.name for tool in found], more) == (NAMES[:2:-1], True)
    found, cursor, more = query.fetch_page(5, start_cursor=cursor)
    assert ([tool.name for tool in found], more) == (NAMES[2::-1], False)


def test_queries_with_or_go_on_in_pages(tools):
    query = Tool.query(ndb.OR(Tool.kind == "hand", Tool.price > 60)).order(Tool.price)
    iterator = query.iter(limit=3)
    assert [tool.name for tool in iterator] == ["awl", "chisel", "edger"]
    assert names(query) == ["awl", "chisel", "edger", "gauge", "hammer"]


def test_gql(tools):
    cheap = ndb.gql("SELECT * FROM Tool WHERE price < :1 ORDER BY price DESC", 30)
    assert names(cheap) == ["chisel", "brush", "awl"]
    named = Tool.gql("WHERE kind = :kind AND price > :low ORDER BY price LIMIT 2", kind="hand", low=0)
    assert names(named) == ["chisel", "edger"]
    listed = ndb.gql("SELECT * FROM Tool WHERE name IN ('awl', 'file')")
    assert sorted(names(listed)) == ["awl", "file"]
    keys = ndb.gql("SELECT __key__ FROM Tool WHERE price = 70")
    assert [tool.key.id() for tool in keys.fetch()] == ["hammer"]
    kinds = ndb.gql("SELECT DISTINCT kind FROM Tool")
    assert [tool.kind for tool in kinds.fetch()] == ["hand", "power"]


def test_map_and_futures(tools):
    prices = Tool.query().order(Tool.price).map(lambda tool: tool.price)
    assert list(prices) == [number * 10 for number in range(len(NAMES))]
    futures = [Tool.query(Tool.kind == kind).count_async() for kind in ("hand", "power")]
    assert [future.result() for future in futures] == [4, 4]
    first = Tool.query().order(Tool.price).get_async()
    assert first.result().name == "awl"


def test_tasklets(tools):
    @ndb.tasklet
    def raised(name):
        tool = yield ndb.Key("Shop", "one", "Tool", name).get_async()
        tool.price += 1
        yield tool.put_async()
        raise ndb.Return(tool.price)

    @ndb.tasklet
    def all_raised():
        prices = yield [raised(name) for name in NAMES]
        raise ndb.Return(sum(prices))

    @ndb.synctasklet
    def counted():
        found = 0
        iterator = Tool.query().iter()
        while (yield iterator.has_next_async()):
            iterator.next()
            found += 1
        return found

    assert all_raised().result() == 280 + len(NAMES)
    assert counted() == len(NAMES)
    with pytest.raises(AttributeError):
        raised("none").result()


def test_metadata(tools, namespace):
    from google.cloud.ndb import metadata

    assert metadata.get_kinds() == ["Tool"]
    assert namespace in metadata.get_namespaces()
    assert "parts.weight" in metadata.get_properties_of_kind("Tool")
    types = metadata.get_representations_of_kind("Tool")
    assert types["price"] == ["INT64"] and types["name"] == ["STRING"]


def test_long_results(context):
    for begin in range(0, 1500, 500):
        ndb.put_multi([Part(id=n + 1, weight=n) for n in range(begin, begin + 500)])
    assert [part.weight for part in Part.query().order(-Part.weight)] == list(range(1499, -1, -1))
    assert Part.query().count() == 1500
    assert [part.weight for part in Part.query().order(Part.weight).fetch(3, offset=1200)] == [
        1200, 1201, 1202,
    ]
