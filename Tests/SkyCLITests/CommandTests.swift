// Each command with a controller that is played: what is said, asked and sent.

import ControlCore
import Foundation
import SkyCLI
import TestSupport
import Testing

private let hello = """
  service:
    readiness_probe: /
    replicas: 2
  resources:
    ports: 8080
    cpus: 2
  run: python3 -m http.server 8080

  """

@Suite struct UpTests {
  private func file(_ text: String = hello) throws -> (folder: TemporaryFolder, path: String) {
    let folder = try TemporaryFolder()
    return (folder, try folder.write(text, to: "service.yaml"))
  }

  @Test func theWholeOutput() async throws {
    let (folder, path) = try file()
    let controller = PlayedController()
    let played = await play("serve", "up", path, "-n", "web", answers: [""], controller: controller)
    #expect(played.exit == 0 && played.errors == "")
    #expect(
      played.output == """
        Service spec:
        Readiness probe method:           GET /
        Readiness initial delay seconds:  1200
        Readiness probe timeout seconds:  15
        Replica autoscaling policy:       Fixed 2 replicas
        TLS Certificates:                 No TLS Enabled
        Spot Policy:                      No spot policy
        Load Balancing Policy:            least_load

        Each replica will use the following resources (estimated):
        Considered resources (1 node):
        --------------------------------------------------------------------------------
         INFRA                  INSTANCE   vCPUs   Mem(GB)   GPUS   COST ($)   CHOSEN   
        --------------------------------------------------------------------------------
         Local (this machine)   -          2       -         -      0.00         ✔      
        --------------------------------------------------------------------------------
        Launching a new service 'web'. Proceed? [Y/n]: Launching controller for 'web'...
        Service name: web
        Endpoint URL: http://127.0.0.1:30001
        📋 Useful Commands
        ├── To check service status:\tsky serve status web [--endpoint]
        ├── To teardown the service:\tsky serve down web
        ├── To see replica logs:\tsky serve logs web [REPLICA_ID]
        ├── To see load balancer logs:\tsky serve logs --load-balancer web
        ├── To see controller logs:\tsky serve logs --controller web
        ├── To monitor the status:\twatch -n10 sky serve status web
        └── To send a test request:\tcurl http://127.0.0.1:30001

        ✓ Service is spinning up and replicas will be ready shortly.

        """)
    let task = try #require(try controller.asked.value.up?.task.task())
    #expect(task.service?.policy.minReplicas == 2 && task.resources.all[0].cpus == "2")
    withExtendedLifetime(folder) {}
  }

  static let prompts: [(answers: [String], exit: Int32)] = [
    (["n"], 1), (["no"], 1), (["what", "N"], 1), ([], 1), (["y"], 0), (["YES"], 0), (["what", ""], 0),
  ]

  @Test(arguments: prompts)
  func thePrompt(answers: [String], exit: Int32) async throws {
    let (folder, path) = try file()
    let controller = PlayedController()
    let played = await play("serve", "up", path, answers: answers, controller: controller)
    #expect(played.exit == exit)
    #expect((controller.asked.value.up != nil) == (exit == 0))
    #expect(played.errors == (exit == 0 ? "" : "Aborted!\n"))
    #expect(played.output.contains("Launching a new service 'sky-service-00f3'. Proceed? [Y/n]: "))
    if answers.first == "what" { #expect(played.output.contains("Error: invalid input\n")) }
    withExtendedLifetime(folder) {}
  }

  @Test func refusalsOfTheController() async throws {
    let (folder, path) = try file()
    let text = "The service 'web' is already running. Please specify a different name for your service."
    let played = await play(
      "serve", "up", path, "-y", "-n", "web", controller: PlayedController(refusal: ApiError(.refused(409), text)))
    #expect(played.exit == 1 && played.errors == "Error: \(text)\n")
    let broken = await play(
      "serve", "up", path, "-y", "-n", "web", controller: PlayedController(refusal: ApiError(.refused(500), "disk full")))
    #expect(
      broken.errors == "Error: Failed to register service 'web' on the SkyServe controller. Reason:\ndisk full\n")
    let nobody = await play("serve", "up", path, "-y")
    #expect(nobody.exit == 1 && nobody.errors == "Error: no controller\n")
    withExtendedLifetime(folder) {}
  }

  @Test(arguments: ["1web", "web-", "we b", "wéb", ""])
  func names(name: String) async throws {
    let (folder, path) = try file()
    let played = await play("serve", "up", path, "-y", "-n", name, controller: PlayedController())
    #expect(played.exit == 1)
    #expect(played.errors.hasPrefix("Error: Service name '\(name)' is invalid: ensure it is fully matched by regex"))
    withExtendedLifetime(folder) {}
  }

  @Test func optionsOverrideEveryCandidate() async throws {
    let (folder, path) = try file(
      """
      service: {readiness_probe: /, replicas: 1}
      resources:
        any_of: [{accelerators: A100:1}, {accelerators: L4:2, use_spot: true}]
        ports: 1
        cloud: aws
      num_nodes: 3
      envs: {A: 1, B: }
      secrets: {S: , T: }
      run: x
      """)
    let envFile = try folder.write("B=from-file\nC='two words'\nS=file\n", to: ".env")
    let controller = PlayedController()
    let played = await play(
      words: [
        "serve", "up", path, "-y", "--gpus", "A100:8", "--ports", "8080", "--cpus", "4+", "--memory", "16", "--no-use-spot",
        "--infra", "local", "--num-nodes", "1", "--disk-size", "1TB", "--disk-tier", "best", "--env", "A=2", "--env",
        "SHELLED", "--env-file", envFile, "--secret", "T=tee", "--instance-type", "big", "--image-id", "docker:x",
      ], controller: controller, environment: ["SHELLED": "yes"])
    #expect(played.exit == 0, "\(played.errors)")
    let task = try #require(try controller.asked.value.up?.task.task())
    #expect(task.resources.all.count == 2 && Set(task.resources.all).count == 1, "every candidate is overridden")
    let spec = task.resources.all[0]
    #expect(spec.accelerator?.description == "A100:8" && spec.cpus == "4+" && spec.memory == "16")
    #expect(spec.useSpot == false && spec.infra.cloud == "local" && spec.diskSize == 1024 && spec.diskTier == "best")
    #expect(spec.ports?.map(\.description) == ["8080"] && spec.instanceType == "big" && task.numNodes == 1)
    let envs = Dictionary(uniqueKeysWithValues: task.envs.map { ($0.name, $0.value) })
    #expect(envs == ["A": "2", "B": "from-file", "C": "two words", "SHELLED": "yes"])
    let secrets = Dictionary(uniqueKeysWithValues: task.secrets.map { ($0.name, $0.value?.revealed) })
    #expect(secrets == ["S": "file", "T": "tee"])
    withExtendedLifetime(folder) {}
  }

  @Test func pathsBecomeAbsolute() async throws {
    let folder = try TemporaryFolder()
    try FileManager.default.createDirectory(atPath: folder.file("code"), withIntermediateDirectories: true)
    _ = try folder.write("x", to: "model.bin")
    _ = try folder.write("x", to: "key.pem")
    _ = try folder.write(
      """
      service:
        readiness_probe: /
        tls: {keyfile: key.pem, certfile: ~/cert.pem}
      resources: {ports: 8080}
      workdir: ./code
      file_mounts:
        ~/model: model.bin
        ~/bucket: s3://bucket
      run: x
      """, to: "service.yaml")
    let controller = PlayedController()
    // Relative to where the command is given, and HOME for `~`.
    let missing = await play("serve", "up", "service.yaml", "-y", controller: controller, folder: folder.path)
    #expect(missing.exit == 1)
    #expect(
      missing.errors == "service.yaml:3:37: TLS certfile '~/cert.pem' does not exist. To fix: check if it exists, and "
        + "correct the path.\n")
    _ = try folder.write("x", to: "cert.pem")
    let played = await play(
      "serve", "up", "service.yaml", "-y", controller: controller, environment: ["HOME": folder.path], folder: folder.path)
    #expect(played.exit == 0, "\(played.errors)")
    let task = try #require(try controller.asked.value.up?.task.task())
    #expect(task.workdir == .local(folder.file("code")))
    #expect(task.fileMounts.map(\.source) == [.path(folder.file("model.bin")), .path("s3://bucket")])
    #expect(task.service?.tls?.keyfile == folder.file("key.pem"))
    #expect(task.service?.tls?.certfile == folder.file("cert.pem"))
  }

  @Test func missingFiles() async throws {
    let (folder, path) = try file(
      "service: {readiness_probe: /}\nresources: {ports: 8080}\nworkdir: nowhere\nfile_mounts:\n  ~/a: /none/such\nrun: x\n")
    let played = await play("serve", "up", path, "-y", controller: PlayedController(), folder: folder.path)
    #expect(played.exit == 1)
    #expect(
      played.errors == """
        \(path):3:10: Workdir must be a valid directory (or a symlink to a valid directory). nowhere not found.
        \(path):5:8: File mount source '/none/such' does not exist locally. To fix: check if it exists, and correct the path.

        """)
  }

  static let refused: [(yaml: String, exit: Int32, message: String)] = [
    ("[]", 2, "Error: SERVICE_YAML must be a valid YAML file."),
    ("a: 1\n---\nb: 2\n", 2, "Error: YAML specifies a DAG which is only supported by `sky jobs launch`."),
    ("run: x\n", 1, ":1:1: Service section not found in the YAML file. To fix, add a valid `service` field."),
    ("service: {replica: 2}\n", 1, ":1:11: Invalid service YAML: Instead of 'replica', did you mean 'replicas'?"),
    ("service:\n\treplicas: 2\n", 1, ":2:1: "),
    ("service: {readiness_probe: /}\nrun: x\n", 1, ": Must specify at least one ports in resources."),
    (
      "service: {readiness_probe: /}\nresources: {ports: [1, 2]}\n", 1,
      ":2:20: Multiple ports specified in resources."
    ),
    (
      "service: {readiness_probe: /, ports: 3}\nresources: {ports: [1, 2]}\n", 1,
      ":1:38: The service port 3 specified in the service section is not found"
    ),
    ("pool: {workers: 2}\nrun: x\n", 1, ":1:7: Found a `pool` section"),
    (
      "service: {readiness_probe: /}\nresources: {ports: 1}\nsecrets: {TOKEN: }\n", 1,
      ":3:11: Secret variable 'TOKEN' is None."
    ),
    ("service: {readiness_probe: /}\nenvs: {X: }\n", 1, ":2:8: Environment variable 'X' is None."),
  ]

  @Test(arguments: refused)
  func filesThatAreRefused(yaml: String, exit: Int32, message: String) async throws {
    let (folder, path) = try file(yaml)
    let controller = PlayedController()
    let played = await play("serve", "up", path, "-y", controller: controller)
    #expect(played.exit == exit)
    #expect(played.errors.contains(message), "\(played.errors)")
    #expect(controller.asked.value.up == nil && played.output == "")
    withExtendedLifetime(folder) {}
  }

  static let badOptions: [([String], String)] = [
    (["--env", "1A=x"], "'1A' is not a variable's name"), (["--env", "NOT_SET_ANYWHERE"], "is not set in local environment"),
    (["--secret", "=tok"], "'' is not a variable's name"), (["--env-file", "/none"], "There is no file '/none'"),
    (["--infra", "aws", "--cloud", "gcp"], "Cannot specify --infra together with"),
    (["--git-url", "u", "--workdir", "."], "Cannot specify both --git-url and --workdir."),
    (["--git-ref", "main"], "--git-ref needs --git-url."), (["--config", "serve.x=1"], "Write it in ~/.sky/config.yaml."),
    (["--config", "/none"], "is neither KEY=VALUE nor a file"),
    (["--secret", "my token"], "Invalid value for '--secret': it is not a variable's name"),
    (["--env-file", ""], "Invalid value for '--env-file': The name of the file is empty."),
    (["--env-file", "/proc/self"], "Invalid value for '--env-file': '/proc/self' is a folder."),
    (["--env-file", "/proc/self/mem"], "Invalid value for '--env-file': '/proc/self/mem' cannot be read: Input/output error."),
    (["--num-nodes", "0"], "Invalid value for '--num-nodes': num_nodes should be a positive int. Got: 0"),
    (["--gpus", "A100:8:1"], "Invalid value for '--gpus': The \"accelerators\" field as a str should be"),
    (["--cpus", "many"], "Invalid value for '--cpus': The \"cpus\" field should be either a number"),
    (["--ports", "80", "--ports", "99999"], "Invalid value for '--ports': Invalid port 99999."),
  ]

  /// What a file is not to blame for.
  @Test func flagsAreNamed() async throws {
    let (folder, path) = try file()
    for controller in [nil, PlayedController()] {
      let nodes = await play("serve", "up", path, "--num-nodes", "2", controller: controller)
      #expect(nodes.exit == 1)
      #expect(nodes.errors == "Error: --num-nodes 2 was asked. Remove --num-nodes, or set it to 1.\n")
    }
    let folderless = await play("serve", "up", path, "--workdir", "nosuch", folder: folder.path)
    #expect(
      folderless.errors
        == "--workdir: Workdir must be a valid directory (or a symlink to a valid directory). nosuch not found.\n")
    let ports = await play("serve", "up", path, "--ports", "1", "--ports", "2")
    #expect(ports.errors.hasPrefix("--ports: Multiple ports specified in resources."), "\(ports.errors)")
  }

  /// In a file of secrets everything may be one.
  @Test(arguments: ["sk-live-99999", "sk-live-99999=x", "A=\"sk-live-99999", "A='sk-live-99999' sk-live-99999"])
  func secretFilesAreNotQuoted(text: String) async throws {
    let (folder, path) = try file()
    let secrets = try folder.write("# mine\n" + text, to: "tok")
    for flag in ["--secret-file", "--env-file"] {
      let played = await play("serve", "up", path, flag, secrets, controller: PlayedController())
      #expect(played.exit == 1 && played.errors.hasPrefix("\(secrets):2: ") && !played.errors.contains("sk-live"))
    }
  }

  @Test func aTaskWithoutACommandIsWarnedOf() async throws {
    for run in ["", "run: ''\n", "run:\n"] {
      let (folder, path) = try file(hello.replacing("run: python3 -m http.server 8080\n", with: run))
      for verb in ["up", "validate"] {
        let played = await play(words: ["serve", verb, path] + (verb == "up" ? ["-y"] : []), controller: PlayedController())
        #expect(played.exit == 0)
        #expect(
          played.errors.contains("There is no command in 'run:'.") && played.errors.hasPrefix("\(path):"), "\(played.errors)")
      }
      withExtendedLifetime(folder) {}
    }
  }

  @Test(arguments: badOptions)
  func optionsThatAreRefused(words: [String], message: String) async throws {
    let (folder, path) = try file()
    let played = await play(words: ["serve", "up", path, "-y"] + words, controller: PlayedController())
    #expect(played.exit == 2 && played.errors.contains(message), "\(played.errors)")
    #expect(!played.errors.contains("tok"), "a secret is not repeated")
    withExtendedLifetime(folder) {}
  }

  @Test func configIsLaidOverTheFile() async throws {
    let (folder, path) = try file(hello + "config: {kubernetes: {a: 1, b: 2}}\n")
    let controller = PlayedController()
    let played = await play(
      "serve", "up", path, "-y", "--config", "kubernetes.a=3", "--config", "nvidia_gpus.x=true", controller: controller)
    #expect(played.exit == 0, "\(played.errors)")
    let task = try #require(try controller.asked.value.up?.task.task())
    #expect(
      task.resources.all[0].configOverrides?.json() == #"{"kubernetes":{"a":3,"b":2},"nvidia_gpus":{"x":true}}"#)
    withExtendedLifetime(folder) {}
  }

  @Test func fileNames() async throws {
    let nothing = await play("serve", "up", "/none.yaml", "-y")
    #expect(nothing.exit == 2)
    #expect(nothing.errors.hasSuffix("Error: SERVICE_YAML must be a valid YAML file. There is no file '/none.yaml'.\n"))
    #expect(await play("serve", "up", "/tmp", "-y").errors.contains("'/tmp' is a folder."))
    #expect(await play("serve", "up", "", "-y").errors.contains("The name of the file is empty."))
  }

  /// The machine answers for itself; nothing is started for a question.
  @Test func withoutAController() async throws {
    let (folder, path) = try file(hello.replacing("cpus: 2", with: "cpus: 2\n  use_spot: true"))
    let no = await play("serve", "up", path, answers: ["n"])
    #expect(no.exit == 1 && no.errors == "No spot here.\nAborted!\n")
    #expect(no.output.contains(" Local (this machine) ") && !no.output.contains("Launching controller"))
    let gpu = await play("serve", "up", path, "--gpus", "H100:8")
    #expect(gpu.exit == 1 && gpu.errors == "Error: H100:8 was asked; this machine has A100:2. Change --gpus.\n")
    #expect(await play("gpus", "list").output.contains("1 of 2 free"))
    withExtendedLifetime(folder) {}
  }

  @Test func secretsAreHidden() async throws {
    let (folder, path) = try file(
      """
      service: {readiness_probe: {path: "/?key=$K", post_data: {token: $K}, headers: {X: $K}}}
      resources: {ports: 8080}
      secrets: {K: hunter2}
      run: echo $K

      """)
    let controller = PlayedController()
    let played = await play("serve", "up", path, "-y", controller: controller)
    #expect(played.exit == 0 && !played.output.contains("hunter2"))
    #expect(played.output.contains(#"POST /?key=<redacted> {"token": "<redacted>"} with custom headers"#))
    let task = try #require(try controller.asked.value.up?.task.task())
    #expect(task.service?.probe.path == "/?key=hunter2", "what is sent is whole")
    #expect(!task.canonical.yaml.contains("hunter2"))
    withExtendedLifetime(folder) {}
  }

  @Test func notesGoToStandardError() async throws {
    let (folder, path) = try file()
    let played = await play("serve", "up", path, "-y", controller: PlayedController(notes: ["No spot here."]))
    #expect(played.errors == "No spot here.\n" && played.exit == 0)
    withExtendedLifetime(folder) {}
  }
}

