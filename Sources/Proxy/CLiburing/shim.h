// What Swift cannot import from liburing and the kernel headers: casts, unions, macros, and constants newer than the
// header on the build machine. Only Sources/Proxy/ProxyCore/Ring imports this module.
// No _GNU_SOURCE here: with it the C library's headers would say other things than Swift's own Glibc module does.
#pragma once
#include <errno.h>
#include <liburing.h>
#include <linux/time_types.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

// Constants of linux/io_uring.h that headers older than the kernel lack (values: include/uapi/linux/io_uring.h).
enum {
  SKY_SETUP_CQSIZE = 1u << 3,
  SKY_SETUP_CLAMP = 1u << 4,
  SKY_SETUP_COOP_TASKRUN = 1u << 8,
  SKY_SETUP_SINGLE_ISSUER = 1u << 12,
  SKY_SETUP_DEFER_TASKRUN = 1u << 13,
  SKY_FEAT_EXT_ARG = 1u << 8,
  SKY_FEAT_MIN_TIMEOUT = 1u << 15,
  SKY_ACCEPT_MULTISHOT = 1u << 0,
  SKY_RECVSEND_POLL_FIRST = 1u << 0,
  SKY_RECV_MULTISHOT = 1u << 1,
};

// The argument of io_uring_enter with IORING_ENTER_EXT_ARG; min_wait_usec is Linux 6.12's use of the old padding.
struct sky_enter_arg {
  uint64_t sigmask;
  uint32_t sigmask_size;
  uint32_t min_wait_usec;
  uint64_t timeout;
};

static inline int sky_queue_init(unsigned entries, unsigned completions, unsigned flags, struct io_uring *ring,
                                 unsigned *features) {
  struct io_uring_params p;
  memset(&p, 0, sizeof p);
  p.flags = flags | SKY_SETUP_CQSIZE | SKY_SETUP_CLAMP;
  p.cq_entries = completions;
  int rc = io_uring_queue_init_params(entries, ring, &p);
  *features = p.features;
  return rc;
}

// Submits everything queued and waits for one completion, at most until `timeout_ns` from now (UINT64_MAX: for ever).
// min_wait_usec > 0 asks the kernel to gather completions for that long unless min_events arrive first.
static inline int sky_submit_and_wait(struct io_uring *ring, unsigned min_events, uint64_t timeout_ns,
                                      unsigned min_wait_usec) {
  struct io_uring_sq *sq = &ring->sq;
  unsigned queued = sq->sqe_tail - sq->sqe_head;
  if (queued) {
    unsigned tail = *sq->ktail, mask = *sq->kring_mask;
    do {
      sq->array[tail & mask] = sq->sqe_head & mask;
      tail++;
      sq->sqe_head++;
    } while (--queued);
    __atomic_store_n(sq->ktail, tail, __ATOMIC_RELEASE);
  }
  unsigned submit = *sq->ktail - __atomic_load_n(sq->khead, __ATOMIC_ACQUIRE);
  struct __kernel_timespec ts = {(long long)(timeout_ns / 1000000000ull), (long long)(timeout_ns % 1000000000ull)};
  struct sky_enter_arg arg = {0, 0, min_wait_usec, timeout_ns == UINT64_MAX ? 0 : (uint64_t)(uintptr_t)&ts};
  unsigned flags = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG;
  if (ring->int_flags & 1 /* INT_FLAG_REG_RING */) flags |= IORING_ENTER_REGISTERED_RING;
  long rc = syscall(__NR_io_uring_enter, ring->enter_ring_fd, submit, min_events, flags, &arg, sizeof arg);
  return rc < 0 ? -errno : (int)rc;
}

// Hands queued entries to the kernel without waiting; used when the submission queue is full.
static inline int sky_submit(struct io_uring *ring) { return io_uring_submit(ring); }

static inline struct io_uring_sqe *sky_sqe(struct io_uring *ring) {
  struct io_uring_sq *sq = &ring->sq;
  unsigned next = sq->sqe_tail + 1;
  while (next - __atomic_load_n(sq->khead, __ATOMIC_ACQUIRE) > *sq->kring_entries) {
    int rc = io_uring_submit(ring);
    if (rc < 0 && rc != -EBUSY && rc != -EAGAIN && rc != -EINTR) return 0;
  }
  struct io_uring_sqe *sqe = &sq->sqes[sq->sqe_tail & *sq->kring_mask];
  sq->sqe_tail = next;
  memset(sqe, 0, sizeof *sqe);
  return sqe;
}

