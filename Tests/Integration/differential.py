"""The same asked of the gateway and of one of Google's emulators, and what they answer compared."""

import uuid

import datastores
import grpc
import pytest
from answers import entity_of, path_of, value_of
from google.cloud.datastore_v1.services.datastore.transports.grpc import DatastoreGrpcTransport
from google.cloud.datastore_v1.types import datastore, query
from random_gql import Writer
from random_queries import Queries
from random_requests import PROJECT

TIMEOUT_SECONDS = 60
COMMITS = 10
NOT_FINISHED = query.QueryResultBatch.MoreResultsType.NOT_FINISHED

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
        "orders of several distinct properties":
            "it takes them by the alphabet where none is given, Firestore as they are named",
    },
    datastores.FirestoreEmulator: {
        "orders behind the key's": "it finds entities of several values several times",
        "the key's order over inequalities": "so too",
        "pages of projections": "it refuses its own cursor where the key is ordered by",
        "arrays": "it finds an entity once for each element that matches, and an empty one nowhere",
        "exclusions beside others": "it refuses them in a query, and not in an aggregation",
        "metadata": "it refuses queries of kinds, and finds no properties",
    },
}

# What the gateway alone answers otherwise, until it is mended: asked of no server.
TO_BE_MENDED = {
    "types of properties": "property_representation is in another order",
}


class Api:
    """One server's calls, with the status of those that fail."""

    def __init__(self, name, address):
        self.name = name
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

    def query(self, request):
        """All results, as clients get them: batch by batch, each behind the cursor of the last."""
        request = datastore.RunQueryRequest(request)
        asked = request.query
        found = []
        while True:
            code, answer = self.call("run_query", request)
            if answer is None:
                return code
            batch = answer.batch
            found += [entity_of(result) for result in batch.entity_results]
            if batch.more_results != NOT_FINISHED:
                return code, found
            asked.start_cursor = batch.end_cursor
            asked.offset -= batch.skipped_results
            if "limit" in asked:
                asked.limit -= len(batch.entity_results)

    def texts(self, request):
        """Results of a query in GQL, and what the server took it to mean."""
        code, answer = self.call("run_query", request)
        if answer is None:
            return code
        meant = query.Query.pb(answer.query).SerializeToString(deterministic=True)
        return code, [entity_of(result) for result in answer.batch.entity_results], meant

    def pages(self, request, size):
        """The same, in pages of the caller's."""
        request = datastore.RunQueryRequest(request)
        found = []
        for _ in range(60):
            request.query.limit = size
            code, answer = self.call("run_query", request)
            if answer is None:
                return code
            page = [entity_of(result) for result in answer.batch.entity_results]
            found += page
            if len(page) < size:
                break
            request.query.start_cursor = answer.batch.end_cursor
        return "OK", found

    def aggregate(self, request):
        code, answer = self.call("run_aggregation_query", request)
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


class Comparison:
    """An emulator and gateways, which are asked what a seed makes, in a namespace of their own."""

    def __init__(self, seed, emulator, gateways):
        self.seed = seed
        self.differences = {**DIFFERENCES[type(emulator)], **TO_BE_MENDED}
        self.emulator = Api(emulator.name, emulator.address)
        self.gateways = [
            Api(f"the gateway over {store}", address) for store, address in gateways.items()
        ]
        self.requests = Queries(seed, f"d-{uuid.uuid4().hex}", self.may)
        # Of all entities that were ever written or deleted.
        self.keys = {}

    def may(self, what):
        return what not in self.differences

    def same(self, asked, call, note=""):
        """Fails unless `call`, which is given an Api, comes to the same for each."""
        self.emulator.details = ""
        wanted = call(self.emulator)
        for gateway in self.gateways:
            gateway.details = ""
            got = call(gateway)
            if got != wanted:
                pytest.fail(
                    f"MILLRACE_SEED={self.seed} {note}\n{' '.join(str(asked).split())}\n"
                    f"--- {gateway.name}: {gateway.details}\n{apart(got, wanted)}\n"
                    f"--- {self.emulator.name}: {self.emulator.details}\n{apart(wanted, got)}",
                    pytrace=False,
                )
        return wanted

    def commit(self, commit):
        self.same(commit, lambda api: api.commit(commit))
        self.remember(commit.mutations)

    def remember(self, mutations):
        for mutation in mutations:
            operation = datastore.Mutation.pb(mutation).WhichOneof("operation")
            changed = getattr(mutation, operation)
            key = changed if operation == "delete" else changed.key
            self.keys[path_of(key)] = key

    def change(self):
        """Some commits, and a look at all there is."""
        for _ in range(COMMITS):
            self.commit(self.requests.commit())
        self.look()

    def look(self):
        keys = list(self.keys.values())
        self.same(list(self.keys), lambda api: api.lookup(keys))

    def query(self, asked, note=""):
        request = self.requests.run(asked)
        self.same(asked, lambda api: api.query(request), note)

    def text(self, asked):
        """A query in GQL; each server finds the same as for the query itself."""
        written = Writer(self.requests).written(asked)
        request = self.requests.run(asked)
        text = datastore.RunQueryRequest(request)
        text.gql_query = written
        found = self.same(written, lambda api: api.texts(text))
        if found != "OK" and found[0] == "OK":
            self.same(written, lambda api: api.query(request) if api is not self.emulator else found[:2])
