/* SPDX-License-Identifier: MIT */
#ifndef SSTI_OS_OS_H
#define SSTI_OS_OS_H

/* The porting contract: the only door to the kernel. Nothing above core/src/os knows
 * which system it is on. Functions return 0 or a count, or a negative status;
 * descriptors are close-on-exec at birth. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/atomic.h"

/* ---- Time ---- */

int64_t ssti_os_now_ns(void); /* CLOCK_MONOTONIC */

/* ---- Sleeping on shared words ---- */

struct ssti_os_wait {
    _Atomic uint32_t *word;
    uint32_t value;
};

/* Sleep while *word == value. 0 when woken, SST_EAGAIN when the value is another,
 * SST_ETIMEDOUT, SST_EINTR. */
int ssti_os_futex_wait(_Atomic uint32_t *word, uint32_t value, int64_t deadline_ns);

/* Sleep while all words have their values (at most 8). The same results. The words are
 * looked at and queued on one after the other, in their order. Where the kernel lacks
 * futex_waitv it sleeps on the last word in slices of 20 ms and looks at the others in
 * between. */
int ssti_os_futex_waitv(const struct ssti_os_wait *words, uint32_t count,
                        int64_t deadline_ns);

/* Wake up to `count` sleepers; returns how many. Sets self->just_woke when any. */
int ssti_os_futex_wake(_Atomic uint32_t *word, int count);

#ifdef SSTI_SIM
static inline int64_t
ssti_os_slice(int64_t deadline_ns)
{
    return deadline_ns; /* the simulated kernel tells of every death */
}

static inline bool
ssti_os_thread_is_gone(uint32_t tid)
{
    (void)tid;
    return false;
}
#else
/* Until when to sleep on a word that only the kernel would touch when its owner dies:
 * `deadline_ns`, or at most 20 ms where the kernel does not do that. */
int64_t ssti_os_slice(int64_t deadline_ns);
/* For those kernels: has the thread that signed a lock word ended? */
bool ssti_os_thread_is_gone(uint32_t tid);
#endif

/* ---- Processes (os_process.c) ---- */

/* fork() of libc, with every at-fork handler: 0 in the child, its pid in the parent. */
int ssti_os_fork(void);

/* A child of the *caller's parent*, without at-fork handlers; only for a process with
 * one thread. 0 in the child, its pid in the caller, SST_EINVAL, SST_EPERM where
 * refused.
 */
int ssti_os_clone_sibling(void);
/* For tests: answer SST_EPERM, as a sandbox would. */
void ssti_os_refuse_siblings(bool refuse);

int ssti_os_pid(void);
int ssti_os_parent_pid(void);

/* A descriptor of a process: readable when it has ended. */
int ssti_os_pidfd_open(int pid);

/* 1 when our child behind the pidfd has ended, and is reaped now: *code is its exit
 * code, or -N when signal N killed it. 0 when it runs. SST_ESRCH: reaped by others. */
int ssti_os_reap(int pidfd, int *code);
/* The same by pid, and waits for the end. */
int ssti_os_reap_pid(int pid, int *code);

/* SST_ESRCH when it has been reaped. */
int ssti_os_signal(int pidfd, int signal);
void ssti_os_kill_pid(int pid);

enum {
    SSTI_OS_HANGUPS_MAX = 31,
};

/* Sleep until one of the descriptors hangs up, or is readable when its bit is in
 * `readable`: the mask of those that did. Negative descriptors are passed over.
 * SST_ETIMEDOUT, SST_EINTR. */
int ssti_os_wait_hangup(const int *fds, uint32_t count, uint32_t readable,
                        int64_t deadline_ns);

/* Two joined sockets, numbered above the standard streams. */
int ssti_os_tether(bool packets, int *parent, int *child);
/* Returns -1. */
int ssti_os_close(int fd);
/* Bytes sent, at least one; never SIGPIPE. Waits for room only with SST_FOREVER. */
int64_t ssti_os_send(int fd, const void *data, uint64_t size, int64_t deadline_ns);

/* What is there now: bytes, 0 at the end, SST_EAGAIN. */
int64_t ssti_os_receive_now(int fd, void *out, uint64_t size);

/* ---- Packets with descriptors (os_pass.c) ---- */

enum {
    SSTI_OS_PASS_MAX = 252,
};

