// Inline wrappers for what Swift cannot import from the C library: variadic calls and macros. Used by
// ControlCore/Platform and ControlCore/Replica alone.
#pragma once

#include <fcntl.h>
#include <sys/ioctl.h>

/// open(2) with a mode.
static inline int sky_open(const char *path, int flags, mode_t mode) { return open(path, flags, mode); }

// Sockets and waiting for them: ControlCore/Platform.

#include <spawn.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/// A stream socket that never blocks and that no started program inherits; below 0: errno says why.
static inline int sky_stream_socket(int family) {
  return socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

/// accept4(2) is declared for _GNU_SOURCE only.
static inline int sky_accept(int fd) {
  return (int)syscall(SYS_accept4, fd, (void *)0, (void *)0, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

/// The user on the other side of a connected Unix socket; below 0: errno says why.
static inline long sky_peer_user(int fd) {
  struct { int pid; unsigned uid; unsigned gid; } who;
  socklen_t length = sizeof who;
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &length) == 0 ? (long)who.uid : -1;
}

static inline int sky_epoll_arm(int epoll, int fd, unsigned events, int is_known) {
  struct epoll_event event = {.events = events | EPOLLONESHOT, .data.fd = fd};
  return epoll_ctl(epoll, is_known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event);
}
static inline int sky_epoll_forget(int epoll, int fd) {
  struct epoll_event event = {0};
  return epoll_ctl(epoll, EPOLL_CTL_DEL, fd, &event);
}

// Processes: ControlCore/Platform.

/// Readable once the process has ended; closed in children.
static inline int sky_pidfd_open(int pid) { return (int)syscall(SYS_pidfd_open, pid, 0); }
static inline int sky_pidfd_signal(int pidfd, int signal) {
  return (int)syscall(SYS_pidfd_send_signal, pidfd, signal, (void *)0, 0);
}

// Declared for _GNU_SOURCE only.
extern int posix_spawn_file_actions_addchdir_np(posix_spawn_file_actions_t *, const char *);
extern int posix_spawn_file_actions_addclosefrom_np(posix_spawn_file_actions_t *, int);

/// Flags for posix_spawnattr_setflags: no signal blocked, none ignored, and a session of its own if asked for.
static inline short sky_spawn_flags(int own_session) {
  return POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | (own_session ? 0x80 /* POSIX_SPAWN_SETSID */ : 0);
}
static inline int sky_socketpair(int *ends) { return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends); }

// Signals that ask a program to end: ControlCore/Runtime.

#include <signal.h>

static int sky_end_signals[2] = {-1, -1};
static inline void sky_note_end_signal(int number) {
  unsigned char byte = (unsigned char)number;
  if (write(sky_end_signals[1], &byte, 1) < 0) return;  // it is full of others
}
/// From now on these signals are bytes to read from what this gives; below 0: errno says why.
static inline int sky_catch_end_signals(void) {
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sky_end_signals) != 0) return -1;
  struct sigaction action = {.sa_handler = sky_note_end_signal, .sa_flags = SA_RESTART};
  if (sigaction(SIGTERM, &action, 0) != 0 || sigaction(SIGINT, &action, 0) != 0) return -1;
  // A terminal that was closed, and a reader that has gone, are no reason to end.
  signal(SIGHUP, SIG_IGN);
  signal(SIGPIPE, SIG_IGN);
  // A file that may not grow (ulimit -f) is an error to tell, as a full disk is.
  signal(SIGXFSZ, SIG_IGN);
  return sky_end_signals[0];
}
