"""Random transactions, and mutations that depend on what is stored, from a seed."""

from answers import path_of
from google.cloud.datastore_v1.types import datastore, entity
from random_queries import Queries
from random_requests import PROJECT, Mutation

Mode = datastore.CommitRequest.Mode
Strategy = Mutation.ConflictResolutionStrategy


class Transactions(Queries):
    """Makes whole transactions, step by step; each step is a name and what it is about.

    Their outcome is certain: what others write meanwhile was read before, and what they have not
    written is not in the way.
    """

    def transaction(self):
        steps, read = [], []
        for _ in range(self.random.randrange(4)):
            if self.chance(1, 3):
                steps.append(("query", self.run(self.query_of_ancestor())))
            else:
                keys = self.keys()
                read += keys
                steps.append(("lookup", keys))
        way = self.beginning(bool(steps))
        steps.insert(0, ("begin", way))
        end = self.end_of_reading() if way == "read_only" else self.end()
        if self.chance(1, 3) and way != "read_only":
            conflicts = read and self.chance(1, 2) and self.may("conflicts of transactions")
            key = self.random.choice(read) if conflicts else self.separate_key()
            steps.append(("write", self.foreign_write(key)))
            end = self.certain_end() if conflicts else end
        if self.chance(1, 4) and way != "later":
            steps.append(("commit", [self.refused()]))
        steps.append(end)
        if self.chance(1, 3):
            steps.append(("when it has ended", self.random.choice([
                ("lookup", [self.key()]), ("commit", self.commit().mutations),
                *([("rollback", None)] if self.may("rollbacks of what has ended") else []),
            ])))
        if self.chance(1, 3):
            steps.append(("when it has failed", ("rollback", None)))
        return steps

    def keys(self):
        keys = [self.key() for _ in range(self.random.randint(1, 2))]
        same = len({path_of(key) for key in keys}) < len(keys)
        return keys[:1] if same and not self.may("the same key twice") else keys

    def beginning(self, reads):
        """How it begins: for writing, for reading, or with its first read."""
        ways = ["read_write"] * 3 + ["read_only"]
        if reads and self.may("transactions that a read begins"):
            ways.append("later")
        return self.random.choice(ways)

    def end(self):
        if self.chance(1, 4):
            return ("rollback", None)
        mutations = list(self.commit().mutations)
        if self.chance(1, 4):
            mutations.append(self.mutation_behind(mutations))
        if self.chance(1, 8):
            mutations = []
        return ("commit", mutations)

    def refused(self):
        """A mutation that no server takes; its transaction goes on."""
        reserved, long = {"__a__": {"integer_value": 1}}, {"a": {"string_value": "x" * 1501}}
        properties = self.random.choice([reserved, long])
        key = self.key()
        return self.random.choice([
            Mutation(), Mutation(upsert=entity.Entity(key=key, properties=properties)),
        ])

    def end_of_reading(self):
        if self.chance(1, 4) or not self.may("commits of transactions that only read"):
            return ("rollback", None)
        return ("commit", [] if self.chance(2, 3) else [Mutation(delete=self.key())])

    def mutation_behind(self, others):
        """A further one of an entity that is changed already."""
        key = changed_key(self.random.choice(others))
        while True:
            mutation = self.mutation(key)
            if mutation.delete or mutation.upsert or self.may("inserts and updates behind others"):
                return mutation

    def query_of_ancestor(self):
        asked = self.query()
        asked.filter = self.ancestor()
        asked.order, asked.distinct_on, asked.projection = [], [], []
        return asked

    def foreign_write(self, key):
        """A write beside a transaction."""
        return datastore.CommitRequest(
            project_id=PROJECT, mode=Mode.NON_TRANSACTIONAL,
            mutations=[Mutation(upsert=self.entity(key))],
        )

    def separate_key(self):
        """Of what no transaction has to do with."""
        path = [{"kind": "Separate", "id": self.random.randint(1, 3)}]
        return entity.Key(partition_id=self.partition(), path=path)

    def certain_end(self):
        """One that nothing but a conflict is in the way of."""
        return ("commit", [Mutation(upsert=self.entity(self.key()))])

    # What depends on a version

    def conditional(self, present):
        """A mutation, and what of the entity's version it is built on: it holds for that alone."""
        key = self.key()
        if not self.may("versions of what is missing"):
            key = self.random.choice(present)
        operation = self.random.choice(["insert", "update", "upsert", "upsert", "delete"])
        changed = key if operation == "delete" else self.entity(key)
        strategies = [Strategy.FAIL]
        if self.may("conflicts that do not fail"):
            strategies += [Strategy.STRATEGY_UNSPECIFIED, Strategy.SERVER_VALUE]
        mutation = Mutation(**{operation: changed})
        mutation.conflict_resolution_strategy = self.random.choice(strategies)
        bases = ["current", "current", "old", "future"]
        if operation != "insert" or self.may("versions of what is missing"):
            bases.append("none")
        if self.may("update times"):
            bases += ["current time", "old time", "future time"]
        return mutation, self.random.choice(bases)


def changed_key(mutation):
    """The key of the entity that a mutation is about; nothing if it is about none."""
    operation = datastore.Mutation.pb(mutation).WhichOneof("operation")
    if operation is None:
        return None
    changed = getattr(mutation, operation)
    return changed if operation == "delete" else changed.key
