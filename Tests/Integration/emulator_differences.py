"""What the gateway's answers are not compared for with those of Google's emulators, and why."""

import datastores

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
        "distinct entities of several values":
            "it has each once, by the least of its values, whichever was meant",
        "names beyond the first plane": "it orders keys by names in UTF-16, Firestore in UTF-8",
        "the same key twice": "a lookup has the entity twice",
        "update times": "it has none",
        "orders beside one key": "it finds that entity though it lacks the property",
        "orders behind the key's": "it takes no notice of them, or fails within",
        "pages": "behind a cursor in several orders it passes over some results",
        "ties of descending values": "it has them by ascending key, Firestore by descending key",
        "IN of 30": "it has none of them",
        "NOT_IN of 10": "so too",
        "a path with a space": "it takes no notice of masks that are wrong in a name alone",
        "an open quote": "so too",
        "filter by a key of another database": "it takes it, and finds nothing",
        "ancestor of a key of another database": "so too",
        "an array in an array": "it takes an empty one",
        "two ancestors": "it takes two different ones for a mistake",
        "cursors over inequalities":
            "it fails within, or passes over some, where an array has an element beyond",
        "reversed cursors of projections":
            "what stands behind the key it does not reverse: some results come again, others never",
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
        "commits of transactions that only read": "it refuses them",
        "rollbacks of what has ended": "it has nothing against them",
        "inserts and updates behind others":
            "an entity that an earlier mutation has made or deleted makes them invalid",
        "conflicts of transactions": "what a transaction has read is locked for many seconds",
        "conflicts that do not fail": "it writes all the same, which the documentation denies",
        "versions of what is missing": "it tells of no conflict where another entity was expected",
        "SELECT a": "it takes projections of any kind",
        "metadata": "it refuses queries of kinds, and finds no properties",
        "cursors behind an offset": "it gives none",
        "insert of a key with a reserved kind": "it writes to them",
        "insert of a key with a reserved parent": "so too",
        "a projection of any kind": "it allows it",
        "distinct values of any kind": "so too",
        "an order twice": "it refuses what orders nothing",
        "aggregation with no query": "it asks for entities of any kind",
        "reservation of nothing": "it refuses that",
        "reservation of a key with a negative id": "it fails within",
    },
}

# What they take for words of GQL, and the gateway for names.
WORDS = (
    "AGGREGATE ALL ANCESTOR AVG BETWEEN COUNT COUNT_UP_TO DESCENDANT HAVING JOIN LIKE ON OVER "
    "PARENT SUM"
).split()

WHERE = "SELECT * FROM Kind WHERE"

# Texts that say clearly what is meant: more is taken than Google's servers take.
TAKEN = {
    **{f"SELECT * FROM {word}": "a word of GQL is a name where no word can be" for word in WORDS},
    "SELECT * FROM K.x": "a kind may have a point in its name as a property may",
    f"{WHERE} a.FROM=1": "behind a point no word can be",
    f"{WHERE} b = DATETIME('2013-09-29T09:30:20.123456789Z')": "finer digits are dropped",
    f"{WHERE} b = DATETIME('2013-09-29T09:30:20+00:00')": "an offset may be none",
    f"{WHERE} b = DATETIME('2013-09-29T09:30:20+18:00')": "or as large as RFC 3339 has it",
    "SELECT * FROM Kind GROUP BY a": "it means what DISTINCT ON does",
}

# What neither of them does, or knows of, and Google's documentation has otherwise; and what they do
# not take.
BEYOND_THEM = {
    "a key of many bytes": "6 KiB at most, which neither keeps to",
    "delete of a key with a reserved kind": "such keys are not to be written; they delete nothing",
    "delete of a key with a reserved parent": "so too",
    "reservation of a key with a reserved kind": "so too",
    "reservation of a key with a reserved parent": "so too",
    "a meaning": "the gateway keeps meanings as they are",
    "GROUP BY beside DISTINCT": "they have no GROUP BY in GQL",
    **TAKEN,
}