@Suite struct UpdateTests {
  private let running = Sample.service("web", .ready)

  private func update(
    _ yaml: String = hello, _ words: String..., controller: PlayedController?
  ) async throws -> Played {
    let folder = try TemporaryFolder()
    let path = try folder.write(yaml, to: "new.yaml")
    return await play(words: ["serve", "update", "web", path] + words, answers: ["y"], controller: controller)
  }

  @Test func output() async throws {
    let controller = PlayedController([running])
    let played = try await update(controller: controller)
    #expect(played.exit == 0 && played.errors == "")
    #expect(played.output.contains("New replica will use the following resources (estimated):\n"))
    #expect(
      played.output.hasSuffix(
        """
        Updating service 'web'. Proceed? [Y/n]: Service 'web' update scheduled.
        Please use sky serve status web to check the latest status.
        ✓ Successfully updated service 'web' to version 2.
        Replicas are updating, use `sky serve logs web <replica_id>` to check their status.

        """), "\(played.output)")
    #expect(controller.asked.value.update?.mode == .rolling)
  }

  @Test func blueGreen() async throws {
    let controller = PlayedController([running])
    _ = try await update(hello, "--mode", "Blue_Green", "-y", controller: controller)
    #expect(controller.asked.value.update?.mode == .blueGreen)
  }

  @Test func changesInPlaceAreSaid() async throws {
    let yaml = hello.replacing("replicas: 2", with: "replicas: 2\n  load_balancing_policy: round_robin")
    let played = try await update(yaml, controller: PlayedController([running]))
    #expect(
      played.errors == "Current load balancing policy 'least_load' is different from the new policy 'round_robin'. It is "
        + "changed in place; no request is interrupted.\n")
  }

  @Test func whatCannotBeUpdated() async throws {
    #expect(
      try await update(controller: nil).errors
        == "Error: Service does not exist. To spin up a new service, use sky serve up\n")
    let other = try await update(controller: PlayedController([Sample.service("other", .ready)]))
    #expect(other.exit == 1)
    #expect(other.errors == "Error: Cannot find service 'web'. To spin up a service, use sky serve up\n")
    for (status, words) in [(400, "Client"), (500, "Server")] {
      let refusal = ApiError(.refused(status), "no")
      let refused = try await update(controller: PlayedController([running], refusal: refusal))
      #expect(refused.errors == "Error: \(words) error during service update: no\n")
    }
    let starting = try await update(controller: PlayedController([Sample.service("web", .controllerInit)]))
    #expect(starting.errors.contains("is still initializing its controller. Please try again later."))
  }
}

