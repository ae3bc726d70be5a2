"""The same asked of the gateway and of one of Google's emulators, and what they answer compared."""

import uuid

import pytest
from answers import path_of
from datastore_api import Api
from emulator_differences import BEYOND_THEM, DIFFERENCES
from google.cloud.datastore_v1.types import datastore, query
from random_gql import Writer
from random_mistakes import Mistakes
from random_requests import PROJECT
from random_transactions import changed_key
from transaction_steps import Steps, conditional_commit

COMMITS = 10


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
        self.differences = {**DIFFERENCES[type(emulator)], **BEYOND_THEM}
        self.requests = Mistakes(seed, f"d-{uuid.uuid4().hex}", self.may)
        database = self.requests.database
        self.emulator = Api(emulator.name, emulator.address, database)
        self.gateways = [
            Api(f"the gateway over {store}", address, database)
            for store, address in gateways.items()
        ]
        # Of all entities that were ever written or deleted.
        self.keys = {}

    def may(self, what):
        return what not in self.differences

    def may_be_wrong(self, name):
        """Whether a mistake of this name is made; a difference has the name or its end."""
        if name.startswith("aggregation") and not self.may("aggregations"):
            return False
        return not any(name.endswith(difference) for difference in self.differences)

    def same(self, asked, call, note=""):
        """Fails unless `call`, which is given an Api, comes to the same for each."""
        self.emulator.details = ""
        wanted = call(self.emulator)
        self.gateways_answer(wanted, asked, call, note)
        return wanted

    def gateways_answer(self, wanted, asked, call, note=""):
        # The emulator failed within, which tells nothing.
        if wanted == "UNKNOWN":
            return
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

    def commit(self, commit):
        self.same(commit, lambda api: api.commit(commit))
        self.remember(commit.mutations)

    def remember(self, mutations):
        for mutation in mutations:
            key = changed_key(mutation)
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
        if found[0] == "OK":
            self.gateways_answer(found[:2], written, lambda api: api.query(request))

    def phrase(self, text):
        request = self.requests.run(None)
        request.gql_query = query.GqlQuery(query_string=text, allow_literals=True)
        self.same(text, lambda api: api.texts(request))

    def aggregation(self, asked):
        request = datastore.RunAggregationQueryRequest(
            project_id=PROJECT, partition_id=self.requests.partition(), aggregation_query=asked,
        )
        self.same(asked, lambda api: api.aggregate(request))
        text = datastore.RunAggregationQueryRequest(request)
        text.gql_query = Writer(self.requests).aggregated(asked)
        self.same(text.gql_query, lambda api: api.aggregate(text))

    def between_cursors(self, asked):
        """What a query finds from behind one of its results on, or up to another."""
        requests = self.requests
        if not requests.has_cursors(asked):
            return
        whole = query.Query(asked)
        whole.limit, whole.offset = None, 0
        whole = requests.run(whole)
        found = self.same(asked, lambda api: api.query(whole))
        if isinstance(found, str):
            return
        begin, end = (requests.random.randint(0, len(found[1])) for _ in range(2))
        part = requests.run(asked)
        note = f"between {begin} and {end}"
        self.same(asked, lambda api: api.between(part, whole, begin, end), note)
        text = datastore.RunQueryRequest(part)
        asked.start_cursor, asked.end_cursor = b"begin", b"end"
        text.gql_query = Writer(requests).written(asked)
        self.same(text.gql_query, lambda api: api.between(text, whole, begin, end), note)
        if self.may("cursors behind an offset"):
            self.same(asked, lambda api: api.behind_skipped(part), "behind the offset")
        if asked.order and requests.has_reversed_cursors(asked):
            for order in part.query.order:
                order.direction = 3 - order.direction
            self.same(part, lambda api: api.between(part, whole, begin, end), note + " reversed")

    def transaction(self):
        steps = self.requests.transaction()
        self.same(steps, lambda api: Steps(api).take(steps))
        for name, about in steps:
            if name.startswith("when"):
                name, about = about
            if name == "commit":
                self.remember(mutation for mutation in about if changed_key(mutation))

    def conditional(self):
        keys = list(self.keys.values())
        present = self.same(keys, lambda api: api.lookup(keys))[1]
        if not present and not self.may("versions of what is missing"):
            return self.commit(self.requests.commit())
        mutation, base = self.requests.conditional([self.keys[path] for path, *_ in present])
        self.remember([mutation])
        self.same(mutation, lambda api: conditional_commit(api, mutation, base), f"of {base}")

    def mistakes(self):
        for name, (method, request) in self.requests.mistakes().items():
            if self.may_be_wrong(name):
                self.same(request, lambda api: api.call(method, request)[0], name)
