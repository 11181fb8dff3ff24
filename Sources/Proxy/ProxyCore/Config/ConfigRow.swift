// One row says everything about one flag: parsing, help, the README's table and the tests all read it.
// The rows themselves are in ConfigRows.swift; who reads them in which order in ConfigLoad.swift.

import ProxyWire

struct ConfigRow: Sendable {
  enum Group: String, CaseIterable, Sendable {
    case listening = "Listening"
    case routing = "Replicas and routing"
    case limits = "Limits"
    case deadlines = "Deadlines"
    case retries = "Retries and ejection"
    case memory = "Memory"
    case headers = "Headers"
    case observability = "Observability"
    case other = "Other"
  }

  enum Source: Sendable { case arguments, environment, file }

  /// As written after `--` and in the file.
  let name: String
  let group: Group
  let kind: ConfigKind
  /// As a user would write it; more than one only where the flag is repeatable, none = not set.
  let defaults: [String]
  /// Sentences, without range and default.
  let doc: String
  let sources: [Source]

  init(
    _ group: Group, _ name: String, _ kind: ConfigKind, _ value: String?, _ doc: String,
    sources: [Source] = [.arguments, .environment, .file]
  ) {
    self.group = group
    self.name = name
    self.kind = kind
    defaults = value.map { [$0] } ?? []
    self.doc = doc
    self.sources = sources
  }

  /// `SKY_PROXY_MAX_IN_FLIGHT` for `max-in-flight`.
  var variable: String {
    var result = Self.variablePrefix
    for byte in name.utf8 {
      let upper = byte == UInt8(ascii: "-") ? UInt8(ascii: "_") : byte >= UInt8(ascii: "a") ? byte & 0xDF : byte
      result.unicodeScalars.append(Unicode.Scalar(upper))
    }
    return result
  }

  static let variablePrefix = "SKY_PROXY_"

  static func named(_ name: String) -> ConfigRow? { all.first { $0.name == name } }
}

/// How one sort of value is read, kept and shown.
struct ConfigKind: Sendable {
  typealias Place<Value> = WritableKeyPath<ProxyConfig, Value> & Sendable

  /// What stands for the value in help; empty for a switch, which needs none.
  var placeholder: String
  /// What may be written: `1...65536`, `on or off`. Empty where the doc has to say it.
  var range: String
  var isRepeatable = false
  /// Empty text is a value.
  var takesEmpty = false
  /// Puts a text into the configuration, or says what is wrong with it and what to write. Repeatable: adds to it.
  var store: @Sendable (_ text: String, _ config: inout ProxyConfig) -> String?
  /// Forgets the values of a repeatable flag, before a source of higher rank gives its own.
  var clear: @Sendable (_ config: inout ProxyConfig) -> Void = { _ in }
  /// The values in force as texts that `store` takes.
  var show: @Sendable (_ config: ProxyConfig) -> [String]
  /// Texts within the range, its ends included: for the tests.
  var samples: [String]

  var isSwitch: Bool { placeholder.isEmpty }

  // MARK: Numbers

  static func count(
    _ place: Place<Int>, _ range: ClosedRange<Int>, _ shape: NumberShape = .any, zero: String? = nil, unit: String = ""
  ) -> ConfigKind {
    let bounds = "\(range.lowerBound)...\(range.upperBound)\(unit.isEmpty ? "" : " " + unit)"
    let allowed = "\(bounds)\(shape.text)\(meaning(zero))"
    return ConfigKind(
      placeholder: "N", range: allowed,
      store: { text, config in
        guard let value = zeroOr(text, zero, ConfigUnits.number(Array(text.utf8)[...]).map { Int(clamping: $0) }) else {
          return "\(quoted(text)) is not a whole number; write \(allowed)"
        }
        guard (range.contains(value) && shape.fits(value)) || (value == 0 && zero != nil) else {
          return "\(quoted(text)) is out of range; write \(allowed)"
        }
        config[keyPath: place] = value
        return nil
      },
      show: { ["\($0[keyPath: place])"] },
      samples: ["\(range.lowerBound)", "\(range.upperBound)"] + zeroSamples(zero))
  }

  enum NumberShape: Sendable {
    case any
    case powerOfTwo
    case multiple(of: Int)

