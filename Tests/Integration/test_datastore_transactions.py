"""Google's client for Datastore: batches and transactions."""

import random
import threading
import time

import pytest
from google.api_core import exceptions
from google.cloud import datastore as library

WORKERS = 4
ROUNDS = 8
# Google's rule for what was aborted: again after a while, longer each time, and nobody's the same.
# Without it four that wait for each other are aborted together, and do it all again in step.
FIRST_WAIT_SECONDS = 0.25
LONGEST_WAIT_SECONDS = 1


def put(client, *path, **properties):
    made = library.Entity(client.key(*path))
    made.update(properties)
    client.put(made)
    return made


def test_a_transaction_is_wholly_there_or_not_at_all(client):
    with client.transaction():
        put(client, "Thing", 1)
        put(client, "Thing", 2)
    assert len(client.get_multi([client.key("Thing", 1), client.key("Thing", 2)])) == 2
    with pytest.raises(ZeroDivisionError):
        with client.transaction():
            put(client, "Thing", 3)
            raise ZeroDivisionError
    assert client.get(client.key("Thing", 3)) is None


def test_what_a_transaction_writes_it_does_not_read(client):
    put(client, "Thing", 1, number=1)
    with client.transaction():
        put(client, "Thing", 1, number=2)
        assert client.get(client.key("Thing", 1))["number"] == 1
    assert client.get(client.key("Thing", 1))["number"] == 2


def test_incomplete_keys_of_a_transaction_are_completed(client):
    with client.transaction() as transaction:
        made = library.Entity(client.key("Thing"))
        transaction.put(made)
        assert made.key.is_partial
    assert client.get(made.key) is not None


def test_a_transaction_that_read_what_changed_is_aborted(client):
    put(client, "Thing", 1, number=1)
    transaction = client.transaction()
    transaction.begin()
    read = client.get(client.key("Thing", 1), transaction=transaction)
    put(client, "Thing", 1, number=10)
    read["number"] += 1
    transaction.put(read)
    with pytest.raises(exceptions.Aborted):
        transaction.commit()
    assert client.get(client.key("Thing", 1))["number"] == 10


def test_a_transaction_whose_query_would_find_more_is_aborted(client):
    put(client, "Parent", "a", "Thing", 1)
    other = library.Client(project="test", namespace=client.namespace)
    with pytest.raises(exceptions.Aborted):
        with client.transaction():
            query = client.query(kind="Thing", ancestor=client.key("Parent", "a"))
            assert len(list(query.fetch())) == 1
            put(other, "Parent", "a", "Thing", 2)
            put(client, "Count", 1, number=1)
    assert client.get(client.key("Count", 1)) is None


def count_up(client, key, errors):
    """Adds one to a number, again until nobody came between."""
    for _ in range(ROUNDS):
        longest = FIRST_WAIT_SECONDS
        while True:
            try:
                with client.transaction():
                    counter = client.get(key)
                    counter["number"] += 1
                    client.put(counter)
                break
            except exceptions.Aborted:
                time.sleep(random.uniform(0, longest))
                longest = min(2 * longest, LONGEST_WAIT_SECONDS)
            except Exception as error:  # noqa: BLE001
                errors.append(error)
                return


def test_transactions_in_contention_lose_nothing(client):
    counter = put(client, "Counter", 1, number=0)
    errors = []
    threads = [
        threading.Thread(
            target=count_up,
            args=(library.Client(project="test", namespace=client.namespace), counter.key, errors),
            daemon=True,
        )
        for _ in range(WORKERS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert client.get(counter.key)["number"] == WORKERS * ROUNDS


def test_a_read_only_transaction_reads_one_moment(client):
    put(client, "Thing", 1, number=1)
    put(client, "Thing", 2, number=1)
    with client.transaction(read_only=True):
        assert client.get(client.key("Thing", 1))["number"] == 1
        other = library.Client(project="test", namespace=client.namespace)
        with other.batch():
            put(other, "Thing", 1, number=2)
            put(other, "Thing", 2, number=2)
        assert client.get(client.key("Thing", 2))["number"] == 1
        assert [thing["number"] for thing in client.query(kind="Thing").fetch()] == [1, 1]
    assert client.get(client.key("Thing", 2))["number"] == 2


def test_a_read_only_transaction_writes_nothing(client):
    transaction = client.transaction(read_only=True)
    transaction.begin()
    with pytest.raises(RuntimeError):
        transaction.put(library.Entity(client.key("Thing", 1)))
    transaction.rollback()


def test_a_first_read_begins_the_transaction(client):
    put(client, "Thing", 1, number=1)
    with client.transaction(begin_later=True) as transaction:
        assert transaction.id is None
        thing = client.get(client.key("Thing", 1))
        assert transaction.id is not None
        thing["number"] = 2
        transaction.put(thing)
    assert client.get(client.key("Thing", 1))["number"] == 2
    # Without a read it is begun for its commit.
    with client.transaction(begin_later=True):
        put(client, "Thing", 1, number=3)
    assert client.get(client.key("Thing", 1))["number"] == 3


def test_a_first_query_begins_the_transaction(client):
    put(client, "Thing", 1, number=1)
    # The client asks for a transaction and takes no note of it: its commit begins another.
    with client.transaction(begin_later=True) as transaction:
        found = list(client.query(kind="Thing").fetch())
        found[0]["number"] = 2
        transaction.put(found[0])
    assert client.get(client.key("Thing", 1))["number"] == 2
    with client.transaction(begin_later=True):
        count = client.aggregation_query(client.query(kind="Thing")).count()
        assert [result[0].value for result in count.fetch()] == [1]


def test_a_batch_may_not_name_an_entity_twice(client):
    with pytest.raises(exceptions.InvalidArgument):
        with client.batch():
            put(client, "Thing", 1, number=1)
            put(client, "Thing", 1, number=2)
    with client.transaction():
        put(client, "Thing", 1, number=1)
        put(client, "Thing", 1, number=2)
        client.delete(client.key("Thing", 2))
    assert client.get(client.key("Thing", 1))["number"] == 2


def test_a_transaction_ends_once(client):
    transaction = client.transaction()
    transaction.begin()
    ended = transaction.id
    transaction.commit()
    again = client.transaction()
    again.begin()
    again._id = ended
    again.put(library.Entity(client.key("Thing", 1)))
    with pytest.raises(exceptions.InvalidArgument):
        again.commit()