static inline void sky_prep_accept(struct io_uring_sqe *s, int fd, uint64_t token) {
  s->opcode = IORING_OP_ACCEPT;
  s->fd = fd;
  s->ioprio = SKY_ACCEPT_MULTISHOT;
  s->accept_flags = SOCK_CLOEXEC;
  s->user_data = token;
}

// Multishot receive into lent buffers of group 0. `limit` > 0 ends it after that many bytes (sqe->optlen, the union
// slot of file_index; probed at start). multishot == 0: one receive.
static inline void sky_prep_recv(struct io_uring_sqe *s, int fd, int multishot, int poll_first, uint32_t limit,
                                 uint64_t token) {
  s->opcode = IORING_OP_RECV;
  s->fd = fd;
  s->ioprio = (multishot ? SKY_RECV_MULTISHOT : 0) | (poll_first ? SKY_RECVSEND_POLL_FIRST : 0);
  s->flags = IOSQE_BUFFER_SELECT;
  s->buf_group = 0;
  s->file_index = limit;
  s->user_data = token;
}

static inline void sky_prep_send(struct io_uring_sqe *s, int fd, const void *bytes, unsigned count, uint64_t token) {
  s->opcode = IORING_OP_SEND;
  s->fd = fd;
  s->addr = (uint64_t)(uintptr_t)bytes;
  s->len = count;
  s->msg_flags = MSG_WAITALL | MSG_NOSIGNAL;
  s->user_data = token;
}

// The msghdr and its iovecs must live until the entry is submitted (IORING_FEAT_SUBMIT_STABLE, Linux 5.5).
static inline void sky_prep_sendmsg(struct io_uring_sqe *s, int fd, struct msghdr *message, uint64_t token) {
  s->opcode = IORING_OP_SENDMSG;
  s->fd = fd;
  s->addr = (uint64_t)(uintptr_t)message;
  s->len = 1;
  s->msg_flags = MSG_WAITALL | MSG_NOSIGNAL;
  s->user_data = token;
}

static inline void sky_prep_poll_multishot(struct io_uring_sqe *s, int fd, uint32_t events, uint64_t token) {
  s->opcode = IORING_OP_POLL_ADD;
  s->fd = fd;
  s->len = IORING_POLL_ADD_MULTI;
  s->poll32_events = events;
  s->user_data = token;
}

static inline void sky_prep_connect(struct io_uring_sqe *s, int fd, const void *address, unsigned length,
                                    uint64_t token) {
  s->opcode = IORING_OP_CONNECT;
  s->fd = fd;
  s->addr = (uint64_t)(uintptr_t)address;
  s->off = length;
  s->user_data = token;
}

static inline void sky_prep_shutdown(struct io_uring_sqe *s, int fd, int how, uint64_t token) {
  s->opcode = IORING_OP_SHUTDOWN;
  s->fd = fd;
  s->len = (uint32_t)how;
  s->user_data = token;
}

static inline void sky_prep_close(struct io_uring_sqe *s, int fd, uint64_t token) {
  s->opcode = IORING_OP_CLOSE;
  s->fd = fd;
  s->user_data = token;
}

static inline void sky_prep_cancel(struct io_uring_sqe *s, uint64_t target, uint64_t token) {
  s->opcode = IORING_OP_ASYNC_CANCEL;
  s->fd = -1;
  s->addr = target;
  s->user_data = token;
}

static inline void sky_prep_read(struct io_uring_sqe *s, int fd, void *bytes, unsigned count, uint64_t token) {
  s->opcode = IORING_OP_READ;
  s->fd = fd;
  s->addr = (uint64_t)(uintptr_t)bytes;
  s->len = count;
  s->off = 0;
  s->user_data = token;
}

static inline unsigned sky_cq_head(struct io_uring *ring) { return *ring->cq.khead; }
static inline unsigned sky_cq_tail(struct io_uring *ring) { return __atomic_load_n(ring->cq.ktail, __ATOMIC_ACQUIRE); }
static inline struct io_uring_cqe *sky_cqe(struct io_uring *ring, unsigned position) {
  return &ring->cq.cqes[position & *ring->cq.kring_mask];
}
static inline void sky_cq_advance(struct io_uring *ring, unsigned head) {
  __atomic_store_n(ring->cq.khead, head, __ATOMIC_RELEASE);
}
static inline unsigned sky_cq_overflow(struct io_uring *ring) {
  return __atomic_load_n(ring->cq.koverflow, __ATOMIC_RELAXED);
}

