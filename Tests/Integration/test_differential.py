"""The gateway and Google's emulators are asked the same, at random, and answer the same.

A seed makes all requests of a test; with MILLRACE_SEED=n that one alone is run.
"""

import os
import uuid

import datastores
import grpc
import pytest
from google.cloud.datastore_v1.services.datastore.transports.grpc import DatastoreGrpcTransport
from google.cloud.datastore_v1.types import datastore, query
from random_requests import PROJECT, Requests, entity_of, path_of, value_of

SEEDS = [int(os.environ["MILLRACE_SEED"])] if "MILLRACE_SEED" in os.environ else range(5)
ROUNDS = 4
COMMITS = 10
QUERIES = 40
AGGREGATIONS = 15
TIMEOUT_SECONDS = 60

# What one of Google's two servers does otherwise than the other, or not at all: it is not asked of
# it. The gateway does what works on either.
DIFFERENCES = {
    datastores.DatastoreEmulator: {
        "property masks": "it takes what is stored for empty",
        "property transforms": "it takes no notice of them",
        "OR": "it has AND alone",
        "IN, NOT_IN and !=": "it has none of them",
        "several inequalities": "it has one property with inequalities in a query",
        "other orders than the inequality's": "that property must come first",
        "aggregations": "it has none",
        "orders beside one key": "it finds that entity though it lacks the property",
        "orders behind the key's": "it takes no notice of them, or fails within",
        "pages": "behind a cursor in several orders it passes over some results",
        "ties of descending values": "it has them by ascending key, Firestore by descending key",
    },
    datastores.FirestoreEmulator: {
        "orders behind the key's": "it finds entities of several values several times",
        "the key's order over inequalities": "so too",
        "pages of projections": "it refuses its own cursor where the key is ordered by",
        "arrays": "it finds an entity once for each element that matches, and an empty one nowhere",
        "exclusions beside others": "it refuses them in a query, and not in an aggregation",
    },
}


class Api:
    """One server's calls, with the status of those that fail."""

    def __init__(self, address):
        self.transport = DatastoreGrpcTransport(channel=grpc.insecure_channel(address))
        # Of the last call that failed.
        self.details = ""

    def call(self, method, request):
        try:
            return "OK", getattr(self.transport, method)(request, timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            self.details = error.details()
            return error.code().name, None

    def commit(self, request):
        code, answer = self.call("commit", request)
        if answer is None:
            return code
        return code, [
            (result.conflict_detected, [value_of(value) for value in result.transform_results])
            for result in answer.mutation_results
        ]

    def lookup(self, keys):
        code, answer = self.call("lookup", datastore.LookupRequest(project_id=PROJECT, keys=keys))
        if answer is None:
            return code
        return code, sorted((entity_of(result) for result in answer.found), key=str)

    def query(self, request, asked):
        """All results, as clients get them: batch by batch, each behind the cursor of the last."""
        asked = query.Query(asked)
        found = []
        while True:
            code, answer = self.call("run_query", datastore.RunQueryRequest(
                project_id=PROJECT, partition_id=request.partition(), query=asked,
            ))
            if answer is None:
                return code
            batch = answer.batch
            found += [entity_of(result) for result in batch.entity_results]
            if batch.more_results != query.QueryResultBatch.MoreResultsType.NOT_FINISHED:
                return code, found
            asked.start_cursor = batch.end_cursor
            asked.offset -= batch.skipped_results
            if "limit" in asked:
                asked.limit -= len(batch.entity_results)

    def pages(self, request, asked, size):
        """The same, in pages of the caller's."""
        asked = query.Query(asked)
        found = []
        for _ in range(60):
            asked.limit = size
            code, answer = self.call("run_query", datastore.RunQueryRequest(
                project_id=PROJECT, partition_id=request.partition(), query=asked,
            ))
            if answer is None:
                return code
            page = [entity_of(result) for result in answer.batch.entity_results]
            found += page
            if len(page) < size:
                break
            asked.start_cursor = answer.batch.end_cursor
        return "OK", found

    def aggregate(self, request, asked):
        code, answer = self.call("run_aggregation_query", datastore.RunAggregationQueryRequest(
            project_id=PROJECT, partition_id=request.partition(), aggregation_query=asked,
        ))
        if answer is None:
            return code
        numbers = answer.batch.aggregation_results[0].aggregate_properties
        return code, sorted((name, value_of(value)) for name, value in numbers.items())


def apart(answer, other):
    """What of an answer the other one has not, or has elsewhere."""
    if answer[0] != other[0] or isinstance(answer, str):
        return answer
    lines = [str(item) for item in answer[1] if item not in other[1]]
    return "\n".join(lines) or f"the same in another order: {[item[0] for item in answer[1]]}"


@pytest.fixture(scope="module")
def gateway_address():
    with datastores.Gateway() as gateway:
        yield gateway.address


@pytest.fixture(scope="module", params=list(DIFFERENCES), ids=lambda kind: kind.__name__)
def emulator(request):
    missing = datastores.why_not(request.param)
    if missing:
        pytest.skip(f"{missing} on this machine")
    with request.param() as server:
        for what, why in DIFFERENCES[request.param].items():
            print(f"{server.name} is not asked for {what}: {why}")
        server.differences = DIFFERENCES[request.param]
        yield server


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_is_answered(gateway_address, emulator, seed):
    requests = Requests(
        seed, f"d-{uuid.uuid4().hex}", lambda what: what not in emulator.differences
    )
    ours, theirs = Api(gateway_address), Api(emulator.address)

    def same(asked, call, note=""):
        ours.details = theirs.details = ""
        got, wanted = call(ours), call(theirs)
        if got != wanted:
            pytest.fail(
                f"MILLRACE_SEED={seed} {note}\n{' '.join(str(asked).split())}\n"
                f"--- the gateway: {ours.details}\n{apart(got, wanted)}\n"
                f"--- {emulator.name}: {theirs.details}\n{apart(wanted, got)}", pytrace=False,
            )

    keys = {}
    for _ in range(ROUNDS):
        for _ in range(COMMITS):
            commit = requests.commit()
            same(commit, lambda api: api.commit(commit))
            for mutation in commit.mutations:
                operation = datastore.Mutation.pb(mutation).WhichOneof("operation")
                changed = getattr(mutation, operation)
                key = changed if operation == "delete" else changed.key
                keys[path_of(key)] = key
        same(list(keys), lambda api: api.lookup(list(keys.values())))
        for _ in range(QUERIES):
            asked = requests.query()
            same(asked, lambda api: api.query(requests, asked))
            whole = "limit" not in asked and not asked.offset
            if whole and requests.chance(1, 4) and requests.may("pages") and (
                not asked.projection or requests.may("pages of projections")
            ):
                size = requests.random.randint(1, 5)
                same(asked, lambda api: api.pages(requests, asked, size), f"in pages of {size}")
        for _ in range(AGGREGATIONS if requests.may("aggregations") else 0):
            numbers = requests.aggregation()
            same(numbers, lambda api: api.aggregate(requests, numbers))
