"""The gateway is killed, or its database, or its disk is full: what was answered stays, what was refused
never comes.

MILLRACE_KILLS says how often each of them is killed.
"""

import os
import random
import subprocess
import threading
import time

import datastores
import grpc
import postgres
import pytest
from farm import eventually, program

types = pytest.importorskip("google.cloud.datastore_v1.types")

KILLS = int(os.environ.get("MILLRACE_KILLS", "8"))
# Seconds for all kills, the checks of what has grown included.
KILL_LIMIT = 300 + 10 * KILLS
WRITERS = 8
LIMIT = 10
PROJECT = "test"
# The commit was not made, whatever else is unknown.
REFUSALS = {grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.RESOURCE_EXHAUSTED}


def key(kind, name):
    path = [types.Key.PathElement(kind=kind, name=name)]
    return types.Key(partition_id=types.PartitionId(project_id=PROJECT), path=path)


def entity(kind, name, number, blob=b""):
    values = {"number": types.Value(integer_value=number)}
    if blob:
        values["blob"] = types.Value(blob_value=blob, exclude_from_indexes=True)
    return types.Entity(key=key(kind, name), properties=values)


class Datastore:
    """The calls of one connection."""

    def __init__(self, address):
        self.channel = grpc.insecure_channel(address)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def call(self, method, request, answer):
        stub = self.channel.unary_unary(
            f"/google.datastore.v1.Datastore/{method}",
            request_serializer=type(request).serialize, response_deserializer=answer.deserialize)
        return stub(request, timeout=LIMIT)

    def commit(self, *mutations):
        request = types.CommitRequest(
            project_id=PROJECT, mode=types.CommitRequest.Mode.NON_TRANSACTIONAL,
            mutations=mutations)
        return self.call("Commit", request, types.CommitResponse)

    def names(self, kind, names):
        """Which of these names there are, with their numbers."""
        found = {}
        for begin in range(0, len(names), 500):
            pending = [key(kind, name) for name in names[begin:begin + 500]]
            while pending:
                request = types.LookupRequest(project_id=PROJECT, keys=pending)
                answer = self.call("Lookup", request, types.LookupResponse)
                for result in answer.found:
                    number = result.entity.properties["number"].integer_value
                    found[result.entity.key.path[-1].name] = number
                pending = list(answer.deferred)
        return found

    def count(self, kind, *, by_index):
        """How many entities there are: by the kind's index, or by the property's."""
        query = types.Query(kind=[types.KindExpression(name=kind)])
        if by_index:
            query.filter = types.Filter(property_filter=types.PropertyFilter(
                property=types.PropertyReference(name="number"),
                op=types.PropertyFilter.Operator.GREATER_THAN_OR_EQUAL,
                value=types.Value(integer_value=0)))
        count = types.AggregationQuery.Aggregation(
            count=types.AggregationQuery.Aggregation.Count(), alias="count")
        request = types.RunAggregationQueryRequest(
            project_id=PROJECT, partition_id=types.PartitionId(project_id=PROJECT),
            aggregation_query=types.AggregationQuery(nested_query=query, aggregations=[count]))
        answer = self.call("RunAggregationQuery", request, types.RunAggregationQueryResponse)
        (result,) = answer.batch.aggregation_results
        return result.aggregate_properties["count"].integer_value


class Writer(threading.Thread):
    """Commits pairs, each of them whole or not at all, and records every answer."""

    def __init__(self, index, address):
        super().__init__(daemon=True)
        self.index, self.address = index, address
        self.stop = threading.Event()
        self.answered, self.refused, self.unknown = [], [], []

    def run(self):
        with Datastore(self.address) as datastore:
            number = 0
            while not self.stop.is_set():
                number += 1
                self.write(datastore, number)

    def write(self, datastore, number):
        name = f"{self.index}-{number}-{time.monotonic_ns()}"
        mutations = [
            types.Mutation(upsert=entity("Pair", f"{name}-{half}", number)) for half in "ab"]
        if number % 7 == 0 and self.answered:
            # One of these exists already: nothing of the commit may be made.
            taken = f"{self.answered[-1][0]}-a"
            mutations.append(types.Mutation(insert=entity("Pair", taken, number)))
        try:
            datastore.commit(*mutations)
        except grpc.RpcError as error:
            refused = error.code() in REFUSALS
            (self.refused if refused else self.unknown).append((name, number))
            if not refused:
                time.sleep(0.02)
        else:
            assert len(mutations) == 2, f"{name} was inserted twice"
            self.answered.append((name, number))


def answers(datastore):
    """Whether the store can be read."""
    try:
        datastore.names("Pair", ["none"])
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAVAILABLE:
            return False
        raise
    return True


def halves(commits):
    return [f"{name}-{half}" for name, _ in commits for half in "ab"]


