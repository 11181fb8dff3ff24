// Clients that speak TLS: Python's ssl over a memory BIO, so that a script sees and does what browsers hide: whether the
// stream ended with close_notify, with a bare FIN or with a reset. And certificates made for a test.

import Foundation

/// A certificate of its own making for localhost and 127.0.0.1, with its key, in a temporary folder.
package final class TestCertificate: Sendable {
  package let cert: String
  package let key: String
  package let name: String
  private let folder: TemporaryFolder

  package enum Kind: Sendable {
    /// Quick to make and to use.
    case p256
    case rsa2048
  }

  package init(_ name: String = "localhost", kind: Kind = .p256, days: Int = 30) throws {
    self.name = name
    folder = try TemporaryFolder()
    cert = folder.file("cert.pem")
    key = folder.file("key.pem")
    let algorithm = kind == .p256 ? ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"] : ["-newkey", "rsa:2048"]
    let outcome = try run(
      "openssl",
      ["req", "-x509"] + algorithm
        + [
          "-nodes", "-keyout", key, "-out", cert, "-days", "\(days)", "-subj", "/CN=\(name)", "-addext",
          "subjectAltName=DNS:localhost,IP:127.0.0.1",
        ])
    guard outcome.exit == .code(0) else { throw TestFailure("openssl req: \(outcome.errors)") }
  }

  package func file(_ name: String) -> String { folder.file(name) }
  package func write(_ text: String, to name: String) throws -> String { try folder.write(text, to: name) }

  /// As flags of sky-proxy, and as a body of PUT /v1/settings.
  package var flags: [String] { ["--tls-cert", cert, "--tls-key", key] }
  package var settings: String { #"{"tls": {"cert": "\#(cert)", "key": "\#(key)"}}"# }
}

package enum TlsPython {
  /// What every script below begins with.
  ///
  ///     c = Tls(port)            connects and shakes hands; Tls(port, context=…, shake=False)
  ///     c.send(b"…")             sends
  ///     c.read(n)                the next n bytes, fewer at the end
  ///     c.until(b"\r\n\r\n")     up to and with a mark
  ///     c.to_end()               all there is until the end
  ///     c.end                    'clean' (close_notify), 'ragged' (FIN without it) or 'reset', once it has come
  ///     c.close_notify(); c.fin(); c.reset(); c.close()
  package static let prelude = """
    import hashlib, json, os, socket, ssl, struct, sys, threading, time
    def any_context():
        c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        c.check_hostname = False
        c.verify_mode = ssl.CERT_NONE
        return c
    class Tls:
        def __init__(self, port, context=None, shake=True, receive_buffer=None, session=None):
            self.raw = socket.socket()
            if receive_buffer: self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self.raw.settimeout(20)
            self.raw.connect(("127.0.0.1", port))
            self.raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self.tls = (context or any_context()).wrap_bio(
                self.incoming, self.outgoing, server_hostname="localhost", session=session)
            self.pending, self.end = b"", None
            if shake: self.call(self.tls.do_handshake)
        def flush(self):
            data = self.outgoing.read()
            if data: self.raw.sendall(data)
        def pull(self):
            try: data = self.raw.recv(65536)
            except ConnectionResetError:
                self.end = "reset"
                raise EOFError("reset")
            if data: self.incoming.write(data)
            else:
                self.end = "ragged"
                raise EOFError("ragged")
        def call(self, function, *arguments):
            while True:
                try: result = function(*arguments)
                except ssl.SSLWantReadError:
                    self.flush()
                    self.pull()
                else:
                    self.flush()
                    return result
        def send(self, data):
            self.tls.write(data)
            self.flush()
        def more(self):
            try: data = self.call(self.tls.read, 65536)
            except EOFError: return False
            except ssl.SSLZeroReturnError: data = b""
            if not data:
                self.end = "clean"
                return False
            self.pending += data
            return True
        def take(self, count):
            data, self.pending = self.pending[:count], self.pending[count:]
            return data
        def read(self, count):
            while len(self.pending) < count and self.more(): pass
            return self.take(count)
        def until(self, mark):
            while mark not in self.pending:
                if not self.more(): raise EOFError(f"{self.end} after {self.pending!r}")
            return self.take(self.pending.index(mark) + len(mark))
        def to_end(self):
            while self.more(): pass
            return self.take(len(self.pending))
        def close_notify(self):
            try: self.tls.unwrap()
            except (ssl.SSLWantReadError, ssl.SSLSyscallError): pass
            self.flush()
        def fin(self): self.raw.shutdown(socket.SHUT_WR)
        def reset(self):
            self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.raw.close()
        def close(self): self.raw.close()
        # A response with a length: status, and body.
        def response(self):
            head = self.until(b"\\r\\n\\r\\n").decode("latin-1")
            length = [l.split(":")[1] for l in head.split("\\r\\n") if l.lower().startswith("content-length:")]
            return int(head.split()[1]), self.read(int(length[0]) if length else 0)
        def ask(self, target="/", method="GET", body=b"", fields=""):
            self.send(f"{method} {target} HTTP/1.1\\r\\nHost: a\\r\\n{fields}Content-Length: {len(body)}\\r\\n\\r\\n".encode() + body)
            return self.response()
    def say(*words): print(*words, flush=True)

    """

  /// Runs a script to its end. `sys.argv[1]` is the port, what follows are `arguments`.
  package static func run(
    _ script: String, _ port: UInt16, _ arguments: [String] = [], deadline: Double = 60
  ) throws -> Outcome {
    try python(prelude + script, ["\(port)"] + arguments, deadline: deadline)
  }

  package static func start(_ script: String, _ port: UInt16, _ arguments: [String] = []) throws -> ChildProcess {
    try ChildProcess("python3", ["-u", "-c", prelude + script, "\(port)"] + arguments)
  }
}
