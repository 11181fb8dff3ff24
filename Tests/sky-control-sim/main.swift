// Runs the controller in simulated worlds: many seeds, in a child process of a few at a time, so that a trap costs one
// part and what killed controllers held is given back; one seed, with every event printed; or a fleet, for figures.

import ControlSim
import Foundation

let options = Options(CommandLine.arguments.dropFirst())
switch options.kind {
case .part: Seeds.runPart(options)
case .one(let seed): Seeds.runOne(seed, options)
case .many: Seeds.runMany(options)
case .fleet: try FleetFigures.run(options, folder: Seeds.ownFolder())
}
