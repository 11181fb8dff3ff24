// What keeping a replica needs beyond the C library: the seccomp filter and its notifications, kernel calls without a
// wrapper, and what has to happen between fork and exec, where only calls to the kernel are safe. Used by
// ControlCore/Replica (and, for the lock, Infra/Local) alone.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

// --- Processes ------------------------------------------------------------------------------------------------------

static inline int sky_pidfd_getfd(int pidfd, int fd) { return (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0); }

/// Orphans among this process's descendants become its children.
static inline int sky_become_subreaper(void) { return prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); }

static inline int sky_pipe(int ends[2]) { return (int)syscall(SYS_pipe2, ends, O_CLOEXEC); }

/// A descriptor that is readable when one of the signals 'set' is there.
static inline int sky_signalfd(const sigset_t *set) { return signalfd(-1, set, SFD_CLOEXEC | SFD_NONBLOCK); }

/// One received signal's number; 0: there is none.
static inline int sky_next_signal(int fd) {
  struct signalfd_siginfo info;
  return read(fd, &info, sizeof info) == sizeof info ? (int)info.ssi_signo : 0;
}

/// Up to 'length' bytes of another process's memory, or -1.
static inline ssize_t sky_read_memory(pid_t pid, uint64_t address, void *bytes, size_t length) {
  struct iovec here = {bytes, length}, there = {(void *)(uintptr_t)address, length};
  return syscall(SYS_process_vm_readv, pid, &here, 1UL, &there, 1UL, 0UL);
}

/// The parent of a process, from /proc; -1: it is gone.
static inline pid_t sky_parent(const char *pid) {
  char path[64] = "/proc/", text[512];
  size_t length = strlen(pid);
  if (length > 20) return -1;
  memcpy(path + 6, pid, length);
  memcpy(path + 6 + length, "/stat", 6);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  ssize_t count = read(fd, text, sizeof text - 1);
  close(fd);
  if (count <= 0) return -1;
  text[count] = 0;
  // pid (name, which may hold anything) state parent …
  const char *end = strrchr(text, ')');
  if (end == NULL || end[1] == 0 || end[2] == 0 || end[3] == 0) return -1;
  return (pid_t)atoi(end + 4);
}

struct sky_directory_entry {
  uint64_t inode;
  int64_t offset;
  unsigned short length;
  unsigned char type;
  char name[];
};

/// Sends a signal to every child of this process; how many there were.
static inline int sky_signal_children(int number) {
  _Alignas(8) char block[8192];
  int count = 0;
  pid_t own = getpid();
  int folder = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return 0;
  long length;
  while ((length = syscall(SYS_getdents64, folder, block, sizeof block)) > 0) {
    for (long at = 0; at < length;) {
      struct sky_directory_entry *entry = (struct sky_directory_entry *)(block + at);
      at += entry->length;
      if (entry->name[0] < '1' || entry->name[0] > '9' || sky_parent(entry->name) != own) continue;
      kill((pid_t)atoi(entry->name), number);
      count++;
    }
  }
  close(folder);
  return count;
}

/// Kills and reaps all descendants of this process, which is a subreaper: what a killed child leaves behind becomes a
/// child. Returns when there is none; a process that the kernel does not let go is waited for.
static inline void sky_end_descendants(void) {
  for (;;) {
    sky_signal_children(SIGKILL);
    pid_t gone = waitpid(-1, NULL, __WALL);
    if (gone < 0 && errno == ECHILD) return;
    while (gone > 0) gone = waitpid(-1, NULL, WNOHANG | __WALL);
  }
}

