// sky-fuzz: drives one target with libFuzzer (`make fuzz`). SKY_FUZZ_TARGET names it; all words are libFuzzer's, which
// starts this program again with words of its own.

import Glibc

@testable import ProxyCore

@_silgen_name("LLVMFuzzerRunDriver")
func runDriver(
  _ count: UnsafeMutablePointer<CInt>,
  _ words: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>>,
  _ one: @convention(c) (UnsafePointer<UInt8>?, Int) -> CInt
) -> CInt

let target: FuzzTarget = {
  guard let name = getenv("SKY_FUZZ_TARGET"), let target = FuzzTarget(rawValue: String(cString: name)) else {
    print("SKY_FUZZ_TARGET must be one of: \(FuzzTarget.allCases.map(\.rawValue).joined(separator: " "))")
    exit(2)
  }
  return target
}()
mapped = { mappings.append(($0, $1)) }
var words = CommandLine.unsafeArgv
var count = CommandLine.argc
exit(
  runDriver(&count, &words) { start, count in
    target.run(UnsafeRawBufferPointer(start: start, count: count))
    return 0
  })
