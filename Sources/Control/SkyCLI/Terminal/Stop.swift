// How a command ends before its end.

import ControlCore

package enum Stop: Error, Sendable, Hashable {
  /// The command line itself is wrong: usage line, advice and message; exit 2.
  case usage(String)
  /// It did not work; exit 1.
  case failure(String)
  /// A place in a file and what is wrong there; exit 1.
  case file(String)
  /// The user said no; exit 1.
  case aborted
  /// Everything has been said.
  case exit(Int32)

  static func noService(_ name: String, similar: String? = nil) -> Stop {
    .failure("Service '\(name)' does not exist.\(didYouMean(similar))")
  }
}