@Suite struct StatusTests {
  private let two = PlayedController([Sample.service("a", .ready, endpoint: "http://127.0.0.1:30001"), Sample.service("b", .ready)])

  @Test func nothing() async {
    #expect(await play("serve", "status").output == "Services\nNo live services. (See: sky serve -h)\n")
    #expect(await play("serve", "status", controller: PlayedController()).output == "Services\nNo existing services.\n")
    #expect(await play("serve", "status", "-o", "json").output == "[]\n")
  }

  @Test func names() async {
    let played = await play("serve", "status", "a", "x", "y", controller: two)
    #expect(played.exit == 0 && played.output.hasSuffix("No existing replicas.\n\nService 'x' not found.\nService 'y' not found.\n"))
    #expect(two.asked.value.names == ["a", "x", "y"])
  }

  @Test func aNameThatIsNearlyRight() async throws {
    let web = PlayedController([Sample.service("web", .ready)])
    #expect(
      await play("serve", "status", "wbe", controller: web).output.hasSuffix(
        "\n\nService 'wbe' not found. Did you mean 'web'?\n"))
    #expect(
      await play("serve", "logs", "wbe", "1", controller: web).errors
        == "Error: Service 'wbe' does not exist. Did you mean 'web'?\n")
    let folder = try TemporaryFolder()
    let file = try folder.write("service:\n  readiness_probe: /\nresources:\n  ports: 8080\nrun: x\n", to: "s.yaml")
    #expect(
      await play("serve", "update", "wbe", file, "-y", controller: web).errors.hasSuffix(
        "Error: Cannot find service 'wbe'. Did you mean 'web'? To spin up a service, use sky serve up\n"))
  }

  @Test func endpoint() async {
    #expect(await play("serve", "status", "a", "--endpoint", controller: two).output == "http://127.0.0.1:30001\n")
    #expect(await play("serve", "status", "b", "--endpoint", controller: two).output == "-\n")
    let usage = " found. Please specify an existing service to show its endpoint. Usage: sky serve status --endpoint <service-name>\n"
    for (words, controller, count) in [
      (["x"], two, "No service"), ([], two, "2 services"), (["a"], nil, "No service"),
    ] as [([String], PlayedController?, String)] {
      let played = await play(words: ["serve", "status", "--endpoint"] + words, controller: controller)
      #expect(played.exit == 2 && played.output == "" && played.errors.hasSuffix("Error: \(count)\(usage)"))
    }
  }

  @Test func json() async throws {
    let played = await play("serve", "status", "web", "gone", "-o", "json", controller: PlayedController(Sample.services))
    #expect(played.errors == "Service 'gone' not found.\n")
    let records = try #require(try JSONSerialization.jsonObject(with: Data(played.output.utf8)) as? [[String: Any]])
    let web = try #require(records.first)
    for key in [
      "name", "version", "active_versions", "status", "uptime", "policy", "load_balancing_policy",
      "requested_resources_str", "controller_job_id", "controller_port", "load_balancer_port", "endpoint",
      "tls_encrypted", "target_num_replicas", "hash", "entrypoint", "user_hash", "user_name", "replica_info",
    ] { #expect(web[key] != nil, "\(key)") }
    #expect(web["status"] as? String == "READY" && web["load_balancer_port"] as? Int == 30001)
    let replicas = try #require(web["replica_info"] as? [[String: Any]])
    for key in [
      "replica_id", "name", "status", "version", "endpoint", "is_spot", "launched_at", "cloud", "region", "infra",
      "resources_str", "resources_str_full", "handle", "reason", "status_detail",
    ] { #expect(replicas[0][key] != nil, "\(key)") }
    #expect(replicas[2]["status_detail"] as? String == "waiting for queue admission")
    #expect(replicas[1]["name"] as? String == "web-2")
  }

  @Test func skyStatus() async {
    let played = await play("status", controller: PlayedController(Sample.services), now: Sample.now)
    #expect(played.output.contains("sky-serve-controller  Local (this machine)  UP"))
    #expect(played.output.contains("2 hrs ago"))
    #expect(played.output.hasSuffix("\n* To see detailed service status: sky serve status -v\n"))
    #expect(await play("status").output == "Clusters\nNo existing clusters.\n\nServices\nNo live services.\n")
  }
}

@Suite struct DownTests {
  private let two = PlayedController([Sample.service("a", .ready), Sample.service("b", .ready)])

  static let outputs: [([String], [String], String)] = [
    (["a"], ["y"], "Terminating service(s) 'a'. Proceed? [Y/n]: Service 'a' is scheduled to be terminated.\n"),
    (["a", "b", "-y"], [], "Services 'a', 'b' are scheduled to be terminated.\n"),
    (["--all"], ["y"], "Terminating all services. Proceed? [Y/n]: Services 'a', 'b' are scheduled to be terminated.\n"),
    (["x", "-y"], [], "No service to terminate.\n"),
    (
      ["a", "--replica-id", "3"], ["y"],
      "Terminating replica ID 3 in 'a'. Proceed? [Y/n]: Replica 3 of service 'a' is scheduled to be terminated.\n"
    ),
  ]

  @Test(arguments: outputs)
  func output(words: [String], answers: [String], text: String) async {
    let played = await play(words: ["serve", "down"] + words, answers: answers, controller: two)
    #expect(played.exit == 0 && played.output == text && played.errors == "")
  }

  static let mistakes: [([String], String)] = [
    ([], "Can only specify one of SERVICE_NAMES or --all. Provided ''."),
    (["a", "b", "--all"], "Can only specify one of SERVICE_NAMES or --all. Provided 'SERVICE_NAMES=a,b --all'."),
    (
      ["a", "b", "--replica-id", "1"],
      "The --replica-id option can only be used with a single service name. Got: a, b."
    ),
    (["--all", "--replica-id", "1"], "The --replica-id option cannot be used with the --all option."),
  ]

  @Test(arguments: mistakes)
  func misuse(words: [String], message: String) async {
    let played = await play(words: ["serve", "down"] + words, controller: two)
    #expect(played.exit == 2 && played.errors.hasSuffix("Error: \(message)\n"))
  }

  @Test func noMeansNo() async {
    let played = await play("serve", "down", "a", answers: ["n"], controller: two)
    #expect(played.exit == 1 && played.errors == "Aborted!\n" && two.asked.value.down == nil)
  }

  @Test func skippedAndPurged() async {
    let controller = PlayedController(notes: ["Service 'x' is in failed status."])
    let played = await play("serve", "down", "x", "-yp", controller: controller)
    #expect(played.output == "Service 'x' is in failed status.\n")
    #expect(controller.asked.value.down == DownRequest(names: ["x"], all: false, purge: true))
  }

  @Test func replicaRefusals() async {
    let busy = PlayedController([], refusal: ApiError(.refused(409), "Replica 3 of service 'a' is already going."))
    let played = await play("serve", "down", "a", "--replica-id", "3", "-y", controller: busy)
    #expect(played.exit == 1)
    #expect(
      played.errors == "Error: Failed to terminate replica 3 in a. Reason:\nReplica 3 of service 'a' is already going.\n")
    let gone = PlayedController([], refusal: ApiError(.refused(404), "Replica 9 for service a does not exist."))
    #expect(
      await play("serve", "down", "a", "--replica-id", "9", "-y", controller: gone).errors
        == "Error: Replica 9 for service a does not exist.\n")
  }

  @Test func withoutAController() async {
    #expect(await play("serve", "down", "--all").output == "No service to terminate.\n")
    let played = await play("serve", "down", "a", "--replica-id", "1", "-y")
    #expect(played.exit == 1 && played.errors == "Error: Service 'a' does not exist.\n")
  }
}

