/// Datastore's limits, and the gateway's own.
package struct Policy: Sendable, Hashable {
  // Datastore's, as its documentation tells them.
  package var maximumEntityBytes = 1_048_572
  package var maximumUnindexedValueBytes = 1_048_487
  package var maximumIndexedValueBytes = 1_500
  package var maximumNameBytes = 1_500
  package var maximumKeyBytes = 6_144
  package var maximumPathElements = 100
  package var maximumLookupKeys = 1_000
  /// Datastore documented 500; its emulators take any number, and Google's own tests clear up with 11,000
  /// at once. A commit is bounded by its bytes anyway.
  package var maximumMutations = 50_000
  package var maximumRequestBytes = 10 << 20
  package var maximumNesting = 20
  /// Transforms of one entity in a commit.
  package var maximumTransforms = 500
  package var maximumIndexEntries = 20_000
  package var maximumFilters = 100
  /// ANDs and ORs beside them, each with others in it.
  package var maximumComposites = 1_000
  package var maximumDisjunctions = 30
  package var maximumInValues = 30
  package var maximumNotInValues = 10
  package var maximumAggregations = 5
  /// Orders, projected properties and properties of distinct on, each: an index of Datastore's has no
  /// more properties.
  package var maximumIndexProperties = 100
  /// Parentheses in a GQL text and composite filters in one another.
  package var maximumConditionDepth = 100
  /// A GQL text; it is read before anything else is known of the query.
  package var maximumGQLBytes = 256 << 10
  /// Values and cursors that are bound to one.
  package var maximumGQLBindings = 10_000
  /// Paths of one property mask, and of all masks of a commit.
  package var maximumMaskPaths = 10_000
  package var maximumCommitMaskPaths = 100_000
  /// A `project` is part of every key; Datastore's own ids are below 100.
  package var maximumProjectBytes = 100
  package var maximumNamespaceBytes = 100

  /// Results of one RunQuery: clients ask again with the cursor while it is NOT_FINISHED. Google's
  /// servers give 300 at a time; what tests with their clients holds a thousand results for several
  /// batches.
  package var maximumBatchResults = 500
  /// Bytes of entities in one RunQuery: Google's clients take messages of 4 MiB, and one more
  /// entity of 1 MiB may follow the one that reaches this.
  package var maximumBatchBytes = 5 << 19
  /// Below this an equality's rows are read and sorted; above it the order's own index is followed
  /// and each of its rows is looked up among the equality's. Both find 20 of these in about a
  /// millisecond.
  package var sortedInMemoryRows = 1_000
  /// Rows of the order's index that are looked up in vain before it is doubted that the equality and the order have
  /// nothing to do with each other.
  package var probesInVain = 4_000
  /// Then an equality with no more rows is read and sorted.
  package var sortedAfterProbing = 50_000

  /// A transaction that did nothing for this long is forgotten.
  package var transactionIdle = Duration.seconds(60)
  /// No transaction lasts longer.
  package var transactionLife = Duration.seconds(270)
  /// Each holds the versions of what it read.
  package var maximumTransactions = 10_000
  /// What one transaction may read.
  package var maximumTransactionReads = 100_000
  /// Queries without a kind that one may run, in different namespaces: at its commit each is compared with all kinds
  /// that have changed.
  package var maximumTransactionPrefixes = 100
  /// What the keys that all of them have read may take in memory.
  package var maximumTransactionBytes = 64 << 20

  package init() {}
}
