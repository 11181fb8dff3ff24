// Which replica has which GPU of this machine. Written down in each replica's order (replica.json), so that after a
// restart the folders tell it again; a GPU is free when the replica's folder no longer has an order. Two controllers
// with different SKY_HOMEs know nothing of each other's: declare each its own under `local: gpus:`.

struct LocalGpuLedger: Sendable {
  typealias Share = ReplicaOrder.GpuShare

  private let gpus: [LocalGpu]
  /// By the replica's folder.
  private var holdings: [String: [Share]] = [:]

  init(gpus: [LocalGpu]) { self.gpus = gpus }

  /// Known GPUs of this name, whoever has them.
  func count(_ name: String) -> Int { gpus.count { $0.name.lowercased() == name.lowercased() } }

  /// Wholly free ones.
  func free(_ name: String) -> Int {
    gpus.count { $0.name.lowercased() == name.lowercased() && used($0.index) == 0 }
  }

  /// `A100:2, T4:1`; empty: none.
  var summary: String { Self.summary(of: gpus) }

  static func summary(of gpus: [LocalGpu]) -> String {
    var counts: [(name: String, count: Int)] = []
    for gpu in gpus {
      if let at = counts.firstIndex(where: { $0.name == gpu.name }) {
        counts[at].count += 1
      } else {
        counts.append((gpu.name, 1))
      }
    }
    return counts.map { "\($0.name):\($0.count)" }.joined(separator: ", ")
  }

  func holding(of folder: String) -> [Share]? { holdings[folder] }

  mutating func hold(_ shares: [Share], by folder: String) {
    if !shares.isEmpty { holdings[folder] = shares }
  }

  mutating func release(_ folder: String) { holdings[folder] = nil }

  /// nil: not enough are free now. Whole GPUs go to one replica alone; a part shares one with other parts.
  func choose(_ name: String, count: Double) -> [Share]? {
    let mine = gpus.filter { $0.name.lowercased() == name.lowercased() }
    if count < 1 {
      let room = mine.map { (gpu: $0, used: used($0.index)) }.filter { $0.used + count <= 1 + Self.rounding }
      // The fullest that takes it, so that whole ones stay whole.
      guard let best = room.max(by: { ($0.used, -$0.gpu.index) < ($1.used, -$1.gpu.index) }) else { return nil }
      return [Share(index: best.gpu.index, name: best.gpu.name, share: count)]
    }
    let whole = Int(clamping: count.rounded(.up))
    let free = mine.filter { used($0.index) == 0 }.prefix(whole)
    return free.count < whole ? nil : free.map { Share(index: $0.index, name: $0.name, share: 1) }
  }

  /// Ten tenths are one.
  private static let rounding = 1e-9

  private func used(_ index: Int) -> Double {
    holdings.values.joined().reduce(0) { $1.index == index ? $0 + $1.share : $0 }
  }
}
