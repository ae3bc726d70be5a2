"""The calls of one server of Google's Datastore API, with answers that can be compared."""

import grpc
from answers import entity_of, path_of, value_of
from google.cloud.datastore_v1.services.datastore.transports.grpc import DatastoreGrpcTransport
from google.cloud.datastore_v1.types import datastore, query
from random_requests import PROJECT
from random_transactions import changed_key

TIMEOUT_SECONDS = 60
NOT_FINISHED = query.QueryResultBatch.MoreResultsType.NOT_FINISHED


class Api:
    """One server's calls, with the status of those that fail."""

    def __init__(self, name, address, database):
        self.name = name
        self.database = database
        self.transport = DatastoreGrpcTransport(channel=grpc.insecure_channel(address))
        # Of the last call that failed.
        self.details = ""
        # Of every entity that was written, as its last commit told it.
        self.versions = {}

    def call(self, method, request):
        request.database_id = self.database
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
        ], self.changed(request, answer)

    def changed(self, request, answer):
        """The entities that got another version: a mutation that changes nothing gives none.

        Of what was deleted it is not told: Firestore's emulator has no version for what was not
        there.
        """
        before = dict(self.versions)
        changed = set()
        for mutation, result in zip(request.mutations, answer.mutation_results):
            entity = named(changed_key(mutation))
            self.versions[entity] = result.version
            changed.discard(entity)
            if "delete" not in mutation and result.version != before.get(entity):
                changed.add(entity)
        return changed

    def lookup(self, keys):
        code, answer = self.call("lookup", datastore.LookupRequest(project_id=PROJECT, keys=keys))
        if answer is None:
            return code
        return code, sorted(
            ((*entity_of(result), self.is_last(result)) for result in answer.found), key=str
        )

    def is_last(self, result):
        """Whether an entity has the version that its last commit told."""
        return self.versions.get(named(result.entity.key)) == result.version

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

    def cursors(self, request):
        """Where a query's results end: in front of the first, and behind each."""
        answer = self.call("run_query", request)[1]
        return [b""] + [result.cursor for result in answer.batch.entity_results]

    def between(self, request, cursors, begin, end):
        """What a query finds between two of another one's cursors."""
        request = datastore.RunQueryRequest(request)
        places = self.cursors(cursors)
        if "gql_query" in request:
            request.gql_query.named_bindings["begin"] = {"cursor": places[begin]}
            request.gql_query.named_bindings["end"] = {"cursor": places[end]}
            answer = self.texts(request)
            return answer if isinstance(answer, str) else answer[:2]
        request.query.start_cursor = places[begin]
        request.query.end_cursor = places[end]
        return self.query(request)

    def behind_skipped(self, request):
        """What a query with an offset finds where that is replaced by a cursor."""
        request = datastore.RunQueryRequest(request)
        code, answer = self.call("run_query", request)
        if answer is None:
            return code
        if answer.batch.skipped_results < request.query.offset:
            return code, answer.batch.skipped_results
        request.query.offset = 0
        request.query.start_cursor = answer.batch.skipped_cursor
        return self.query(request)

    def aggregate(self, request):
        code, answer = self.call("run_aggregation_query", request)
        if answer is None:
            return code
        numbers = answer.batch.aggregation_results[0].aggregate_properties
        return code, sorted((name, value_of(value)) for name, value in numbers.items())


def named(key):
    """A key's place among a database's."""
    return key.partition_id.namespace_id, path_of(key)
