import BuildProtos
import CZlib

/// An entity's encoding as stores keep it, with what tells whether it is still the same.
///
/// Form 1: a byte 1, the CRC-32 of what follows (big-endian), and `google.datastore.v1.Entity` with
/// properties ordered by name. Form 0, which gateways wrote that had schema version 1, is the entity
/// alone. They are told apart by the first byte: no message of protobuf begins with one below 8, for
/// there is no field 0.
enum StoredContent {
  private static let form: UInt8 = 1
  private static let headBytes = 5
  private static let firstOfMessages: UInt8 = 8

  static func sealed(_ content: [UInt8]) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(content.count + Self.headBytes)
    bytes.append(Self.form)
    withUnsafeBytes(of: content.crc32.bigEndian) { bytes.append(contentsOf: $0) }
    bytes.append(contentsOf: content)
    return bytes
  }

  static func opened(_ bytes: [UInt8], in place: String) throws(StoreFailure) -> [UInt8] {
    do {
      return try bytes.withUnsafeBytes { try Self.opened($0, in: place) }
    } catch let failure as StoreFailure {
      throw failure
    } catch {
      preconditionFailure("Opening throws nothing else: \(error)")
    }
  }

  /// - Parameters:
  ///   - bytes: Used during the call only, and copied once.
  ///   - place: Named in failures.
  /// - Throws: The content is not what was written.
  static func opened(
    _ bytes: UnsafeRawBufferPointer, in place: String
  ) throws(StoreFailure) -> [UInt8] {
    guard let first = bytes.first, first < Self.firstOfMessages else {
      // Only reading it tells whether it is whole.
      let bytes = [UInt8](bytes)
      _ = try DatastoreV1.Entity(stored: bytes, in: place)
      return bytes
    }
    guard first == Self.form else {
      throw StoreFailure(
        .corrupt, "\(place): a stored entity has form \(first), which this gateway does not know")
    }
    guard bytes.count >= Self.headBytes else {
      throw StoreFailure(.corrupt, "\(place): a stored entity cannot be read: it is cut off")
    }
    let expected = bytes[1..<Self.headBytes].reduce(0 as UInt32) { $0 << 8 | UInt32($1) }
    let content = Array(UnsafeRawBufferPointer(rebasing: bytes[Self.headBytes...]))
    guard content.crc32 == expected else {
      throw StoreFailure(
        .corrupt, "\(place): a stored entity cannot be read: its checksum is wrong")
    }
    return content
  }
}

extension [UInt8] {
  /// As gzip and PNG have it.
  var crc32: UInt32 {
    self.withUnsafeBufferPointer {
      UInt32(truncatingIfNeeded: CZlib.crc32(0, $0.baseAddress, UInt32(clamping: $0.count)))
    }
  }
}
