"""A farm whose datastore-gateway keeps its entities in PostgreSQL."""

import contextlib
import os
import subprocess

import pytest
from farm import Farm, eventually, free_port, http, program
from postgres import WHY_NOT, Postgres, programs

pytestmark = pytest.mark.skipif(programs() is None, reason=WHY_NOT)

PIPELINE = """
jobs:
  leg:
    strategy:
      matrix:
        number: [1, 2]
    resources: {cpu: 1, memory: 64MiB}
    steps:
      - run: echo begin; sleep 0.5; echo leg ${{ matrix.number }}
  last:
    needs: leg
    steps:
      - run: echo the end
"""


@pytest.fixture
def postgres():
    with Postgres() as postgres:
        yield postgres


@pytest.fixture
def stack(postgres):
    """A farm of the test's own over the test's own database."""
    with Farm(runners=1, settings={"MILLRACE_STORE": postgres.url}) as farm:
        yield farm


@contextlib.contextmanager
def second_gateway(stack, postgres):
    """A further gateway over the same database; gives its address."""
    address, admin = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    with open(os.path.join(stack.folder, "second.log"), "wb") as log:
        process = subprocess.Popen(
            [program("millrace-datastore-gateway"), "--listen", address, "--admin-listen", admin,
             "--data", os.path.join(stack.folder, "second"), "--store", postgres.url],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    try:
        def is_ready():
            assert process.poll() is None, "the second gateway ended"
            try:
                return http(admin, "/readyz")[0] == 200
            except OSError:
                return False

        eventually(is_ready, 30, "the second gateway is ready")
        yield address
    finally:
        process.terminate()
        process.wait(20)


def test_a_build_runs_and_another_gateway_has_its_record(stack, postgres, monkeypatch):
    build = stack.build(PIPELINE)
    assert build["outcome"] == "succeeded", build
    assert not os.path.exists(os.path.join(stack.data, "datastore-gateway", "datastore.sqlite"))
    datastore = pytest.importorskip("google.cloud.datastore")
    with second_gateway(stack, postgres) as address:
        monkeypatch.setenv("DATASTORE_EMULATOR_HOST", address)
        client = datastore.Client(project="millrace")
        builds = list(client.query(kind="Build").fetch())
        assert build["id"] in {entity.key.name for entity in builds}
        # What the farm writes next, it sees too.
        later = stack.build(PIPELINE)
        assert client.get(client.key("Build", later["id"])) is not None


def test_builds_survive_a_killed_database_and_a_killed_gateway(stack, postgres):
    builds = [stack.submit(PIPELINE) for _ in range(3)]
    postgres.kill()
    postgres.start()
    builds.append(stack.submit(PIPELINE))
    old = stack.kill("datastore-gateway")
    stack.wait_restarted(old)
    for build in builds:
        ended = stack.wait(build, seconds=120)
        assert ended["outcome"] == "succeeded", ended