    var text: String {
      switch self {
      case .any: ""
      case .powerOfTwo: ", a power of two"
      case .multiple(let unit): ", a multiple of \(ConfigUnits.text(size: unit))"
      }
    }

    func fits(_ value: Int) -> Bool {
      switch self {
      case .any: true
      case .powerOfTwo: value > 0 && value & (value - 1) == 0
      case .multiple(let unit): value % unit == 0
      }
    }
  }

  static func size(
    _ place: Place<Int>, _ range: ClosedRange<Int>, _ shape: NumberShape = .any, zero: String? = nil
  ) -> ConfigKind {
    let (low, high) = (ConfigUnits.text(size: range.lowerBound), ConfigUnits.text(size: range.upperBound))
    let allowed = "\(low)...\(high)\(shape.text)\(meaning(zero))"
    return ConfigKind(
      placeholder: "SIZE", range: allowed,
      store: { text, config in
        guard let value = zeroOr(text, zero, ConfigUnits.size(text)) else {
          return "\(quoted(text)) is not a size; write a number such as 4096, 64k, 1m or 1g within \(allowed)"
        }
        guard (range.contains(value) && shape.fits(value)) || (value == 0 && zero != nil) else {
          return "\(quoted(text)) is out of range; write \(allowed)"
        }
        config[keyPath: place] = value
        return nil
      },
      show: { [ConfigUnits.text(size: $0[keyPath: place])] },
      samples: [low, high, "\(range.upperBound)"] + zeroSamples(zero))
  }

  static func duration(_ place: Place<UInt64>, _ range: ClosedRange<UInt64>, zero: String? = nil) -> ConfigKind {
    let (low, high) = (
      ConfigUnits.text(durationNs: range.lowerBound), ConfigUnits.text(durationNs: range.upperBound)
    )
    let allowed = "\(low)...\(high)\(meaning(zero))"
    return ConfigKind(
      placeholder: "TIME", range: allowed,
      store: { text, config in
        guard let value = zeroOr(text, zero, ConfigUnits.duration(text)) else {
          return "\(quoted(text)) is not a duration; write one such as 500ms, 5s, 2m or 1h within \(allowed)"
        }
        guard range.contains(value) || (value == 0 && zero != nil) else {
          return "\(quoted(text)) is out of range; write \(allowed)"
        }
        config[keyPath: place] = value
        return nil
      },
      show: { [ConfigUnits.text(durationNs: $0[keyPath: place])] },
      samples: [low, high] + zeroSamples(zero))
  }

  /// A deadline that PUT /v1/settings can change: its range is written down there.
  static func timeout(_ timeout: ProxySettings.Timeout) -> ConfigKind {
    let ms = ConfigUnits.millisecond
    let range = timeout.range.lowerBound * ms...timeout.range.upperBound * ms
    return duration(timeout.flag, range, zero: timeout.zero)
  }

  /// `off` is a spelling of 0 wherever 0 has a meaning of its own.
  private static func zeroOr<Value: BinaryInteger>(_ text: String, _ zero: String?, _ value: Value?) -> Value? {
    zero != nil && text == "off" ? 0 : value
  }
  private static func meaning(_ zero: String?) -> String { zero.map { ", 0 or off = \($0)" } ?? "" }
  private static func zeroSamples(_ zero: String?) -> [String] { zero == nil ? [] : ["0", "off"] }

  // MARK: Words

  static func choice<Word>(_ place: Place<Word>) -> ConfigKind
  where Word: RawRepresentable & CaseIterable & Sendable, Word.RawValue == String {
    let known = Word.allCases.map(\.rawValue)
    return ConfigKind(
      placeholder: "WORD", range: list(known),
      store: { text, config in
        guard let word = Word(rawValue: text) else {
          return "\(quoted(text)) is not one of \(known.joined(separator: ", "))\(didYouMean(text, among: known))"
        }
        config[keyPath: place] = word
        return nil
      },
      show: { [$0[keyPath: place].rawValue] }, samples: known)
  }

  static func onOff(_ place: Place<Bool>) -> ConfigKind {
    ConfigKind(
      placeholder: "on|off", range: "on or off",
      store: { text, config in
        switch text {
        case "on": config[keyPath: place] = true
        case "off": config[keyPath: place] = false
        default: return "\(quoted(text)) is neither on nor off"
        }
        return nil
      },
      show: { [$0[keyPath: place] ? "on" : "off"] }, samples: ["on", "off"])
  }

