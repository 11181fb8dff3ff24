// From the nodes of `resources:` to candidates. Called by TaskDecoding.
//
//   base ─┬─ any_of: each alternative laid over the base ──┐
//         ├─ ordered: the same, order kept ────────────────┼─▶ each with one accelerator ─▶ ResourceSpec
//         └─ accelerators: several = several candidates ───┘
//
// An alternative's fields replace the base's; its labels are added to the base's.

import Yaml

extension ResourceChoice {
  /// `extra` adds to every candidate what other sections of the file ask for.
  init(decoding section: YamlNode, extra: (inout ResourceSpec) -> Void = { _ in }) throws(SpecError) {
    for part in [section] + (section["any_of"]?.list ?? []) + (section["ordered"]?.list ?? []) {
      if let gpus = part["gpus"], part["accelerators"] != nil {
        throw SpecError(.config, mark: gpus.mark, "Cannot specify both gpus and accelerators in config.")
      }
    }
    var section = section.withGpusNamed
    for key in ["any_of", "ordered"] {
      if let list = section[key]?.list {
        section = section.setting(key, to: YamlNode(.list(list.map(\.withGpusNamed)), mark: section[key]!.mark))
      }
    }
    let checked = section.withoutNulls
    try Schema.resources.check(checked, in: "resources")
    try self.init(overlaying: checked)
    var list = all
    for index in list.indices { extra(&list[index]) }
    all = list
  }

  private init(overlaying section: YamlNode) throws(SpecError) {
    let anyOf = section["any_of"]
    let ordered = section["ordered"]
    if anyOf != nil, let ordered {
      throw SpecError(.value, mark: ordered.mark, "Cannot specify both \"any_of\" and \"ordered\" in resources.")
    }
    let base = section.removing("any_of").removing("ordered")
    let accelerators = try AcceleratorList(section["accelerators"])
    if accelerators.items.count > 1, let ordered, ordered.list?.isEmpty == false {
      throw SpecError(
        .value, mark: ordered.mark, "Cannot specify multiple \"accelerators\" with \"ordered\" in resources.")
    }
    if accelerators.items.count > 1, accelerators.isOrdered, let anyOf, anyOf.list?.isEmpty == false {
      throw SpecError(
        .value, mark: anyOf.mark,
        "Cannot specify multiple \"accelerators\" with preferred order (i.e., list of accelerators) with \"any_of\" in "
          + "resources.")
    }
    if let alternatives = (anyOf ?? ordered)?.list, !alternatives.isEmpty {
      var result: [ResourceSpec] = []
      for alternative in alternatives {
        var merged = base
        for entry in alternative.map ?? [] {
          if entry.key.string == "labels", let labels = base["labels"], !entry.value.isNull {
            var all = labels
            for label in entry.value.map ?? [] { all = all.setting(label.key.keyText, to: label.value) }
            merged = merged.setting("labels", to: all)
          } else if entry.key.string == "labels", entry.value.isNull {
            continue
          } else {
            merged = merged.setting(entry.key.keyText, to: entry.value)
          }
        }
        result += try ResourceChoice(overlaying: merged.withoutNulls).all
      }
      self = anyOf == nil ? .ordered(result) : .anyOf(result)
      return
    }
    if accelerators.items.isEmpty {
      if accelerators.isEmptyByMemory {
        throw SpecError(
          .value, mark: section["accelerators"]!.mark, "No accelerator with this much memory is known.",
          cure: "Name the accelerators instead, such as {A100: 1, H100: 1}.")
      }
      self = .anyOf([try ResourceSpec(decoding: base.removing("accelerators"), accelerator: nil)])
      return
    }
    var result: [ResourceSpec] = []
    for item in accelerators.items {
      result.append(try ResourceSpec(decoding: base.removing("accelerators"), accelerator: item))
    }
    self = accelerators.isOrdered ? .ordered(result) : .anyOf(result)
  }
}

// MARK: - Accelerators

