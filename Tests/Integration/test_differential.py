"""The gateway and Google's emulators are asked the same, at random, and answer the same.

A seed makes all requests of a test; with MILLRACE_SEED=n that one alone is run.
"""

import contextlib
import os

import datastores
import postgres
import pytest
from differential import Comparison
from emulator_differences import BEYOND_THEM, DIFFERENCES
from gql_phrases import PHRASES

SEEDS = [int(os.environ["MILLRACE_SEED"])] if "MILLRACE_SEED" in os.environ else range(3)
ROUNDS = 3
QUERIES = 40
AGGREGATIONS = 15
TRANSACTIONS = 25


@pytest.fixture(scope="module")
def gateways():
    """The address of one over each store."""
    with contextlib.ExitStack() as stack:
        stores = {"SQLite": "sqlite"}
        if postgres.programs() is None:
            print(f"not over PostgreSQL: {postgres.WHY_NOT}")
        else:
            stores["PostgreSQL"] = stack.enter_context(postgres.Postgres()).url
        yield {
            name: stack.enter_context(datastores.Gateway(store)).address
            for name, store in stores.items()
        }


@pytest.fixture(scope="module", params=list(DIFFERENCES), ids=lambda kind: kind.__name__)
def emulator(request):
    missing = datastores.why_not(request.param)
    if missing:
        pytest.skip(f"{missing} on this machine")
    with request.param() as server:
        for what, why in DIFFERENCES[request.param].items():
            print(f"{server.name} is not asked for {what}: {why}")
        for what, why in BEYOND_THEM.items():
            print(f"nobody is asked for {what}: {why}")
        yield server


@pytest.fixture(params=SEEDS)
def comparison(request, gateways, emulator):
    return Comparison(request.param, emulator, gateways)


def test_entities_and_queries(comparison):
    requests = comparison.requests
    for _ in range(ROUNDS):
        comparison.change()
        for _ in range(QUERIES):
            asked = requests.query()
            comparison.query(asked)
            whole = "limit" not in asked and not asked.offset
            if whole and requests.chance(1, 4) and comparison.may("pages") and (
                not asked.projection or comparison.may("pages of projections")
            ):
                size = requests.random.randint(1, 5)
                request = requests.run(asked)
                comparison.same(asked, lambda api: api.pages(request, size), f"in pages of {size}")


def test_aggregations(comparison):
    if not comparison.may("aggregations"):
        pytest.skip(f"{comparison.emulator.name} has no aggregations")
    for _ in range(ROUNDS):
        comparison.change()
        for _ in range(AGGREGATIONS):
            comparison.aggregation(comparison.requests.aggregation())


def test_queries_of_all_kinds(comparison):
    comparison.change()
    for _ in range(QUERIES):
        comparison.query(comparison.requests.kindless())


def test_texts(comparison):
    requests = comparison.requests
    comparison.change()
    for _ in range(QUERIES):
        asked = requests.kindless() if requests.chance(1, 10) else requests.query()
        comparison.text(asked)


def test_phrases(gateways, emulator):
    comparison = Comparison(0, emulator, gateways)
    comparison.change()
    for text in filter(comparison.may, PHRASES):
        comparison.phrase(text)


def test_cursors(comparison):
    comparison.change()
    for _ in range(QUERIES):
        comparison.between_cursors(comparison.requests.query())


def test_metadata(comparison):
    if not comparison.may("metadata"):
        pytest.skip(f"{comparison.emulator.name} has no metadata queries")
    comparison.change()
    commit = comparison.requests.elsewhere()
    comparison.same(commit, lambda api: api.commit(commit))
    for _ in range(QUERIES):
        comparison.query(comparison.requests.metadata())


def test_transactions(comparison):
    comparison.change()
    for _ in range(TRANSACTIONS):
        comparison.transaction()
    comparison.look()


def test_conditions_of_commits(comparison):
    comparison.change()
    for _ in range(TRANSACTIONS):
        comparison.conditional()
    comparison.look()


def test_mistakes(comparison):
    comparison.change()
    comparison.mistakes()
    comparison.look()
