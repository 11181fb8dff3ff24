// What this machine has for replicas: found, or declared under `local:` of ~/.sky/config.yaml.

import CPlatform
import Foundation

package struct LocalGpu: Hashable, Sendable {
  /// As nvidia-smi counts, what CUDA_VISIBLE_DEVICES takes.
  package var index: Int
  /// `A100-80GB`: as `accelerators:` in a service file names it.
  package var name: String
  /// GB, where known.
  package var memory: Double?

  package init(index: Int, name: String, memory: Double? = nil) {
    self.index = index
    self.name = name
    self.memory = memory
  }
}

package struct LocalMachine: Hashable, Sendable {
  package var cpus: Int
  /// GB.
  package var memory: Double
  package var gpus: [LocalGpu]

  package init(cpus: Int, memory: Double, gpus: [LocalGpu]) {
    self.cpus = cpus
    self.memory = memory
    self.gpus = gpus
  }

  /// Takes as long as nvidia-smi does, where there is one (a second or two).
  package static func find(environment: [String: String]) -> LocalMachine {
    LocalMachine(
      cpus: max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN))), memory: memoryInfo("MemTotal") ?? 1,
      gpus: findGpus(environment))
  }

  package func limited(by local: UserConfig.Local) -> LocalMachine {
    var result = self
    if let cpus = local.cpus { result.cpus = cpus }
    if let memory = local.memory { result.memory = memory }
    switch local.gpus {
    case nil: break
    case .only(let indices): result.gpus = gpus.filter { indices.contains($0.index) }
    case .declared(let kinds):
      // Those that were found first; what was not found is believed, and numbered after them.
      var found = gpus
      var next = (gpus.map(\.index).max() ?? -1) + 1
      result.gpus = []
      for kind in kinds {
        for _ in 0..<Int(clamping: kind.count.value) {
          if let at = found.firstIndex(where: { $0.name.lowercased() == kind.name.lowercased() }) {
            result.gpus.append(found.remove(at: at))
          } else {
            result.gpus.append(LocalGpu(index: next, name: kind.name))
            next += 1
          }
        }
      }
    }
    return result
  }

  /// GB of a line of /proc/meminfo.
  package static func memoryInfo(_ name: String) -> Double? {
    guard let text = ProcessTable.readFile("/proc/meminfo") else { return nil }
    for line in text.split(separator: "\n") where line.hasPrefix(name + ":") {
      return line.split(separator: " ").dropFirst().first.flatMap { Double($0) }.map { $0 / 1_048_576 }
    }
    return nil
  }

  // MARK: GPUs

  private static func findGpus(_ environment: [String: String]) -> [LocalGpu] {
    guard let tool = ChildProcess.findProgram("nvidia-smi", environment: environment) else { return [] }
    let arguments = ["--query-gpu=index,name,memory.total", "--format=csv,noheader,nounits"]
    guard let text = output(of: tool, arguments, environment, seconds: 20) else { return [] }
    return gpus(fromNvidiaSmi: text)
  }

  /// `0, NVIDIA A100-SXM4-80GB, 81920`: index, name, MiB.
  package static func gpus(fromNvidiaSmi text: String) -> [LocalGpu] {
    text.split(separator: "\n").compactMap { line in
      let fields = line.split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) }
      guard fields.count >= 3, let index = Int(fields[0]), !fields[1].isEmpty else { return nil }
      let megabytes = Double(fields[2])
      return LocalGpu(
        index: index, name: accelerator(named: fields[1], megabytes: megabytes), memory: megabytes.map { $0 / 1024 })
    }
  }

  /// NVIDIA's name of a product as the catalogues of accelerators write it.
  package static func accelerator(named product: String, megabytes: Double?) -> String {
    var words = product.split { $0 == " " || $0 == "-" }.map(String.init)
    let makers: Set = ["nvidia", "tesla", "quadro", "geforce", "graphics", "device"]
    words.removeAll { makers.contains($0.lowercased()) }
    guard let first = words.first else { return product.split(separator: " ").joined(separator: "-") }
    let rest = words.dropFirst().map { $0.lowercased() }
    switch first.uppercased() {
    case "A100": return (megabytes ?? 0) > 50_000 ? "A100-80GB" : "A100"
    case "V100": return (megabytes ?? 0) > 20_000 ? "V100-32GB" : "V100"
    case "H100" where rest.contains("nvl"): return "H100-NVL"
    case "RTX", "GTX", "TITAN":
      // RTX 4090, RTX A6000, RTX 6000 Ada Generation, RTX 4080 SUPER
      var name = first.uppercased() + (words.dropFirst().first ?? "")
      if rest.contains("ada") { name += "-Ada" }
      if rest.contains("super") { name += "-SUPER" }
      if rest.contains("ti") { name += "-Ti" }
      return name
    default: return first.uppercased()
    }
  }

  /// What a small program says within the time; nil: it failed.
  private static func output(
    of tool: String, _ arguments: [String], _ environment: [String: String], seconds: Double
  ) -> String? {
    var ends: [Int32] = [-1, -1]
    guard sky_pipe(&ends) == 0 else { return nil }
    let null = sky_open("/dev/null", O_RDONLY | O_CLOEXEC, 0)
    defer {
      close(ends[0])
      close(null)
    }
    let program = Spawn(
      program: tool, arguments: arguments, environment: environment, input: null, output: ends[1])
    let child = try? program.start()
    close(ends[1])
    guard let child else { return nil }
    let deadline = Date().addingTimeInterval(seconds)
    var said: [UInt8] = []
    var block = [UInt8](repeating: 0, count: 16_384)
    var hasEnded = false
    while said.count < 1 << 20 {
      var watched = pollfd(fd: ends[0], events: Int16(POLLIN), revents: 0)
      let left = deadline.timeIntervalSinceNow
      if left <= 0 || poll(&watched, 1, Int32(clamping: left * 1000 + 1)) == 0 { break }
      let count = read(ends[0], &block, block.count)
      if count < 0, errno == EINTR { continue }
      if count <= 0 {
        hasEnded = count == 0
        break
      }
      said += block[..<count]
    }
    if !hasEnded { kill(child, SIGKILL) }
    var status: Int32 = 0
    while waitpid(child, &status, 0) < 0, errno == EINTR {}
    return hasEnded && status == 0 ? String(decoding: said, as: UTF8.self) : nil
  }
}
