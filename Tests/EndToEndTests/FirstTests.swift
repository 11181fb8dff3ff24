import TestSupport
import Testing
import Foundation
extension EndToEnd {
@Suite struct First {
  @Test func one() throws {
    let a = try Origin(named: "a")
    try withProxy([a]) { proxy in
      let r = try proxy.ask("GET", "/x")
      #expect(r.status == 200)
      #expect(r.text == "a GET /x ")
      print(a.lastRequest!.rawHead)
    }
  }
}}