struct AcceleratorList {
  struct Item {
    var text: String
    var named: Bool
    var mark: YamlMark
  }

  var items: [Item] = []
  /// A list's order is a preference.
  var isOrdered = false
  var isEmptyByMemory = false

  init(_ node: YamlNode?) throws(SpecError) {
    guard let node else { return }
    if let text = node.string {
      add(Self.words(text), at: node.mark)
    } else if let entries = node.map {
      for entry in entries {
        // `{L4:8, A100:1}` without spaces: the whole of it is the key, and there is no value.
        let text = entry.value.isNull ? entry.key.keyText : "\(entry.key.keyText):\(entry.value.pythonText)"
        add([text], at: entry.key.mark)
      }
    } else if let list = node.list {
      isOrdered = true
      for item in list { add([item.pythonText], at: item.mark) }
    }
    isEmptyByMemory = items.isEmpty && !(node.list?.isEmpty ?? node.map?.isEmpty ?? false)
  }

  /// `{L4, T4}` in quotes is a set, too.
  private static func words(_ text: String) -> [String] {
    let trimmed = text.trimmed
    guard trimmed.hasPrefix("{"), trimmed.hasSuffix("}") else { return [text] }
    return trimmed.dropFirst().dropLast().split(separator: ",").map {
      String($0).trimmed.filter { $0 != "'" && $0 != "\"" }
    }
  }

  private mutating func add(_ texts: [String], at mark: YamlMark) {
    for text in texts {
      let found = MemoryForm(text).map { form in form.names.map { ($0 + ":" + String(form.count), false) } }
      for (word, named) in found ?? [(text, true)] {
        if let index = items.firstIndex(where: { $0.text == word }) {
          items[index].named = items[index].named || named
        } else {
          items.append(Item(text: word, named: named, mark: mark))
        }
      }
    }
  }

  /// `80GB`, `80GB+`, `nvidia:80GB+:2`: any accelerator with that much memory.
  private struct MemoryForm {
    var gb: Int
    var atLeast: Bool
    var maker: String?
    var count = 1

    init?(_ text: String) {
      let parts = text.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
      func size(_ part: String) -> (Int, Bool)? {
        let plus = part.hasSuffix("+")
        let body = (plus ? String(part.dropLast()) : part).lowercased()
        let scales = ["mb": 1.0 / 1024, "gb": 1, "tb": 1024]
        guard let scale = scales[String(body.suffix(2))], let number = Int(body.dropLast(2)), number >= 0 else {
          return nil
        }
        return (Int(clamping: Double(number) * scale), plus)
      }
      switch parts.count {
      case 1:
        guard let (gb, plus) = size(parts[0]) else { return nil }
        (self.gb, atLeast) = (gb, plus)
      case 2:
        if let (gb, plus) = size(parts[0]), let count = Int(parts[1]) {
          (self.gb, atLeast, self.count) = (gb, plus, count)
        } else if let (gb, plus) = size(parts[1]) {
          (self.gb, atLeast, maker) = (gb, plus, parts[0])
        } else {
          return nil
        }
      case 3:
        guard let (gb, plus) = size(parts[1]), let count = Int(parts[2]) else { return nil }
        (self.gb, atLeast, maker, self.count) = (gb, plus, parts[0], count)
      default: return nil
      }
    }

    var names: [String] {
      Accelerator.known.filter { device in
        (atLeast ? device.gb >= gb : device.gb == gb) && (maker == nil || maker!.lowercased() == device.maker)
      }.map(\.name)
    }
  }
}

extension Accelerator {
  /// Those whose memory is known.
  package static var names: [String] { known.map(\.name) }