@Suite struct LogsTests {
  private let web = PlayedController([Sample.services[0], Sample.service("new", .controllerInit)])

  @Test func targets() async {
    for (words, target, follow, tail) in [
      (["1"], .replica(1), true, nil), (["--controller"], .controller, true, nil),
      (["--load-balancer", "--no-follow"], .loadBalancer, false, nil), (["2", "--no-follow", "--tail", "5"], .replica(2), false, 5),
    ] as [([String], LogTarget, Bool, Int?)] {
      let played = await play(words: ["serve", "logs", "web"] + words, controller: web)
      let asked = web.asked.value.logs.last
      #expect(asked?.target == target && asked?.follow == follow && asked?.tail == tail)
      #expect(played.exit == 0 && played.output == "log of \(target)\n" && played.errors == "")
    }
  }

  @Test func tailAndFollow() async {
    let tail = await play("serve", "logs", "web", "1", "--tail", "0", controller: web)
    #expect(tail.errors == "" && web.asked.value.logs.last?.follow == false)
    let played = await play("serve", "logs", "web", "1", "--tail", "0", "--follow", controller: web)
    #expect(played.errors == "--tail and --follow cannot be used together. Changed the mode to --no-follow.\n")
    #expect(web.asked.value.logs.last?.follow == false)
  }

