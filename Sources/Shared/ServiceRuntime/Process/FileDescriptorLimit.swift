import Glibc

/// How many file descriptors the process may have open.
enum FileDescriptorLimit {
  /// More is never needed, and some programs walk over all that are allowed.
  static let maximum: rlim_t = 1 << 20

  static var current: UInt64 {
    var limit = rlimit()
    return getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0
      ? UInt64(limit.rlim_cur) : 0
  }

  /// Raises the soft limit to the hard one: 1,024, the usual soft limit, is a few hundred
  /// connections.
  static func raise() {
    var limit = rlimit()
    guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
    let wanted = min(limit.rlim_max, self.maximum)
    guard limit.rlim_cur < wanted else { return }
    limit.rlim_cur = wanted
    setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
  }
}
