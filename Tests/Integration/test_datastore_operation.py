"""What an operator sees of the gateway: overload, slow queries, stores that ail, stores that move."""

import concurrent.futures
import json
import os
import subprocess

import datastores
import grpc
import postgres
import pytest
from farm import eventually, free_port, program
from test_datastore_durability import LIMIT, Datastore, entity, key, small_disk  # noqa: F401

types = pytest.importorskip("google.cloud.datastore_v1.types")

CALLERS = 64


@pytest.fixture(params=["sqlite", "postgres"])
def store(request):
    """A place for a store, for `--store`."""
    if request.param == "sqlite":
        yield "sqlite"
        return
    if postgres.programs() is None:
        pytest.skip(postgres.WHY_NOT)
    with postgres.Postgres() as server:
        yield server.url


def put(datastore, kind, name, number, blob=b""):
    datastore.commit(types.Mutation(upsert=entity(kind, name, number, blob)))


def fill(datastore, kind, count, blob=b""):
    for begin in range(0, count, 200):
        datastore.commit(*(
            types.Mutation(upsert=entity(kind, f"e{number:06}", number, blob))
            for number in range(begin, min(begin + 200, count))))


def query(datastore, kind, **parts):
    request = types.RunQueryRequest(
        project_id="test", partition_id=types.PartitionId(project_id="test"),
        query=types.Query(kind=[types.KindExpression(name=kind)], **parts))
    return datastore.call("RunQuery", request, types.RunQueryResponse).batch


def log_lines(gateway, message):
    with open(gateway.log) as file:
        lines = [json.loads(line) for line in file if line.startswith("{")]
    return [line for line in lines if message in json.dumps(line)]


def hammer(address, call, count):
    """Many callers at once; how their calls ended."""
    def one(number):
        with Datastore(address) as datastore:
            try:
                call(datastore, number)
                return number, None
            except grpc.RpcError as error:
                return number, error

    with concurrent.futures.ThreadPoolExecutor(CALLERS) as pool:
        return list(pool.map(one, range(count)))


def test_too_many_writers_are_pushed_back(store):
    # Commits of a megabyte, of which two may wait: the disk is slower than so many callers.
    with datastores.Gateway(store, flags=["--queue-commits", "2", "--batch-commits", "1"]) as gateway:
        blob = os.urandom(900_000)
        ended = hammer(
            gateway.address, lambda datastore, number: put(datastore, "Big", f"n{number}", number, blob),
            2 * CALLERS)
        answered = {f"n{number}" for number, error in ended if error is None}
        refused = [error for _, error in ended if error is not None]
        assert answered and refused
        for error in refused:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
            assert "too many commits wait" in error.details()
            delay = dict(error.trailing_metadata())["grpc-retry-pushback-ms"]
            assert 10 <= int(delay) <= 5000
        with Datastore(gateway.address) as datastore:
            # What was answered is there, and nothing else is.
            names = [f"n{number}" for number in range(2 * CALLERS)]
            assert set(datastore.names("Big", names[:20])) == answered & set(names[:20])
            assert datastore.count("Big", by_index=True) == len(answered)
            put(datastore, "Small", "after", 1)


def test_too_many_readers_are_pushed_back(store):
    with datastores.Gateway(store, flags=["--queue-reads", "2", "--read-threads", "1"]) as gateway:
        with Datastore(gateway.address) as datastore:
            fill(datastore, "Row", 2000, b"x" * 1000)
        ended = hammer(
            gateway.address, lambda datastore, _: query(datastore, "Row"), 2 * CALLERS)
        refused = [error for _, error in ended if error is not None]
        assert refused and len(refused) < len(ended)
        for error in refused:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
            assert "too many reads wait" in error.details()
            assert "grpc-retry-pushback-ms" in dict(error.trailing_metadata())
        with Datastore(gateway.address) as datastore:
            assert len(query(datastore, "Row").entity_results) == 500


def test_slow_queries_are_logged_with_their_plan(store):
    with datastores.Gateway(store, flags=["--slow-query", "0ms"]) as gateway:
        with Datastore(gateway.address) as datastore:
            fill(datastore, "Row", 50)
            query(datastore, "Row", order=[types.PropertyOrder(
                property=types.PropertyReference(name="number"),
                direction=types.PropertyOrder.Direction.DESCENDING)])
        eventually(lambda: log_lines(gateway, "slow query"), LIMIT, "a slow query is logged")
        line = json.dumps(log_lines(gateway, "slow query")[-1])
        assert "order number, descending" in line
        assert '"kind": "Row"' in line and '"rows": "50"' in line


