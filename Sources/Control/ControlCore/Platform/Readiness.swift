// One thread that waits for every descriptor of the control plane: sockets, listeners, ends of processes. A task that
// waits for one holds no thread; thousands of probes of hanging replicas cost a table entry each.
//
//   task ── wait(fd, .read, until) ──▶ table + epoll ◀── the thread: epoll_wait, deadlines ──▶ resumes the task
//
// A descriptor is forgotten before it is closed, as its number may come back as another's.

import CPlatform
import Foundation
import Synchronization

/// How long something may take: from when it is made.
struct Timeout: Sendable {
  /// nil: for ever.
  let end: ContinuousClock.Instant?
  let seconds: Double

  init(_ seconds: Double) {
    // An instant must fit its clock; a year is for ever.
    end = seconds < 31_536_000 ? .now + .seconds(max(seconds, 0)) : nil
    self.seconds = seconds
  }

  static let never = Timeout(.infinity)

  /// Tenths, as far as people care: what is left of two seconds is two seconds. Short ones in hundredths.
  static func shown(_ seconds: Double) -> String {
    let parts = abs(seconds) < 1 ? 100.0 : 10
    let rounded = (seconds * parts).rounded() / parts
    return rounded == rounded.rounded() ? String(Int(clamping: rounded)) : String(rounded)
  }

  var error: HttpError {
    HttpError(.timeout, "timed out after \(Self.shown(seconds)) s")
  }
}

final class Readiness: Sendable {
  static let shared = Readiness()

  enum Interest: Int, CaseIterable {
    case read
    case write
    /// The other side is gone altogether; one that only sends no more does not count.
    case hangUp

    var events: UInt32 {
      switch self {
      case .read: EPOLLIN.rawValue | EPOLLRDHUP.rawValue
      case .write: EPOLLOUT.rawValue
      case .hangUp: 0  // reported without being asked for
      }
    }
    func isMet(by events: UInt32) -> Bool { events & (self.events | EPOLLHUP.rawValue | EPOLLERR.rawValue) != 0 }
  }

  enum Outcome {
    case ready
    case timedOut
    case cancelled
    /// The descriptor cannot be waited for (a plain file), or there are too many.
    case failed(Int32)
  }

  private struct Wait {
    let ticket: UInt64
    let resume: @Sendable (Outcome) -> Void
  }

  private struct Watched {
    /// By `Interest`.
    var waits: [Wait?] = [nil, nil, nil]
    var isKnown = false

    var events: UInt32? {
      var all: UInt32?
      for interest in Interest.allCases where waits[interest.rawValue] != nil { all = (all ?? 0) | interest.events }
      return all
    }
  }

  private struct Deadline {
    let at: ContinuousClock.Instant
    let fd: Int32
    let interest: Interest
    let ticket: UInt64
  }

  private struct Table {
    var watched: [Int32: Watched] = [:]
    var deadlines = Heap()
    var lastTicket: UInt64 = 0
    /// When the thread will wake by itself.
    var wakesAt: ContinuousClock.Instant?
  }

  private let table = Mutex(Table())
  private let epoll: Int32
  /// Written to when a deadline comes before `wakesAt`.
  private let alarm: Int32

  private init() {
    epoll = epoll_create1(Int32(EPOLL_CLOEXEC))
    alarm = eventfd(0, Int32(EFD_CLOEXEC) | Int32(EFD_NONBLOCK))
    precondition(epoll >= 0 && alarm >= 0, "no descriptors left to wait with: \(String(cString: strerror(errno)))")
    let thread = Thread { [self] in run() }
    thread.name = "readiness"
    thread.stackSize = 512 * 1024
    thread.start()
  }

  /// At most one task waits for each interest of a descriptor.
  func wait(_ fd: Int32, for interest: Interest, until timeout: Timeout = .never) async -> Outcome {
    let ticket = table.withLock { table in
      table.lastTicket += 1
      return table.lastTicket
    }
    return await withTaskCancellationHandler {
      await withCheckedContinuation { continuation in
        add(fd, interest, ticket, timeout.end) { continuation.resume(returning: $0) }
        // A cancellation before the wait was in the table found nothing there.
        if Task.isCancelled { end(fd, interest, ticket, .cancelled) }
      }
    } onCancel: {
      end(fd, interest, ticket, .cancelled)
    }
  }

  /// `then` is called once, on the waiting thread: it must be short.
  func whenReadable(_ fd: Int32, _ then: @escaping @Sendable (Outcome) -> Void) {
    let ticket = table.withLock { table in
      table.lastTicket += 1
      return table.lastTicket
    }
    add(fd, .read, ticket, nil, then)
  }

