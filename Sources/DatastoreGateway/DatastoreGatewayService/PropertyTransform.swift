import BuildProtos
import DatastoreGatewayCore
import Domain
import RPC

/// A change of one property that is reckoned from what it is when the commit is made.
struct PropertyTransform: Sendable {
  enum Operation: Sendable {
    /// The time of the commit, to the millisecond.
    case setToTime
    /// Of a number, at the ends of the range if it would go beyond.
    case increment(DatastoreV1.Value)
    case maximum(DatastoreV1.Value)
    case minimum(DatastoreV1.Value)
    /// Elements that the array does not have yet.
    case appendMissing([DatastoreV1.Value])
    case removeAll([DatastoreV1.Value])
  }

  var path: PropertyPath
  var operation: Operation

  init(_ proto: DatastoreV1.PropertyTransform, policy: Policy) throws(GatewayError) {
    self.path = try PropertyPath(proto.property, policy: policy)
    if self.path.isKey {
      throw .invalid("Invalid property path member name \"\(proto.property)\".")
    }
    switch proto.transformType {
    case nil: throw .invalid("Operation type must be specified for field transformation.")
    case .setToServerValue(.requestTime): self.operation = .setToTime
    case .setToServerValue:
      throw .invalid("ServerValue type must be specified for set_to_server_value transformation.")
    case .increment(let value): self.operation = .increment(try Self.number(value))
    case .maximum(let value): self.operation = .maximum(try Self.number(value))
    case .minimum(let value): self.operation = .minimum(try Self.number(value))
    case .appendMissingElements(let array): self.operation = .appendMissing(array.values)
    case .removeAllFromArray(let array): self.operation = .removeAll(array.values)
    }
  }

  private static func number(
    _ value: DatastoreV1.Value
  ) throws(GatewayError) -> DatastoreV1.Value {
    switch value.valueType {
    case .integerValue, .doubleValue: return value
    case nil: throw .invalid("Value missing type.")
    default: throw .invalid("Input must be int64 or double.")
    }
  }

  /// Changes the property.
  ///
  /// - Returns: What the caller is told: the new value, and null for arrays.
  func apply(
    to properties: inout [String: DatastoreV1.Value], at time: Timestamp
  ) -> DatastoreV1.Value {
    let names = self.path.names[...]
    let current = properties.value(at: names)
    switch self.operation {
    case .setToTime:
      let milliseconds = Timestamp(microseconds: time.microseconds / 1_000 * 1_000)
      let value = DatastoreV1.Value(
        valueType: .timestampValue(EntityCodec.proto(milliseconds)))
      properties.set(value, at: names)
      return value
    case .increment(let operand):
      return self.set(operand, &properties) { current, operand in current.sum(operand) }
    case .maximum(let operand):
      return self.set(operand, &properties) { $0.isNaN || !$1.isAbove($0) ? nil : $1 }
    case .minimum(let operand):
      return self.set(operand, &properties) { $0.isNaN || !$1.isBelow($0) ? nil : $1 }
    case .appendMissing(let elements):
      var array = Self.elements(current)
      for element in elements where !array.contains(where: { $0.isEquivalent(to: element) }) {
        array.append(element)
      }
      return Self.set(array, over: current, &properties, names)
    case .removeAll(let elements):
      let array = Self.elements(current).filter { value in
        !elements.contains { $0.isEquivalent(to: value) }
      }
      return Self.set(array, over: current, &properties, names)
    }
  }

  /// - Parameter result: What becomes of two numbers; `nil` leaves the first as it is.
  private func set(
    _ operand: DatastoreV1.Value, _ properties: inout [String: DatastoreV1.Value],
    _ result: (Number, Number) -> Number?
  ) -> DatastoreV1.Value {
    let current = properties.value(at: self.path.names[...])
    var value = operand
    if let current, let left = Number(current), let right = Number(operand) {
      guard let number = result(left, right) else { return current }
      value.valueType = number.valueType
    }
    properties.set(value, at: self.path.names[...])
    return value
  }