  /// Memory per device in GB, for requests by memory.
  static let known: [(name: String, gb: Int, maker: String)] = [
    ("A10", 24, "nvidia"), ("A10G", 24, "nvidia"), ("A100", 40, "nvidia"), ("A100-80GB", 80, "nvidia"),
    ("A100-80GB-SXM", 80, "nvidia"), ("A30", 24, "nvidia"), ("A40", 48, "nvidia"), ("B100", 192, "nvidia"),
    ("B200", 192, "nvidia"), ("GB200", 192, "nvidia"), ("GH200", 96, "nvidia"), ("H100", 80, "nvidia"),
    ("H100-MEGA", 80, "nvidia"), ("H100-SXM", 80, "nvidia"), ("H100NVL", 94, "nvidia"), ("H200", 141, "nvidia"),
    ("K80", 12, "nvidia"), ("L4", 24, "nvidia"), ("L40", 48, "nvidia"), ("L40S", 48, "nvidia"), ("M60", 8, "nvidia"),
    ("P100", 16, "nvidia"), ("P4", 8, "nvidia"), ("RTX3090", 24, "nvidia"), ("RTX4090", 24, "nvidia"),
    ("RTX5090", 32, "nvidia"), ("RTX6000", 24, "nvidia"), ("RTXA4000", 16, "nvidia"), ("RTXA5000", 24, "nvidia"),
    ("RTXA6000", 48, "nvidia"), ("T4", 16, "nvidia"), ("V100", 16, "nvidia"), ("V100-32GB", 32, "nvidia"),
    ("MI250X", 128, "amd"), ("MI300X", 192, "amd"), ("MI325X", 256, "amd"), ("Gaudi2", 96, "intel"),
  ]

  init(_ item: AcceleratorList.Item) throws(SpecError) {
    let parts = item.text.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
    let malformed = SpecError(
      .value, mark: item.mark,
      "The \"accelerators\" field as a str should be <name> or <name>:<cnt>. Found: \(pythonQuoted(item.text))")
    guard !parts[0].isEmpty, parts.count <= 2 else { throw malformed }
    var count = Quantity(1)
    if parts.count == 2 {
      guard let number = Double(parts[1].trimmed), number.isFinite else { throw malformed }
      count = Int(exactly: number).map(Quantity.whole) ?? .fraction(number)
    }
    guard count.value > 0 else {
      throw SpecError(
        .value, mark: item.mark,
        "Accelerator count must be a positive number. Got: \(pythonQuoted(parts[0])): \(count).")
    }
    self.init(name: parts[0], count: count)
  }
}

// MARK: - One candidate

extension ResourceSpec {
  init(decoding node: YamlNode, accelerator item: AcceleratorList.Item?) throws(SpecError) {
    self.init()
    try readInfra(node)
    instanceType = node["instance_type"]?.string
    useSpot = node["use_spot"]?.bool
    if let recovery = node["job_recovery"] { jobRecovery = Self.recovery(recovery) }
    for key in ["ephemeral_storage", "disk_size"] {
      if let size = node[key], key == "disk_size" { diskSize = try Self.diskSize(size) }
    }
    readImage(node["image_id"])
    diskTier = try Self.tier(
      node["disk_tier"], "disk_tier", "Disk tier", of: ["low", "medium", "high", "ultra", "best"])
    networkTier = try Self.tier(node["network_tier"], "network_tier", "Network tier", of: ["standard", "best"])
    if let node = node["ports"] { ports = try Self.ports(node) }
    if let node = node["labels"], !node.isNull { labels = PlainValue(node) }
    if let node = node["cpus"] { cpus = try Self.cpus(node) }
    if let node = node["memory"] { memory = try Self.memory(node, slurm: infra.cloud == "slurm") }
    acceleratorArgs = node["accelerator_args"].map(PlainValue.init)
    if let item {
      accelerator = try Accelerator(item)
      if !item.named { foundByMemory = true }
    }
    if let item { try placeTpu(at: item.mark) }
    if let node = node["autostop"] { autostop = try Self.autostop(node) }
    priority = node["priority"]?.whole
    priorityClass = node["priority_class"]?.string
    volumes = node["volumes"].map(PlainValue.init)
    if let node = node["local_disk"] { localDisk = try Self.localDisk(node) }
    maxHourlyCost = node["max_hourly_cost"].flatMap(Quantity.init)
    if let flag = node["_no_missing_accel_warnings"]?.bool { foundByMemory = flag }
    isImageManaged = node["_is_image_managed"]?.bool
    requiresFuse = node["_requires_fuse"]?.bool
    configOverrides = node["_cluster_config_overrides"].map(PlainValue.init)
  }

