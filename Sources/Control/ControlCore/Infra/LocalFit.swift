// Whether, and as which of its candidates, a task can run on this machine at all. Pure. What is in use now does not
// matter here, except that GPUs are given out one by one later (LocalGpuLedger).

struct LocalFit {
  let machine: LocalMachine

  /// Those that can run here, in order of preference; at least one. Throws when none ever could.
  func candidates(of task: TaskSpec) throws(InfraError) -> [ResourceSpec] {
    if task.numNodes > 1 {
      throw InfraError(
        .impossible,
        "num_nodes: \(task.numNodes) was asked; a replica on this machine is one node. Remove 'num_nodes:', or set it to 1."
      )
    }
    var refusals: [InfraError] = []
    var fitting: [ResourceSpec] = []
    for spec in task.resources.all {
      if let refusal = refusal(spec) {
        if !refusals.contains(refusal) { refusals.append(refusal) }
      } else {
        fitting.append(spec)
      }
    }
    if !fitting.isEmpty { return fitting }
    if refusals.count == 1 { throw refusals[0] }
    throw InfraError(
      .impossible,
      "None of the candidates in resources can run on this machine:\n  "
        + refusals.map(\.description).joined(separator: "\n  "))
  }

  private func refusal(_ spec: ResourceSpec) -> InfraError? {
    let infra = spec.infra
    if infra.text != nil, infra.cloud != "local" {
      return InfraError(
        .impossible,
        "infra: \(infra.text ?? "*") was asked; only this machine is enabled. Remove 'infra:', or set it to 'local'.")
    }
    if let type = spec.instanceType {
      return InfraError(
        .impossible,
        "instance_type: \(type) was asked; this machine is of no cloud's type. Remove 'instance_type:'.")
    }
    if let image = container(spec) {
      return InfraError(
        .impossible,
        "image_id: \(image) was asked; replicas on this machine run without containers. Remove 'image_id:' and "
          + "install what it holds in 'setup:', or start the container in 'run:'.")
    }
    if let cpus = spec.cpus, let number = Double(Self.plain(cpus)), number > Double(machine.cpus) {
      return InfraError(
        .impossible, "cpus: \(cpus) was asked; this machine has \(machine.cpus). Lower 'cpus:' in resources.")
    }
    if let memory = spec.memory, let number = Double(Self.plain(memory)), number > machine.memory.rounded(.up) {
      return InfraError(
        .impossible,
        "memory: \(memory) (GB) was asked; this machine has \(Self.shown(machine.memory.rounded())) GB. Lower "
          + "'memory:' in resources.")
    }
    return spec.accelerator.flatMap(refusal)
  }

  /// The image of a container among the candidate's images, which are by region.
  private func container(_ spec: ResourceSpec) -> String? {
    guard case .map(let images) = spec.imageID else { return nil }
    for entry in images {
      guard case .string(let image) = entry.value else { continue }
      if image.hasPrefix("docker:") { return image }
      if entry.key == "docker" { return "docker:" + image }
    }
    return nil
  }

  private func refusal(_ wanted: Accelerator) -> InfraError? {
    // It reads the file when it starts.
    let cure = "declare GPUs under 'local: gpus:' in ~/.sky/config.yaml, then: sky api stop"
    if machine.gpus.isEmpty {
      return InfraError(
        .impossible,
        "\(wanted) was asked; this machine has no GPU. Remove 'accelerators:' from resources, or \(cure)")
    }
    let there = machine.gpus.count { $0.name.lowercased() == wanted.name.lowercased() }
    if Double(there) >= wanted.count.value { return nil }
    return InfraError(
      .impossible,
      "\(wanted) was asked; this machine has \(LocalGpuLedger.summary(of: machine.gpus)). Change 'accelerators:' in "
        + "resources, or \(cure)")
  }

  /// `2+` asks for 2 at least; so does `2`, here.
  static func plain(_ amount: String) -> String { amount.hasSuffix("+") ? String(amount.dropLast()) : amount }

  static func shown(_ amount: Double) -> String {
    amount == amount.rounded() ? String(Int(clamping: amount)) : String(amount)
  }
}
