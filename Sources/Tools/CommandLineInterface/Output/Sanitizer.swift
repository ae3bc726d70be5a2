/// Makes text from builds safe for a terminal: what a build prints must not move the cursor, change
/// the title or answer for the user.
package enum Sanitizer {
  /// Columns between tab stops.
  private static let tabWidth = 8

  /// One line without control characters and escape sequences; tabs become spaces.
  package static func line(_ text: String) -> String {
    var result = String.UnicodeScalarView()
    var column = 0
    var escape = Escape.none
    for scalar in text.unicodeScalars {
      switch escape {
      case .none:
        switch scalar.value {
        case 0x1b: escape = .started
        case 0x9b: escape = .control
        case 0x90, 0x9d, 0x9e, 0x9f: escape = .string
        case 0x09:
          repeat {
            result.append(" ")
            column += 1
          } while column % Self.tabWidth != 0
        // A carriage return starts the line over: what it would overwrite is not shown.
        case 0x0d:
          result.removeAll()
          column = 0
        case 0x00..<0x20, 0x7f..<0xa0: break
        // Marks that reorder text could make a line look like another one.
        case 0x200e, 0x200f, 0x202a...0x202e, 0x2066...0x2069: break
        default:
          result.append(scalar)
          column += 1
        }
      case .started:
        switch scalar {
        case "[": escape = .control
        case "]", "P", "X", "^", "_": escape = .string
        case " "..."/": break
        default: escape = .none
        }
      case .control:
        if (0x40...0x7e).contains(scalar.value) { escape = .none }
      case .string:
        if scalar.value == 0x07 || scalar.value == 0x9c { escape = .none }
        if scalar.value == 0x1b { escape = .stringEnding }
      case .stringEnding:
        escape = scalar == "\\" ? .none : .string
      }
    }
    return String(result)
  }

  /// The line, cut to that many columns.
  package static func clipped(_ text: String, to columns: Int) -> String {
    var width = 0
    var result = ""
    for character in text {
      width += self.columns(of: character)
      guard width <= columns else { break }
      result.append(character)
    }
    return result
  }

  /// How many columns a line takes.
  package static func columns(of text: String) -> Int {
    text.reduce(0) { $0 + self.columns(of: $1) }
  }

  /// Two for East Asian wide characters and emoji, by their blocks; one for all others.
  private static func columns(of character: Character) -> Int {
    guard let scalar = character.unicodeScalars.first else { return 0 }
    switch scalar.value {
    case 0x1100...0x115f, 0x2e80...0xa4cf, 0xac00...0xd7a3, 0xf900...0xfaff, 0xfe30...0xfe6f,
      0xff00...0xff60, 0xffe0...0xffe6, 0x1f300...0x1faff, 0x20000...0x3fffd:
      return 2
    default: return 1
    }
  }

  private enum Escape { case none, started, control, string, stringEnding }
}