/// Splits this process, which has one thread yet, in two. The child returns (0) and goes on; the parent stays behind
/// as its guard and never returns: it passes SIGTERM, SIGINT and SIGHUP on as SIGTERM, and when the child has ended,
/// however, ends everything that the child left, then itself, as the child did. When the guard itself is killed, the
/// child gets SIGTERM. Both have those signals and SIGCHLD blocked. -1: no process could be made.
static inline int sky_split_off_guard(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGHUP);
  sigaddset(&set, SIGCHLD);
  sigprocmask(SIG_BLOCK, &set, NULL);
  sky_become_subreaper();
  pid_t guard = getpid();
  pid_t child = fork();
  if (child < 0) return -1;
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0);
    if (getppid() != guard) _exit(1);
    return 0;
  }
  for (;;) {
    int number = sigwaitinfo(&set, NULL);
    if (number < 0) continue;
    if (number != SIGCHLD) {
      kill(child, SIGTERM);
      continue;
    }
    int status = 0;
    pid_t gone;
    while ((gone = waitpid(-1, &status, WNOHANG | __WALL)) > 0) {
      if (gone != child) continue;
      sky_end_descendants();
      _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    }
  }
}

// --- The filter that shows a replica's bind and connect to its keeper -------------------------------------------------

#if defined(__x86_64__)
#define SKY_AUDIT_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define SKY_AUDIT_ARCH AUDIT_ARCH_AARCH64
#else
#error "the filter knows x86_64 and aarch64 only"
#endif

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)  // Linux 5.19
#endif

/// Puts the calling thread, and all it will start, under the filter. The listener, or -1. no_new_privs only where the
/// kernel asks for it: without it, programs such as sudo go on working.
static inline int sky_install_filter(int *has_no_new_privs) {
  // Everything of another architecture (32-bit programs) and every other call passes. sendto is shown only where it
  // names a destination, which a send on a connected socket does not.
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SKY_AUDIT_ARCH, 0, 8),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_bind, 7, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_connect, 6, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sendto, 0, 4),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[4])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[4]) + 4),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
  };
  struct sock_fprog program = {sizeof code / sizeof code[0], code};
  // Killable: a signal to the replica (Go programs get them all the time) does not make it repeat a call that is
  // being carried out for it.
  unsigned long flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
  *has_no_new_privs = 0;
  int fd = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
  if (fd < 0 && errno == EACCES) {
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -1;
    *has_no_new_privs = 1;
    fd = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
  }
  return fd;
}

struct sky_notification {
  uint64_t id;
  pid_t thread;
  int call;
  uint64_t arguments[6];
};

/// The next call to decide on: 1; 0: its caller is gone; -1 with errno.
static inline int sky_receive_notification(int listener, struct sky_notification *out) {
  // Newer kernels may write more than the structure had when this was built.
  union {
    struct seccomp_notif notification;
    char room[1024];
  } it;
  memset(&it, 0, sizeof it);
  if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &it.notification) != 0) {
    return errno == ENOENT || errno == EINTR ? 0 : -1;
  }
  out->id = it.notification.id;
  out->thread = (pid_t)it.notification.pid;
  out->call = it.notification.data.nr;
  for (int i = 0; i < 6; i++) out->arguments[i] = it.notification.data.args[i];
  return 1;
}

/// Asks the kernel to go from caller to us and back on one CPU, which halves the cost of a call; older than Linux 6.6, it
/// does not know how.
static inline void sky_speed_up_notifications(int listener) {
  ioctl(listener, _IOW('!', 4, uint64_t) /* SECCOMP_IOCTL_NOTIF_SET_FLAGS */, 1UL /* ..._SYNC_WAKE_UP */);
}

/// Whether the caller still waits, so that what was read of its memory and descriptors was really its own.
static inline int sky_is_notification_valid(int listener, uint64_t id) {
  return ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &id) == 0;
}

static inline int sky_send_notification(int listener, uint64_t id, int64_t value, int error, int goes_on) {
  union {
    struct seccomp_notif_resp reply;
    char room[1024];
  } it;
  memset(&it, 0, sizeof it);
  it.reply.id = id;
  it.reply.val = value;
  it.reply.error = -error;
  it.reply.flags = goes_on ? SECCOMP_USER_NOTIF_FLAG_CONTINUE : 0;
  return ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &it.reply);
}

