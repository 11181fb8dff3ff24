// The hot path allocates nothing: a small library before libc counts the calls of malloc and its kin in the running
// program.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct Allocations {
    private static let compiler = ["cc", "gcc", "clang"].first { Places.tool($0) != nil }

    /// Counts are kept in a file that is mapped, so that nothing has to be asked of the program.
    private static let counter = """
      #define _GNU_SOURCE
      #include <dlfcn.h>
      #include <fcntl.h>
      #include <stdlib.h>
      #include <sys/mman.h>
      #include <unistd.h>

      static unsigned long early;
      static unsigned long *calls = &early;

      static void count(void) { __atomic_fetch_add(calls, 1, __ATOMIC_RELAXED); }

      __attribute__((constructor)) static void begin(void) {
        const char *path = getenv("COUNTER_FILE");
        int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
        if (fd < 0) return;
        void *page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        close(fd);
        if (page != MAP_FAILED) calls = page;
      }

      extern void *__libc_malloc(size_t);
      extern void *__libc_calloc(size_t, size_t);
      extern void *__libc_realloc(void *, size_t);
      extern void *__libc_memalign(size_t, size_t);
      extern void __libc_free(void *);

      void *malloc(size_t n) { count(); return __libc_malloc(n); }
      void *calloc(size_t n, size_t m) { count(); return __libc_calloc(n, m); }
      void *realloc(void *p, size_t n) { count(); return __libc_realloc(p, n); }
      void *memalign(size_t a, size_t n) { count(); return __libc_memalign(a, n); }
      void *aligned_alloc(size_t a, size_t n) { count(); return __libc_memalign(a, n); }
      int posix_memalign(void **p, size_t a, size_t n) {
        count();
        *p = __libc_memalign(a, n);
        return *p ? 0 : 12;
      }
      void free(void *p) { if (p) count(); __libc_free(p); }
      """

    @Test(.enabled(if: compiler != nil, "no C compiler"))
    func steadyStateAllocatesNothing() throws {
      guard let program = Places.releaseProgram("sky-proxy") else {
        print("note: allocations were not counted: build it first (swift build -c release --product sky-proxy)")
        return
      }
      let folder = try TemporaryFolder()
      let source = try folder.write(Self.counter, to: "counter.c")
      let library = folder.file("counter.so")
      let compiled = try run(Self.compiler!, ["-O2", "-shared", "-fPIC", "-w", "-o", library, source, "-ldl"])
      #expect(compiled.exit == .code(0), "\(compiled.errors)")
      let file = folder.file("calls")
      try Data(count: 4096).write(to: URL(fileURLWithPath: file))
      func calls() throws -> UInt64 {
        try Data(contentsOf: URL(fileURLWithPath: file)).withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) }
      }

      let origin = try Origin.answering { _ in responseText("ok") }
      defer { origin.stop() }
      // No admin API and no access log: their threads may allocate, the workers may not.
      let proxy = try ProxyProcess(
        replicas: ["\(origin.address)"], workers: 2, admin: false, program: program,
        environment: ["LD_PRELOAD": library, "COUNTER_FILE": file])
      defer { proxy.child.end() }
      #expect(try calls() > 0, "the start allocates, and that is counted")

      let requests = [
        requestText("GET", "/v1/models"), requestText("POST", "/v1/chat/completions", body: "{\"stream\": true}"),
      ]
      let total = 20_000
      func drive(_ count: Int) throws {
        let failures = Shared(0)
        let left = Shared(8)
        for client in 0..<8 {
          thread("client") {
            do {
              let wire = try proxy.connect()
              for index in 0..<count / 8 {
                try wire.send(requests[(client + index) % requests.count])
                if try wire.readResponse().text != "ok" { failures.with { $0 += 1 } }
              }
            } catch { failures.with { $0 += 1 } }
            left.with { $0 -= 1 }
          }
        }
        #expect(eventually(120) { left.value == 0 })
        #expect(failures.value == 0)
      }
      try drive(400)
      let before = try calls()
      try drive(total)
      let after = try calls()
      #expect(after == before, "\(after - before) calls for \(total) requests over connections that came and went")
    }
  }
}