  @Test func aControllerThatEnds() async {
    let dying = PlayedController(
      [Sample.services[0]], logsEnd: HttpError(.closed, "the connection was closed amid the body"))
    let played = await play("serve", "logs", "web", "1", controller: dying)
    #expect(played.exit == 1 && played.output == "log of replica(1)\n")
    #expect(played.errors == "Error: the controller has ended; run the command again\n")
  }

  static let mistakes: [([String], String)] = [
    ([], "Specify a target to tail: --controller, --load-balancer, or a REPLICA_ID."),
    (
      ["1", "2"],
      "Can only tail logs from a single replica at a time. Provide exactly one REPLICA_ID or use --sync-down to download logs from multiple replicas."
    ),
    (
      ["1", "--controller"],
      "Can only tail logs from one target at a time (controller, load balancer, or a single replica). Use --sync-down to download logs from multiple sources."
    ),
    (
      ["--load-balancer", "--controller"],
      "Can only tail logs from one target at a time. Use --sync-down to download logs from multiple sources."
    ),
    (["1", "--tail", "-1"], "--tail must be a non-negative integer."),
  ]

  @Test(arguments: mistakes)
  func misuse(words: [String], message: String) async {
    let played = await play(words: ["serve", "logs", "web"] + words, controller: web)
    #expect(played.exit == 2 && played.errors.hasSuffix("Error: \(message)\n"), "\(played.errors)")
  }

