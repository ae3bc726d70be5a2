/// Why a store could not do what was asked, whoever asked it.
package struct StoreFailure: Error, Hashable, Sendable, CustomStringConvertible {
  /// What kind of trouble; tells what can help.
  package enum Kind: Hashable, Sendable {
    /// No room on the disk. Nothing was written; it works again once there is room.
    case full
    /// The file or its disk takes no writes.
    case readOnly
    /// Another process holds the file.
    case locked
    /// The file is damaged, or no store of ours.
    case corrupt
    /// The disk failed while a commit was made durable, or the connection was lost then: the commit
    /// may be there or not.
    case outcomeUnknown
    /// Reading or writing failed.
    case inputOutput
    /// The database's server does not answer, or has ended the connection. Nothing was written.
    case unreachable
    /// The database's server takes no more connections.
    case tooManyConnections
    /// The database's server knows the user, the password or the database not, or a right is missing.
    case refused
    case other
  }

  package var kind: Kind
  /// Names the file, what was done, and the error of the system where there is one.
  package var description: String

  package init(_ kind: Kind, _ description: String) {
    self.kind = kind
    self.description = description
  }
}
