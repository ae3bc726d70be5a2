import Glibc
import RPCFuzzing

/// What libFuzzer calls with each input. `RPC_FUZZ_TARGET` names the target.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOneInput(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
  target.run(UnsafeRawBufferPointer(start: bytes, count: count))
  return 0
}

private let target: FuzzTarget = {
  let name = getenv("RPC_FUZZ_TARGET").map { String(cString: $0) } ?? ""
  guard let target = FuzzTarget(rawValue: name) else {
    let names = FuzzTarget.allCases.map(\.rawValue).joined(separator: ", ")
    print("RPC_FUZZ_TARGET is \"\(name)\"; it can be one of \(names)")
    exit(2)
  }
  return target
}()