# ---- Stores that ail

@pytest.mark.parametrize("is_killed", [False, True])
def test_a_disk_that_takes_no_writes_is_told_at_the_start_and_read(
    small_disk, is_killed  # noqa: F811
):
    data = small_disk / "data"
    with datastores.Gateway(data=data) as gateway, Datastore(gateway.address) as datastore:
        put(datastore, "Row", "a", 1)
        if is_killed:
            gateway.kill()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    try:
        with datastores.Gateway(data=data) as gateway, Datastore(gateway.address) as datastore:
            told = log_lines(gateway, "the store refuses writes; it can be read")
            assert len(told) == 1 and "readonly database" in json.dumps(told), told
            assert datastore.names("Row", ["a"]) == {"a": 1}
            assert len(query(datastore, "Row").entity_results) == 1
            with pytest.raises(grpc.RpcError) as refused:
                put(datastore, "Row", "b", 2)
            assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
            assert "start the gateway again" in refused.value.details()
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    with datastores.Gateway(data=data) as gateway, Datastore(gateway.address) as datastore:
        assert datastore.names("Row", ["a"]) == {"a": 1}


def test_a_file_that_is_held_is_told_at_the_start(tmp_path):
    data = tmp_path / "data"
    with datastores.Gateway(data=data) as gateway:
        done = run_gateway(data)
        assert done.returncode == 1
        assert f"is used by process {gateway.process.pid}" in done.stderr
    sqlite3 = pytest.importorskip("sqlite3")
    holder = sqlite3.connect(data / "datastore.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        done = run_gateway(data)
        assert done.returncode == 1
        assert "database is locked" in done.stderr
    finally:
        holder.close()


def run_gateway(data):
    """Runs a gateway that is to end by itself."""
    return subprocess.run(
        [program("millrace-datastore-gateway"), "--listen", f"127.0.0.1:{free_port()}",
         "--admin-listen", f"127.0.0.1:{free_port()}", "--data", str(data)],
        capture_output=True, text=True, timeout=30)


def test_a_damaged_file_is_told_and_what_is_whole_is_read(tmp_path):
    data = tmp_path / "data"
    with datastores.Gateway(data=data) as gateway, Datastore(gateway.address) as datastore:
        fill(datastore, "Row", 2000, os.urandom(1000))
    assert command("check", "--data", data).returncode == 0
    path = data / "datastore.sqlite"
    # What the log holds would cover the damage.
    database = pytest.importorskip("sqlite3").connect(path)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(size // 2)
        file.write(os.urandom(16 * 4096))
    done = command("check", "--data", data)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "entit" in done.stdout or "SQLite" in done.stdout
    with datastores.Gateway(data=data) as gateway, Datastore(gateway.address) as datastore:
        read = lost = 0
        for number in range(0, 2000, 20):
            try:
                read += len(datastore.names("Row", [f"e{number:06}"]))
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.DATA_LOSS, error
                assert "datastore.sqlite" in error.details()
                lost += 1
        assert read > 20 and lost > 0


# ---- Stores that move

def command(name, *arguments):
    return subprocess.run(
        [program("millrace-datastore-gateway"), name, *map(str, arguments)],
        capture_output=True, text=True, timeout=120)


def contents(datastore):
    """All entities of two namespaces, by key."""
    found = {}
    for namespace in ["", "other"]:
        for kind in ["A", "B"]:
            cursor = b""
            while True:
                request = types.RunQueryRequest(
                    project_id="test",
                    partition_id=types.PartitionId(project_id="test", namespace_id=namespace),
                    query=types.Query(kind=[types.KindExpression(name=kind)], start_cursor=cursor))
                batch = datastore.call("RunQuery", request, types.RunQueryResponse).batch
                for result in batch.entity_results:
                    values = result.entity.properties
                    found[namespace, kind, result.entity.key.path[-1].name] = (
                        values["number"].integer_value, values["blob"].blob_value)
                if batch.more_results != types.QueryResultBatch.MoreResultsType.NOT_FINISHED:
                    break
                cursor = batch.end_cursor
    return found


def fill_to_move(datastore):
    for begin in range(0, 700, 100):
        mutations = []
        for number in range(begin, begin + 100):
            made = entity("A" if number % 3 else "B", f"e{number}", number, bytes([number % 256]) * 9)
            if number % 2:
                made.key.partition_id.namespace_id = "other"
            mutations.append(types.Mutation(upsert=made))
        datastore.commit(*mutations)


def test_a_store_is_dumped_and_loaded(store, tmp_path):
    dump = tmp_path / "dump"
    place = ["--data", tmp_path / "old", "--store", store]
    with datastores.Gateway(store, data=tmp_path / "old") as gateway:
        with Datastore(gateway.address) as datastore:
            fill_to_move(datastore)
            before = contents(datastore)
            assert len(before) == 700
            # While it is served.
            done = command("dump", *place, "--file", dump)
            assert done.returncode == 0, done.stderr
            assert "700 entities" in done.stderr
    new = ["--data", tmp_path / "new"]
    for _ in range(2):
        done = command("load", *new, "--file", dump)
        assert done.returncode == 0, done.stderr
        assert "700 entities" in done.stderr
    done = command("check", *new)
    assert done.returncode == 0 and "700 entities" in done.stdout, done.stdout + done.stderr
    with datastores.Gateway(data=tmp_path / "new") as gateway:
        with Datastore(gateway.address) as datastore:
            assert contents(datastore) == before
        # One process has the file.
        done = command("load", *new, "--file", dump)
        assert done.returncode == 2 and "is used by process" in done.stderr
    assert command("check", *place).returncode == 0


def test_what_is_no_file_is_written_and_read_as_it_is(tmp_path):
    with datastores.Gateway(data=tmp_path / "old") as gateway, Datastore(gateway.address) as datastore:
        put(datastore, "Row", "a", 1)
    pipe, copy = tmp_path / "pipe", tmp_path / "copy"
    os.mkfifo(pipe)
    with open(copy, "wb") as out:
        reader = subprocess.Popen(["cat", str(pipe)], stdout=out)
        done = command("dump", "--data", tmp_path / "old", "--file", pipe)
        assert done.returncode == 0, done.stderr
        assert reader.wait(LIMIT) == 0
    assert pipe.is_fifo() and sorted(os.listdir(tmp_path)) == ["copy", "old", "pipe"]
    # Both its ends: what is written is there before somebody reads.
    ends = os.open(pipe, os.O_RDWR)
    try:
        writer = subprocess.Popen(["sh", "-c", f"cat {copy} > {pipe}"])
        assert writer.wait(LIMIT) == 0
        loading = subprocess.Popen(
            [program("millrace-datastore-gateway"), "load", "--data", str(tmp_path / "new"), "--file",
             str(pipe)], stderr=subprocess.PIPE, text=True)
        eventually(lambda: (tmp_path / "new" / "datastore.sqlite").exists(), LIMIT, "it is loaded")
    finally:
        os.close(ends)
    assert "1 entities" in loading.communicate(timeout=LIMIT)[1] and loading.returncode == 0


def test_a_dump_that_is_cut_off_loads_nothing(tmp_path):
    dump = tmp_path / "dump"
    with datastores.Gateway(data=tmp_path / "old") as gateway:
        with Datastore(gateway.address) as datastore:
            fill_to_move(datastore)
    assert command("dump", "--data", tmp_path / "old", "--file", dump).returncode == 0
    os.truncate(dump, dump.stat().st_size // 2)
    done = command("load", "--data", tmp_path / "new", "--file", dump)
    assert done.returncode == 1 and "cut off in record" in done.stderr, done.stderr
    assert not (tmp_path / "new" / "datastore.sqlite").exists()


@pytest.mark.parametrize("kind", [datastores.DatastoreEmulator, datastores.FirestoreEmulator])
def test_a_store_moves_to_google_and_back(kind, tmp_path):
    missing = datastores.why_not(kind)
    if missing:
        pytest.skip(f"{missing} on this machine")
    with datastores.Gateway(data=tmp_path / "old") as gateway:
        with Datastore(gateway.address) as datastore:
            fill_to_move(datastore)
            before = contents(datastore)
    there, back = tmp_path / "there", tmp_path / "back"
    assert command("dump", "--data", tmp_path / "old", "--file", there).returncode == 0
    with kind() as emulator:
        google = ["--store", f"datastore://test?endpoint={emulator.address}&tls=off"]
        done = command("load", *google, "--file", there)
        assert done.returncode == 0, done.stderr
        done = command("dump", *google, "--file", back, "--namespaces", "other")
        assert done.returncode == 0, done.stderr
    done = command("load", "--data", tmp_path / "new", "--file", back)
    assert done.returncode == 0, done.stderr
    with datastores.Gateway(data=tmp_path / "new") as gateway:
        with Datastore(gateway.address) as datastore:
            assert contents(datastore) == before