  @Test func services() async {
    for controller in [nil, web] {
      let played = await play("serve", "logs", "x", "1", controller: controller)
      #expect(played.exit == 1 && played.errors == "Error: Service 'x' does not exist.\n")
    }
    let early = await play("serve", "logs", "new", "1", controller: web)
    #expect(
      early.errors == "Error: Service 'new' is still initializing its controller. Please try again later.\n")
  }

  @Test func syncDown() async throws {
    let folder = try TemporaryFolder()
    let home = ["HOME": folder.path]
    let played = await play(
      "serve", "logs", "web", "-s", controller: web, environment: home, now: 1_000_000.25)
    let place = try #require(played.output.split(separator: " ").last.map { String($0.dropLast()) })
    #expect(place.hasPrefix(folder.file("sky_logs/service/web_1970-01-12-")) && place.hasSuffix("-250000"))
    #expect(played.output == "Service web logs: \(place)\n")
    let files = try FileManager.default.contentsOfDirectory(atPath: place).sorted()
    #expect(
      files == [
        "controller.log", "load_balancer.log", "replica-1.log", "replica-2.log", "replica-3.log", "replica-4.log",
      ])
    #expect(try Places.text(place + "/replica-3.log") == "log of replica(3)\n")
    #expect(web.asked.value.logs.allSatisfy { !$0.follow })

    let some = await play(
      "serve", "logs", "web", "2", "9", "--controller", "-s", controller: web, environment: home, now: 2_000_000)
    #expect(some.errors == "Replica ID 9 not found for web. Skipping...\n")
    let chosen = try FileManager.default.contentsOfDirectory(
      atPath: try #require(some.output.split(separator: " ").last.map { String($0.dropLast()) })).sorted()
    #expect(chosen == ["controller.log", "replica-2.log"])
  }
}

