"""Starts farms of real processes for the tests: `millrace up` on free ports and a folder of its own.

MILLRACE_BIN names the folder of the programs; without it the debug build is taken.
"""

import contextlib
import os
import sys
import uuid

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "demo"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import datastores  # noqa: E402
import google_differences  # noqa: E402
import postgres  # noqa: E402
from farm import BIN, Farm  # noqa: E402

LOG_TAIL_BYTES = 4000


def pytest_configure(config):
    if not os.path.exists(os.path.join(BIN, "millrace")):
        pytest.exit(f"there is no {BIN}/millrace: build first, or set MILLRACE_BIN", returncode=2)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows the end of every log of its farm."""
    outcome = yield
    report = outcome.get_result()
    if not report.failed:
        return
    for name in ("farm", "stack", "two_runners"):
        farm = getattr(item, "funcargs", {}).get(name)
        if isinstance(farm, Farm):
            for path in farm.logs():
                with open(path, "rb") as file:
                    file.seek(max(os.path.getsize(path) - LOG_TAIL_BYTES, 0))
                    text = file.read().decode(errors="replace")
                report.sections.append((os.path.basename(path), text))


@pytest.fixture(scope="session")
def farm():
    """One farm for all tests that do it no harm, with two runners."""
    with Farm(runners=2) as farm:
        yield farm


@pytest.fixture
def stack():
    """A farm of the test's own, with one runner."""
    with Farm(runners=1) as farm:
        yield farm


@pytest.fixture
def two_runners():
    """A farm of the test's own, with two runners."""
    with Farm(runners=2) as farm:
        yield farm


# Google's emulators stand in for Google's cloud as the gateway's store.
EMULATORS = {
    "google-datastore": datastores.DatastoreEmulator,
    "google-firestore": datastores.FirestoreEmulator,
}


def pytest_collection_modifyitems(items):
    """Tests that an emulator does not pass are expected to fail on it."""
    for item in items:
        store = getattr(item, "callspec", None) and item.callspec.params.get("datastore")
        if store not in EMULATORS:
            continue
        name = item.name.replace(f"[{store}-", "[").replace(f"[{store}]", "")
        known = google_differences.difference(store, name)
        if known:
            reason, runs = known
            item.add_marker(pytest.mark.xfail(reason=reason, run=runs, strict=True))


@pytest.fixture(
    scope="session",
    params=["given"] if datastores.GIVEN_SERVER else ["sqlite", "postgres", *EMULATORS])
def datastore(request):
    """The address of one server of the Datastore API; Google's clients find it by themselves."""
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        store = request.param
        if store == "given":
            patch.setenv("DATASTORE_EMULATOR_HOST", datastores.GIVEN_SERVER)
            yield datastores.GIVEN_SERVER
            return
        if store == "postgres":
            if postgres.programs() is None:
                pytest.skip(postgres.WHY_NOT)
            store = stack.enter_context(postgres.Postgres()).url
        elif store in EMULATORS:
            missing = datastores.why_not(EMULATORS[store])
            if missing:
                pytest.skip(f"{missing} on this machine")
            emulator = stack.enter_context(EMULATORS[store]())
            # Its own project: what clients name is the gateway's to translate.
            store = f"datastore://emulated?for=test&endpoint={emulator.address}&tls=off"
        gateway = stack.enter_context(datastores.Gateway(store))
        patch.setenv("DATASTORE_EMULATOR_HOST", gateway.address)
        yield gateway.address


@pytest.fixture
def namespace():
    """A part of the datastore that no other test uses."""
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def client(datastore, namespace):
    """Google's client for Datastore."""
    from google.cloud import datastore as library

    return library.Client(project="test", namespace=namespace)


@pytest.fixture
def context(datastore, namespace):
    """Google's ndb, without its caches."""
    from google.cloud import ndb

    client = ndb.Client(project="test")
    with client.context(
        namespace=namespace, cache_policy=False, global_cache=None, legacy_data=False
    ) as context:
        yield context