struct ssti_os_packet {
    void *data;
    uint64_t size; /* room; then the size of what came, or was sent */
    void *more;    /* a second part behind it; NULL: none */
    uint64_t more_size;
    int *fds; /* passed, or room for SSTI_OS_PASS_MAX of them */
    uint32_t fd_count;
    bool now;       /* receive: SST_EAGAIN instead of waiting */
    int sender_pid; /* as the kernel says; 0 when it does not */
    uint32_t sender_uid;
};

/* 0; SST_EPIPE, SST_EINTR. Never SIGPIPE. Over a stream socket `size` is what of it was
 * sent. */
int ssti_os_packet_send(int fd, struct ssti_os_packet *packet);
/* 0; SST_EOF; SST_EINTR. Descriptors that come are close-on-exec and the caller's. */
int ssti_os_packet_receive(int fd, struct ssti_os_packet *packet);
/* Receiving from there waits so long at most, then it says SST_EAGAIN; 0: for ever. */
int ssti_os_receive_patience(int fd, uint32_t ms);
/* The other end's sends fail from now on; what it has sent can still be received. */
void ssti_os_receive_no_more(int fd);
/* End of file for the other end now, whoever else has this one; what it has sent can be
 * received still. */
void ssti_os_hang_up(int fd);
/* Packets received here tell who sent them. */
int ssti_os_packet_ask_sender(int fd);

/* Which file the descriptor stands for, to see whether its number was reused; 0:
 * none. */
uint64_t ssti_os_file_id(int fd);

enum {
    SSTI_OS_SIGNAL_KILL = 9,
    SSTI_OS_SIGNAL_PARENT = 3, /* SIGRTMAX - 3 says that the parent has died */
};

/* Kill a child of ours, and what it has started, and so on (os_tree.c). How many; or
 * what was not possible, with the rest killed all the same. */
int ssti_os_kill_tree(int pid, int pidfd);

/* From now on die when that process does, which should be our parent. */
int ssti_os_die_with_parent(int parent_pid);
/* Live on without it after all. */
void ssti_os_outlive_parent(void);

/* The signals that the calling thread blocks: bit N - 1 for signal N. Set: all but that
 * of a parent's death. */
uint64_t ssti_os_signal_mask(void);
void ssti_os_set_signal_mask(uint64_t mask);

/* Threads of this process; 0 when nobody can say. */
uint32_t ssti_os_thread_count(void);

/* For the last moments of a process. -1: all of them. */
void ssti_os_close_all_but(int fd);
_Noreturn void ssti_os_exit(int code);

/* How to start a program. Pointers are borrowed for the call. */
struct ssti_os_program {
    const char *path;
    char *const *argv;
    char *const *env; /* NULL: ours */
    const int *fds;   /* kept open under their numbers, beside 0 to 2; ascending */
    uint32_t fd_count;
};

/* Its pid, or why it could not be executed. */
int ssti_os_spawn(const struct ssti_os_program *program);

/* CPUs that the affinity mask allows, or that there are. */
int ssti_os_cpu_affinity(void);
int ssti_os_cpu_online(void);

/* A small file as text: bytes read, up to size - 1, always terminated. */
int64_t ssti_os_read_text(const char *path, char *out, size_t size);

enum {
    SSTI_OS_FD_MAX = 1 << 20, /* where a search without close_range gives up */
    SSTI_OS_LIMITS = 16,
};

/* ---- What a process hands down (os_standing.c) ---- */

/* What a child inherits and cannot be given later; compare with memcmp. */
struct ssti_os_standing {
    uint32_t uid[3];
    uint32_t gid[3];
    uint64_t status; /* hash: groups, capabilities, umask, seccomp, session, CPUs */
    uint64_t limits;
    uint64_t spaces;   /* of names */
    uint64_t schedule; /* nice value and policy */
    uint64_t root;     /* directory */
    uint32_t secure;   /* bits of what root is without capabilities */
};
int ssti_os_standing(struct ssti_os_standing *out);

/* Memory of a process that it shares with nobody, in bytes; 0 when nobody can say. */
uint64_t ssti_os_private_memory(int pid);

/* ---- Sockets as bells (os_socket.c) ---- */

/* A datagram socket that others ring by its name (the bytes of the abstract address
 * behind the NUL, at most 8). The descriptor, never blocking. */
int ssti_os_bell_open(uint64_t *name, uint32_t *name_size);
/* A socket to ring with. */
int ssti_os_ringer_open(void);
/* SST_ENOENT: nobody has that bell; SST_EAGAIN: it is full of rings already, or the
 * ringer has too many unread ones out. */
