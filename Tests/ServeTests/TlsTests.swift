// https at the endpoint: from the beginning, changed in place, switched on and off by an update; never lost.

import ControlCore
import Foundation
import TestSupport
import Testing

extension Serve {
  @Suite(.enabled(if: Places.hasCurl && Places.tool("openssl") != nil))
  struct Tls {
    private func yaml(_ home: ServeHome, _ certificate: TestCertificate?, _ more: String = "") -> String {
      let tls = certificate.map { "tls:\n  certfile: \($0.cert)\n  keyfile: \($0.key)\n" } ?? ""
      return home.yaml("readiness_probe: /health\nreplicas: 1\n\(tls)\(more)")
    }

    @Test func certificatesComeChangeAndGoInPlace() throws {
      let home = try ServeHome()
      let (first, second) = (try TestCertificate(), try TestCertificate())
      let reply = try home.up("web", yaml(home, first))
      #expect(reply.endpoint.hasPrefix("https://"))
      try home.awaitSettled("web", 1)
      #expect(try home.service("web").tlsEncrypted)
      #expect(try curl(["--cacert", first.cert, reply.endpoint]).output == "v1 r1", "\(home.logs)")

      // Another certificate, then none: the same proxy, the same replica.
      let proxy = home.proxyProcess("web")
      #expect(try home.update("web", yaml(home, second)).replicasKept)
      #expect(eventually { try curl(["--cacert", second.cert, reply.endpoint]).output == "v1 r1" }, "\(home.logs)")
      let plain = try home.update("web", yaml(home, nil))
      let address = reply.endpoint.replacing("https", with: "http")
      #expect(plain.notes.contains { $0.contains(address) }, "\(plain.notes)")
      #expect(eventually { try curl([address]).output == "v1 r1" }, "\(home.logs)")
      #expect(try home.service("web").endpoint == address)
      try home.update("web", yaml(home, first))
      #expect(eventually { try curl(["--cacert", first.cert, reply.endpoint]).output == "v1 r1" })
      #expect(home.proxyProcess("web") == proxy)

      // What the user does with the files afterwards makes no difference, not even when the proxy dies.
      try Data("gone".utf8).write(to: URL(fileURLWithPath: first.key))
      kill(try #require(proxy), SIGKILL)
      #expect(eventually { try curl(["--cacert", first.cert, reply.endpoint]).output == "v1 r1" }, "\(home.logs)")
    }

    @Test func filesThatDoNotFitAreRefusedAtOnce() throws {
      let home = try ServeHome()
      let (one, other) = (try TestCertificate(), try TestCertificate())
      let mixed = home.yaml(
        "readiness_probe: /health\nreplicas: 1\ntls:\n  certfile: \(one.cert)\n  keyfile: \(other.key)")
      let refusal = try home.refusal("POST", "/v1/services", UpRequest(name: "web", task: try home.task(mixed)))
      #expect(refusal.status == 400 && refusal.text.contains("tls"), "\(refusal)")
      #expect(!Places.exists(home.home + "/services/web"), "nothing of it is left")
      try home.up("web", yaml(home, one))
      try home.awaitSettled("web", 1)
      let update = UpdateRequest(task: try home.task(mixed), mode: .rolling)
      #expect(try home.refusal("POST", "/v1/services/web/update", update).status == 400)
      let missing = home.yaml("readiness_probe: /health\nreplicas: 1\ntls:\n  certfile: /none\n  keyfile: \(one.key)")
      let unread = try home.refusal("POST", "/v1/services", UpRequest(name: "b", task: try home.task(missing)))
      #expect(unread.text.contains("tls.certfile: /none cannot be read"), "\(unread)")
      #expect(try home.service("web").version == 1)
    }
  }
}
