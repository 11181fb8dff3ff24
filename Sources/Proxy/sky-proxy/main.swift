// The program: configuration in, server out.

import Glibc
import ProxyCore

switch ProxyConfig.load(.ofThisProcess()) {
case .answer(let text):
  print(text, terminator: "")
case .refuse(let problems):
  for problem in problems { say(problem) }
  exit(2)
case .start(let config, let warnings):
  for warning in warnings { say("warning: \(warning)") }
  do {
    exit(try Server(config).run())
  } catch {
    say(error.message)
    exit(1)
  }
}
