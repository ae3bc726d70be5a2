/// Arguments in which every flag has its value: `--use_tls=true` where `--use_tls` stands by itself.
///
/// gRPC's scripts write `--use_tls`, `--use_tls=false` and `--use_tls false`. ArgumentParser reads all of
/// them, but not of one property: an option that may be a flag too takes what is behind `=` for true.
package func spelledOut(
  _ arguments: some Collection<String>, flags: Set<String>
) -> [String] {
  var result: [String] = []
  var rest = arguments[...]
  while let argument = rest.popFirst() {
    let isAlone = flags.contains(argument) && rest.first.map { $0.hasPrefix("-") } ?? true
    result.append(isAlone ? "\(argument)=true" : argument)
  }
  return result
}
