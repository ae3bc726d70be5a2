import Domain
import Glibc
import Testing

@testable import PluginRunnerService

@Suite struct FilesTests {
  @Test func aTreeIsRemovedWithItsReadOnlyFoldersAndLinksAreNotFollowed() throws {
    let folder = try TestFolder()
    let (outside, tree) = (folder.path + "/outside", folder.path + "/tree")
    try makeFolders(outside)
    try makeFolders(tree + "/a/b/c")
    try createFile(outside + "/kept", [1], mode: 0o644)
    try createFile(tree + "/a/b/file", [1], mode: 0o400)
    symlink(outside, tree + "/a/link")
    chmod(tree + "/a/b/c", 0)
    chmod(tree + "/a/b", 0o500)
    try removeTree(tree)
    #expect(!isFolder(tree))
    #expect(try listFolder(outside) == ["kept"])
  }

  @Test func aTreeDeeperThanDescriptorsAllowIsRemoved() throws {
    let folder = try TestFolder()
    let tree = folder.path + "/tree"
    try makeFolders(tree)
    let start = open(".", O_RDONLY)
    defer { close(start) }
    var level = open(tree, O_RDONLY)
    for _ in 0..<300 {
      mkdirat(level, "a-folder-with-a-rather-long-name", 0o755)
      let next = openat(level, "a-folder-with-a-rather-long-name", O_RDONLY)
      close(level)
      level = next
    }
    close(level)
    try removeTree(tree)
    #expect(!isFolder(tree))
  }

  @Test func aTreeIsAsLargeAsWhatItHoldsWithoutWhatLinksNameOutside() throws {
    let folder = try TestFolder()
    let (outside, tree) = (folder.path + "/outside", folder.path + "/tree")
    try makeFolders(outside)
    try makeFolders(tree + "/a/b")
    try createFile(outside + "/large", [UInt8](repeating: 1, count: 8 << 20), mode: 0o644)
    try createFile(tree + "/a/b/file", [UInt8](repeating: 1, count: 1 << 20), mode: 0o644)
    symlink(outside, tree + "/a/link")
    // Where it says to be large and holds nothing.
    truncate(tree + "/hole", 1 << 30)
    #expect((1 << 20..<2 << 20).contains(bytesHeld(in: tree)))
    #expect(bytesHeld(in: folder.path + "/nothing") == 0)
  }

  @Test func aLinkIsRemovedNotItsTarget() throws {
    let folder = try TestFolder()
    try makeFolders(folder.path + "/target/inner")
    symlink(folder.path + "/target", folder.path + "/link")
    try removeTree(folder.path + "/link")
    #expect(try listFolder(folder.path) == ["target"])
  }

  @Test func attemptsHaveFoldersOfTheirOwn() {
    let names = [
      "b/j (x, y)/1", "b/j (x- y)/1", "b-j--x--y--1", String(repeating: "x", count: 500),
    ]
    .map { Workspace.name(of: AttemptID($0)) }
    #expect(Set(names).count == 4)
    #expect(names.allSatisfy { $0.utf8.count < 120 && !$0.contains("/") && !$0.contains(" ") })
  }

  @Test func aPathThatLeavesTheWorkspaceIsNoPathInIt() throws {
    let folder = try TestFolder()
    let workspace = Workspace(root: folder.path, attempt: "b/j/1")
    try workspace.make()
    try createFile(workspace.work + "/file", [1], mode: 0o644)
    symlink("/etc/passwd", workspace.work + "/link")
    #expect(workspace.resolve("file") != nil)
    #expect(workspace.resolve("link") == nil)
    #expect(workspace.resolve("../home") == nil)
    #expect(workspace.resolve("missing") == nil)
  }

  @Test func foldersThatWereLeftAsTheyWereServeAgain() throws {
    let folder = try TestFolder()
    let store = WorkspaceStore(root: folder.path, maximumSpares: 1)
    let (first, second) = ("b/1/1", "b/2/1") as (AttemptID, AttemptID)
    let workspaces = [first, second].map { Workspace(root: folder.path, attempt: $0) }
    for workspace in workspaces { try store.make(workspace) }
    let names = try listFolder(workspaces[0].folder)
    #expect(names == ["home", "plugin", "scratch", "tmp", "work"])
    for workspace in workspaces { try store.remove(workspace) }
    // One is kept for another attempt, the other was one too many.
    #expect(try listFolder(folder.path) == [".spare-1"])
    try store.make(workspaces[1])
    #expect(try listFolder(folder.path) == [Workspace.name(of: second)])
    #expect(try listFolder(workspaces[1].folder) == names)
  }

  @Test(
    arguments: [
      "touch work/file", "mkdir home/.cache", "chmod 700 tmp", "touch more", "rmdir plugin",
      "touch work/file; touch -d @1 work", "rm -r scratch; ln -s work scratch",
    ], [false, true])
  func foldersThatWereChangedServeNobodyElse(change: String, haveServed: Bool) async throws {
    let folder = try TestFolder()
    let store = WorkspaceStore(root: folder.path, maximumSpares: 1)
    let workspace = Workspace(root: folder.path, attempt: "b/1/1")
    try store.make(workspace)
    if haveServed {
      try store.remove(workspace)
      // Folders that are old enough are told by their times.
      try await Task.sleep(for: .milliseconds(60))
      try store.make(workspace)
      // As nobody has changed anything, they serve once more.
      try store.remove(workspace)
      #expect(try listFolder(folder.path) == [".spare-2"])
      try store.make(workspace)
    }
    let pid = try spawn(
      ["sh", "-c", "cd \(workspace.folder) && \(change)"],
      environment: ["PATH=/usr/local/bin:/usr/bin:/bin"], descriptors: [0, 1, 2])
    var status: Int32 = 0
    while waitpid(pid, &status, 0) < 0 && errno == EINTR {}
    #expect(status == 0)
    try store.remove(workspace)
    #expect(try listFolder(folder.path) == [])
  }

  @Test func outputsAreNameAndValue() {
    #expect(
      ScriptStep.outputs(in: "a=1\nno value\n=x\nb=c=d\n") == ["a": "1", "b": "c=d"])
  }

  @Test(arguments: [
    ("python", ["python3", "s"]), ("perl -w", ["perl", "-w", "s"]),
    ("env -i bash {0} x", ["env", "-i", "bash", "s", "x"]),
  ])
  func aShellIsAProgramOrACommand(shell: String, words: [String]) {
    #expect(ScriptStep.shell(shell, script: "s") == words)
  }
}
