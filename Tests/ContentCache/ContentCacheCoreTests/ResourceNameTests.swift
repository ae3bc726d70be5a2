import ContentCacheCore
import Domain
import Testing

private let hash = String(repeating: "ab", count: 32)

@Suite struct ResourceNames {
  @Test(arguments: ["blobs/\(hash)/12", "main/blobs/\(hash)/12", "a/b/c/blobs/\(hash)/12"])
  func aReadNamesABlobUnderAnyInstance(name: String) throws {
    #expect(
      try ResourceName(name, policy: Policy()) == .blob(Digest(hash: hash, size: 12)))
  }

  @Test(arguments: [
    "uploads/u-1/blobs/\(hash)/0", "a/b/uploads/u-1/blobs/\(hash)/0",
    "uploads/u-1/blobs/\(hash)/0/some/file.o",
  ])
  func aWriteNamesAnUploadAndItsBlob(name: String) throws {
    #expect(
      try ResourceName(name, policy: Policy())
        == .upload(id: "u-1", Digest(hash: hash, size: 0)))
  }

  @Test(arguments: [
    ("", ResourceName.ParseError.shape("")),
    ("blobs", .shape("blobs")),
    ("blobs/\(hash)", .shape("blobs/\(hash)")),
    ("blobs/\(hash)/1/more", .shape("blobs/\(hash)/1/more")),
    ("uploads/u/\(hash)/1", .shape("uploads/u/\(hash)/1")),
    ("blobs/\(hash)/1x", .size("1x")),
    ("blobs/\(hash)/+1", .size("+1")),
    ("blobs/\(hash)/99999999999999999999", .size("99999999999999999999")),
    ("blobs/\(hash)/-1", .digest(.size(-1, maximum: 64 << 30))),
    ("blobs/../../etc/passwd", .size("..")),
    ("blobs/abc/1", .digest(.hash("abc"))),
    ("blobs/\(hash.uppercased())/1", .digest(.hash(hash.uppercased()))),
    ("uploads//blobs/\(hash)/1", .upload("")),
    ("compressed-blobs/zstd/\(hash)/1", .compressed("zstd")),
    ("uploads/u/compressed-blobs/zstd/\(hash)/1", .compressed("zstd")),
  ])
  func aNameThatIsNoneSaysWhy(name: String, error: ResourceName.ParseError) {
    #expect(throws: error) { try ResourceName(name, policy: Policy()) }
  }

  @Test func aNameHasALongestLength() {
    let name = String(repeating: "a", count: 3_000) + "/blobs/\(hash)/1"
    #expect(throws: ResourceName.ParseError.tooLong(bytes: name.utf8.count)) {
      try ResourceName(name, policy: Policy())
    }
  }

  @Test func bytesAreWrittenInLowerCaseHexadecimal() {
    #expect(hexadecimal([0, 9, 10, 255, 0x1f]) == "00090aff1f")
  }
}
