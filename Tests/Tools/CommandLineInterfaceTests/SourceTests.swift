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
    func remove(_ path: BytePath) {
      for name in (try? Files.names(in: path)) ?? [] {
        let inner = path.appending(name)
        if unlink(inner.cString) != 0 { remove(inner) }
      }
      rmdir(path.cString)
    }
    remove(BytePath(self.path))
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
    let entries = try await SourceTree.entries(of: directory.path, pipeline: "millrace.yaml")
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
    let entries = try await SourceTree.entries(of: directory.path, pipeline: "millrace.yaml")
    #expect(
      entries == [
        ArchiveEntry(path: "a/c", kind: .file(size: 1, executable: false)),
        ArchiveEntry(path: "b", kind: .file(size: 1, executable: true)),
        ArchiveEntry(path: "empty", kind: .directory),
        ArchiveEntry(path: "link", kind: .symbolicLink(target: "b")),
      ])
  }

  @Test func aDirectoryThatItsRepositoryIgnoresIsTakenWhole() async throws {
    let directory = try TemporaryDirectory()
    try directory.write("build/\n*.tmp\n", to: ".gitignore")
    try directory.write("jobs: {}", to: "build/made/millrace.yaml")
    try directory.write("x", to: "build/made/a.o")
    try directory.write("jobs: {}", to: "kept/millrace.tmp")
    try directory.write("x", to: "kept/a.tmp")
    try directory.write("x", to: "kept/a.c")
    #expect(try await directory.run("git", "init", "-q", directory.path) == .exited(code: 0))
    func paths(_ name: String, _ pipeline: String) async throws -> [BytePath] {
      try await SourceTree.entries(of: "\(directory.path)/\(name)", pipeline: pipeline).map(\.path)
    }
    let all: [BytePath] = ["a.o", "millrace.yaml"]
    #expect(try await paths("build/made", "millrace.yaml") == all)
    #expect(try await paths("build/made", "./millrace.yaml") == all)
    #expect(try await paths("build/made", "../elsewhere.yaml") == all)
    #expect(
      try await paths("build/made", "\(directory.path)/build/made/millrace.yaml") == all)
    // A pipeline that is ignored by itself does not bring what else is ignored.
    #expect(try await paths("kept", "millrace.tmp") == ["a.c"])
    // What is tracked all the same is what is meant.
    _ = try await directory.run(
      "git", "-C", directory.path, "add", "-f", "build/made/millrace.yaml")
    #expect(try await paths("build/made", "millrace.yaml") == ["millrace.yaml"])
  }

  @Test(arguments: [false, true])
  func namesThatAreNotUTF8KeepTheirBytes(inRepository: Bool) async throws {
    let (directory, target) = (try TemporaryDirectory(), try TemporaryDirectory())
    // Latin-1, once short and once too long for a field of its own.
    let names = [BytePath([0x66, 0xfc, 0x72]), BytePath([UInt8](repeating: 0xe9, count: 120))]
    for name in names {
      try OpenFile(BytePath(directory.path).appending(name), O_WRONLY | O_CREAT)
        .write(name.bytes)
    }
    let link = BytePath([0xff])
    symlink(names[1].cString, BytePath(directory.path).appending(link).cString)
    if inRepository {
      #expect(try await directory.run("git", "init", "-q", directory.path) == .exited(code: 0))
    }
    let archive = try await SourceArchive.pack(directory.path, pipeline: "none")
    #expect(archive.entries == 3)
    try archive.file.seek(to: 0)
    try OpenFile("\(target.path)/x.tgz", O_WRONLY | O_CREAT)
      .write(archive.file.read(Int(archive.size)))
    var unpack = ChildProcess.Command(
      "tar", ["-xzf", "\(target.path)/x.tgz", "-C", target.path])
    unpack.errors = try OpenFile("/dev/null", O_WRONLY)
    #expect(try await ChildProcess.run(unpack) == .exited(code: 0))
    for name in names + [link] {
      let file = try OpenFile(BytePath(target.path).appending(name), O_RDONLY)
      #expect(try file.read(200) == (name == link ? names[1] : name).bytes)
    }
  }

  @Test func aFileThatCannotBeLookedAtIsNotLeftOut() throws {
    let directory = try TemporaryDirectory()
    symlink("loop", "\(directory.path)/loop")
    #expect(throws: SystemError("look at \(directory.path)/loop/x", number: ELOOP)) {
      try Files.status(BytePath("\(directory.path)/loop/x"))
    }
    #expect(try Files.status(BytePath("\(directory.path)/gone/x")) == nil)
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
    let archive = try await SourceArchive.pack(first.path, pipeline: "big")
    #expect(try await SourceArchive.pack(second.path, pipeline: "big").hash == archive.hash)
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
      try await SourceTree.entries(of: target.path, pipeline: "big")
        == SourceTree.entries(of: first.path, pipeline: "big"))
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