def check(datastore, writer):
    """What a writer was told is so. Returns how many entities it has."""
    found = datastore.names("Pair", halves(writer.answered + writer.unknown + writer.refused))
    for name, number in writer.answered:
        for half in "ab":
            assert found.get(f"{name}-{half}") == number, f"{name} was answered, and is not there"
    for name, _ in writer.refused:
        assert not any(f"{name}-{half}" in found for half in "ab"), f"{name} was refused, and is there"
    for name, _ in writer.unknown:
        there = [f"{name}-{half}" in found for half in "ab"]
        assert there[0] == there[1], f"only a half of {name} is there"
    return len(found)


@pytest.fixture
def database():
    if postgres.programs() is None:
        pytest.skip(postgres.WHY_NOT)
    with postgres.Postgres() as database:
        yield database


@pytest.mark.timeout(KILL_LIMIT)
def test_what_was_answered_outlives_kill_9_of_the_gateway():
    gateway = datastores.Gateway()
    kill_again_and_again(gateway, gateway)


@pytest.mark.timeout(KILL_LIMIT)
@pytest.mark.parametrize("victim", ["gateway", "database"])
def test_what_was_answered_outlives_kill_9_over_postgresql(database, victim):
    gateway = datastores.Gateway(database.url)
    kill_again_and_again(gateway, gateway if victim == "gateway" else database)


def kill_again_and_again(gateway, victim):
    chance = random.Random(7)
    answered = entities = 0
    with gateway:
        for _ in range(KILLS):
            writers = [Writer(index, gateway.address) for index in range(WRITERS)]
            for writer in writers:
                writer.start()
            time.sleep(chance.uniform(0.1, 0.6))
            victim.kill()
            if victim is not gateway:
                # Commits under way wait for the database, to learn what became of them.
                victim.start()
            for writer in writers:
                writer.stop.set()
            for writer in writers:
                writer.join(3 * LIMIT)
                assert not writer.is_alive()
            if victim is gateway:
                victim.start()
            with Datastore(gateway.address) as datastore:
                # A database mends what its crash left before it can be read.
                eventually(lambda: answers(datastore), 3 * LIMIT, "the store can be read")
                entities += sum(check(datastore, writer) for writer in writers)
                # No entity is missing from its index, and no row is left of one.
                assert datastore.count("Pair", by_index=False) == entities
                assert datastore.count("Pair", by_index=True) == entities
            if gateway.store == "sqlite":
                done = subprocess.run(
                    [program("millrace-datastore-gateway"), "check", "--data", gateway.data],
                    capture_output=True, text=True)
                assert done.returncode == 0, done.stdout + done.stderr
                assert f"{entities} entities, {entities} index rows, 0 faults" in done.stdout
            answered += sum(len(writer.answered) for writer in writers)
    assert answered > KILLS * WRITERS


@pytest.fixture
def small_disk(tmp_path):
    """A folder that is a disk of 24 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], stderr=subprocess.PIPE)
    if done.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_full_disk_loses_nothing_that_was_answered_and_writes_go_on_when_there_is_room(small_disk):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(12 << 20))
    gateway = datastores.Gateway(data=small_disk / "data")
    blob = random.Random(1).randbytes(100_000)
    written = {}
    with gateway, Datastore(gateway.address) as datastore:

        def write():
            name = f"large-{len(written)}"
            datastore.commit(types.Mutation(upsert=entity("Large", name, len(written), blob)))
            written[name] = len(written)

        with pytest.raises(grpc.RpcError) as error:
            for _ in range(300):
                write()
        assert 10 < len(written) < 300
        assert error.value.code() in (
            grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
        assert "full" in error.value.details(), error.value.details()
        # Reads go on.
        assert datastore.names("Large", list(written)) == written
        ballast.unlink()

        def writes_again():
            try:
                write()
            except grpc.RpcError:
                return False
            return True

        eventually(writes_again, 20, "there is room again, and the gateway writes")
        for _ in range(20):
            write()
        gateway.kill()
        gateway.start()
        assert datastore.names("Large", list(written)) == written
        assert datastore.count("Large", by_index=True) == len(written)


def test_a_gateway_that_starts_on_a_full_disk_is_read_and_writes_when_there_is_room(small_disk):
    gateway = datastores.Gateway(data=small_disk / "data")
    with gateway, Datastore(gateway.address) as datastore:
        datastore.commit(types.Mutation(upsert=entity("Thing", "old", 1)))
        gateway.kill()
        ballast = small_disk / "ballast"
        with open(ballast, "wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(4096))
        gateway.start()
        assert datastore.names("Thing", ["old"]) == {"old": 1}
        with open(gateway.log) as file:
            assert "the store refuses writes; it can be read" in file.read()
        with pytest.raises(grpc.RpcError) as error:
            datastore.commit(types.Mutation(upsert=entity("Thing", "new", 2, bytes(500_000))))
        assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "full" in error.value.details(), error.value.details()
        ballast.unlink()

        def writes_again():
            try:
                datastore.commit(types.Mutation(upsert=entity("Thing", "new", 2)))
            except grpc.RpcError:
                return False
            return True

        eventually(writes_again, 20, "there is room again, and the gateway writes")
        assert datastore.names("Thing", ["old", "new"]) == {"old": 1, "new": 2}
