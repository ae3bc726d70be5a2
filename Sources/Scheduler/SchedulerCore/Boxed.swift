/// A large value on the heap, with the manners of a value: copied when it is written and shared. The
/// empty places of a dictionary, of which there are as many as full ones, then cost a pointer each.
@propertyWrapper
struct Boxed<Value: Sendable>: Sendable {
  private var storage: Storage<Value>

  init(wrappedValue: Value) {
    self.storage = Storage(wrappedValue)
  }

  var wrappedValue: Value {
    _read { yield self.storage.value }
    _modify {
      if !isKnownUniquelyReferenced(&self.storage) { self.storage = Storage(self.storage.value) }
      yield &self.storage.value
    }
  }
}

/// The same for a value that mostly is not there.
@propertyWrapper
struct BoxedOptional<Value: Sendable>: Sendable {
  private var storage: Storage<Value>?

  init(wrappedValue: Value?) {
    self.storage = wrappedValue.map { Storage($0) }
  }

  /// Whether there is one, without a copy of it.
  var isThere: Bool { self.storage != nil }

  var wrappedValue: Value? {
    get { self.storage?.value }
    set { self.storage = newValue.map { Storage($0) } }
  }
}

/// `@unchecked Sendable`: it is written only by who alone refers to it.
private final class Storage<Value: Sendable>: @unchecked Sendable {
  var value: Value

  init(_ value: Value) {
    self.value = value
  }
}
