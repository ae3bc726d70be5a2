"""The steps of a transaction, and mutations that depend on versions, on one server."""

import datetime

from answers import entity_of
from google.cloud.datastore_v1.types import datastore
from random_requests import PROJECT
from random_transactions import Mode, changed_key

# Some of a server's versions count microseconds.
OLD, FUTURE = -10, 3_600_000_000


class Steps:
    """A transaction of one server; each step gives an answer that can be compared."""

    def __init__(self, api):
        self.api = api
        self.id = b""
        # Whether the first read begins it.
        self.begins_later = False

    def take(self, steps):
        answers = []
        ended = None
        for name, about in steps:
            if name.startswith("when"):
                ended = ended or code_of(answers[-1])
                if (ended == "OK") != (name == "when it has ended"):
                    continue
                name, about = about
            answers.append((name, getattr(self, name)(about)))
        # A commit that failed may have left locks.
        if self.id:
            self.rollback(None)
        return "OK", answers

    def begin(self, way):
        if way == "later":
            self.begins_later = True
            return "OK"
        code, answer = self.api.call("begin_transaction", datastore.BeginTransactionRequest(
            project_id=PROJECT, transaction_options={way: {}},
        ))
        self.id = answer.transaction if answer else b""
        return code

    def options(self):
        if self.begins_later and not self.id:
            return {"new_transaction": {"read_write": {}}}
        return {"transaction": self.id}

    def lookup(self, keys):
        code, answer = self.api.call("lookup", datastore.LookupRequest(
            project_id=PROJECT, keys=keys, read_options=self.options(),
        ))
        if answer is None:
            return code
        self.id = self.id or answer.transaction
        return code, sorted((entity_of(result) for result in answer.found), key=str)

    def query(self, request):
        request = datastore.RunQueryRequest(request)
        request.read_options = self.options()
        code, answer = self.api.call("run_query", request)
        if answer is None:
            return code
        self.id = self.id or answer.transaction
        return code, [entity_of(result) for result in answer.batch.entity_results]

    def write(self, commit):
        """By somebody else."""
        return self.api.commit(commit)

    def commit(self, mutations):
        return self.api.commit(datastore.CommitRequest(
            project_id=PROJECT, mode=Mode.TRANSACTIONAL, transaction=self.id, mutations=mutations,
        ))

    def rollback(self, _):
        return self.api.call("rollback", datastore.RollbackRequest(
            project_id=PROJECT, transaction=self.id,
        ))[0]


def code_of(step):
    """The status of what a step was answered."""
    answer = step[1]
    return answer if isinstance(answer, str) else answer[0]


def conditional_commit(api, mutation, base):
    """Commits a mutation that is built on a version of the entity, as the server tells it."""
    mutation = datastore.Mutation(mutation)
    _, answer = api.call("lookup", datastore.LookupRequest(
        project_id=PROJECT, keys=[changed_key(mutation)],
    ))
    stored = [*answer.found, *answer.missing][0]
    shift = {"old": OLD, "future": FUTURE}.get(base.split()[0], 0)
    if base.endswith("time"):
        time = stored.update_time or datetime.datetime.now(datetime.timezone.utc)
        mutation.update_time = time + datetime.timedelta(microseconds=shift)
    else:
        mutation.base_version = 0 if base == "none" else max(stored.version + shift, 1)
    return api.commit(datastore.CommitRequest(
        project_id=PROJECT, mode=Mode.NON_TRANSACTIONAL, mutations=[mutation],
    ))