@Suite struct OtherCommandTests {
  private let web = PlayedController([Sample.services[0]])

  @Test func history() async {
    let played = await play("serve", "history", "web", controller: web)
    let lines = played.output.split(separator: "\n").map(String.init)
    #expect(lines.count == 4 && lines[0].hasPrefix("VERSION  CREATED      MODE     WAS_READY  ACTIVE  POLICY"))
    #expect(lines[1].hasPrefix("1        1 hr ago     -        yes        no      Fixed 1 replica"))
    let json = await play("serve", "history", "web", "-o", "json", controller: web).output
    #expect(json.contains("\"mode\": null") && json.contains("\"mode\": \"rolling\""), "\(json)")
    #expect(await play("serve", "history", "web", "--yaml", "2", controller: web).output == "version: 2\n")
    let none = await play("serve", "history", "web", "--yaml", "9", controller: web)
    #expect(none.exit == 1 && none.errors == "Error: Service 'web' has no version 9. There are: 1, 2, 3.\n")
    #expect(await play("serve", "history", "web").errors == "Error: Service 'web' does not exist.\n")
  }

  @Test func rollback() async {
    let played = await play("serve", "rollback", "web", answers: ["y"], controller: web)
    #expect(played.exit == 0)
    #expect(played.output.hasPrefix("Rolling back service 'web' to version 2. Proceed? [Y/n]: "))
    #expect(played.output.contains("✓ Successfully rolled back service 'web' to version 2, as version 4.\n"))
  }

