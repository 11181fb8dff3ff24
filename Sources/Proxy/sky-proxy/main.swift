// The program: configuration in, server out.

import Glibc
import ProxyCore

switch ProxyConfig.load(.ofThisProcess()) {
case .answer(let text):
  print(text, terminator: "")
case .refuse(let problems):
  for problem in problems { log(problem) }
  exit(2)
case .start(let config, let warnings):
  for warning in warnings { log("warning: \(warning)") }
  do {
    exit(try Server(config).run())
  } catch {
    log(error.message)
    exit(1)
  }
}
