// Compile-time gates: nobody calls these. An allocation, a reference count or a lock anywhere below one of them is a
// compile error. Only in release builds: debug ones see one file at a time.

#if !DEBUG

  @_noAllocation @_noLocks
  func gateRequest(
    _ bytes: UnsafePointer<UInt8>, _ count: Int, _ fields: inout FieldTable, _ context: ForwardContext,
    _ out: UnsafeMutablePointer<UInt8>
  ) -> Int {
    var head = RequestHead()
    let verdict = parseRequestHead(bytes, count, limits: HeadLimits(), fields: &fields, head: &head)
    guard case .complete = verdict else { return 0 }
    return writeRequestHead(head, fields, bytes, context, into: out, capacity: count)?.count ?? 0
  }

  @_noAllocation @_noLocks
  func gateResponse(
    _ bytes: UnsafePointer<UInt8>, _ count: Int, _ fields: inout FieldTable, _ out: UnsafeMutablePointer<UInt8>
  ) -> Int {
    var head = ResponseHead()
    let verdict = parseResponseHead(
      bytes, count, limits: HeadLimits(), requestWasHead: false, upgradeOffered: false, fields: &fields, head: &head)
    guard case .complete = verdict else { return 0 }
    return writeResponseHead(
      head, fields, bytes, clientIsHTTP10: false, close: false, into: out, capacity: count) ?? 0
  }

  @_noAllocation @_noLocks
  func gateBody(
    _ bytes: UnsafeMutablePointer<UInt8>, _ count: Int, _ fields: inout FieldTable,
    _ out: UnsafeMutablePointer<UInt8>
  ) -> Int {
    var decoder = ChunkedDecoder()
    let kept = decoder.reframe(bytes, count).kept
    let fed = decoder.feed(bytes, count)
    guard case .trailers = fed.verdict else { return decoder.decode(bytes, count).payload &+ kept }
    var sectionBytes = 0
    let verdict = parseTrailers(bytes, count, limits: HeadLimits(), fields: &fields, sectionBytes: &sectionBytes)
    guard case .complete = verdict else { return 0 }
    return writeTrailers(fields, bytes, into: out, capacity: count) ?? 0
  }

  @_noAllocation @_noLocks
  func gateRefusal(_ refusal: Refusal) -> Int {
    Int(refusal.status) + refusal.reason.utf8CodeUnitCount
  }
#endif
