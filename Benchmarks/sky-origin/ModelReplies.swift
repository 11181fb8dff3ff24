// Bodies as OpenAI-compatible servers write them, and the two fields of a request that matter here.

import BenchKit
import Glibc

enum ModelReplies {
  static let models =
    "{\"object\":\"list\",\"data\":[{\"id\":\"sky\",\"object\":\"model\",\"created\":0,\"owned_by\":\"sky-origin\"}]}"

  static func whole(isChat: Bool, tokens: Int, promptBytes: Int) -> String {
    let text = String(repeating: " sky", count: tokens)
    let prompt = promptBytes / 4
    let usage =
      "\"usage\":{\"prompt_tokens\":\(prompt),\"completion_tokens\":\(tokens),\"total_tokens\":\(prompt + tokens)}"
    let choice =
      isChat
      ? "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"\(text)\"},\"finish_reason\":\"length\"}"
      : "{\"index\":0,\"text\":\"\(text)\",\"logprobs\":null,\"finish_reason\":\"length\"}"
    let start =
      isChat
      ? "{\"id\":\"chatcmpl-sky\",\"object\":\"chat.completion\""
      : "{\"id\":\"cmpl-sky\",\"object\":\"text_completion\""
    return start + ",\"created\":0,\"model\":\"sky\",\"choices\":[\(choice)],\(usage)}"
  }

  /// What follows the time of an event: the string of t is still open.
  private static let chat: StaticString = """
    ","id":"chatcmpl-sky","object":"chat.completion.chunk","created":0,"model":"sky",\
    "choices":[{"index":0,"delta":{"content":" sky"},"finish_reason":
    """
  private static let text: StaticString = """
    ","id":"cmpl-sky","object":"text_completion","created":0,"model":"sky",\
    "choices":[{"index":0,"text":" sky","logprobs":null,"finish_reason":
    """

  /// One chunk with one event.
  static func putToken(_ out: inout ByteOut, isChat: Bool, number: Int, isLast: Bool, now: UInt64) {
    let middle = isChat ? chat : text
    let end: StaticString = isLast ? "\"length\"}]}\n\n" : "null}]}\n\n"
    out.putHex(47 + middle.utf8CodeUnitCount + end.utf8CodeUnitCount)  // 47: what EventFormat.begin writes
    out.put("\r\n")
    EventFormat.begin(&out, number: UInt32(number), now: now)
    out.put(middle)
    out.put(end)
    out.put("\r\n")
  }

  private static func value(_ body: UnsafePointer<UInt8>, _ count: Int, _ name: StaticString) -> Int? {
    guard let found = position(of: name, in: body, count) else { return nil }
    var at = found + name.utf8CodeUnitCount
    while at < count && (body[at] == 58 || body[at] == 32) { at += 1 }
    return at
  }

  /// Whether the body says `name: true`.
  static func flag(_ body: UnsafePointer<UInt8>, _ count: Int, _ name: StaticString) -> Bool {
    guard let at = value(body, count, name) else { return false }
    return at + 4 <= count && memcmp(body + at, ("true" as StaticString).utf8Start, 4) == 0
  }

  static func number(_ body: UnsafePointer<UInt8>, _ count: Int, _ name: StaticString) -> Int? {
    guard let at = value(body, count, name) else { return nil }
    var end = at
    while end < count && body[end] &- 48 < 10 { end += 1 }
    guard let number = decimal(body + at, end - at), (1...1_000_000).contains(number) else { return nil }
    return number
  }
}