  private mutating func readInfra(_ node: YamlNode) throws(SpecError) {
    let cloud = node["cloud"]?.string?.lowercased()
    let region = node["region"]?.string
    let zone = node["zone"]?.string
    guard let place = node["infra"], let text = place.string else {
      infra = Infra(cloud: cloud, region: region, zone: zone)
      return
    }
    if cloud != nil || region != nil || zone != nil {
      throw SpecError(
        .value, mark: place.mark,
        "Cannot specify both `infra` and `cloud`, `region`, or `zone` parameters. Got: infra=\(text), "
          + "cloud=\(cloud.map(Infra.displayName) ?? "None"), region=\(region ?? "None"), zone=\(zone ?? "None")")
    }
    do throws(InfraFormat) { infra = try Infra(parsing: text) } catch {
      throw SpecError(.value, mark: place.mark, error.message)
    }
  }

  private static func recovery(_ node: YamlNode) -> PlainValue? {
    var members: [PlainValue.Member]
    switch PlainValue(node) {
    case .map(let list): members = list
    case let name: members = [.init("strategy", name)]
    }
    if !members.contains(where: { $0.key == "strategy" }) { members.append(.init("strategy", .null)) }
    for index in members.indices where members[index].key == "strategy" {
      guard let name = members[index].value.text else { continue }
      if name == "none" { return nil }
      members[index].value = .string(name.uppercased())
    }
    return .map(members)
  }

  /// A string stands for the candidate's region; `docker` among regions is an image to run on any machine.
  private mutating func readImage(_ node: YamlNode?) {
    guard let node, !node.isNull else { return }
    func prefixed(_ image: String) -> PlainValue {
      let trimmed = image.trimmed
      // On Kubernetes every image is a container's.
      return .string(infra.cloud == "kubernetes" && !trimmed.hasPrefix("docker:") ? "docker:" + trimmed : trimmed)
    }
    if let image = node.string {
      imageID = .map([.init(infra.region ?? "null", prefixed(image))])
      return
    }
    var members: [PlainValue.Member] = []
    var docker: String?
    for entry in node.map ?? [] {
      let image = entry.value.pythonText.trimmed
      if entry.key.string == "docker" {
        docker = image.hasPrefix("docker:") ? String(image.dropFirst(7)) : image
      } else if entry.key.isNull {
        members = [.init(infra.region ?? "null", prefixed(image))]
        break
      } else {
        members.append(.init(entry.key.keyText.trimmed, prefixed(image)))
      }
    }
    if let docker { members.append(.init("docker", .string(docker))) }
    if !members.isEmpty { imageID = .map(members) }
  }

  private static func tier(
    _ node: YamlNode?, _ field: String, _ title: String, of tiers: [String]
  ) throws(SpecError) -> String? {
    guard let node, let text = node.string?.lowercased() else { return nil }
    guard tiers.contains(text) else {
      throw SpecError(
        .value, mark: node.mark,
        "Invalid \(field) \(pythonQuoted(text)). \(title) must be one of \(tiers.joined(separator: ", ")).")
    }
    return text
  }

