import CommandLineInterface
import Glibc
import Testing

/// A directory that is removed with its value.
final class TemporaryDirectory {
  let path: String

  init() throws {
    var template = Array("/tmp/millrace-test-XXXXXX".utf8CString)
    guard let path = mkdtemp(&template) else { throw SystemError("make a directory in /tmp") }
    self.path = String(cString: path)
  }

  func write(_ text: String, to name: String, mode: mode_t = 0o644) throws {
    let full = "\(self.path)/\(name)"
    if let slash = full.lastIndex(of: "/") { try Files.makeDirectories(String(full[..<slash])) }
    try OpenFile(full, O_WRONLY | O_CREAT | O_TRUNC, mode: mode).write(Array(text.utf8))
  }

  func run(_ program: String, _ arguments: String...) async throws -> ProcessEnd {
    try await ChildProcess.run(ChildProcess.Command(program, arguments))
  }

  deinit {
    func remove(_ path: String) {
      for name in (try? Files.names(in: path)) ?? [] where unlink("\(path)/\(name)") != 0 {
        remove("\(path)/\(name)")
      }
      rmdir(path)
    }
    remove(self.path)
  }
}

@Suite struct Sources {
  @Test func aRepositorysIgnoredFilesStayBehind() async throws {
    let directory = try TemporaryDirectory()
    try directory.write("*.o\n", to: ".gitignore")
    try directory.write("int x;", to: "src/a.c")
    try directory.write("object", to: "src/a.o")
    try directory.write("new", to: "untracked")
    try directory.write("gone", to: "deleted")
    #expect(try await directory.run("git", "init", "-q", directory.path) == .exited(code: 0))
    _ = try await directory.run("git", "-C", directory.path, "add", "src/a.c", "deleted")
    unlink("\(directory.path)/deleted")
    let entries = try await SourceTree.entries(of: directory.path)
    #expect(entries.map(\.path) == [".gitignore", "src/a.c", "untracked"])
  }

  @Test func elsewhereEverythingIsTakenButGitsOwn() async throws {
    let directory = try TemporaryDirectory()
    try directory.write("x", to: "b", mode: 0o755)
    try directory.write("y", to: "a/c")
    try directory.write("z", to: ".git/config")
    try Files.makeDirectories("\(directory.path)/empty")
    symlink("b", "\(directory.path)/link")
    mkfifo("\(directory.path)/pipe", 0o644)
    let entries = try await SourceTree.entries(of: directory.path)
    #expect(
      entries == [
        ArchiveEntry(path: "a/c", kind: .file(size: 1, executable: false)),
        ArchiveEntry(path: "b", kind: .file(size: 1, executable: true)),
        ArchiveEntry(path: "empty", kind: .directory),
        ArchiveEntry(path: "link", kind: .symbolicLink(target: "b")),
      ])
  }

  @Test func theSameTreeIsTheSameArchiveAndTarReadsIt() async throws {
    let long = String(repeating: "d/", count: 60) + String(repeating: "f", count: 120)
    let (first, second, target) = (
      try TemporaryDirectory(), try TemporaryDirectory(), try TemporaryDirectory()
    )
    for directory in [first, second] {
      try directory.write("deep", to: long)
      try directory.write(String(repeating: "0123456789", count: 100_000), to: "big")
      try directory.write("#!/bin/sh", to: "tool", mode: 0o700)
      symlink(long, "\(directory.path)/link")
    }
    // Other times must not make another archive.
    var times = [timeval(tv_sec: 1, tv_usec: 0), timeval(tv_sec: 1, tv_usec: 0)]
    utimes("\(second.path)/big", &times)
    let archive = try await SourceArchive.pack(first.path)
    #expect(try await SourceArchive.pack(second.path).hash == archive.hash)
    #expect(archive.entries == 4)

    try archive.file.seek(to: 0)
    let bytes = try archive.file.read(1 << 24)
    #expect(Int64(bytes.count) == archive.size)
    try OpenFile("\(target.path)/x.tgz", O_WRONLY | O_CREAT).write(bytes)
    #expect(
      try await target.run("tar", "-xzf", "\(target.path)/x.tgz", "-C", target.path)
        == .exited(code: 0))
    unlink("\(target.path)/x.tgz")
    #expect(try Files.read("\(target.path)/\(long)", limit: 10) == Array("deep".utf8))
    #expect(try Files.read("\(target.path)/big", limit: 1 << 20).count == 1_000_000)
    #expect(Files.isExecutable("\(target.path)/tool"))
    #expect(
      try await SourceTree.entries(of: target.path) == SourceTree.entries(of: first.path))
  }

  @Test func whatDoesNotFitAHeaderGoesBeforeIt() {
    let plain = TarHeader.blocks(
      ArchiveEntry(path: "a", kind: .file(size: 5, executable: false)))
    #expect(plain.count == 512)
    #expect(plain[156] == UInt8(ascii: "0"))
    let huge = TarHeader.blocks(
      ArchiveEntry(path: "a", kind: .file(size: 1 << 40, executable: false)))
    #expect(huge.count == 3 * 512)
    #expect(huge[156] == UInt8(ascii: "x"))
    #expect(String(decoding: huge[512..<534], as: UTF8.self) == "22 size=1099511627776\n")
  }
}

@Suite struct Processes {
  @Test func howAProcessEndsIsTold() async throws {
    #expect(
      try await ChildProcess.run(.init("sh", ["-c", "exit 7"])) == .exited(code: 7))
    #expect(
      try await ChildProcess.run(.init("sh", ["-c", "kill -9 $$"])) == .signalled(number: 9))
  }

  @Test func aProgramThatIsNotThereCannotBeStarted() async {
    await #expect(throws: SystemError("start /nonexistent", number: ENOENT)) {
      try await ChildProcess.start(.init("/nonexistent"))
    }
  }

  @Test func aProcessIsSignalledUntilItHasEnded() async throws {
    let child = try await ChildProcess.start(.init("sleep", ["1000"]))
    #expect(child.hasEnded == nil)
    child.signal(SIGTERM)
    #expect(await child.end() == .signalled(number: SIGTERM))
    child.signal(SIGTERM)
    #expect(child.hasEnded == .signalled(number: SIGTERM))
  }

  @Test func aChildGetsItsOwnEnvironmentAndOutput() async throws {
    let output = try Files.temporary()
    var command = ChildProcess.Command("sh", ["-c", "echo $ADDED-$HOME"])
    command.environment["ADDED"] = "yes"
    command.removedEnvironment = ["HOME"]
    command.output = output
    #expect(try await ChildProcess.run(command) == .exited(code: 0))
    try output.seek(to: 0)
    #expect(String(decoding: try output.read(100), as: UTF8.self) == "yes-\n")
  }
}
