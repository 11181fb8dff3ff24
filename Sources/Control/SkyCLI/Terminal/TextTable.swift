// Columns of text: left-aligned, two blanks after each, no borders, blanks at the end kept, as scripts expect of
// SkyServe's tables.
//
// On a screen that is too narrow, columns are left out from the least important on, and notes (reasons) move below
// their rows. In a pipe everything is there, always.

package struct Cell: Sendable, Hashable {
  package var text: String
  package var style: Style?

  package init(_ text: String, _ style: Style? = nil) {
    self.text = text
    self.style = style
  }
}

package struct TextTable: Sendable {
  package struct Column: Sendable {
    package var title: String
    /// What can be left out on a narrow screen, the greatest first; 0 stays.
    package var dispensable: Int

    package init(_ title: String, dispensable: Int = 0) {
      self.title = title
      self.dispensable = dispensable
    }
  }

  package var columns: [Column]
  package var rows: [[Cell]] = []
  /// A last column of sentences, by row; nil: there is no such column.
  package var notes: (title: String, texts: [String])?

  package init(_ columns: [Column]) { self.columns = columns }

  /// With a line feed after every line.
  package func render(on terminal: Terminal) -> String {
    var shown = Array(columns.indices)
    var widths = columns.indices.map { index in
      max(columns[index].title.count, rows.map { $0[index].text.count }.max() ?? 0)
    }
    func total() -> Int { shown.reduce(0) { $0 + widths[$1] + 2 } }
    var notesBelow = false
    if let width = terminal.width {
      if let notes {
        let longest = max(notes.title.count, notes.texts.map(\.count).max() ?? 0)
        // A sentence that is cut says nothing, or half of it: the cure stands at its end.
        notesBelow = total() + longest > width
      }
      // The two blanks after the last column may be lost.
      while total() - 2 > width,
        let least = shown.filter({ columns[$0].dispensable > 0 }).max(by: {
          columns[$0].dispensable < columns[$1].dispensable
        })
      {
        shown.removeAll { $0 == least }
      }
      if total() - 2 > width, let widest = shown.max(by: { widths[$0] < widths[$1] }) {
        widths[widest] = max(8, widths[widest] - (total() - 2 - width))
      }
    }
    let besides = notesBelow ? nil : notes
    let noteWidth = besides.map { max($0.title.count, $0.texts.map(\.count).max() ?? 0) } ?? 0
    var out = ""
    func line(_ cells: [(Cell, Int)], note: String?) {
      var text = ""
      var used = 0
      for (cell, width) in cells {
        let word = Self.cut(cell.text, to: width)
        text += cell.style.map { terminal.paint(word, $0) } ?? word
        text += String(repeating: " ", count: width - word.count + 2)
        used += width + 2
      }
      if let width = terminal.width, used > width, text.hasSuffix("  ") { text.removeLast(min(2, used - width)) }
      if let note {
        let blanks = String(repeating: " ", count: max(0, noteWidth - note.count) + 2)
        text += terminal.width.map { Self.cut(note, to: max(8, $0 - used)) } ?? note + blanks
      }
      out += text + "\n"
    }
    line(shown.map { (Cell(columns[$0].title), widths[$0]) }, note: besides?.title)
    for (index, row) in rows.enumerated() {
      line(shown.map { (row[$0], widths[$0]) }, note: besides?.texts[index])
      if notesBelow, let text = notes?.texts[index], text != "-", let width = terminal.width {
        for (number, part) in Self.wrapped(text, to: width - 4).enumerated() {
          out += terminal.paint((number == 0 ? "  └ " : "    ") + part, .dim) + "\n"
        }
      }
    }
    return out
  }

  /// Whole words as far as they fit; longer texts than `noteLinesMax` lines are cut.
  private static func wrapped(_ text: String, to width: Int) -> [String] {
    let width = max(8, width)
    var lines: [String] = [""]
    for word in text.split(separator: " ") {
      let last = lines[lines.count - 1]
      if last.isEmpty {
        lines[lines.count - 1] = String(word)
      } else if last.count + 1 + word.count <= width {
        lines[lines.count - 1] += " " + word
      } else if lines.count < noteLinesMax {
        lines.append(String(word))
      } else {
        lines[lines.count - 1] += " " + word
      }
    }
    return lines.map { cut($0, to: width) }
  }

  private static let noteLinesMax = 4

  /// At most `width` characters, the last of which says that something was left out.
  package static func cut(_ text: String, to width: Int) -> String {
    text.count <= width ? text : String(text.prefix(max(0, width - 1))) + "…"
  }
}
