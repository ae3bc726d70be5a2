/// Names a property, or one inside embedded entities: `address.street`, or `` `a.b`.c `` where a
/// name is more than letters, digits and underscores.
package struct PropertyPath: Hashable, Sendable {
  /// One at least.
  package let names: [Name]

  /// Reads a path as callers write it.
  ///
  /// - Throws: `invalid`, with what is wrong.
  package init(_ text: String, policy: Policy) throws(GatewayError) {
    if text.isEmpty { throw .invalid("Invalid empty property path string.") }
    guard let names = Self.names(Array(text.unicodeScalars)) else {
      throw .invalid(
        "Invalid property path \"\(text)\". A name is letters, digits and underscores, or anything "
          + "between backquotes.")
    }
    if names.count > policy.maximumNesting + 1 {
      throw .invalid(
        "A property path has \(names.count) names, and entities are nested at most "
          + "\(policy.maximumNesting) levels deep.")
    }
    for name in names where name.byteCount > policy.maximumNameBytes {
      throw .invalid(
        "The property_mask.property.name is longer than \(policy.maximumNameBytes) bytes.")
    }
    self.names = names
    for name in names where name.isReserved && !self.isKey {
      throw .invalid("the name \(name) is reserved")
    }
  }

  /// `__key__`: names no property, but may stand in a mask.
  package var isKey: Bool { self.names == [Query.keyProperty] }

  private static func names(_ text: [Unicode.Scalar]) -> [Name]? {
    var names: [Name] = []
    var rest = text[...]
    while true {
      guard let name = rest.first == "`" ? self.quoted(&rest) : self.plain(&rest) else {
        return nil
      }
      names.append(Name(name))
      guard let separator = rest.popFirst() else { return names }
      if separator != "." { return nil }
    }
  }

  private static func plain(_ rest: inout ArraySlice<Unicode.Scalar>) -> String? {
    let name = rest.prefix(while: self.isWord)
    guard let first = name.first, !("0"..."9").contains(first) else { return nil }
    rest = rest.dropFirst(name.count)
    return String(String.UnicodeScalarView(name))
  }

  private static func isWord(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar {
    case "a"..."z", "A"..."Z", "0"..."9", "_": true
    default: false
    }
  }

  /// A backslash takes the character behind it as it is.
  private static func quoted(_ rest: inout ArraySlice<Unicode.Scalar>) -> String? {
    rest.removeFirst()
    var name = String.UnicodeScalarView()
    while let scalar = rest.popFirst() {
      switch scalar {
      case "`": return name.isEmpty ? nil : String(name)
      case "\\":
        guard let escaped = rest.popFirst() else { return nil }
        name.append(escaped)
      default: name.append(scalar)
      }
    }
    return nil
  }
}

extension PropertyPath: CustomStringConvertible {
  package var description: String { self.names.map(\.text).joined(separator: ".") }
}