int ssti_os_bell_ring(int ringer, uint64_t name, uint32_t name_size);
/* Read what is there. */
void ssti_os_bell_drain(int fd);

/* Two joined stream sockets. */
int ssti_os_pair_open(int fds[2]);
/* One byte to the other end. SST_EPIPE: it is closed everywhere; SST_EAGAIN: full. */
int ssti_os_pair_ring(int fd);
/* Read what is there. */
void ssti_os_pair_drain(int fd);
/* Let somebody else run on this CPU, if anybody wants to. */
void ssti_os_yield(void);

enum ssti_os_pair_seen {
    SSTI_OS_PAIR_RUNG = 1,
    SSTI_OS_PAIR_HUNG_UP = 2, /* every descriptor of the other end is closed */
};

/* Sleep until the end is rung or hung up. 0 and what was seen; SST_ETIMEDOUT,
 * SST_EINTR, SST_EBADF. */
int ssti_os_pair_poll(int fd, uint32_t *seen, int64_t deadline_ns);

/* ---- Byte streams over any descriptor (os_stream.c) ---- */

/* Bytes moved, at least one; 0 at the end of the stream; SST_ETIMEDOUT, SST_EINTR,
 * -errno. On a blocking descriptor the deadline counts until bytes can move. */
int64_t ssti_os_stream_read(int fd, void *data, uint64_t size, int64_t deadline_ns);
int64_t ssti_os_stream_write(int fd, const void *data, uint64_t size,
                             int64_t deadline_ns);
/* 0 when readable, at its end, or broken; SST_ETIMEDOUT, SST_EINTR, SST_EBADF. */
int ssti_os_stream_poll(int fd, int64_t deadline_ns);
/* 0 or -errno; closed in any case. */
int ssti_os_stream_close(int fd);

/* ---- The kernel's abilities, probed once (os_kernel.c) ---- */

struct ssti_os_kernel {
    bool has_waitv;   /* futex_waitv */
    bool sees_deaths; /* marks and wakes the lock words of threads that die */
};

const struct ssti_os_kernel *ssti_os_kernel(void);

/* A thread has no robust list: nobody sees its death, whatever the kernel can do. */
void ssti_os_kernel_is_blind(void);

/* For tests: answer as if the kernel lacked what is false here; NULL = as it is. */
void ssti_os_kernel_pretend(const struct ssti_os_kernel *kernel);

/* ---- Memory (os_memory.c, os_budget.c) ---- */

uint64_t ssti_os_page_size(void);

/* A sealed (never shrinks, never grows), close-on-exec, sparse memory file of *size
 * bytes. Where a limit on file sizes forbids it, *size is halved down to size_min. The
 * descriptor, or a status. */
int ssti_os_memory_create(uint64_t *size, uint64_t size_min);
/* Its size; SST_ECORRUPT when it is no memory file with those seals. */
int ssti_os_memory_inspect(int fd, uint64_t *size);
/* Map a range, shared and left out of core dumps. SST_ENOMEM. */
int ssti_os_memory_map(int fd, uint64_t offset, uint64_t size, void **out);
/* The same through a mapping of the file's start instead of a descriptor. */
int ssti_os_memory_map_again(const void *start, uint64_t offset, uint64_t size,
                             void **out);
void ssti_os_memory_unmap(void *address, uint64_t size);
/* Give pages back; they read as zero afterwards. */
int ssti_os_memory_punch(int fd, uint64_t offset, uint64_t size);

/* Bytes that may be used without being killed for it: the least of what the control
 * groups above us leave, what the machine has available, and what RLIMIT_AS leaves.
 * *limiter names the one that decides. */
uint64_t ssti_os_memory_available(const char **limiter);
/* RLIMIT_AS, or UINT64_MAX. */
uint64_t ssti_os_address_space_max(void);

/* A second descriptor, close-on-exec, numbered above the standard streams. */
int ssti_os_fd_duplicate(int fd);

/* Which file a descriptor stands for. */
struct ssti_os_file {
    uint64_t device;
    uint64_t number;
};
int ssti_os_file_look(int fd, struct ssti_os_file *out);

/* ---- Memory with names (os_names.c) ---- */

enum {
    SSTI_OS_NAME_MAX = 255,
};

/* Can a name be like that? SST_EINVAL, SST_ENAMETOOLONG. */
int ssti_os_name_check(const char *name);
/* An empty file that has no name yet, or, where that cannot be, has it already. The
 * descriptor. SST_EEXIST, SST_EACCES, SST_ENOENT (there is no place for names). */
