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

# What neither of them does, or knows of, and Google's documentation has otherwise.
BEYOND_THEM = {
    "a key of many bytes": "6 KiB at most, which neither keeps to",
    "delete of a key with a reserved kind": "such keys are not to be written; they delete nothing",
    "delete of a key with a reserved parent": "so too",
    "reservation of a key with a reserved kind": "so too",
    "reservation of a key with a reserved parent": "so too",
    "a meaning": "the gateway keeps meanings as they are",
    "GROUP BY beside DISTINCT": "they have no GROUP BY in GQL",
}

# What they take for words of GQL, and the gateway for names.
WORDS = (
    "AGGREGATE ALL ANCESTOR AVG BETWEEN COUNT COUNT_UP_TO DESCENDANT HAVING JOIN LIKE ON OVER "
    "PARENT SUM"
).split()

WHERE = "SELECT * FROM Kind WHERE"

# Texts that they refuse and the gateway takes, but for those that are told of.
TEXTS_TO_BE_MENDED = {
    **{f"SELECT * FROM {word}": "a word of GQL is no name" for word in WORDS},
    f"{WHERE} b = KEY(PROJECT('x'), Kind, 1)":
        "the namespace is the default one where the project is given, and not the query's",
    f"{WHERE} a . b=1": "spaces may be around the point; the gateway refuses them",
    f"{WHERE} ARRAY(1) IN a": "it means a IN ARRAY(1), which the gateway refuses",
    f"{WHERE} b = - 1": "a sign belongs to its number",
    f"{WHERE} b = 'a\\qb'": "an escape that there is not",
    f"{WHERE} b = '\\u0041'": "so too",
    f"{WHERE} b = '\n'": "a string ends on its line",
    f"{WHERE} b = BLOB('eA==')": "no padding",
    f"{WHERE} b = BLOB('+/')": "base64 is that of URLs",
    f"{WHERE} b = DATETIME('2013-09-29 09:30:20Z')": "a T stands between date and time",
    f"{WHERE} b = DATETIME('2013-09-29T09:30:60Z')": "no leap second",
    f"{WHERE} b = DATETIME('2013-09-29T09:30:20.123456789Z')": "microseconds at most",
    f"{WHERE} b = DATETIME('2013-09-29T09:30:20-00:00')": "that is Z",
    "SELECT * FROM Kind LIMIT 1 OFFSET 1 + 1": "a number is added to a cursor alone",
    "SELECT DISTINCT ON (a,a) * FROM Kind": "a property may be named once",
    "SELECT * FROM Kind GROUP BY a": "there is no GROUP BY",
}

# What the gateway alone answers otherwise, until it is mended: asked of no server.
TO_BE_MENDED = {
    "reversed cursors of distinct results": "a cursor stands behind a result, not behind a value",
    "distinct entities of arrays":
        "a value counts though the entity that stands for it stands for another already",
    "empty cursors in texts": "LIMIT FIRST of a number and an empty one is refused",
    "commits that are refused":
        "a transaction outlives a commit that is INVALID_ARGUMENT, also for what a property is",
    "rollbacks of what failed": "a transaction whose commit failed can be rolled back",
    "versions to come": "a base version above the stored one is no conflict, but refused",
    "inserts by time": "an insert with an update time is refused",
    "a key with a name of underscores": "four of them are reserved",
    "an empty array without an index": "it is taken",
    "query with a long kind": "queries take one beyond 1,500 bytes",
    "a mean of a reserved name": "it is taken",
    "types of properties": "property_representation is in another order",
    "distinct values twice": "a property may be named once",
    "a binding of a bad name": "letters, digits and underscores alone are a name",
    **TEXTS_TO_BE_MENDED,
}
