"""Google's ndb: transactions, their retries, and what ends them."""

import threading

import pytest
from google.cloud import ndb

pytestmark = pytest.mark.usefixtures("context")

WORKERS = 4
ROUNDS = 5


class Counter(ndb.Model):
    number = ndb.IntegerProperty(default=0)


def test_a_transaction_is_wholly_there_or_not_at_all():
    def both():
        Counter(id="a", number=1).put()
        Counter(id="b", number=1).put()

    ndb.transaction(both)
    assert [counter.number for counter in ndb.get_multi([ndb.Key("Counter", k) for k in "ab"])] == [
        1, 1,
    ]

    def none():
        Counter(id="c", number=1).put()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ndb.transaction(none)
    assert Counter.get_by_id("c") is None


def test_a_transaction_that_is_aborted_is_tried_again(datastore, namespace):
    key = Counter(id="n", number=0).put()
    tries = []

    def foreign():
        """Changes the entity from outside, in a thread with a client of its own."""
        with ndb.Client(project="test").context(namespace=namespace, cache_policy=False):
            counter = key.get()
            counter.number += 10
            counter.put()

    def count_up():
        counter = key.get()
        tries.append(counter.number)
        if len(tries) == 1:
            thread = threading.Thread(target=foreign)
            thread.start()
            thread.join()
        counter.number += 1
        counter.put()

    ndb.transaction(count_up, retries=3)
    assert tries == [0, 10]
    assert key.get().number == 11


def test_transactions_in_contention_lose_nothing(datastore, namespace):
    key = Counter(id="n", number=0).put()
    errors = []

    def work():
        def count_up():
            counter = key.get()
            counter.number += 1
            counter.put()

        try:
            with ndb.Client(project="test").context(namespace=namespace, cache_policy=False):
                for _ in range(ROUNDS):
                    ndb.transaction(count_up, retries=100)
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert key.get().number == WORKERS * ROUNDS


def test_read_only_transactions():
    key = Counter(id="n", number=1).put()
    assert ndb.transaction(lambda: key.get().number, read_only=True) == 1
    with pytest.raises(Exception):
        ndb.transaction(lambda: Counter(id="m").put(), read_only=True, retries=0)
    assert Counter.get_by_id("m") is None


def test_queries_and_deletions_in_a_transaction():
    parent = ndb.Key("Parent", 1)
    for number in range(3):
        Counter(id=number + 1, parent=parent, number=number).put()

    @ndb.transactional()
    def remove():
        found = Counter.query(Counter.number > 0, ancestor=parent).fetch()
        ndb.delete_multi([counter.key for counter in found])
        return len(found)

    assert remove() == 2
    assert [counter.number for counter in Counter.query(ancestor=parent)] == [0]


def test_ids_in_a_transaction():
    made = ndb.transaction(lambda: [Counter().put() for _ in range(3)])
    assert len({key.id() for key in made}) == 3
    assert all(key.get() is not None for key in made)


def test_independent_transactions():
    @ndb.transactional(propagation=ndb.TransactionOptions.INDEPENDENT)
    def inner():
        Counter(id="inner").put()

    @ndb.transactional()
    def outer():
        Counter(id="outer").put()
        inner()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        outer()
    assert Counter.get_by_id("inner") is not None
    assert Counter.get_by_id("outer") is None


def test_non_transactional_and_tasklets():
    @ndb.non_transactional()
    def outside():
        assert not ndb.in_transaction()
        return Counter(id="outside").put()

    @ndb.transactional_tasklet()
    def inside():
        assert ndb.in_transaction()
        outside()
        counter = yield Counter.get_or_insert_async("inside")
        counter.number += 1
        yield counter.put_async()
        return counter.number

    assert inside().result() == 1
    assert Counter.get_by_id("inside").number == 1
    assert Counter.get_by_id("outside") is not None


def test_what_is_done_after_a_commit():
    calls = []

    @ndb.transactional()
    def commit():
        ndb.get_context().call_on_commit(lambda: calls.append("committed"))
        Counter(id="x").put()
        assert calls == []

    commit()
    assert calls == ["committed"]
