// TLS as the rest of the process sees it: on with a certificate, off, draining. Without a certificate there is nothing
// here but a few words; the threads come with the first one and stay. Called by main and by the admin thread, one at a
// time.
//
// Every address of --listen speaks TLS while it is on. The workers accept as always and look at one flag; clients that
// came before a change stay what they are.

import Glibc
import Synchronization

package final class TlsFront: @unchecked Sendable {
  private let workers: [TlsWorker]
  private let threadsWanted: Int
  private let clients: Int
  private let makeRoom: () -> Void
  private let shared: TlsShared
  private let made = Mutex(Made())

  /// What the first certificate brings.
  private struct Made: @unchecked Sendable {
    var threads: [TlsThread] = []
    var ports: [UnsafeMutablePointer<TlsPort>] = []
  }

  /// - Parameters:
  ///   - threads: how many share the workers' clients.
  ///   - clients: connections of the whole process, at most 65,536.
  ///   - makeRoom: called before the first client comes: there will be more descriptors.
  package init(
    workers: [TlsWorker], threads: Int, clients: Int, board: LoadBoard, makeRoom: @escaping () -> Void
  ) {
    self.workers = workers
    self.makeRoom = makeRoom
    threadsWanted = min(threads, workers.count)
    self.clients = clients
    shared = TlsShared(board: board)
  }

  /// Memory of one client at most: a record held each way, OpenSSL's state with both its record buffers, the seat and
  /// its place on the way to the worker.
  package static let clientBytesMax =
    2 * TlsSession.recordMax + openSSLBytes + MemoryLayout<TlsArrival>.stride + 512
  private static let openSSLBytes = 49_152

  /// Nanoseconds: until a handshake must be done, and for which a client may take nothing of what waits for it.
  package func setDeadlines(handshakeNs: UInt64, stallNs: UInt64) {
    shared.handshakeNs.store(handshakeNs, ordering: .relaxed)
    shared.stallNs.store(stallNs, ordering: .relaxed)
  }

  /// Makes sure that `switchOn` cannot fail.
  package func prepare() throws(ServerError) {
    try made.withLock { made throws(ServerError) in
      guard made.ports.isEmpty else { return }
      makeRoom()
      while made.threads.count < threadsWanted {
        made.threads.append(try TlsThread.start(made.threads.count, capacity: clients, shared: shared))
      }
      for (index, worker) in workers.enumerated() {
        let thread = made.threads[index % made.threads.count]
        let port = UnsafeMutablePointer<TlsPort>.allocate(capacity: 1)
        port.initialize(to: TlsPort(clients: clients, seats: thread.seats, bell: thread.bell))
        thread.serve(ServedWorker(port: port, wake: worker.wake))
        worker.control.pointee.tls.store(port, ordering: .releasing)
        made.ports.append(port)
      }
    }
  }

  /// From now on clients speak TLS with this certificate; those that are there keep what they began with. After
  /// `prepare`.
  package func switchOn(_ context: TlsContext) {
    shared.context.withLock { $0 = context }
    made.withLock { for port in $0.ports { port.pointee.isOn.store(1, ordering: .releasing) } }
  }

  package func switchOff() {
    made.withLock { for port in $0.ports { port.pointee.isOn.store(0, ordering: .releasing) } }
  }

  package var counters: TlsCounters {
    made.withLock { sumWords($0.threads.map(\.counters)) }
  }

  // MARK: The end

  /// With the workers: nobody new, nobody in mid-handshake.
  package func drain() {
    shared.isDraining.store(true, ordering: .releasing)
    made.withLock { for thread in $0.threads { thread.wake() } }
  }

  /// The workers have ended: those who were on their way to them are let go.
  package func letGoArrivals() {
    made.withLock { made in
      for port in made.ports { while let arrival = port.pointee.arrivals.take() { close(arrival.plain) } }
    }
  }

  /// Every client has been told its last byte. SIGUSR2 says when that may have come true.
  package var isEmpty: Bool { made.withLock { $0.threads.allSatisfy(\.isEmpty) } }
}