static inline int sky_register_buffer_ring(struct io_uring *ring, void *memory, unsigned entries) {
  struct io_uring_buf_reg reg;
  memset(&reg, 0, sizeof reg);
  reg.ring_addr = (uint64_t)(uintptr_t)memory;
  reg.ring_entries = entries;
  reg.bgid = 0;
  return io_uring_register_buf_ring(ring, &reg, 0);
}
static inline void sky_buffer_ring_put(void *memory, unsigned mask, unsigned tail, void *bytes, unsigned length,
                                       unsigned short id) {
  struct io_uring_buf_ring *br = (struct io_uring_buf_ring *)memory;
  struct io_uring_buf *entry = &br->bufs[tail & mask];
  entry->addr = (uint64_t)(uintptr_t)bytes;
  entry->len = length;
  entry->bid = id;
}
static inline void sky_buffer_ring_publish(void *memory, unsigned tail) {
  struct io_uring_buf_ring *br = (struct io_uring_buf_ring *)memory;
  __atomic_store_n(&br->tail, (unsigned short)tail, __ATOMIC_RELEASE);
}

static inline uint64_t sky_monotonic_ns(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

// The kernel asks a silent peer after `idle` seconds whether it is still there, and gives it up when six probes, ten
// seconds apart, bring no answer (man 7 tcp). 0: never. Accepted sockets inherit it from the listening one.
static inline void sky_keepalive(int fd, unsigned idle) {
  int on = 1, start = (int)idle, interval = idle < 10 ? (int)idle : 10, probes = 6;
  if (!idle) return;
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &start, sizeof start);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
}

static inline int sky_socket(int family, unsigned keepalive) {
  int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  int one = 1;
  if (family != AF_UNIX) {
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    sky_keepalive(fd, keepalive);
  }
  return fd;
}
// 0: acknowledgements wait for something to send, or for the second piece that comes (man 7 tcp, TCP_QUICKACK).
static inline void sky_quick_acks(int fd, int on) { setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on); }
// A close after this sends RST instead of FIN: the peer sees an abort, never a clean end.
static inline void sky_reset_on_close(int fd) {
  struct linger l = {1, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
}
// Bytes that wait to be received, and for how long none has come. TCP counts in the kernel's ticks; of other sockets it
// is known only that nothing has come since the last receive when nothing waits.
static inline int sky_unread(int fd, uint64_t *silence_ns) {
  int bytes = 0;
  struct tcp_info info;
  socklen_t length = sizeof info;
  if (ioctl(fd, FIONREAD, &bytes)) bytes = 0;
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0) {
    *silence_ns = info.tcpi_last_data_recv * 1000000ull;
  } else {
    *silence_ns = bytes ? 0 : UINT64_MAX;
  }
  return bytes;
}
// Milliseconds since the peer acknowledged anything, while sent bytes or probes of its closed window wait for that;
// 0 otherwise. A peer that is alive and does not read acknowledges probes (man 7 tcp, TCP_INFO).
static inline unsigned sky_unacknowledged_ms(int fd) {
  struct tcp_info info;
  socklen_t length = sizeof info;
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length)) return 0;
  return info.tcpi_unacked > 0 || info.tcpi_probes > 1 ? info.tcpi_last_ack_recv : 0;
}
static inline int sky_peer_address(int fd, void *address, unsigned *length) {
  return getpeername(fd, (struct sockaddr *)address, length);
}

// A bound and listening socket, or a negated errno; `length` comes back as the kernel's, with the port it chose.
static inline int sky_open_listener(void *address, unsigned *length, unsigned room, int backlog, int shared) {
  int family = ((struct sockaddr *)address)->sa_family, one = 1, zero = 0;
  int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (family != AF_UNIX) {
    if (shared) setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
  }
  if (bind(fd, (struct sockaddr *)address, *length) || (backlog >= 0 && listen(fd, backlog))) {
    int code = errno;
    close(fd);
    return -code;
  }
  *length = room;
  getsockname(fd, (struct sockaddr *)address, length);
  return fd;
}

static inline int sky_socketpair(int *ends) { return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends); }