  func forget(_ fd: Int32) {
    table.withLock { table in
      guard let watched = table.watched.removeValue(forKey: fd) else { return }
      precondition(watched.events == nil, "descriptor \(fd) is closed while it is waited for")
      _ = sky_epoll_forget(epoll, fd)
    }
  }

  // MARK: The table

  private func add(
    _ fd: Int32, _ interest: Interest, _ ticket: UInt64, _ deadline: ContinuousClock.Instant?,
    _ resume: @escaping @Sendable (Outcome) -> Void
  ) {
    let problem: Int32 = table.withLock { table in
      var watched = table.watched[fd] ?? Watched()
      precondition(watched.waits[interest.rawValue] == nil, "two tasks wait for descriptor \(fd) to \(interest)")
      watched.waits[interest.rawValue] = Wait(ticket: ticket, resume: resume)
      guard sky_epoll_arm(epoll, fd, watched.events ?? 0, watched.isKnown ? 1 : 0) == 0 else { return errno }
      watched.isKnown = true
      table.watched[fd] = watched
      if let deadline {
        table.deadlines.add(Deadline(at: deadline, fd: fd, interest: interest, ticket: ticket))
        if table.wakesAt == nil || deadline < table.wakesAt! {
          table.wakesAt = deadline
          ring()
        }
      }
      return 0
    }
    if problem != 0 { resume(.failed(problem)) }
  }

  /// Does nothing when that wait is over.
  private func end(_ fd: Int32, _ interest: Interest, _ ticket: UInt64, _ outcome: Outcome) {
    let wait: Wait? = table.withLock { table in
      guard let wait = table.watched[fd]?.waits[interest.rawValue], wait.ticket == ticket else { return nil }
      table.watched[fd]!.waits[interest.rawValue] = nil
      return wait
    }
    wait?.resume(outcome)
  }

  private func ring() {
    var one: UInt64 = 1
    _ = write(alarm, &one, 8)
  }

  // MARK: The thread

  private func run() {
    _ = sky_epoll_arm(epoll, alarm, EPOLLIN.rawValue, 0)
    var events = [epoll_event](repeating: epoll_event(), count: 256)
    while true {
      let pause: Int32 = table.withLock { table in
        table.wakesAt = table.deadlines.first?.at
        guard let wakesAt = table.wakesAt else { return -1 }
        let left = ContinuousClock.now.duration(to: wakesAt).components
        if left.seconds < 0 || left.attoseconds < 0 { return 0 }
        // Rounded up, not to wake just before it.
        return Int32(clamping: left.seconds * 1000 + left.attoseconds / 1_000_000_000_000_000 + 1)
      }
      let count = epoll_wait(epoll, &events, Int32(events.count), pause)
      if count < 0 {
        precondition(errno == EINTR, "epoll_wait: \(String(cString: strerror(errno)))")
        continue
      }
      for event in events[..<Int(count)] {
        if event.data.fd == alarm {
          var rings: UInt64 = 0
          _ = read(alarm, &rings, 8)
          _ = sky_epoll_arm(epoll, alarm, EPOLLIN.rawValue, 1)
        } else {
          report(event.data.fd, event.events)
        }
      }
      let now = ContinuousClock.now
      while let due = table.withLock({ table in table.deadlines.popFirst(before: now) }) {
        end(due.fd, due.interest, due.ticket, .timedOut)
      }
    }
  }

  private func report(_ fd: Int32, _ events: UInt32) {
    let met: [Wait] = table.withLock { table in
      guard var watched = table.watched[fd] else { return [] }
      var met: [Wait] = []
      for interest in Interest.allCases where interest.isMet(by: events) {
        if let wait = watched.waits[interest.rawValue] { met.append(wait) }
        watched.waits[interest.rawValue] = nil
      }
      if let rest = watched.events { _ = sky_epoll_arm(epoll, fd, rest, 1) }
      table.watched[fd] = watched
      return met
    }
    for wait in met { wait.resume(.ready) }
  }

  /// A binary heap by time. Waits that ended early stay in it until their time comes, and find nothing then.
  private struct Heap {
    private var items: [Deadline] = []

    var first: Deadline? { items.first }

    mutating func add(_ item: Deadline) {
      items.append(item)
      var child = items.count - 1
      while child > 0, items[child].at < items[(child - 1) / 2].at {
        items.swapAt(child, (child - 1) / 2)
        child = (child - 1) / 2
      }
    }

    mutating func popFirst(before now: ContinuousClock.Instant) -> Deadline? {
      guard let top = items.first, top.at <= now else { return nil }
      let last = items.removeLast()
      if items.isEmpty { return top }
      items[0] = last
      var parent = 0
      while true {
        var least = parent
        for child in [2 * parent + 1, 2 * parent + 2] where child < items.count && items[child].at < items[least].at {
          least = child
        }
        if least == parent { return top }
        items.swapAt(parent, least)
        parent = least
      }
    }
  }
}