  /// Needs no value on the command line; `on` or `off` elsewhere.
  static func toggle(_ place: Place<Bool>) -> ConfigKind {
    var result = onOff(place)
    result.placeholder = ""
    result.range = ""
    return result
  }

  /// --help and --version: answered before anything is stored.
  static let answer = ConfigKind(
    placeholder: "", range: "", store: { _, _ in nil }, show: { _ in [] }, samples: [])

  /// Text that `read` checks and turns into a value; a problem is said as in `store`.
  static func text<Value: Sendable>(
    _ place: Place<Value>, placeholder: String, range: String = "", takesEmpty: Bool = false, samples: [String],
    read: @escaping @Sendable (String) throws(ConfigProblem) -> Value,
    show: @escaping @Sendable (Value) -> String?
  ) -> ConfigKind {
    ConfigKind(
      placeholder: placeholder, range: range, takesEmpty: takesEmpty,
      store: { text, config in
        do throws(ConfigProblem) {
          config[keyPath: place] = try read(text)
          return nil
        } catch { return error.text }
      },
      show: { show($0[keyPath: place]).map { [$0] } ?? [] }, samples: samples)
  }

  /// A repeatable flag.
  static func list<Value: Sendable>(
    _ place: Place<[Value]>, placeholder: String, samples: [String],
    read: @escaping @Sendable (String) throws(ConfigProblem) -> Value,
    repeats: @escaping @Sendable (Value, Value) -> Bool,
    show: @escaping @Sendable (Value) -> String
  ) -> ConfigKind {
    ConfigKind(
      placeholder: placeholder, range: "", isRepeatable: true,
      store: { text, config in
        do throws(ConfigProblem) {
          let value = try read(text)
          if config[keyPath: place].contains(where: { repeats($0, value) }) {
            return "\(quoted(text)) is given twice; leave one out"
          }
          config[keyPath: place].append(value)
          return nil
        } catch { return error.text }
      },
      clear: { $0[keyPath: place] = [] },
      show: { $0[keyPath: place].map(show) }, samples: samples)
  }

  /// `a, b or c`.
  private static func list(_ words: [String]) -> String {
    guard let last = words.last, words.count > 1 else { return words.first ?? "" }
    return words.dropLast().joined(separator: ", ") + " or " + last
  }
}

/// What is wrong with a value or a file, and what to do.
package struct ConfigProblem: Error, Equatable, Sendable {
  package var text: String
  package init(_ text: String) { self.text = text }
}

// MARK: - Addresses in flags

extension ConfigKind {
  static func listener(_ place: Place<[Endpoint]>) -> ConfigKind {
    .list(
      place, placeholder: "ADDR:PORT", samples: ["10.0.0.1:80", ":8080", "[::]:0", "unix:/run/sky.sock"],
      read: readListener, repeats: sameSocket, show: \.description)
  }

  static func admin(_ place: Place<[Endpoint]>) -> ConfigKind {
    .list(
      place, placeholder: "ADDR", samples: ["unix:/run/admin.sock", "127.0.0.1:9090", "[::1]:0"],
      read: { text throws(ConfigProblem) in
        let endpoint = try readListener(text)
        if case .unix = endpoint { return endpoint }
        if endpoint.isLoopback { return endpoint }
        throw ConfigProblem(
          "\(quoted(text)) can be reached from outside, which the admin API must not; write unix:PATH or 127.0.0.1:PORT"
        )
      }, repeats: sameSocket, show: \.description)
  }

  /// Names or addresses without a port, kept as `HostName.folded` has them.
  static func hostNames(_ place: Place<[String]>) -> ConfigKind {
    .list(
      place, placeholder: "NAME", samples: ["gpu-box.internal", "10.0.0.7", "[fd00::2]"],
      read: { text throws(ConfigProblem) in
        do throws(EndpointError) {
          let host = try Endpoint.parse(text + ":1").host
          return HostName.folded(host.utf8.contains(UInt8(ascii: ":")) ? "[\(host)]" : host)
        } catch {
          throw ConfigProblem(
            "\(quoted(text)) is not a host; write gpu-box.internal, 10.0.0.7 or [fd00::2], without a port")
        }
      }, repeats: { $0 == $1 }, show: { $0.utf8.contains(UInt8(ascii: ":")) ? "[\($0)]" : $0 })
  }

