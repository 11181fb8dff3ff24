// `Considered resources`: what one replica would run on, the chosen one marked.

import ControlCore

package enum ResourceTable {
  static let titles = ["INFRA", "INSTANCE", "vCPUs", "Mem(GB)", "GPUS", "COST ($)", "CHOSEN"]
  static let mark = "✔"

  /// With a line feed at the end.
  package static func text(_ offers: [Offer], numNodes: Int, on terminal: Terminal) -> String {
    let rows = offers.sorted { $0.hourlyCost < $1.hourlyCost }.map { offer in
      [
        offer.infra, offer.instance, offer.cpus, offer.memory, offer.gpus, money(offer.hourlyCost * Double(numNodes)),
        offer.isChosen ? mark : "",
      ]
    }
    let widths = titles.indices.map { column in ([titles] + rows).map { $0[column].count }.max() ?? 0 }
    func line(_ cells: [String]) -> String {
      var text = " "
      for (index, cell) in cells.enumerated() {
        // The mark stands in the middle of its column.
        let left = cell == mark ? (widths[index] - 1) / 2 : 0
        let right = widths[index] - cell.count - left
        let shown = cell == mark ? terminal.paint(cell, .green) : cell
        text += String(repeating: " ", count: left) + shown + String(repeating: " ", count: right + 3)
      }
      return text
    }
    let rule = String(repeating: "-", count: widths.reduce(1) { $0 + $1 + 3 })
    let lines = [rule, line(titles), rule] + rows.map(line) + [rule]
    let heading = "Considered resources (\(numNodes) node\(numNodes == 1 ? "" : "s")):"
    return ([terminal.paint(heading, .bright)] + lines).map { $0 + "\n" }.joined()
  }

  /// Two digits after the point.
  static func money(_ dollars: Double) -> String {
    let cents = Int(clamping: (dollars * 100).rounded())
    return "\(cents / 100)." + (cents % 100 < 10 ? "0" : "") + "\(cents % 100)"
  }
}
