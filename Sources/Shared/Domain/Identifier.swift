/// A name for one thing of one kind, so that a job's id cannot be passed where a lease's is due. A build's is a
/// ``BuildID``.
package struct Identifier<Kind>: Hashable, Sendable, Comparable, CustomStringConvertible {
  package let rawValue: String

  package init(_ rawValue: String) {
    self.rawValue = rawValue
  }

  package var description: String { self.rawValue }

  package static func < (left: Self, right: Self) -> Bool {
    left.rawValue < right.rawValue
  }
}

extension Identifier: ExpressibleByStringLiteral, ExpressibleByUnicodeScalarLiteral,
  ExpressibleByExtendedGraphemeClusterLiteral
{
  package init(stringLiteral value: String) {
    self.init(value)
  }
}

/// The kinds of things that have identifiers.
package enum IdentifierKind {
  package enum Project {}
  package enum Job {}
  package enum Attempt {}
  package enum Executor {}
  package enum Lease {}
  package enum Notification {}
}

/// Whose builds these are; the unit of fair sharing and of partitioning.
package typealias ProjectID = Identifier<IdentifierKind.Project>
/// A node of one build's graph. Unique within its build only.
package typealias JobID = Identifier<IdentifierKind.Job>
/// One try at a job, unique everywhere: `build/job/number`.
package typealias AttemptID = Identifier<IdentifierKind.Attempt>
/// A plugin-runner with capacity.
package typealias ExecutorID = Identifier<IdentifierKind.Executor>
/// The right to use a share of one executor until it expires.
package typealias LeaseID = Identifier<IdentifierKind.Lease>
/// A message that must go out when a build is over.
package typealias NotificationID = Identifier<IdentifierKind.Notification>

/// Orders leases in time: a holder with a smaller token has been superseded.
package struct FencingToken: Hashable, Sendable, Comparable, CustomStringConvertible {
  package let rawValue: Int64

  package init(_ rawValue: Int64) {
    self.rawValue = rawValue
  }

  package var description: String { String(self.rawValue) }

  package static func < (left: Self, right: Self) -> Bool {
    left.rawValue < right.rawValue
  }
}
