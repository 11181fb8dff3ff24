// Carries out what a plan says about replicas: one call per operation, each in a task of its own on threads that may
// block. What it needs to know is in the call; what came of it is what it returns. Everything may be done again after a
// crash, because the record says that it was meant and the infra says what there is.
//
//   launch ─ infra.launch ─▶ done            stop ─ calls off the launch ─ infra.stop ─▶ gone
//        ├─ no room now: says so, waits, again                          └─ fails, or takes too long
//        └─ fails, or takes too long         poll ─ infra.poll ─▶ facts, or takes too long
//
// What takes too long is told to end and left to itself: an infra that never answers is missed, not waited for.

import Synchronization

struct Executor: Sendable {
  /// Seconds between looks for room where there is none.
  static let roomSeconds = 2.0
  /// Seconds a launch may say nothing new until the user's commands begin. One that waits for the setups of others may
  /// take hours.
  static let launchSeconds = 3600.0
  /// Seconds a launch that is called off may take to let go.
  static let callOffSeconds = 15.0
  /// Seconds a stop may take; what takes longer is tried again, and then left to people.
  static let stopSeconds = 120.0
  /// Seconds an infra may take to say what there is, twice as long each time it did not: whatever it holds on to
  /// meanwhile must not become more and more.
  static let pollSeconds = 30.0
  static let pollSecondsMax = 3600.0

  let infra: any InfraProvider
  let clock: any ControlClock
  /// That may block.
  let threads: any TaskExecutor

  /// Nil: the user's commands have begun. `tell` takes a detail to show, and whether it only waits for room.
  func launch(
    _ request: LaunchRequest, tell: @escaping @Sendable (String, Bool) -> Void
  ) async -> OperationFact? {
    let infra = infra
    while true {
      let clock = clock
      let heard = LastHeard(clock.now)
      let outcome = await within(Self.launchSeconds, of: heard) { () async -> Result<Void, InfraError> in
        do throws(InfraError) {
          return .success(
            try await infra.launch(request) { detail in
              heard.now(clock.now)
              tell(detail, false)
            })
        } catch {
          return .failure(error)
        }
      }
      switch outcome {
      case .success: return nil
      case .failure(let error) where error.kind == .noCapacity:
        // Somebody else's replica may go; SkyServe, too, tries until there is room.
        tell(error.description, true)
        if Task.isCancelled { return .launchFailed(reason: error.description) }
        do { try await clock.sleep(until: clock.now + Self.roomSeconds) } catch {
          return .launchFailed(reason: "called off")
        }
      case .failure(let error): return .launchFailed(reason: error.description)
      case nil:
        return .launchFailed(
          reason: "its commands did not begin, and nothing was heard of it for \(Int(Self.launchSeconds)) s")
      }
    }
  }

  /// Nil: there is nothing of it left. `launch`: what may still be bringing it up.
  func stop(
    service: String, id: Int, attempt: Int, folder: String, callingOff launch: Task<Void, Never>?
  ) async -> OperationFact? {
    if let launch {
      launch.cancel()
      _ = await within(Self.callOffSeconds) {
        await launch.value
        return true
      }
    }
    let infra = infra
    let outcome = await within(Self.stopSeconds) { () async -> Result<Void, InfraError> in
      do throws(InfraError) { return .success(try await infra.stop(service: service, id: id, replicaFolder: folder)) }
      catch { return .failure(error) }
    }
    switch outcome {
    case .success: return nil
    case .failure(let error): return .stopFailed(attempt: attempt, reason: error.description)
    case nil: return .stopFailed(attempt: attempt, reason: "it did not end within \(Int(Self.stopSeconds)) s")
    }
  }

  /// What there is of a service.
  func poll(
    service: String, replicasFolder: String, seconds: Double
  ) async -> Result<[Int: InfraFact], InfraError>? {
    let infra = infra
    return await within(seconds) { () async -> Result<[Int: InfraFact], InfraError> in
      do throws(InfraError) { return .success(try await infra.poll(service: service, replicasFolder: replicasFolder)) }
      catch { return .failure(error) }
    }
  }

  /// What `work` gives, or nil when it has not come within `seconds` of the begin, or of when it was last heard of;
  /// then it is cancelled and left to itself. It is cancelled with the task that waits, too, and may then take the rest
  /// of the time to end.
  private func within<Value: Sendable>(
    _ seconds: Double, of heard: LastHeard? = nil, _ work: @escaping @Sendable () async -> Value
  ) async -> Value? {
    let first = First<Value?>()
    let worker = Task(executorPreference: threads) { first.give(await work()) }
    let begin = clock.now
    let timer = Task {
      var end: Double
      repeat {
        end = (heard?.time ?? begin) + seconds
        try? await clock.sleep(until: end)
        if Task.isCancelled { return }
      } while (heard?.time ?? begin) + seconds > end
      first.give(nil)
    }
    defer {
      worker.cancel()
      timer.cancel()
    }
    return await withTaskCancellationHandler { await first.value } onCancel: { worker.cancel() }
  }
}

/// When something was last heard of what is waited for.
private final class LastHeard: Sendable {
  private let at: Mutex<Double>

  init(_ time: Double) { at = Mutex(time) }

  func now(_ time: Double) { at.withLock { $0 = time } }
  var time: Double { at.withLock { $0 } }
}

/// The first of several answers; one task waits for it.
private final class First<Value: Sendable>: Sendable {
  private enum State {
    case open
    case awaited(CheckedContinuation<Value, Never>)
    case given(Value)
  }

  private let state = Mutex(State.open)

  func give(_ value: Value) {
    let waiting = state.withLock { state -> CheckedContinuation<Value, Never>? in
      switch state {
      case .open:
        state = .given(value)
        return nil
      case .awaited(let continuation):
        state = .given(value)
        return continuation
      case .given: return nil
      }
    }
    waiting?.resume(returning: value)
  }

  var value: Value {
    get async {
      await withCheckedContinuation { continuation in
        let given = state.withLock { state -> Value? in
          if case .given(let value) = state { return value }
          state = .awaited(continuation)
          return nil
        }
        if let given { continuation.resume(returning: given) }
      }
    }
  }
}