  /// TPUs exist on Google's cloud only.
  private mutating func placeTpu(at mark: YamlMark) throws(SpecError) {
    guard let name = accelerator?.name.lowercased(), name.contains("tpu") else { return }
    if infra.cloud == nil { infra.cloud = "gcp" }
    guard infra.cloud == "gcp" else {
      if infra.cloud == "kubernetes" { return }
      throw SpecError(.value, mark: mark, "Cloud must be GCP or Kubernetes for TPU accelerators.")
    }
    var args: [PlainValue.Member] = []
    if case .map(let list) = acceleratorArgs { args = list }
    if !args.contains(where: { $0.key == "runtime_version" }) {
      let isVm = !args.contains { $0.key == "tpu_vm" && $0.value == .bool(false) }
      let version =
        !isVm
        ? "2.12.0"
        : name.hasPrefix("tpu-v5") ? "v2-alpha-tpuv5" : name.hasPrefix("tpu-v6e") ? "v2-alpha-tpuv6e" : "tpu-vm-base"
      args.append(.init("runtime_version", .string(version)))
    }
    acceleratorArgs = .map(args)
  }
}

struct InfraFormat: Error {
  var message: String
}

extension Infra {
  /// `aws`, `aws/us-east-1`, `*/us-east-1`, `k8s/any/context`.
  init(parsing text: String) throws(InfraFormat) {
    var text = text.trimmed
    while text.hasPrefix("/") { text.removeFirst() }
    while text.hasSuffix("/") { text.removeLast() }
    if text.isEmpty {
      self.init()
      return
    }
    let parts = text.split(separator: "/", omittingEmptySubsequences: false).map { String($0).trimmed }
    if parts.contains("") {
      throw InfraFormat(
        message:
          "Invalid infra format: \(text). Format should not contain empty parts (e.g., double slashes \"//\").")
    }
    func free(_ part: String?) -> String? { part == "*" ? nil : part }
    let rest = Array(parts.dropFirst())
    switch parts[0].lowercased() {
    case "k8s", "kubernetes":
      self.init(cloud: "kubernetes", region: rest.isEmpty ? nil : free(rest.joined(separator: "/")))
    case "ssh":
      self.init(cloud: "ssh", region: rest.isEmpty ? nil : free(rest.joined(separator: "/")))
    case let cloud:
      if rest.count > 2 {
        throw InfraFormat(
          message:
            "Invalid infra format: \(text). Expected format is \"cloud\", \"cloud/region\", or \"cloud/region/zone\".")
      }
      self.init(
        cloud: free(cloud), region: free(rest.first), zone: rest.count > 1 ? free(rest[1]) : nil)
    }
  }
}

// MARK: - Amounts

extension ResourceSpec {
  static func cpus(_ node: YamlNode) throws(SpecError) -> String {
    let text = node.pythonText
    let body = text.hasSuffix("+") ? String(text.dropLast()) : text
    guard let number = Double(body.trimmed), number.isFinite else {
      throw SpecError(
        .value, mark: node.mark,
        "The \"cpus\" field should be either a number or a string \"<number>+\". Found: \(pythonQuoted(text))")
    }
    guard number > 0 else {
      throw SpecError(.value, mark: node.mark, "The \"cpus\" field should be positive. Found: \(pythonQuoted(text))")
    }
    return text
  }

  static func memory(_ node: YamlNode, slurm: Bool = false) throws(SpecError) -> String {
    let text = node.pythonText
    let plus = text.hasSuffix("+") ? "+" : ""
    let body = plus.isEmpty ? text : String(text.dropLast())
    var gb = body
    if Double(body.trimmed)?.isFinite != true {
      let united = Self.united(body).flatMap { number, power in
        Double(number.trimmed).map { $0 * Self.scale(power) }
      }
      guard let united, united.isFinite else {
        throw SpecError(
          .value, mark: node.mark,
          "\"memory\" field should be a number (e.g. \"16\") or \"<number><unit>\" where unit is one of "
            + "KB/MB/GB/TB/PB (e.g. \"16GB\") or \"<number>+\" for \"at least\". Got: \(pythonQuoted(text))")
      }
      gb = yamlFloatText(united)
    }
    let amount = Double(gb.trimmed) ?? 0
    guard amount > 0 || (slurm && amount == 0) else {
      throw SpecError(
        .value, mark: node.mark, "The \"memory\" field should be positive. Found: \(pythonQuoted(gb + plus))")
    }
    return gb + plus
  }

