import BuildProtos

/// One record of a dump. The form of the stream is in `docs/datastore-dump.md`.
enum DumpRecord: Hashable, Sendable {
  /// The first one.
  case header(Header)
  /// As it was stored: what nobody knows of its fields is there, too.
  case entity(version: Int64, content: [UInt8])
  /// A key whose id must not be allocated: `google.datastore.v1.Key`.
  case reservation([UInt8])
  /// The last one; without it the dump is a part only.
  case end(Counts)

  struct Header: Hashable, Sendable {
    /// The store's version at the moment of the dump, a time in microseconds; 0 where it has none.
    var version: Int64
    /// The store's counter of ids; 0 where it has none.
    var nextID: Int64
  }

  /// How many records of each kind there are.
  struct Counts: Hashable, Sendable {
    var entities: Int64 = 0
    var reservations: Int64 = 0
  }

  /// Before the first record.
  static let magic = Array("MILLRACE-DUMP".utf8) + [0x0A]
  /// The form of the stream.
  static let form: Int64 = 1
  /// Length and checksum before each record.
  static let headBytes = 8
  /// An entity of the greatest size and what surrounds it stay far below.
  static let maximumBytes = 16 << 20

  private enum Tag: UInt8 {
    case header = 1
    case entity, reservation, end
  }

  /// Of the counter of ids: see ``IDSequence``.
  private static let endOfIDs: Int64 = 1 << 52

  /// What of a stream cannot be.
  struct Mistake: Error, Hashable, CustomStringConvertible {
    var description: String
  }

  /// With its head.
  var encoded: [UInt8] {
    var payload: [UInt8] = []
    switch self {
    case .header(let header):
      payload.append(Tag.header.rawValue)
      for number in [Self.form, header.version, header.nextID] { payload.append(number: number) }
    case .entity(let version, let content):
      payload.reserveCapacity(content.count + 9)
      payload.append(Tag.entity.rawValue)
      payload.append(number: version)
      payload += content
    case .reservation(let key):
      payload.append(Tag.reservation.rawValue)
      payload += key
    case .end(let counts):
      payload.append(Tag.end.rawValue)
      for number in [counts.entities, counts.reservations] { payload.append(number: number) }
    }
    var bytes: [UInt8] = []
    bytes.reserveCapacity(payload.count + Self.headBytes)
    bytes.append(number: UInt32(payload.count))
    bytes.append(number: payload.crc32)
    return bytes + payload
  }

  /// - Parameter payload: Without its head.
  init(payload: [UInt8]) throws(Mistake) {
    func number(_ index: Int) throws(Mistake) -> Int64 {
      let begin = 1 + index * 8
      guard payload.count >= begin + 8 else { throw Mistake(description: "it is too short") }
      return payload[begin..<(begin + 8)].reduce(0) { $0 << 8 | Int64($1) }
    }
    guard let first = payload.first, let tag = Tag(rawValue: first) else {
      throw Mistake(description: "it is of a kind that this gateway does not know")
    }
    switch tag {
    case .header:
      let form = try number(0)
      guard form <= Self.form else {
        throw Mistake(
          description: "the dump has form \(form); this gateway knows forms up to \(Self.form)")
      }
      let nextID = try number(2)
      guard (0...Self.endOfIDs).contains(nextID) else {
        throw Mistake(
          description: "its counter of ids is at \(nextID), which is not from 0 to \(Self.endOfIDs)"
        )
      }
      self = .header(Header(version: try number(1), nextID: nextID))
    case .entity: self = .entity(version: try number(0), content: Array(payload.dropFirst(9)))
    case .reservation: self = .reservation(Array(payload.dropFirst()))
    case .end: self = .end(Counts(entities: try number(0), reservations: try number(1)))
    }
  }
}

extension [UInt8] {
  /// Big-endian.
  fileprivate mutating func append(number: some FixedWidthInteger) {
    Swift.withUnsafeBytes(of: number.bigEndian) { self.append(contentsOf: $0) }
  }
}
