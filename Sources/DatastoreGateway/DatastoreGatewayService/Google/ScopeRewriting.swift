import BuildProtos

/// Gives messages the project and database of the store where callers name others, and back.
///
/// What is in the one scope is in the other afterwards: keys of entities, keys in values, in filters
/// and in bindings of GQL. A key of any third project stays as it is, and so does the text of GQL.
struct ScopeRewriting: Sendable {
  struct Scope: Sendable, Hashable {
    var project: String
    var database: String

    /// As messages show it.
    var name: String {
      "project \"\(self.project)\""
        + (self.database.isEmpty ? "" : ", database \"\(self.database)\"")
    }
  }

  let from: Scope
  let to: Scope

  var isIdentity: Bool { self.from == self.to }
  var reversed: Self { Self(from: self.to, to: self.from) }

  // MARK: - Entities

  /// A partition that names no project is in the request's.
  func rewrite(_ partition: inout DatastoreV1.PartitionId?) {
    guard let found = partition, !found.projectID.isEmpty || !found.databaseID.isEmpty,
      found.projectID.isEmpty || found.projectID == self.from.project,
      found.databaseID == self.from.database
    else { return }
    if !found.projectID.isEmpty { partition?.projectID = self.to.project }
    partition?.databaseID = self.to.database
  }

  func rewrite(_ key: inout DatastoreV1.Key) { self.rewrite(&key.partitionID) }

  func rewrite(_ keys: inout [DatastoreV1.Key]) {
    for number in keys.indices { self.rewrite(&keys[number]) }
  }

  func rewrite(_ entity: inout DatastoreV1.Entity) {
    if entity.key != nil { self.rewrite(&entity.key!.partitionID) }
    for (name, value) in entity.properties where value.mayHoldKeys {
      var value = value
      self.rewrite(&value)
      entity.properties[name] = value
    }
  }

  func rewrite(_ value: inout DatastoreV1.Value) {
    switch value.valueType {
    case .keyValue(var key):
      self.rewrite(&key)
      value.valueType = .keyValue(key)
    case .entityValue(var entity):
      self.rewrite(&entity)
      value.valueType = .entityValue(entity)
    case .arrayValue(var array):
      self.rewrite(&array.values)
      value.valueType = .arrayValue(array)
    default: break
    }
  }

  func rewrite(_ values: inout [DatastoreV1.Value]) {
    for number in values.indices { self.rewrite(&values[number]) }
  }

  // MARK: - Queries

  func rewrite(_ query: inout DatastoreV1.Query) {
    if query.filter != nil { self.rewrite(&query.filter!) }
  }

  func rewrite(_ query: inout DatastoreV1.AggregationQuery) {
    if query.nestedQuery != nil { self.rewrite(&query.nestedQuery!) }
  }

  private func rewrite(_ filter: inout DatastoreV1.Filter) {
    switch filter.filterType {
    case .compositeFilter(var composite):
      for number in composite.filters.indices { self.rewrite(&composite.filters[number]) }
      filter.filterType = .compositeFilter(composite)
    case .propertyFilter(var property):
      if property.value != nil { self.rewrite(&property.value!) }
      filter.filterType = .propertyFilter(property)
    case nil: break
    }
  }

  func rewrite(_ query: inout DatastoreV1.GqlQuery) {
    for (name, parameter) in query.namedBindings {
      var parameter = parameter
      self.rewrite(&parameter)
      query.namedBindings[name] = parameter
    }
    for number in query.positionalBindings.indices {
      self.rewrite(&query.positionalBindings[number])
    }
  }

  private func rewrite(_ parameter: inout DatastoreV1.GqlQueryParameter) {
    guard case .value(var value) = parameter.parameterType else { return }
    self.rewrite(&value)
    parameter.parameterType = .value(value)
  }

  // MARK: - Mutations and results

  func rewrite(_ mutation: inout DatastoreV1.Mutation) {
    switch mutation.operation {
    case .insert(var entity):
      self.rewrite(&entity)
      mutation.operation = .insert(entity)
    case .update(var entity):
      self.rewrite(&entity)
      mutation.operation = .update(entity)
    case .upsert(var entity):
      self.rewrite(&entity)
      mutation.operation = .upsert(entity)
    case .delete(var key):
      self.rewrite(&key)
      mutation.operation = .delete(key)
    case nil: break
    }
    for number in mutation.propertyTransforms.indices {
      switch mutation.propertyTransforms[number].transformType {
      case .appendMissingElements(var array):
        self.rewrite(&array.values)
        mutation.propertyTransforms[number].transformType = .appendMissingElements(array)
      case .removeAllFromArray(var array):
        self.rewrite(&array.values)
        mutation.propertyTransforms[number].transformType = .removeAllFromArray(array)
      case .setToServerValue, .increment, .maximum, .minimum, nil: break
      }
    }
  }

  func rewrite(_ results: inout [DatastoreV1.EntityResult]) {
    for number in results.indices where results[number].entity != nil {
      self.rewrite(&results[number].entity!)
    }
  }
}

extension DatastoreV1.Value {
  fileprivate var mayHoldKeys: Bool {
    switch self.valueType {
    case .keyValue, .entityValue, .arrayValue: true
    default: false
    }
  }
}
