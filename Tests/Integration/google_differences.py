"""Tests that Google's emulators do not pass behind the gateway, and why; nearly all as without it.

The gateway hands their answers on. A test that is listed here and passes all the same fails.
"""

NO_AGGREGATIONS = "it has no aggregations"
LARGE_ANSWERS = "it answers a large lookup whole, which the client does not take"
MEANINGS = "it refuses indexed values with the meaning of a text"
EXPLAIN = "it explains nothing"
# The gateway's own: its store is one database of one project.
ONE_DATABASE = "it serves one database and refuses others"

DATASTORE_EMULATOR = {
    "test_databases_are_apart": ONE_DATABASE,
    "test_large_lookups_are_answered_in_parts": LARGE_ANSWERS,
    "test_an_entity_has_a_size": "it has no limit on an entity's size",
    "test_meanings_survive": MEANINGS,
    "test_the_past_is_read": "it takes no notice of read_time",
    "test_each_operator[!=-0-expected5]": "it has no !=",
    "test_each_operator[IN-value6-expected6]": "it has no IN",
    "test_each_operator[NOT_IN-value7-expected7]": "it has no NOT_IN",
    "test_conditions_are_combined": "it has no OR",
    "test_long_results_come_in_batches": NO_AGGREGATIONS,
    "test_aggregations": NO_AGGREGATIONS,
    "test_aggregations_of_some": NO_AGGREGATIONS,
    "test_aggregations_in_a_transaction": NO_AGGREGATIONS,
    "test_sums_of_doubles_and_integers": NO_AGGREGATIONS,
    "test_too_many_aggregations": NO_AGGREGATIONS,
    "test_a_query_is_explained": EXPLAIN,
    "test_a_read_only_transaction_reads_one_moment": "it aborts a read-only transaction",
    "test_a_first_query_begins_the_transaction":
        "it has ancestor queries alone in transactions",
    "test_filters": "it has no !=",
    "test_pages": "behind the last result it tells of more",
}

FIRESTORE_EMULATOR = {
    "test_databases_are_apart": ONE_DATABASE,
    "test_large_lookups_are_answered_in_parts": LARGE_ANSWERS,
    "test_meanings_survive": MEANINGS,
    "test_an_eventual_read_is_answered": "it refuses eventual reads",
    "test_the_past_is_read": "it refuses the empty commit of a read-only transaction",
    "test_metadata": "it refuses queries of kinds and namespaces",
    "test_too_many_aggregations": "it answers UNKNOWN",
    "test_a_query_is_explained": EXPLAIN,
    "test_a_read_only_transaction_reads_one_moment":
        "it refuses the empty commit of a read-only transaction",
    "test_each_property_can_be_asked_for": "it has no index of a structure's properties",
    "test_filters": "it has no index of a structure's properties",
    "test_read_only_transactions": "it refuses the empty commit of a read-only transaction",
}

# Its transactions lock what they read for many seconds: these tests wait for nothing else, and what
# they leave locked hinders others.
FIRESTORE_LOCKS = {
    "test_a_transaction_that_read_what_changed_is_aborted",
    "test_a_transaction_whose_query_would_find_more_is_aborted",
    "test_a_first_read_begins_the_transaction",
    "test_a_first_query_begins_the_transaction",
    "test_a_transaction_that_is_aborted_is_tried_again",
}


def difference(store, name):
    """Why a test fails on an emulator, and whether it is run; nothing if it passes."""
    if store == "google-datastore":
        reason = DATASTORE_EMULATOR.get(name)
    else:
        reason = FIRESTORE_EMULATOR.get(name)
        if name in FIRESTORE_LOCKS:
            return "its transactions lock what they read", False
    return (reason, True) if reason else None
