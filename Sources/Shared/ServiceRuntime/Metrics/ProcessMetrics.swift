import Glibc

/// What the kernel knows of this process, under the names that Prometheus' own clients use.
enum ProcessMetrics {
  static func register(in registry: MetricsRegistry) {
    registry.counter(
      "process_cpu_seconds_total", help: "CPU time of the process, user and system, in seconds."
    ) { self.cpuSeconds() }
    registry.gauge(
      "process_resident_memory_bytes", help: "Memory of the process that is in RAM, in bytes."
    ) { self.residentBytes() }
    registry.gauge("process_open_fds", help: "File descriptors that the process has open.") {
      self.openFileDescriptors()
    }
    registry.gauge("process_max_fds", help: "File descriptors that the process may have open.") {
      Double(FileDescriptorLimit.current)
    }
    let started = self.startTime()
    registry.gauge(
      "process_start_time_seconds", help: "When the process began, in seconds since 1970."
    ) { started }
  }

  private static func cpuSeconds() -> Double? {
    var usage = rusage()
    guard getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage) == 0 else { return nil }
    return [usage.ru_utime, usage.ru_stime]
      .map { Double($0.tv_sec) + Double($0.tv_usec) / 1e6 }.reduce(0, +)
  }

  private static func residentBytes() -> Double? {
    guard let text = SystemFile.read("/proc/self/statm", limit: 256),
      case let fields = text.split(separator: " "), fields.count > 1, let pages = Int(fields[1])
    else { return nil }
    return Double(pages * sysconf(Int32(_SC_PAGESIZE)))
  }

  private static func openFileDescriptors() -> Double? {
    guard let directory = opendir("/proc/self/fd") else { return nil }
    defer { closedir(directory) }
    // "." and "..", and the descriptor that reads the directory.
    var count = -3
    while readdir(directory) != nil { count += 1 }
    return Double(max(count, 0))
  }

  private static func startTime() -> Double? {
    var now = timespec()
    var sinceBoot = timespec()
    guard let text = SystemFile.read("/proc/self/stat", limit: 4096),
      // The second field is the program's name in brackets and may hold anything.
      let end = text.lastIndex(of: ")"), clock_gettime(CLOCK_REALTIME, &now) == 0,
      clock_gettime(CLOCK_BOOTTIME, &sinceBoot) == 0
    else { return nil }
    let fields = text[end...].split(separator: " ")
    guard fields.count > 20, let ticks = Double(fields[20]) else { return nil }
    let booted =
      Double(now.tv_sec - sinceBoot.tv_sec) + Double(now.tv_nsec - sinceBoot.tv_nsec) / 1e9
    return booted + ticks / Double(sysconf(Int32(_SC_CLK_TCK)))
  }
}
