// One row per flag. Commands list rows; nothing else knows a flag's spelling.

extension Flag {
  package static let help = Flag("help", "h", .toggle, "Show this message and exit.")
  static let version = Flag("version", nil, .toggle, "Show the version and exit.")
  static let installCompletion = Flag(
    "install-shell-completion", nil, .choice(["auto", "bash", "zsh", "fish"]),
    "Write the shell's completion script where the shell looks for it.")
  static let uninstallCompletion = Flag(
    "uninstall-shell-completion", nil, .choice(["auto", "bash", "zsh", "fish"]), "Remove that script.")

  // MARK: Shared

  static let yes = Flag("yes", "y", .toggle, "Skip the confirmation prompt.")
  static let async = Flag(
    "async", nil, .pair(off: "no-async"),
    "Accepted for the sake of scripts: commands return as soon as the controller has recorded them.")
  static let output = Flag(
    "output", "o", .choice(["table", "json"]), defaultText: "table", "What to print: tables for people, or JSON.")
  static let verbose = Flag("verbose", "v", .toggle, "Show everything.")

  // MARK: Task options

  static let workdir = Flag(
    "workdir", nil, .text("DIR"), completion: .folders, "The folder that replicas get a copy of and start in.")
  static let infra = Flag(
    "infra", nil, .text("INFRA"), completion: .words(["local"]),
    "Where replicas run: CLOUD[/REGION[/ZONE]], `local`, `k8s/CONTEXT`. Parts may be `*`.")
  static let cloud = Flag("cloud", nil, .text("TEXT"), isHidden: true, "The cloud. Use --infra.")
  static let region = Flag("region", nil, .text("TEXT"), isHidden: true, "The region. Use --infra.")
  static let zone = Flag("zone", nil, .text("TEXT"), isHidden: true, "The zone. Use --infra.")
  static let numNodes = Flag("num-nodes", nil, .whole, "Machines per replica.")
  static let cpus = Flag("cpus", nil, .text("N[+]"), "vCPUs per replica: `4` is exactly 4, `4+` at least 4.")
  static let memory = Flag("memory", nil, .text("GB[+]"), "Memory per replica: `16`, `16+`, `512MB`.")
  static let diskSize = Flag("disk-size", nil, .text("GB"), "Disk size: `256`, `1TB`.")
  static let diskTier = Flag(
    "disk-tier", nil, .choice(["low", "medium", "high", "ultra", "best"]), "How fast the disk is.")
  static let networkTier = Flag("network-tier", nil, .choice(["standard", "best"]), "How fast the network is.")
  static let useSpot = Flag(
    "use-spot", nil, .pair(off: "no-use-spot"), "Run replicas on spot machines, or on demand, whatever the file says.")
  static let imageID = Flag("image-id", nil, .text("TEXT"), "The image to start from; `docker:IMAGE` for a container.")
  static let envFile = Flag(
    "env-file", nil, .text("FILE"), completion: .files,
    "Environment variables from a file of KEY=VALUE lines. Values given by --env win.")
  static let env = Flag(
    "env", nil, .text("KEY[=VALUE]"), repeats: true,
    "An environment variable of the replicas. KEY alone takes the value it has here. May be repeated.")
  static let secretFile = Flag(
    "secret-file", nil, .text("FILE"), completion: .files,
    "Secrets from a file of KEY=VALUE lines. Values given by --secret win.")
  static let secret = Flag(
    "secret", nil, .text("KEY[=VALUE]"), repeats: true,
    "Like --env, and never shown anywhere. May be repeated.")
  static let localDisk = Flag("local-disk", nil, .text("TEXT"), "A local disk: `nvme:1000+`, `ssd`, `500+`.")
  static let gpus = Flag(
    "gpus", nil, .text("NAME[:N]"), "Accelerators per replica: `A100`, `L4:2`. `none` takes the file's away.")
  static let instanceType = Flag("instance-type", "t", .text("TEXT"), "The exact type of machine.")
  static let ports = Flag(
    "ports", nil, .text("PORT[-PORT]"), repeats: true, "Ports that replicas open. May be repeated.")
  static let config = Flag(
    "config", nil, .text("FILE|KEY=VALUE"), repeats: true, completion: .files,
    "Configuration for this request: a YAML file, or one value such as `kubernetes.namespace=prod`.")

  static let taskOptions: [Flag] = [
    workdir, infra, cloud, region, zone, numNodes, cpus, memory, diskSize, diskTier, networkTier, useSpot, imageID,
    envFile, env, secretFile, secret, localDisk, gpus, instanceType, ports, config, async, yes,
  ]

  // MARK: Of one command

  static let serviceName = Flag(
    "service-name", "n", .text("TEXT"), "The service's name. Without it, `sky-service-` and four digits.")
  static let gitUrl = Flag("git-url", nil, .text("URL"), "A git repository instead of a workdir.")
  static let gitRef = Flag("git-ref", nil, .text("REF"), "The branch, tag or commit of --git-url.")
  static let mode = Flag(
    "mode", nil, .choice(["rolling", "blue_green"]), defaultText: "rolling",
    "rolling: traffic goes to old and new replicas while one replaces the other. blue_green: old replicas take all "
      + "traffic until enough new ones are ready.")
  static let endpoint = Flag(
    "endpoint", nil, .toggle, "Print the endpoint of one service and nothing else; `-` while there is none.")
  static let all = Flag("all", "a", .toggle, "All services.")
  static let purge = Flag(
    "purge", "p", .toggle, "Forget services or replicas that failed even if something of them could not be cleaned up.")
  static let replicaID = Flag("replica-id", nil, .whole, "Terminate this replica of the service only.")
  static let follow = Flag(
    "follow", nil, .pair(off: "no-follow"), defaultText: "follow",
    "Keep printing what is logged; Ctrl-C ends it.")
  static let controller = Flag("controller", nil, .toggle, "The controller's log.")
  static let loadBalancer = Flag("load-balancer", nil, .toggle, "The load balancer's log.")
  static let syncDown = Flag(
    "sync-down", "s", .toggle,
    "Copy logs into ~/sky_logs/service/ instead of printing them; of everything, or of the targets given.")
  static let tail = Flag("tail", nil, .whole, "Only the last lines; implies --no-follow.")
  static let show = Flag("yaml", nil, .whole, "Print the file of this version instead, secrets hidden.")
  static let refresh = Flag("refresh", "r", .toggle, "Ask anew. It always does; accepted for the sake of scripts.")
  static let showServices = Flag("show-services", nil, .pair(off: "no-show-services"), "Show the services, too.")
  static let allGpus = Flag("all", "a", .toggle, "Show also what is known but not on this machine.")
}
