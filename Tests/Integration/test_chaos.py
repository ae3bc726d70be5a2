"""A farm on which something breaks every second; longer with `make soak`.

MILLRACE_CHAOS_SECONDS and MILLRACE_CHAOS_SEED choose how long and which.
"""

import os
import random

import chaos
import postgres
import pytest

SECONDS = float(os.environ.get("MILLRACE_CHAOS_SECONDS", 45))
SEED = int(os.environ.get("MILLRACE_CHAOS_SEED", 0)) or random.randrange(1, 1 << 31)


# Beyond what breaks: the stack's start, and until everything has ended.
pytestmark = pytest.mark.timeout(SECONDS + 340)


def report(text, capfd):
    with capfd.disabled():
        print(f"\n{text}", flush=True)


def test_nothing_is_lost_over_sqlite(capfd):
    chaos.run(SECONDS, SEED, report=lambda text: report(text, capfd))


@pytest.mark.skipif(postgres.programs() is None, reason=postgres.WHY_NOT)
def test_nothing_is_lost_over_postgresql(capfd):
    with postgres.Postgres() as database:
        chaos.run(SECONDS, SEED, settings={"MILLRACE_STORE": database.url}, databases=[database],
                  report=lambda text: report(text, capfd))


@pytest.mark.skipif(postgres.programs() is None, reason=postgres.WHY_NOT)
def test_nothing_is_lost_by_replicas(capfd):
    with postgres.Postgres() as database:
        chaos.run(SECONDS, SEED, settings={"MILLRACE_STORE": database.url}, databases=[database],
                  replicas=True, report=lambda text: report(text, capfd))
