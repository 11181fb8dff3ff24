// The program `sky-controller`: the control plane, all of it in ControlCore; and, started as `sky-controller replica`,
// the process that keeps one local replica.

import ControlCore
import Foundation

let arguments = Array(CommandLine.arguments.dropFirst())
if arguments.first == "replica" { exit(ReplicaShim.main(Array(arguments.dropFirst()))) }
exit(await ControllerProgram.main(arguments))