  /// The number before a unit of memory, and the unit's power of 1024 relative to GB.
  private static func united(_ text: String) -> (number: String, power: Int)? {
    let lower = text.lowercased()
    let units = ["k": -2, "m": -1, "g": 0, "t": 1, "p": 2]
    guard lower.hasSuffix("b") || lower.hasSuffix("i"), let power = units[String(lower.dropLast().suffix(1))] else {
      return nil
    }
    return (String(lower.dropLast(2)), power)
  }

  private static func scale(_ power: Int) -> Double {
    power < 0 ? 1 / Double(1 << (-10 * power)) : Double(1 << (10 * power))
  }

  private static func diskSize(_ node: YamlNode) throws(SpecError) -> Int? {
    let text = node.pythonText
    let malformed = SpecError(
      .value, mark: node.mark,
      "\"disk_size\" field should be a number (e.g. \"16\") or \"<number><unit>\" where unit is one of "
        + "KB/MB/GB/TB/PB (e.g. \"16GB\"). Got: \(pythonQuoted(text))")
    var size: Int
    if let whole = node.whole ?? Int(text) {
      size = whole
    } else {
      guard let (number, power) = united(text), let value = Int(number) else { throw malformed }
      let gb = Double(value) * scale(power)
      guard let exact = Int(exactly: gb) else { throw malformed }
      size = exact
    }
    guard size > 0 else {
      throw SpecError(
        .value, mark: node.mark, "\"disk_size\" must be a positive integer (in GB). Got: \(pythonQuoted(text)).")
    }
    return size == Defaults.diskSize ? nil : size
  }

  static func localDisk(_ node: YamlNode) throws(SpecError) -> String {
    let text = node.pythonText.lowercased().trimmed
    let parts = text.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
    func check(_ size: String) throws(SpecError) {
      var body = size
      while body.hasSuffix("+") { body.removeLast() }
      if let gb = Double(body), gb > 0, gb.isFinite { return }
      throw SpecError(
        .value, mark: node.mark,
        "Invalid local_disk: \(pythonQuoted(text)). Expected \"mode:size[+]\", \"mode\", or \"size[+]\". Mode must be "
          + "\"nvme\" or \"ssd\", size must be positive (GB), optionally with \"+\".")
    }
    switch parts.count {
    case 1:
      if text == "nvme" || text == "ssd" { return "\(text):100+" }
      try check(text)
      return "nvme:\(text)"
    case 2:
      guard parts[0] == "nvme" || parts[0] == "ssd" else {
        throw SpecError(
          .value, mark: node.mark,
          "Invalid local_disk mode: \(pythonQuoted(parts[0])). Must be \"nvme\" or \"ssd\".")
      }
      try check(parts[1])
      return text
    default:
      throw SpecError(
        .value, mark: node.mark,
        "Invalid local_disk format: \(pythonQuoted(text)). Expected \"mode:size[+]\", \"mode\", or \"size[+]\". "
          + "Examples: \"nvme:1000+\", \"ssd:500\", \"nvme\", \"1000+\".")
    }
  }

  private static func autostop(_ node: YamlNode) throws(SpecError) -> PlainValue? {
    func whole(_ minutes: Int, down: Bool) -> PlainValue {
      .map([.init("idle_minutes", .int(minutes)), .init("down", .bool(down))])
    }
    if let flag = node.bool { return flag ? whole(0, down: false) : .bool(false) }
    if let minutes = node.whole { return whole(minutes, down: false) }
    if let text = node.string {
      let scales: [Character: Int] = ["m": 1, "h": 60, "d": 1440, "w": 10080]
      let lower = text.lowercased()
      let scale = lower.last.flatMap { scales[$0] }
      guard let count = Int(scale == nil ? lower : String(lower.dropLast())), count >= 0 else {
        throw SpecError(.value, mark: node.mark, "Invalid time format: \(text)", cure: "Write minutes, or 30m, 2h, 1d.")
      }
      return whole(count.multipliedReportingOverflow(by: scale ?? 1).partialValue, down: false)
    }
    guard node.map != nil else { return nil }
    var members = Members()
    members.add("idle_minutes", .int(node["idle_minutes"]?.whole ?? 0))
    members.add("down", .bool(node["down"]?.bool ?? false))
    members.add("wait_for", (node["wait_for"]?.string).map(PlainValue.string))
    return .map(members.list)
  }

