// How much of a lent buffer is filled.

import Testing

@testable import ProxyCore

@Suite struct BufferRingTests {
  /// Whole TCP segments of loopback, where that costs no more than a crumb of the buffer.
  @Test(arguments: [
    (4096, 4096), (61_440, 61_440), (65_536, 65_483), (69_632, 69_632), (126_976, 126_976), (131_072, 130_966),
    (262_144, 261_932),
  ])
  func filled(size: Int, expected: Int) { #expect(BufferRing.filled(of: size) == expected) }
}