  @Test func gpus() async {
    for words in [["gpus", "list"], ["show-gpus"], ["show-gpus", "a100:2"]] {
      let played = await play(words: words, controller: web)
      #expect(
        played.output == """
          Local GPUs
          GPU   MEMORY(GB)  REQUESTABLE_QTY_PER_NODE  UTILIZATION  
          A100  40          1, 2                      1 of 2 free  

          """)
    }
    let none = await play("gpus", "list", "H100", controller: web)
    #expect(none.exit == 1 && none.errors == "Error: There is no H100 on this machine. There is: A100:2.\n")
  }

  @Test func check() async {
    let played = await play("check", "-v", controller: web)
    #expect(played.output.contains("  Local: enabled [compute]\n    CPUs: 8, memory: 31.3 GB\n    GPUs: A100:2\n"))
    #expect(played.output.hasSuffix("🎉 Enabled infra: Local\n"))
    #expect(await play("check", "aws", controller: web).output.contains("  AWS: disabled\n"))
    #expect(await play("check", "mars", controller: web).exit == 2)
  }

  @Test func api() async {
    #expect(await play("api", "status").output == "The controller is not running. `sky serve up` starts it.\n")
    #expect(await play("api", "stop").output == "The controller is not running.\n")
    #expect(await play("api", "status", controller: web).output.contains("  PID:      4711\n"))
  }
}