  private static func elements(_ value: DatastoreV1.Value?) -> [DatastoreV1.Value] {
    if case .arrayValue(let array) = value?.valueType { array.values } else { [] }
  }

  private static func set(
    _ elements: [DatastoreV1.Value], over current: DatastoreV1.Value?,
    _ properties: inout [String: DatastoreV1.Value], _ names: ArraySlice<Name>
  ) -> DatastoreV1.Value {
    var value = DatastoreV1.Value()
    var array = DatastoreV1.ArrayValue()
    if let current, case .arrayValue(let stored) = current.valueType {
      (value, array) = (current, stored)
    }
    array.values = elements
    value.valueType = .arrayValue(array)
    properties.set(value, at: names)
    return DatastoreV1.Value(valueType: .nullValue(.nullValue))
  }
}

/// An integer or a double, compared and added across the two.
private enum Number {
  case integer(Int64)
  case double(Double)

  init?(_ value: DatastoreV1.Value) {
    switch value.valueType {
    case .integerValue(let number): self = .integer(number)
    case .doubleValue(let number): self = .double(number)
    default: return nil
    }
  }

  var valueType: DatastoreV1.Value.ValueType {
    switch self {
    case .integer(let number): .integerValue(number)
    case .double(let number): .doubleValue(number)
    }
  }

  private var double: Double {
    switch self {
    case .integer(let number): Double(number)
    case .double(let number): number
    }
  }

  var isNaN: Bool { self.double.isNaN }

  func sum(_ other: Number) -> Number {
    guard case .integer(let left) = self, case .integer(let right) = other else {
      return .double(self.double + other.double)
    }
    let (sum, isOver) = left.addingReportingOverflow(right)
    return .integer(isOver ? right < 0 ? .min : .max : sum)
  }

  /// Not a number wins over every number.
  func isAbove(_ other: Number) -> Bool {
    self.isNaN ? !other.isNaN : self.compared(to: other) > 0
  }

  func isBelow(_ other: Number) -> Bool {
    self.isNaN ? !other.isNaN : self.compared(to: other) < 0
  }

  func isEqual(to other: Number) -> Bool {
    self.isNaN || other.isNaN ? self.isNaN && other.isNaN : self.compared(to: other) == 0
  }

  /// Exact, though no double holds every integer. Neither is NaN.
  private func compared(to other: Number) -> Int {
    func sign<T: Comparable>(_ left: T, _ right: T) -> Int {
      left < right ? -1 : left > right ? 1 : 0
    }
    switch (self, other) {
    case (.integer(let left), .integer(let right)): return sign(left, right)
    case (.double(let left), .double(let right)): return sign(left, right)
    case (.double, .integer): return -other.compared(to: self)
    case (.integer(let left), .double(let right)):
      if right >= 0x1p63 { return -1 }
      if right < -0x1p63 { return 1 }
      let whole = Int64(right)
      return left == whole ? sign(0, right - Double(whole)) : sign(left, whole)
    }
  }
}

extension DatastoreV1.Value {
  /// Whether an array counts both as one element: numbers by their value, NaN as NaN.
  fileprivate func isEquivalent(to other: Self) -> Bool {
    if let left = Number(self), let right = Number(other) { return left.isEqual(to: right) }
    switch (self.valueType, other.valueType) {
    case (.entityValue(let left), .entityValue(let right)):
      return left.properties.count == right.properties.count
        && left.properties.allSatisfy { name, value in
          right.properties[name].map { value.isEquivalent(to: $0) } ?? false
        }
    case (.arrayValue(let left), .arrayValue(let right)):
      return left.values.count == right.values.count
        && zip(left.values, right.values).allSatisfy { $0.isEquivalent(to: $1) }
    default: return self.valueType == other.valueType
    }
  }
}