  static func replica(_ place: Place<[ReplicaOption]>) -> ConfigKind {
    .list(
      place, placeholder: "HOST:PORT",
      samples: ["10.0.0.7:8080", "model-3.internal:80;weight=0.5", "[::1]:9;weight=2;max_in_flight=8", "unix:/run/m"],
      read: readReplica, repeats: { $0.endpoint == $1.endpoint }, show: \.text)
  }

  /// Port 0 is a new port each time.
  @Sendable private static func sameSocket(_ a: Endpoint, _ b: Endpoint) -> Bool { a == b && a.port != 0 }

  @Sendable private static func readListener(_ text: String) throws(ConfigProblem) -> Endpoint {
    let bytes = Array(text.utf8)
    let cure = "write 127.0.0.1:8080, :8080 (every IPv4 address), [::]:8080 or unix:/path"
    if !bytes.isEmpty, ConfigUnits.number(bytes[...]) != nil {
      throw ConfigProblem("\(quoted(text)) is a port alone; write :\(text) or 127.0.0.1:\(text)")
    }
    var full = text
    if bytes.first == UInt8(ascii: ":"), bytes.filter({ $0 == UInt8(ascii: ":") }).count == 1 {
      full = "0.0.0.0" + text
    }
    do throws(EndpointError) {
      let endpoint = try Endpoint.parse(full, ports: 0...65535)
      guard case .name(let name, let port) = endpoint else { return endpoint }
      if name == "localhost" { return .ipv4(0x7F00_0001, port: port) }
    } catch { throw ConfigProblem(error.reason) }
    throw ConfigProblem("\(quoted(text)) is a name, not an address of this machine; \(cure)")
  }

  private static let replicaOptions = ["weight", "max_in_flight"]

  @Sendable private static func readReplica(_ text: String) throws(ConfigProblem) -> ReplicaOption {
    var parts = text.split(separator: ";", omittingEmptySubsequences: false).map { trimmed($0) }
    let address = parts.removeFirst()
    var result: ReplicaOption
    do throws(EndpointError) { result = ReplicaOption(endpoint: try Endpoint.parse(address)) } catch {
      throw ConfigProblem(error.reason)
    }
    var seen: [String] = []
    for part in parts {
      let pair = part.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map { trimmed($0) }
      guard pair.count == 2 else {
        throw ConfigProblem("\(quoted(part)) is not option=value; write host:port;weight=2;max_in_flight=8")
      }
      if seen.contains(pair[0]) { throw ConfigProblem("\(quoted(pair[0])) is given twice for one replica") }
      seen.append(pair[0])
      switch pair[0] {
      case "weight":
        guard let weight = Double(pair[1]), ReplicaEntry.weights.contains(weight) else {
          throw ConfigProblem(
            "the weight \(quoted(pair[1])) is out of range; write 0.01...1000, 1 is an ordinary share")
        }
        result.weight = weight
      case "max_in_flight":
        guard let count = ConfigUnits.number(Array(pair[1].utf8)[...]), count <= ReplicaEntry.maxInFlightMax else {
          throw ConfigProblem(
            "max_in_flight \(quoted(pair[1])) is out of range; write 0...\(ReplicaEntry.maxInFlightMax), 0 = no limit")
        }
        result.maxInFlight = Int(count)
      default:
        let cure = didYouMean(pair[0], among: replicaOptions, otherwise: "; the options are weight and max_in_flight")
        throw ConfigProblem("unknown replica option \(quoted(pair[0]))\(cure)")
      }
    }
    return result
  }
}

/// Without spaces and tabs around it.
func trimmed(_ text: some StringProtocol) -> String {
  let isSpace = { (byte: UInt8) in byte == UInt8(ascii: " ") || byte == UInt8(ascii: "\t") || byte == 0x0D }
  var bytes = Array(text.utf8)[...]
  while let first = bytes.first, isSpace(first) { bytes.removeFirst() }
  while let last = bytes.last, isSpace(last) { bytes.removeLast() }
  return String(decoding: bytes, as: UTF8.self)
}