/// The caller's call is done: it returns 'value'.
static inline int sky_answer(int listener, uint64_t id, int64_t value) {
  return sky_send_notification(listener, id, value, 0, 0);
}
/// The caller's call fails with this errno.
static inline int sky_refuse(int listener, uint64_t id, int error) {
  return sky_send_notification(listener, id, 0, error, 0);
}
/// The caller's call goes to the kernel as it is.
static inline int sky_let_pass(int listener, uint64_t id) { return sky_send_notification(listener, id, 0, 0, 1); }

static const int sky_call_bind = SYS_bind, sky_call_connect = SYS_connect, sky_call_sendto = SYS_sendto;

// --- Starting a command -----------------------------------------------------------------------------------------------

struct sky_command {
  const char *path;
  char *const *arguments;
  char *const *environment;
  const char *folder;
  /// Become standard input, output and error.
  int input, output, error;
  /// Put it under the filter.
  int is_filtered;
  /// Not 0: run no program; bind to 127.0.0.1 and see whether this address (network order) comes of it.
  uint32_t probed_address;
  /// A pipe that takes sky_command_reports.
  int report[2];
  /// A pipe whose byte says: go on.
  int go[2];
};

enum sky_command_stage { sky_stage_filter, sky_stage_folder, sky_stage_program, sky_stage_probe };

struct sky_command_report {
  int stage;
  /// 0: well.
  int error;
  /// After sky_stage_filter: the listener's number in the child, and whether it lost the way to more privileges.
  int listener;
  int has_no_new_privs;
};

static inline void sky_report(const struct sky_command *command, int stage, int error, int listener, int privs) {
  struct sky_command_report report = {stage, error, listener, privs};
  while (write(command->report[1], &report, sizeof report) < 0 && errno == EINTR) {}
}

/// Starts a command in a session of its own. With a filter, its first report names the listener, which the caller
/// takes by pidfd_getfd before it writes to `go`. The report pipe ends without sky_stage_program when the program runs.
static inline pid_t sky_start(const struct sky_command *command) {
  pid_t pid = fork();
  if (pid != 0) return pid;
  // From here on in the child: nothing but calls to the kernel.
  // Its own copies of our ends would keep it waiting after we have died.
  close(command->report[0]);
  close(command->go[1]);
  setsid();
  for (int number = 1; number < 65; number++) signal(number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  dup2(command->input, 0);
  dup2(command->output, 1);
  dup2(command->error, 2);
  syscall(SYS_close_range, 3U, ~0U, 4U /* CLOSE_RANGE_CLOEXEC */);
  if (command->is_filtered) {
    int privs = 0;
    int listener = sky_install_filter(&privs);
    sky_report(command, sky_stage_filter, listener < 0 ? errno : 0, listener, privs);
    char byte;
    ssize_t count;
    while ((count = read(command->go[0], &byte, 1)) < 0 && errno == EINTR) {}
    if (count != 1) _exit(127);
    if (listener >= 0) close(listener);
  }
  if (command->probed_address != 0) {
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof name;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int result = fd < 0 ? errno : bind(fd, (struct sockaddr *)&name, sizeof name) != 0 ? errno : 0;
    if (result == 0) getsockname(fd, (struct sockaddr *)&name, &length);
    if (result == 0 && name.sin_addr.s_addr != command->probed_address) result = EADDRNOTAVAIL;
    sky_report(command, sky_stage_probe, result, -1, 0);
    _exit(0);
  }
  if (chdir(command->folder) != 0) {
    sky_report(command, sky_stage_folder, errno, -1, 0);
    _exit(127);
  }
  execve(command->path, command->arguments, command->environment);
  sky_report(command, sky_stage_program, errno, -1, 0);
  _exit(127);
}

// --- A lock on a file that goes with its open description: inherited by a fork, gone with the last holder -------------

static inline int sky_hold_lock(int fd) {
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  return fcntl(fd, 37 /* F_OFD_SETLK, declared for _GNU_SOURCE only */, &lock);
}

/// Asks without taking it: 1 somebody holds it, 0 nobody does, -1 with errno.
static inline int sky_is_lock_held(int fd) {
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  if (fcntl(fd, 36 /* F_OFD_GETLK */, &lock) != 0) return -1;
  return lock.l_type != F_UNLCK;
}