  /// Ranges are merged: `[8080, "9000-9002", 9003]` is 8080 and 9000-9003.
  static func ports(_ node: YamlNode) throws(SpecError) -> [PortRange]? {
    if node.isNull { return nil }
    var ranges: [PortRange] = []
    for item in node.list ?? [node] {
      for word in item.pythonText.split(separator: ",") {
        let text = String(word).trimmed
        if !text.isEmpty { ranges.append(try portRange(text, at: item.mark)) }
      }
    }
    ranges.sort { ($0.low, $0.high) < ($1.low, $1.high) }
    var merged: [PortRange] = []
    for range in ranges {
      if let last = merged.last, range.low <= last.high + 1 {
        merged[merged.count - 1].high = max(last.high, range.high)
      } else {
        merged.append(range)
      }
    }
    return merged.isEmpty ? nil : merged
  }

  private static func portRange(_ text: String, at mark: YamlMark) throws(SpecError) -> PortRange {
    func port(_ text: String) throws(SpecError) -> Int {
      guard !text.isEmpty, text.utf8.allSatisfy(Bytes.isDigit), let value = Int(text), (1...65535).contains(value)
      else {
        throw SpecError(
          .value, mark: mark, "Invalid port \(text). Please use a port number between 1 and 65535.")
      }
      return value
    }
    if text.utf8.allSatisfy(Bytes.isDigit) {
      let value = try port(text)
      return PortRange(low: value, high: value)
    }
    let malformed = SpecError(
      .value, mark: mark,
      "Invalid port range \(text). Please use the format \"from-to\", in which from <= to. e.g. \"1-3\".")
    let parts = text.split(separator: "-", omittingEmptySubsequences: false).map(String.init)
    guard parts.count == 2 else { throw malformed }
    let range = PortRange(low: try port(parts[0]), high: try port(parts[1]))
    guard range.low <= range.high else { throw malformed }
    return range
  }
}

// MARK: - Trees

extension YamlNode {
  /// `gpus` is another word for `accelerators`.
  fileprivate var withGpusNamed: YamlNode {
    guard let entries = map, self["gpus"] != nil, self["accelerators"] == nil else { return self }
    var result = self
    result.value = .map(
      entries.map { entry in
        guard entry.key.string == "gpus" else { return entry }
        return YamlEntry(key: YamlNode(.string("accelerators"), mark: entry.key.mark), value: entry.value)
      })
    return result
  }

  func removing(_ key: String) -> YamlNode {
    guard let entries = map else { return self }
    var result = self
    result.value = .map(entries.filter { $0.key.string != key })
    return result
  }

  func setting(_ key: String, to value: YamlNode) -> YamlNode {
    guard var entries = map else { return self }
    if let index = entries.firstIndex(where: { $0.key.string == key }) {
      entries[index].value = value
    } else {
      entries.append(YamlEntry(key: YamlNode(.string(key), mark: value.mark), value: value))
    }
    var result = self
    result.value = .map(entries)
    return result
  }
}

extension String {
  /// Without white space at the ends.
  var trimmed: String {
    let blank: (Character) -> Bool = { $0.isWhitespace }
    guard let first = firstIndex(where: { !blank($0) }), let last = lastIndex(where: { !blank($0) }) else { return "" }
    return String(self[first...last])
  }
}
