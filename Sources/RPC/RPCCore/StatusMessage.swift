/// The value of the `grpc-message` trailer: UTF-8, percent-encoded.
///
/// See "Status-Message" in `doc/PROTOCOL-HTTP2.md` of the gRPC project.
package enum StatusMessage {
  private static let digits = Array("0123456789ABCDEF".utf8)

  package static func encode(_ message: String) -> [UInt8] {
    var text: [UInt8] = []
    text.reserveCapacity(message.utf8.count)
    let last = message.utf8.count - 1
    for (index, byte) in message.utf8.enumerated() {
      // RFC 9113, section 8.2.1: no value begins or ends with a space.
      let isOuterSpace = byte == UInt8(ascii: " ") && (index == 0 || index == last)
      if (0x20...0x7e).contains(byte), byte != UInt8(ascii: "%"), !isOuterSpace {
        text.append(byte)
      } else {
        text.append(UInt8(ascii: "%"))
        text.append(self.digits[Int(byte >> 4)])
        text.append(self.digits[Int(byte & 15)])
      }
    }
    return text
  }

  /// Takes what is no valid escape as it stands: a message is never lost for a bad character.
  package static func decode(_ text: UnsafeBufferPointer<UInt8>) -> String {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(text.count)
    var index = 0
    while index < text.count {
      if text[index] == UInt8(ascii: "%"), index + 2 < text.count,
        let high = self.value(of: text[index + 1]), let low = self.value(of: text[index + 2])
      {
        bytes.append(high << 4 | low)
        index += 3
      } else {
        bytes.append(text[index])
        index += 1
      }
    }
    return String(decoding: bytes, as: UTF8.self)
  }

  private static func value(of digit: UInt8) -> UInt8? {
    switch digit {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): digit - 48
    case UInt8(ascii: "A")...UInt8(ascii: "F"): digit - 55
    case UInt8(ascii: "a")...UInt8(ascii: "f"): digit - 87
    default: nil
    }
  }
}