int ssti_os_name_make(const char *name, uint32_t mode, bool *is_named);
/* SST_EEXIST. */
int ssti_os_name_give(int fd, const char *name);
/* The descriptor; SST_ENOENT, SST_EACCES. */
int ssti_os_name_open(const char *name);
/* Which file has the name. */
int ssti_os_name_look(const char *name, struct ssti_os_file *out);
int ssti_os_name_remove(const char *name);
/* For tests: names are in that folder instead; one that does not exist: there is no
 * place for them but the spare one. NULL: as it is. */
void ssti_os_names_pretend(const char *folder);

/* A file of this user's, for notes that outlive us. The descriptor. */
int ssti_os_note_open(const char *name, bool make);
void ssti_os_note_remove(const char *name);
void ssti_os_notes_each(void (*tell)(const char *name, void *context), void *context);

/* ---- Private folders (os_folder.c) ---- */

/* A new one that only this user can enter, and which it is. SST_EEXIST, SST_ENOENT,
 * SST_EACCES, SST_EIO. */
int ssti_os_folder_make(const char *path, struct ssti_os_file *out);
/* SST_EPERM: not this user's, or no folder. */
int ssti_os_folder_look(const char *path, struct ssti_os_file *out);
/* With all in it, if it is that one. SST_EPERM: it is not; SST_EIO: some of it
 * cannot be removed. */
int ssti_os_folder_remove(const char *path, const struct ssti_os_file *file);
int ssti_os_folder_remove_empty(const char *path);

/* ---- Files ---- */

/* So large at least, with memory behind every byte. SST_ENOSPC. */
int ssti_os_file_grow(int fd, uint64_t size);
int ssti_os_file_size(int fd, uint64_t *size, bool *has_name);

enum ssti_os_lock {
    SSTI_OS_LOCK_NONE,
    SSTI_OS_LOCK_SHARED,
    SSTI_OS_LOCK_ALONE,
};

/* A lock of the open file, which forked children and mappings share: it goes with the
 * last of them. SST_EAGAIN. */
int ssti_os_file_lock(int fd, enum ssti_os_lock lock, bool wait);
/* Another one, for short. SST_EAGAIN. */
int ssti_os_file_guard(int fd, bool on, bool wait);
/* Bytes read, less than `size` at the end. */
int64_t ssti_os_file_read(int fd, uint64_t offset, void *out, uint64_t size);
int ssti_os_file_write(int fd, uint64_t offset, const void *data, uint64_t size);

/* ---- Who a process is (os_identity.c) ---- */

struct ssti_os_process {
    uint64_t start_ticks; /* since boot, comparable with ssti_os_boot_ticks */
    uint32_t threads;     /* that have not ended */
    bool is_exiting;      /* its main thread has ended or is about to */
};

/* SST_ESRCH when there is no such process; SST_ENOSYS when /proc does not say. */
int ssti_os_process_look(int pid, struct ssti_os_process *out);
/* 1 when it is gone with all its threads, waiting for that until the deadline; else
 * 0. */
int ssti_os_process_is_gone(int pid, int64_t deadline_ns);
/* Clock ticks since boot. */
uint64_t ssti_os_boot_ticks(void);
/* A number for the process id name space; 0 when unknown. */
uint64_t ssti_os_pid_space(void);

int ssti_os_random(void *out, size_t size);

/* pthread_atfork. */
int ssti_os_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void));

/* ---- Watching many descriptors, from a thread (os_watch.c) ---- */

/* A set of descriptors to be watched, itself one. */
int ssti_os_watch_open(void);
/* `once`: told of each time something comes, not while something is there. */
int ssti_os_watch_add(int watch, int fd, uint64_t key, bool once);
void ssti_os_watch_remove(int watch, int fd);
/* Sleep until some are readable: their keys, how many; 0 at the deadline. SST_EINTR. */
int ssti_os_watch_wait(int watch, uint64_t *keys, uint32_t count, int64_t deadline_ns);
/* A descriptor that a kick makes readable, until it is drained. */
int ssti_os_kick_open(void);
void ssti_os_kick(int fd);
void ssti_os_kick_drain(int fd);

/* A thread with all signals blocked, which has to be joined. */
int ssti_os_thread_start(void *(*run)(void *), void *context, uintptr_t *thread);
void ssti_os_thread_join(uintptr_t thread);
/* Let all signals through to this thread, or none. */
void ssti_os_thread_signals(bool all);

/* More sections (starting processes, sockets) below. */

#endif
