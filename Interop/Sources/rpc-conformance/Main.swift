import ConformanceProtos
import Glibc
import RPC

/// Answers the runner of protobuf's conformance tests, as its `conformance_test_runner.cc` asks:
/// on standard input a length in four bytes, the least one first, and a `ConformanceRequest`; on
/// standard output the same of a `ConformanceResponse`.
@main
enum ConformanceProgram {
  static func main() {
    while let length = Self.read(4) {
      let count = length.reversed().reduce(0) { $0 << 8 | Int($1) }
      guard let request = Self.read(count) else { exit(1) }
      let response = Self.respond(to: request).encoded()
      let head = (0..<4).map { UInt8(truncatingIfNeeded: response.count >> (8 * $0)) }
      Self.write(head + response)
    }
  }

  private static func respond(to bytes: [UInt8]) -> Conformance.ConformanceResponse {
    let request: Conformance.ConformanceRequest
    do {
      request = try Conformance.ConformanceRequest(decoding: bytes)
    } catch {
      return Conformance.ConformanceResponse(result: .runtimeError("\(error)"))
    }
    if request.messageType == Conformance.FailureSet.messageName {
      return Conformance.ConformanceResponse(
        result: .protobufPayload(Conformance.FailureSet().encoded()))
    }
    guard request.messageType == ConformanceMessages.TestAllTypesProto3.messageName else {
      return Conformance.ConformanceResponse(
        result: .skipped("\(request.messageType) is not proto3"))
    }
    guard case .protobufPayload(let payload) = request.payload,
      request.requestedOutputFormat == .protobuf
    else {
      return Conformance.ConformanceResponse(result: .skipped("only the binary format is here"))
    }
    do {
      let message = try ConformanceMessages.TestAllTypesProto3(decoding: payload)
      return Conformance.ConformanceResponse(result: .protobufPayload(message.encoded()))
    } catch {
      return Conformance.ConformanceResponse(result: .parseError("\(error)"))
    }
  }

  /// So many bytes of standard input; nil at its end.
  private static func read(_ count: Int) -> [UInt8]? {
    var bytes = [UInt8](repeating: 0, count: count)
    var done = 0
    while done < count {
      let more = bytes.withUnsafeMutableBytes {
        Glibc.read(0, $0.baseAddress! + done, count - done)
      }
      guard more > 0 || more < 0 && errno == EINTR else { return nil }
      done += max(0, more)
    }
    return bytes
  }

  private static func write(_ bytes: [UInt8]) {
    var done = 0
    while done < bytes.count {
      let more = bytes.withUnsafeBytes { Glibc.write(1, $0.baseAddress! + done, $0.count - done) }
      guard more > 0 || more < 0 && errno == EINTR else { exit(1) }
      done += max(0, more)
    }
  }
}
