"""The same asked of the gateway and of one of Google's emulators, and what they answer compared."""

import uuid

import datastores
import pytest
from answers import path_of
from api import Api
from google.cloud.datastore_v1.types import datastore, query
from random_gql import Writer
from random_transactions import Transactions, changed_key
from steps import Steps, conditional_commit

COMMITS = 10

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
        "transactions that only read": "it aborts them",
        "update times": "it has none",
        "orders beside one key": "it finds that entity though it lacks the property",
        "orders behind the key's": "it takes no notice of them, or fails within",
        "pages": "behind a cursor in several orders it passes over some results",
        "ties of descending values": "it has them by ascending key, Firestore by descending key",
        "cursors over inequalities": "it fails within where an array has an element beyond",
        "reversed cursors of projections":
            "what stands behind the key it does not reverse: it has some results again, others never",
        "orders of several distinct properties":
            "it takes them by the alphabet where none is given, Firestore as they are named",
    },
    datastores.FirestoreEmulator: {
        "orders behind the key's": "it finds entities of several values several times",
        "the key's order over inequalities": "so too",
        "pages of projections": "it refuses its own cursor where the key is ordered by",
        "arrays": "it finds an entity once for each element that matches, and an empty one nowhere",
        "exclusions beside others": "it refuses them in a query, and not in an aggregation",
        "transactions that a read begins": "their commit waits in vain for their own lock",
        "transactions that only read": "it refuses to commit them",
        "rollbacks of what has ended": "it has nothing against them",
        "inserts and updates behind others":
            "an entity that an earlier mutation has made or deleted makes them invalid",
        "conflicts of transactions": "a write waits for many seconds while a transaction has read it",
        "conflicts that do not fail": "it writes all the same, which the documentation denies",
        "versions of what is missing": "it tells of no conflict where another entity was expected",
        "metadata": "it refuses queries of kinds, and finds no properties",
        "cursors behind an offset": "it gives none",
        "cursors of distinct results by key": "it fails within where keys are descending",
    },
}

# What the gateway alone answers otherwise, until it is mended: asked of no server.
TO_BE_MENDED = {
    "reversed cursors of distinct results": "a cursor stands behind a result, not behind a value",
    "rollbacks of what failed": "a transaction whose commit failed can be rolled back",
    "versions to come": "a base version above the stored one is no conflict, but refused",
    "inserts by time": "an insert with an update time is refused",
    "types of properties": "property_representation is in another order",
}


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
        self.requests = Transactions(seed, f"d-{uuid.uuid4().hex}", self.may)
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
        if found != "OK" and found[0] == "OK":
            self.same(written, lambda api: api.query(request) if api is not self.emulator else found[:2])

    def between_cursors(self, asked):
        """What a query finds from behind one of its results on, or up to another."""
        requests = self.requests
        if not requests.has_cursors(asked):
            return
        whole = query.Query(asked)
        whole.limit, whole.offset = None, 0
        whole = requests.run(whole)
        found = self.same(asked, lambda api: api.query(whole))
        if found == "INVALID_ARGUMENT":
            return
        begin, end = (requests.random.randint(0, len(found[1])) for _ in range(2))
        part = requests.run(asked)
        note = f"between {begin} and {end}"
        self.same(asked, lambda api: api.between(part, whole, begin, end), note)
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
                self.remember(about)

    def conditional(self):
        keys = list(self.keys.values())
        present = self.same(keys, lambda api: api.lookup(keys))[1]
        mutation, base = self.requests.conditional([self.keys[path] for path, _ in present])
        self.remember([mutation])
        self.same(mutation, lambda api: conditional_commit(api, mutation, base), f"of {base}")
