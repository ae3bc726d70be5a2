import BuildProtos
import DatastoreGatewayCore
import Domain
import RPC

/// RunQuery and RunAggregationQuery.
extension Handlers {
  func runQuery(
    _ request: DatastoreV1.RunQueryRequest, context: ServerContext
  ) async throws -> DatastoreV1.RunQueryResponse {
    try await self.metrics.counted("RunQuery") {
      let scope = try self.scope(request.projectID, request.databaseID)
      let partition = try EntityCodec.partition(request.partitionID, in: scope)
      var response = DatastoreV1.RunQueryResponse()
      let asked: Query
      switch request.queryType {
      case nil: throw GatewayError.invalid("The request has no query.")
      case .gqlQuery(let gql):
        let statement = try QueryMapping.statement(
          gql, partition: partition, policy: self.driver.policy)
        guard case .query(let query) = statement else {
          throw GatewayError.invalid(
            "The GQL query is an aggregation: RunAggregationQuery runs it.")
        }
        asked = query
        response.query = QueryProto.query(query)
      case .query(let proto):
        asked = try QueryMapping.query(
          proto, partition: partition, policy: self.driver.policy)
      }
      let query = try ResolvedQuery(asked, policy: self.driver.policy)
      let mask = try self.mask(request.propertyMask)
      if mask != nil, case .projection = query.form {
        throw GatewayError.invalid("property masks are not allowed on projection queries")
      }
      if let explain = request.explainOptions, !explain.analyze {
        response.explainMetrics = try await self.explained(query)
        return response
      }
      let clock = ContinuousClock()
      let begin = clock.now
      let ((answer, readTime), begun) = try await self.reading(request.readOptions, in: scope) {
        try await self.driver.run(query, at: $0)
      }
      if request.explainOptions != nil {
        response.explainMetrics = DatastoreV1.ExplainMetrics(
          planSummary: ResultMapping.summary(answer.plan, of: query),
          executionStats: ResultMapping.stats(
            results: answer.results.count, reads: query.form == .entity ? answer.loaded : 1,
            scanned: answer.scanned, loaded: answer.loaded, duration: clock.now - begin))
      }
      response.batch = try ResultMapping.proto(
        answer, to: query, partition: partition, mask: mask,
        readTime: readTime)
      response.transaction = begun?.bytes ?? []
      return response
    }
  }

  func runAggregationQuery(
    _ request: DatastoreV1.RunAggregationQueryRequest, context: ServerContext
  ) async throws -> DatastoreV1.RunAggregationQueryResponse {
    try await self.metrics.counted("RunAggregationQuery") {
      let scope = try self.scope(request.projectID, request.databaseID)
      let partition = try EntityCodec.partition(request.partitionID, in: scope)
      var response = DatastoreV1.RunAggregationQueryResponse()
      let asked: AggregationQuery
      switch request.queryType {
      case nil: throw GatewayError.invalid("The request has no query.")
      case .gqlQuery(let gql):
        let statement = try QueryMapping.statement(
          gql, partition: partition, policy: self.driver.policy)
        guard case .aggregation(let aggregation) = statement else {
          throw GatewayError.invalid("The GQL query is no aggregation: RunQuery runs it.")
        }
        asked = aggregation
        response.query = QueryProto.aggregation(aggregation)
      case .aggregationQuery(let proto):
        asked = try QueryMapping.aggregation(
          proto, partition: partition, policy: self.driver.policy)
      }
      let aggregation = try ResolvedAggregation(asked, policy: self.driver.policy)
      if let explain = request.explainOptions, !explain.analyze {
        response.explainMetrics = try await self.explained(aggregation.query)
        return response
      }
      let clock = ContinuousClock()
      let begin = clock.now
      let ((answer, readTime), begun) = try await self.reading(request.readOptions, in: scope) {
        try await self.driver.run(aggregation, at: $0)
      }
      if request.explainOptions != nil {
        response.explainMetrics = DatastoreV1.ExplainMetrics(
          planSummary: ResultMapping.summary(answer.plan, of: aggregation.query),
          executionStats: ResultMapping.stats(
            results: 1, reads: answer.scanned.dividedUp(by: ResultMapping.rowsInOneRead),
            scanned: answer.scanned, loaded: answer.loaded, duration: clock.now - begin))
      }
      response.batch = ResultMapping.proto(answer, to: aggregation, readTime: readTime)
      response.transaction = begun?.bytes ?? []
      return response
    }
  }

  /// The plan alone.
  private func explained(_ query: ResolvedQuery) async throws -> DatastoreV1.ExplainMetrics {
    DatastoreV1.ExplainMetrics(
      planSummary: ResultMapping.summary(try await self.driver.store.plan(query), of: query))
  }
}

extension Int {
  fileprivate func dividedUp(by divisor: Int) -> Int { (self + divisor - 1) / divisor }
}
