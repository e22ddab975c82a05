/* SPDX-License-Identifier: MIT */
#ifndef SIDESTEP_H
#define SIDESTEP_H

/* sidestep: processes, locks, queues and shared memory that survive the death of
 * whoever uses them. This header is the manual of the C library; the Python package of
 * the same name is a thin layer over it, and a C program and a Python program can share
 * every object described here.
 *
 * Conventions
 *   Results    Functions return a count or 0 on success and a negative `enum
 *              sst_status` on failure. Cold functions also fill an optional `struct
 *              sst_error`.
 *   Time       `deadline_ns` is absolute, on CLOCK_MONOTONIC. SST_NOW polls,
 *              SST_FOREVER waits without end. sst_deadline_after() makes one from a
 *              duration.
 *   Signals    A blocking function interrupted by a signal handler returns SST_EINTR;
 *              call it again with the same deadline to go on.
 *   Threads    Every function may be called from any thread unless its comment says
 *              otherwise.
 *   Processes  Objects live in an arena, shared by a tree of processes. After fork()
 *              the child may use every object its parent had open.
 *   Death      Any process may be killed at any instruction. Whoever waits gets its
 *              answer, or SST_EOWNERDEAD, never silence. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SST_VERSION_MAJOR 0
#define SST_VERSION_MINOR 1
#define SST_VERSION_PATCH 0

#if defined(__GNUC__)
# define SST_API        __attribute__((visibility("default")))
# define SST_MUST_CHECK __attribute__((warn_unused_result))
# define SST_NORETURN   __attribute__((noreturn))
#else
# define SST_API
# define SST_MUST_CHECK
# define SST_NORETURN
#endif

/* ---- Statuses -----------------------------------------------------------------------
 *
 * name, value, category, Python exception, text. The one table from which the enum, the
 * texts, the binding's exceptions and the reference page are made. Values are -errno
 * where one fits, -5000 and below otherwise. */

#define SST_STATUS_TABLE(X)                                                         \
    X(EPERM, -1, USAGE, "PermissionError", "not permitted")                         \
    X(ENOENT, -2, USAGE, "FileNotFoundError", "no such object")                     \
    X(ESRCH, -3, PEER, "ProcessLookupError", "no such process")                     \
    X(EINTR, -4, AGAIN, "InterruptedError", "interrupted by a signal")              \
    X(EIO, -5, INTERNAL, "OSError", "input/output error")                           \
    X(EBADF, -9, USAGE, "OSError", "bad file descriptor")                           \
    X(EAGAIN, -11, AGAIN, "BlockingIOError", "would block")                         \
    X(ENOMEM, -12, RESOURCE, "MemoryError", "out of memory")                        \
    X(EACCES, -13, USAGE, "PermissionError", "permission denied")                   \
    X(EEXIST, -17, USAGE, "FileExistsError", "the name is in use")                  \
    X(EINVAL, -22, USAGE, "ValueError", "invalid argument")                         \
    X(EMFILE, -24, RESOURCE, "OSError", "too many open files")                      \
    X(ENOSPC, -28, RESOURCE, "OSError", "no space left")                            \
    X(EPIPE, -32, CLOSED, "BrokenPipeError", "nobody is left to read")              \
    X(ENAMETOOLONG, -36, USAGE, "OSError", "the name is too long")                  \
    X(ENOSYS, -38, RESOURCE, "NotImplementedError", "not supported by this kernel") \
    X(ETIMEDOUT, -110, TIMEOUT, "TimeoutError", "deadline passed")                  \
    X(EOF, -5001, CLOSED, "EOFError", "nobody is left to write")                    \
    X(ECLOSED, -5002, CLOSED, "ValueError", "closed")                               \
    X(EOWNERDEAD, -5003, PEER, "OwnerDied", "the owner died")                       \
    X(ELAYOUT, -5004, CORRUPT, "RuntimeError", "made by an incompatible version")   \
    X(ECORRUPT, -5005, CORRUPT, "RuntimeError", "shared memory is damaged")         \
    X(ESTALE, -5006, USAGE, "RuntimeError", "the object no longer exists")          \
    X(ELIMIT, -5007, RESOURCE, "MemoryError", "a limit was reached")                \
    X(ENOTOWNER, -5008, USAGE, "AssertionError", "not the owner")                   \
    X(EOVERFLOW, -5009, USAGE, "ValueError", "released too many times")             \
    X(EBROKEN, -5010, PEER, "BrokenBarrierError", "the barrier is broken")          \
    X(EMSGSIZE, -5011, USAGE, "OSError", "the message is longer than the buffer")   \
    X(ESHUTDOWN, -5012, CLOSED, "ShutDown", "the queue was shut down")              \
    X(ETHREADS, -5013, USAGE, "RuntimeError", "the process has other threads")

enum sst_status {
    SST_OK = 0,
#define SST_STATUS_ENUM(name, value, category, python, text) SST_##name = (value),
    SST_STATUS_TABLE(SST_STATUS_ENUM)
#undef SST_STATUS_ENUM
};

/* What a caller can do about a status. */
enum sst_category {
    SST_CATEGORY_OK,
    SST_CATEGORY_AGAIN,
    SST_CATEGORY_TIMEOUT,
    SST_CATEGORY_CLOSED,
    SST_CATEGORY_USAGE,
    SST_CATEGORY_RESOURCE,
    SST_CATEGORY_PEER,
    SST_CATEGORY_CORRUPT,
    SST_CATEGORY_INTERNAL,
};

/* What went wrong, in words. Optional last argument of cold functions: pass NULL or a
 * zeroed struct; layers append what they know. */
struct sst_error {
    int status;
    char text[252];
};

SST_API const char *sst_status_text(int status);
SST_API const char *sst_status_name(int status);
SST_API enum sst_category sst_status_category(int status);

/* ---- Time ------------------------------------------------------------------------ */

#define SST_NOW     INT64_C(0)
#define SST_FOREVER INT64_MAX

/* Absolute deadline `duration_ns` from now; negative durations give SST_NOW, and sums
 * beyond the range SST_FOREVER. */
SST_API int64_t sst_deadline_after(int64_t duration_ns);

/* For programs whose signal handlers do nothing but leave a note, seen to after
 * SST_EINTR, as those of interpreters: call it once, before the first wait. Then a
 * function that was woken and found nothing returns SST_EINTR before it sleeps again,
 * too; for who is woken and signalled at once learns of the one only. */
SST_API void sst_view_defer_signals(void);

/* ---- Handles ------------------------------------------------------------------------
 *
 * A handle names a shared object inside its arena, in any process that has the arena
 * open. It is plain data: copy it, send it, store it. It keeps nothing alive; attaching
 * through a handle whose object has gone gives SST_ESTALE. */
struct sst_handle {
    uint64_t arena;      /* id of the arena, never 0 */
    uint64_t offset;     /* of the object's slot from the start of the arena */
    uint32_t generation; /* of the slot */
    uint32_t kind;       /* enum sst_kind */
};

enum sst_kind {
    SST_KIND_NONE,
    SST_KIND_MUTEX,
    SST_KIND_SEMAPHORE,
    SST_KIND_CONDITION,
    SST_KIND_EVENT,
    SST_KIND_BARRIER,
    SST_KIND_QUEUE,
    SST_KIND_PIPE,
    SST_KIND_BLOCK,
    SST_KIND_JOB,
    SST_KIND_PARCEL,
    SST_KIND_POOL,
    SST_KIND_COUNT,
};

/* ---- Arena --------------------------------------------------------------------------
 *
 * The memory of one tree of processes. sst_arena_create makes it, children get it over
 * fork, other programs by its descriptor. A process is a member from create/attach
 * until detach or death. */
struct sst_arena;

struct sst_arena_options {
    uint32_t size_of;     /* sizeof(struct sst_arena_options) */
    uint32_t process_max; /* processes attached at a time; 0 = 4096 */
    uint64_t size; /* bytes of address range; 0 = 1 TiB, less under RLIMIT_FSIZE */
    /* bytes of memory to use at most; 0 = what cgroup and machine allow */
    uint64_t budget;
};

SST_API SST_MUST_CHECK int sst_arena_create(const struct sst_arena_options *options,
                                            struct sst_arena **out,
                                            struct sst_error *err);
/* Join the arena behind a descriptor (duplicated). */
SST_API SST_MUST_CHECK int sst_arena_attach(int fd, struct sst_arena **out,
                                            struct sst_error *err);
/* Leave. Objects opened through it must be closed before. Returns NULL. */
SST_API struct sst_arena *sst_arena_detach(struct sst_arena *arena);
/* The descriptor, owned by the arena, close-on-exec. */
SST_API int sst_arena_fd(const struct sst_arena *arena);
SST_API uint64_t sst_arena_id(const struct sst_arena *arena);

struct sst_arena_statistics {
    uint64_t size, budget, used, slots, extents, processes, swept, windows, held;
};
SST_API int sst_arena_statistics(struct sst_arena *arena,
                                 struct sst_arena_statistics *out);
/* Undo what dead processes held; number of them. Called by the core where it
 * matters. */
SST_API int sst_arena_sweep(struct sst_arena *arena);

/* ---- Objects ------------------------------------------------------------------------
 *
 * Each kind X has sst_X_create (a new object), sst_X_attach (one that a handle names),
 * sst_X_handle, and sst_X_close, which returns NULL and is safe on NULL. The pointer is
 * this process's view. A view is freed by the process that opened it; in a forked child
 * close drops the child's own hold. */

/* ---- Mutexes ------------------------------------------------------------------------
 *
 * Owned by a process, because a lock outlives the thread that took it. A plain mutex
 * may be released by anybody, a recursive one by the thread that holds it. A forked
 * child owns nothing its parent held. When the owner died holding a mutex, what it
 * protects may be half done: acquire says so instead of waiting for ever, until
 * somebody recovers or releases it. */

struct sst_mutex;
enum {
    SST_MUTEX_RECURSIVE = 1
};

/* A new mutex, free. `flags`: SST_MUTEX_RECURSIVE or 0.
 * Returns 0, SST_EINVAL, SST_ENOMEM, SST_ELIMIT. Owns: *out until sst_mutex_close. */
SST_API SST_MUST_CHECK int sst_mutex_create(struct sst_arena *arena, uint32_t flags,
                                            struct sst_mutex **out,
                                            struct sst_error *err);
/* The mutex a handle names.
 * Returns 0, SST_ESTALE, SST_EINVAL, SST_ELAYOUT, SST_ENOMEM. Owns: as create. */
SST_API SST_MUST_CHECK int sst_mutex_attach(struct sst_arena *arena,
                                            const struct sst_handle *handle,
                                            struct sst_mutex **out,
                                            struct sst_error *err);
SST_API void sst_mutex_handle(const struct sst_mutex *mutex, struct sst_handle *out);
/* Returns NULL. A mutex that is held stays held. */
SST_API struct sst_mutex *sst_mutex_close(struct sst_mutex *mutex);
/* Take it; a recursive one that is ours already, once more.
 * Returns 0, SST_ETIMEDOUT, SST_EINTR; SST_EOWNERDEAD: the owner died, or exited,
 * holding it, and it is not taken; SST_EOVERFLOW: taken 2^32 - 1 times. Blocks until
 * the deadline. Processes: who waits learns of the owner's death at once. */
SST_API SST_MUST_CHECK int sst_mutex_acquire(struct sst_mutex *mutex,
                                             int64_t deadline_ns);
/* Give it back, also in place of a dead owner if it is a plain one.
 * Returns 0; SST_EOVERFLOW: plain and not held; SST_ENOTOWNER: recursive and not ours.
 */
SST_API SST_MUST_CHECK int sst_mutex_release(struct sst_mutex *mutex);
/* Free a mutex whose owner is dead. Returns 1 when there was something to recover, else
 * 0. */
SST_API SST_MUST_CHECK int sst_mutex_recover(struct sst_mutex *mutex);
/* Does anybody hold it, dead or alive? */
SST_API bool sst_mutex_is_locked(const struct sst_mutex *mutex);
SST_API bool sst_mutex_is_recursive(const struct sst_mutex *mutex);
/* Times the calling thread (recursive) or process (plain) holds it. */
SST_API uint32_t sst_mutex_count(const struct sst_mutex *mutex);

/* ---- Semaphores ---------------------------------------------------------------------
 *
 * Units that are taken and given back, by anybody. Units that a process had when it
 * died stay taken: nobody else can know whether it meant to give them back. A semaphore
 * created full (value == value_max) is *bounded*: it notes who holds its units, and
 * tells when none is left and all their holders are dead. */

struct sst_semaphore;

/* Returns 0, SST_EINVAL (value_max 0, or value above it), SST_ENOMEM, SST_ELIMIT.
 * Owns: *out until sst_semaphore_close. */
SST_API SST_MUST_CHECK int sst_semaphore_create(struct sst_arena *arena, uint32_t value,
                                                uint32_t value_max,
                                                struct sst_semaphore **out,
                                                struct sst_error *err);
/* Returns 0, SST_ESTALE, SST_EINVAL, SST_ELAYOUT, SST_ENOMEM. Owns: as create. */
SST_API SST_MUST_CHECK int sst_semaphore_attach(struct sst_arena *arena,
                                                const struct sst_handle *handle,
                                                struct sst_semaphore **out,
                                                struct sst_error *err);
SST_API void sst_semaphore_handle(const struct sst_semaphore *semaphore,
                                  struct sst_handle *out);
/* Returns NULL. */
SST_API struct sst_semaphore *sst_semaphore_close(struct sst_semaphore *semaphore);
/* Take one unit.
 * Returns 0, SST_ETIMEDOUT, SST_EINTR; SST_EOWNERDEAD: bounded, and all units belong to
 * dead processes. Blocks until the deadline. */
SST_API SST_MUST_CHECK int sst_semaphore_acquire(struct sst_semaphore *semaphore,
                                                 int64_t deadline_ns);
/* Give `count` units back. They come from what this process holds, else from what a
 * dead one held, else from any. Returns 0; SST_EOVERFLOW: beyond value_max, and nothing
 * changed. */
SST_API SST_MUST_CHECK int sst_semaphore_release(struct sst_semaphore *semaphore,
                                                 uint32_t count);
/* Give back the units of dead processes; of a bounded semaphore only.
 * Returns their number. */
SST_API int sst_semaphore_recover(struct sst_semaphore *semaphore);
/* Units to be had now. */
SST_API uint32_t sst_semaphore_value(const struct sst_semaphore *semaphore);
SST_API uint32_t sst_semaphore_value_max(const struct sst_semaphore *semaphore);

/* ---- Conditions ---------------------------------------------------------------------
 *
 * Wait in three steps, so that the caller can release and retake whatever lock it uses:
 * enter while holding the lock, release it, wait (again after SST_EINTR), leave if wait
 * did not return 0, retake the lock. notify reaches those who have entered and not been
 * notified, the earlier rounds first; who enters after a notify does not take it from
 * them. A notification that a process died with passes on to another. Look at what you
 * wait for again after every return: after two deaths in a row one waiter too many may
 * be notified. */

struct sst_condition;

/* Returns 0, SST_ENOMEM, SST_ELIMIT. Owns: *out until sst_condition_close. */
SST_API SST_MUST_CHECK int sst_condition_create(struct sst_arena *arena,
                                                struct sst_condition **out,
                                                struct sst_error *err);
/* Returns 0, SST_ESTALE, SST_EINVAL, SST_ELAYOUT, SST_ENOMEM. Owns: as create. */
SST_API SST_MUST_CHECK int sst_condition_attach(struct sst_arena *arena,
                                                const struct sst_handle *handle,
                                                struct sst_condition **out,
                                                struct sst_error *err);
SST_API void sst_condition_handle(const struct sst_condition *condition,
                                  struct sst_handle *out);
/* Returns NULL. */
SST_API struct sst_condition *sst_condition_close(struct sst_condition *condition);
/* Become a waiter; *ticket is for the two below, in any thread of this process.
 * Returns 0; SST_ELIMIT: too many processes wait (248 at least may). */
SST_API SST_MUST_CHECK int sst_condition_enter(struct sst_condition *condition,
                                               uint64_t *ticket);
/* Wait to be notified.
 * Returns 0: notified, and no waiter any more; SST_ETIMEDOUT, SST_EINTR: a waiter
 * still; SST_EINVAL: no ticket of this process. Blocks until the deadline. */
SST_API SST_MUST_CHECK int sst_condition_wait(struct sst_condition *condition,
                                              uint64_t ticket, int64_t deadline_ns);
/* Be a waiter no more. Returns whether it was notified after all: the notification is
 * used up then. */
SST_API bool sst_condition_leave(struct sst_condition *condition, uint64_t ticket);
/* Notify up to `wanted` waiters. Returns how many. */
SST_API int sst_condition_notify(struct sst_condition *condition, uint32_t wanted);
/* Waiters not notified yet. */
SST_API uint32_t sst_condition_waiters(const struct sst_condition *condition);

/* ---- Events -------------------------------------------------------------------------
 *
 * A flag to wait for. Has no owner: a death leaves it as it is. */

struct sst_event;

/* A new event, not set. Returns 0, SST_ENOMEM, SST_ELIMIT. Owns: *out until
 * sst_event_close. */
SST_API SST_MUST_CHECK int sst_event_create(struct sst_arena *arena,
                                            struct sst_event **out,
                                            struct sst_error *err);
/* Returns 0, SST_ESTALE, SST_EINVAL, SST_ELAYOUT, SST_ENOMEM. Owns: as create. */
SST_API SST_MUST_CHECK int sst_event_attach(struct sst_arena *arena,
                                            const struct sst_handle *handle,
                                            struct sst_event **out,
                                            struct sst_error *err);
SST_API void sst_event_handle(const struct sst_event *event, struct sst_handle *out);
/* Returns NULL. */
SST_API struct sst_event *sst_event_close(struct sst_event *event);
/* Set it. Whoever waits now goes on, even if somebody clears it at once. */
SST_API void sst_event_set(struct sst_event *event);
SST_API void sst_event_clear(struct sst_event *event);
SST_API bool sst_event_is_set(const struct sst_event *event);
/* Returns 0: it is set, or was while we waited; SST_ETIMEDOUT, SST_EINTR.
 * Blocks until the deadline. */
SST_API SST_MUST_CHECK int sst_event_wait(struct sst_event *event, int64_t deadline_ns);

/* ---- Barriers -----------------------------------------------------------------------
 *
 * Processes meet: each arrives, then waits until the last has come. Who comes last runs
 * an action if there is one, then opens the barrier for all. A barrier breaks when it
 * is aborted, when somebody runs out of time waiting, and when somebody who has arrived
 * dies: then everybody gets SST_EBROKEN until it is reset. */

struct sst_barrier;

/* Returns 0, SST_EINVAL (parties 0, or above 2^20), SST_ENOMEM, SST_ELIMIT.
 * Owns: *out until sst_barrier_close. */
SST_API SST_MUST_CHECK int sst_barrier_create(struct sst_arena *arena, uint32_t parties,
                                              struct sst_barrier **out,
                                              struct sst_error *err);
/* Returns 0, SST_ESTALE, SST_EINVAL, SST_ELAYOUT, SST_ECORRUPT, SST_ENOMEM. Owns: as
 * create. */
SST_API SST_MUST_CHECK int sst_barrier_attach(struct sst_arena *arena,
                                              const struct sst_handle *handle,
                                              struct sst_barrier **out,
                                              struct sst_error *err);
SST_API void sst_barrier_handle(const struct sst_barrier *barrier,
                                struct sst_handle *out);
/* Returns NULL. */
SST_API struct sst_barrier *sst_barrier_close(struct sst_barrier *barrier);
/* Arrive. *ticket is for the functions below, in any thread of this process.
 * Returns the index of arrival; parties - 1 means: run the action, then
 * sst_barrier_open, or sst_barrier_abort if it failed; any other: sst_barrier_wait.
 * SST_EBROKEN, SST_ETIMEDOUT, SST_EINTR: not arrived. Blocks only while the action of
 * the round before runs. */
SST_API SST_MUST_CHECK int sst_barrier_arrive(struct sst_barrier *barrier,
                                              uint64_t *ticket, int64_t deadline_ns);
/* Let everybody through. Returns 0; SST_EBROKEN: it broke meanwhile; SST_EINVAL: not
 * all have come. */
SST_API SST_MUST_CHECK int sst_barrier_open(struct sst_barrier *barrier,
                                            uint64_t ticket);
/* Wait until it opens.
 * Returns 0, SST_EBROKEN; SST_ETIMEDOUT: broken now, by us; SST_EINTR: call it again,
 * or leave. Blocks until the deadline, and once all have come until the action is done.
 */
SST_API SST_MUST_CHECK int sst_barrier_wait(struct sst_barrier *barrier,
                                            uint64_t ticket, int64_t deadline_ns);
/* Look whether it opened. Returns 0, SST_EBROKEN, SST_EAGAIN: not yet. Breaks
 * nothing. */
SST_API SST_MUST_CHECK int sst_barrier_try_wait(const struct sst_barrier *barrier,
                                                uint64_t ticket);
/* Not to have arrived, unless all have: for a waiter who gives up without breaking
 * it. */
SST_API void sst_barrier_leave(struct sst_barrier *barrier, uint64_t ticket);
/* Break it. */
SST_API void sst_barrier_abort(struct sst_barrier *barrier);
/* Make it empty and whole. Who waits gets SST_EBROKEN. */
SST_API void sst_barrier_reset(struct sst_barrier *barrier);
SST_API uint32_t sst_barrier_parties(const struct sst_barrier *barrier);
/* How many have arrived; 0 when broken. */
SST_API uint32_t sst_barrier_waiting(const struct sst_barrier *barrier);
SST_API bool sst_barrier_is_broken(const struct sst_barrier *barrier);

/* ---- Blocks ---------------------------------------------------------------------- */

/* A range of shared bytes: Value, Array, anything. Zeroed. Address valid until
 * close. */
struct sst_block;
SST_API SST_MUST_CHECK int sst_block_create(struct sst_arena *arena, uint64_t size,
                                            struct sst_block **out,
                                            struct sst_error *err);
SST_API SST_MUST_CHECK int sst_block_attach(struct sst_arena *arena,
                                            const struct sst_handle *handle,
                                            struct sst_block **out,
                                            struct sst_error *err);
SST_API void sst_block_handle(const struct sst_block *block, struct sst_handle *out);
SST_API struct sst_block *sst_block_close(struct sst_block *block);
SST_API void *sst_block_data(const struct sst_block *block);
SST_API uint64_t sst_block_size(const struct sst_block *block);

/* ---- Named memory -------------------------------------------------------------------
 *
 * Memory that any process of the machine finds by its name: POSIX shared memory, as
 * shm_open makes it, without the leading slash. It is not part of the arena, and what
 * did not come from this library can be attached like what did.
 *
 * A name lives until sst_named_unlink; or until the tree of processes that made it
 * has ended, however it did, and nobody else has it attached. It is then removed by the
 * last process to leave in order, or else by the next process of the same user that
 * opens an arena or attaches a name. What was mapped stays mapped. With `untracked`
 * neither maker nor user counts: the name lives until it is unlinked. */

struct sst_named;

struct sst_named_options {
    uint32_t size_of; /* sizeof(struct sst_named_options) */
    uint32_t mode;    /* of the file, less the umask; 0 = 0600 */
    uint64_t size;    /* in bytes, of a new one; more than 0 */
    bool untracked;
};

/* New memory, zeroed, with pages behind every byte: there is no SIGBUS later.
 * Returns 0, SST_EEXIST, SST_ENOSPC (no room, or no memory), SST_EINVAL (a name with a
 * slash, or none, or no size), SST_ENAMETOOLONG, SST_EACCES, SST_EMFILE, SST_ENOMEM;
 * SST_EPERM: another user has put something in place of our notes. Owns: *out until
 * sst_named_close. */
SST_API SST_MUST_CHECK int sst_named_create(struct sst_arena *arena, const char *name,
                                            const struct sst_named_options *options,
                                            struct sst_named **out,
                                            struct sst_error *err);
/* Memory that has the name, all of it. Only `untracked` counts of the options; NULL =
 * default. Returns 0, SST_ENOENT, SST_EINVAL (as above, or empty), SST_EACCES,
 * SST_EMFILE, SST_ENOMEM. Owns: as create. */
SST_API SST_MUST_CHECK int sst_named_attach(struct sst_arena *arena, const char *name,
                                            const struct sst_named_options *options,
                                            struct sst_named **out,
                                            struct sst_error *err);
/* Returns NULL. Unmaps; the name stays. */
SST_API struct sst_named *sst_named_close(struct sst_named *named);
/* Valid until close, also when a resize has made another one. */
SST_API void *sst_named_data(const struct sst_named *named);
SST_API uint64_t sst_named_size(const struct sst_named *named);
/* The descriptor, the view's own. */
SST_API int sst_named_fd(const struct sst_named *named);
/* Make it larger, and map all of it; others go on with what they have mapped. `size` 0:
 * map what somebody else has made of it. Returns 0, SST_EINVAL (smaller than it is),
 * SST_ENOSPC, SST_ENOMEM, SST_EBADF (the program has closed the descriptor). */
SST_API SST_MUST_CHECK int sst_named_resize(struct sst_named *named, uint64_t size,
                                            struct sst_error *err);
/* Remove the name; whoever has it mapped goes on. Returns 0, SST_ENOENT, SST_EACCES,
 * SST_EPERM. */
SST_API SST_MUST_CHECK int sst_named_unlink(struct sst_arena *arena, const char *name);
/* See that a name that was made in another way goes with this tree: a file in /dev/shm.
 * Returns 0, SST_EINVAL, SST_ENAMETOOLONG, SST_ENOSPC, SST_EPERM, SST_EMFILE. */
SST_API SST_MUST_CHECK int sst_named_keep(struct sst_arena *arena, const char *name);
/* The name does not go with this tree: undoes what this process has kept or made. */
SST_API void sst_named_forget(struct sst_arena *arena, const char *name);
/* For the end of a process that neither detaches nor calls sst_process_exit: nothing
 * with a name is used any more. What is mapped stays mapped. */
SST_API void sst_named_leave(struct sst_arena *arena);

/* ---- Private folders ----------------------------------------------------------------
 *
 * A folder for sockets and files that only this user can enter. It lives until
 * sst_folder_remove; or as long as the tree of processes that made it, and then goes as
 * a name does, with all in it. */

/* A new folder in `parent` (an absolute path) whose name is `prefix` and 10 letters and
 * digits by chance. Its path is written to `path`, which has room for `size` bytes.
 * Where notes cannot be kept, or of a path of more than 255 bytes, it is made all the
 * same and does not go with the tree. Returns 0, SST_EINVAL, SST_ENAMETOOLONG,
 * SST_ENOENT, SST_EACCES, SST_EIO (other reasons). */
SST_API SST_MUST_CHECK int sst_folder_make(struct sst_arena *arena, const char *parent,
                                           const char *prefix, char *path, size_t size);
/* Remove a folder of this user's, and everything in it; links are removed and not
 * followed. Returns 0, SST_ENOENT, SST_EPERM (it is not this user's, or no folder),
 * SST_EIO (some of it stays, and so does the folder). */
SST_API SST_MUST_CHECK int sst_folder_remove(struct sst_arena *arena, const char *path);

/* ---- Parcels ------------------------------------------------------------------------
 *
 * A message prepared in shared memory: bytes that are written in place, so that putting
 * A message prepared in shared memory: bytes that are written in place, so that putting
 * as long as a process has it open, or a message that is it lies in a queue or pipe, or
 * another parcel holds it; what it holds lives as long as the parcel.
 *
 * An object that holds itself this way, as a queue in which lies a parcel that holds
 * the queue, lives as long as the tree. */
struct sst_parcel;

/* A new parcel of `size` bytes, whose content is undefined, with room for `handle_max`
 * holds.
 *
 * Returns 0; SST_ELIMIT; SST_ENOMEM; SST_EINVAL.
 * Owns: *out is the caller's, until it is put or closed. */
SST_API SST_MUST_CHECK int sst_parcel_create(struct sst_arena *arena, uint64_t size,
                                             uint32_t handle_max,
                                             struct sst_parcel **out,
                                             struct sst_error *err);
/* The parcel that a handle names; somebody keeps it meanwhile.
 *
 * Returns 0; SST_ESTALE; SST_EINVAL; SST_ELAYOUT; SST_ENOMEM; SST_ELIMIT;
 * SST_ECORRUPT.
 * Owns: as create. */
SST_API SST_MUST_CHECK int sst_parcel_attach(struct sst_arena *arena,
                                             const struct sst_handle *handle,
                                             struct sst_parcel **out,
                                             struct sst_error *err);
SST_API void sst_parcel_handle(const struct sst_parcel *parcel, struct sst_handle *out);
/* The bytes, valid until the parcel is put or closed; 64-byte aligned when there are
 * 4096 or more, else 16-byte aligned. Who writes to them while others read sees to it
 * himself. */
SST_API void *sst_parcel_data(const struct sst_parcel *parcel);
SST_API uint64_t sst_parcel_size(const struct sst_parcel *parcel);

/* Have the object live at least as long as the parcel. For who prepares it, before it
 * is put or sealed; by one thread at a time. The same object may be held several
 * times.
 *
 * Returns 0; SST_ELIMIT when there are handle_max already; SST_ESTALE; SST_EINVAL for
 * the parcel itself, one that is sealed, and a handle of another arena; SST_ELAYOUT. */
SST_API SST_MUST_CHECK int sst_parcel_hold(struct sst_parcel *parcel,
                                           const struct sst_handle *handle,
                                           struct sst_error *err);
/* How many objects it holds, and their handles in the order of sst_parcel_hold, by
 * which they can be attached for as long as the parcel is open.
 *
 * handle_at returns 0; SST_EINVAL for an index beyond; SST_ECORRUPT. */
SST_API uint32_t sst_parcel_count(const struct sst_parcel *parcel);
SST_API SST_MUST_CHECK int sst_parcel_handle_at(const struct sst_parcel *parcel,
                                                uint32_t index, struct sst_handle *out);
/* Returns NULL. Safe on NULL.
 * Processes: a forked child has a share of its own in each parcel its parent had open,
 * in the same memory: to be closed by both. */
SST_API struct sst_parcel *sst_parcel_close(struct sst_parcel *parcel);

/* From now on it never changes, so that any number of processes may read it, and
 * messages may hold it instead of having a copy. Returns 0. */
SST_API int sst_parcel_seal(struct sst_parcel *parcel);
SST_API bool sst_parcel_is_sealed(const struct sst_parcel *parcel);
/* Is this range of addresses inside a sealed parcel that this process has open? Then
 * its handle, and the distance of the range from the start of its bytes. */
SST_API bool sst_parcel_find(struct sst_arena *arena, const void *address,
                             uint64_t size, struct sst_handle *out, uint64_t *offset);

/* ---- Queues -------------------------------------------------------------------------
 *
 * Messages of any size, from any number of processes to any number. What was put is
 * visible at once, in the order in which the puts took place, and outlives the
 * process that put it, however that ends: nothing is buffered outside the arena.
 * Each message is taken by one getter, whole. A getter that is killed takes at most
 * the message along that it was handed.
 *
 * A queue costs half a kilobyte until something is put, then what is in it; it grows
 * without bound unless item_max says otherwise, and shrinks again. Payloads of more
 * than 4 KiB are copied once, by the putter, outside all locks, and read in place by
 * the getter. */
struct sst_queue;

struct sst_queue_options {
    uint32_t size_of;  /* sizeof(struct sst_queue_options) */
    uint32_t item_max; /* messages in it at a time; 0 = no bound */
    uint32_t joinable; /* count unfinished items, for task_done and join */
};

/* A new queue; options may be NULL.
 *
 * Returns 0; SST_EINVAL for options of another size; SST_ENOMEM; SST_ELIMIT.
 * Owns: *out is the caller's, to be given to sst_queue_close. */
SST_API SST_MUST_CHECK int sst_queue_create(struct sst_arena *arena,
                                            const struct sst_queue_options *options,
                                            struct sst_queue **out,
                                            struct sst_error *err);

/* The queue that a handle names.
 *
 * Returns 0; SST_ESTALE when it no longer exists; SST_EINVAL for a handle of another
 * kind or arena; SST_ELAYOUT; SST_ENOMEM; SST_ELIMIT.
 * Owns: *out is the caller's, to be given to sst_queue_close. */
SST_API SST_MUST_CHECK int sst_queue_attach(struct sst_arena *arena,
                                            const struct sst_handle *handle,
                                            struct sst_queue **out,
                                            struct sst_error *err);

/* The handle by which other processes attach. It keeps nothing alive. */
SST_API void sst_queue_handle(const struct sst_queue *queue, struct sst_handle *out);

/* Close this view, and with the last one of all processes the queue and what is in
 * it.
 *
 * Returns NULL. Safe on NULL.
 * Threads: no other may be using this view. Messages taken through it stay valid.
 * Processes: in a forked child it drops the child's own hold and closes the child's
 * copy of the descriptor. */
SST_API struct sst_queue *sst_queue_close(struct sst_queue *queue);

/* Put one message, copied from `data`, all or nothing.
 *
 * Returns 0; SST_ETIMEDOUT when the queue is full until the deadline; SST_EINTR;
 * SST_ESHUTDOWN; SST_ELIMIT and SST_ENOMEM when there is no memory for it
 * (sst_queue_bytes says how much the queue has); SST_EMFILE when somebody polls the
 * queue and no socket can be had to ring his bell; SST_EINVAL; SST_ECORRUPT.
 * Blocks: while a queue with item_max is full; without item_max never for a reader.
 * Where there is no memory for a message of more than 4 KiB, and item_max is set and
 * the deadline not SST_NOW, it goes in pieces, as through a byte stream: until it is
 * taken. Once a taker has begun neither deadline nor signal ends that; before, the
 * message is withdrawn.
 * Processes: a putter that is killed has put its message wholly, or not at all; who has
 * taken a part of one that came in pieces then gets SST_EOWNERDEAD. */
SST_API SST_MUST_CHECK int sst_queue_put(struct sst_queue *queue, const void *data,
                                         uint64_t size, int64_t deadline_ns);

enum {
    SST_SLICES_MAX = 32, /* of one message */
};

struct sst_slice {
    const void *data;
    uint64_t size;
};

/* Put one message whose bytes are the slices one after the other, so that a header
 * in front of a large payload costs no copy of it.
 *
 * Returns, blocks: as sst_queue_put; SST_EINVAL for more than SST_SLICES_MAX slices. */
SST_API SST_MUST_CHECK int sst_queue_put_slices(struct sst_queue *queue,
                                                const struct sst_slice *slices,
                                                uint32_t count, int64_t deadline_ns);

/* Put several messages, each slice one of its own: waits for room for the first,
 * then puts as many as there is room for. Others' messages may come between them.
 *
 * Returns the number put, at least 1; or what sst_queue_put returns when none was.
 * Blocks: as sst_queue_put, for the first. */
SST_API SST_MUST_CHECK int sst_queue_put_many(struct sst_queue *queue,
                                              const struct sst_slice *messages,
                                              uint32_t count, int64_t deadline_ns);

/* Put a parcel, whose bytes are the message: nothing is copied. On success *parcel is
 * NULL, and the queue holds it until it is taken; else it stays the caller's.
 *
 * Returns, blocks: as sst_queue_put; SST_EINVAL for a parcel of another arena.
 * Threads: no other may be using this view of the parcel.
 * Processes: a parcel lies in the queue with all it holds, whatever becomes of who put
 * it. A child forked by another thread meanwhile has no share in it. */
SST_API SST_MUST_CHECK int sst_queue_put_parcel(struct sst_queue *queue,
                                                struct sst_parcel **parcel,
                                                int64_t deadline_ns);

/* A message that was taken. */
struct sst_message {
    const void *data; /* private to the caller, 8-byte aligned, valid until freed */
    uint64_t size;
    void *owner;        /* of the core */
    uint64_t extent;    /* of the core */
    uint8_t small[512]; /* `data` points here if it fits: do not copy the struct */
};

/* Take the next message.
 *
 * Returns 0; SST_ETIMEDOUT when there is none until the deadline; SST_EINTR;
 * SST_ESHUTDOWN once the queue is shut down and empty; SST_ENOMEM or SST_ELIMIT, and
 * the message stays, unless it came in pieces; SST_EOWNERDEAD when it came in pieces
 * and its putter died; SST_ECORRUPT.
 * Blocks: until there is a message. With SST_NOW it looks for two microseconds at
 * most.
 * Processes: a getter that is killed while it waits takes nothing along, and a
 * message that others put is never held up by it.
 * Owns: the message is the caller's, to be given to sst_message_free. */
SST_API SST_MUST_CHECK int sst_queue_get(struct sst_queue *queue,
                                         struct sst_message *message,
                                         int64_t deadline_ns);

/* Take several messages: waits for the first, then takes those that are there.
 *
 * Returns the number taken, at least 1; or what sst_queue_get returns when none was.
 * Blocks: as sst_queue_get, for the first.
 * Owns: each message taken is the caller's. */
SST_API SST_MUST_CHECK int sst_queue_get_many(struct sst_queue *queue,
                                              struct sst_message *messages,
                                              uint32_t count, int64_t deadline_ns);

/* Wait for a message without taking it; another getter may be faster.
 *
 * Returns 1 when there is one, or the queue is shut down; 0 at the deadline; SST_EINTR;
 * SST_ECORRUPT. */
SST_API SST_MUST_CHECK int sst_queue_poll(struct sst_queue *queue, int64_t deadline_ns);

/* Give back what a message occupies. Safe on one that was freed, or zeroed.
 *
 * Processes: a forked child has a share of its own in each message its parent had in
 * hand, in the same memory: to be freed by both. */
SST_API void sst_message_free(struct sst_message *message);

/* The parcel that a message is: for what it holds. The message's, so not to be closed,
 * put, or used after sst_message_free. NULL when it is none. */
SST_API struct sst_parcel *sst_message_parcel(const struct sst_message *message);

/* Messages in the queue now, and the bytes of their payloads: exact at the instant.
 *
 * Returns the number. */
SST_API uint64_t sst_queue_count(const struct sst_queue *queue);
SST_API uint64_t sst_queue_bytes(const struct sst_queue *queue);

/* Returns the bound it was created with, 0 = none. */
SST_API uint32_t sst_queue_item_max(const struct sst_queue *queue);

/* No more puts: everybody who waits to put gets SST_ESHUTDOWN, who waits to get does
 * so once the queue is empty. With `immediate` it is emptied at once. Cannot be
 * undone. */
SST_API void sst_queue_shutdown(struct sst_queue *queue, bool immediate);

/* One item that was put is finished. By any process, also another than its getter's.
 *
 * Returns 0; SST_EOVERFLOW when nothing is unfinished; SST_EINVAL when the queue is not
 * joinable; SST_ENOMEM, SST_ELIMIT. */
SST_API SST_MUST_CHECK int sst_queue_task_done(struct sst_queue *queue);

/* Wait until every item that was put is finished.
 *
 * Returns 0; SST_EOWNERDEAD when a process ended between get and task_done, so that
 * this would never come (sst_queue_recover counts its items as done); SST_ETIMEDOUT;
 * SST_EINTR; SST_EINVAL when the queue is not joinable.
 * Processes: the death of a getter shows within milliseconds. */
SST_API SST_MUST_CHECK int sst_queue_join(struct sst_queue *queue, int64_t deadline_ns);

/* Count the items as finished whose getters ended before they said so.
 *
 * Returns how many. */
SST_API int sst_queue_recover(struct sst_queue *queue);

/* Returns the number of items put and not finished; 0 when the queue is not
 * joinable. */
SST_API uint64_t sst_queue_unfinished(const struct sst_queue *queue);

/* A descriptor for poll(), select() and event loops. It is readable at the latest
 * when a message is there or the queue is shut down, and may be readable once with
 * none. A get or poll that finds nothing makes it unreadable again; programs that
 * get elsewhere call sst_queue_fd_drain for that.
 *
 * Returns the descriptor, the same for this view until close; SST_ELIMIT when eight
 * views have one already; SST_EMFILE, SST_ENOMEM.
 * Processes: a forked child asks again and gets one of its own. Works among
 * processes of one network namespace.
 * Owns: the view closes it. */
SST_API SST_MUST_CHECK int sst_queue_fd(struct sst_queue *queue, struct sst_error *err);

/* Make the descriptor unreadable if there is nothing to get.
 *
 * Returns 1 when there is, so look again; 0; SST_ECORRUPT. */
SST_API SST_MUST_CHECK int sst_queue_fd_drain(struct sst_queue *queue);

/* ---- Pipes --------------------------------------------------------------------------
 *
 * Two ends, each of which may be open in several processes and threads. Messages keep
 * their boundaries and may be of any size; 256 KiB fit each way, and a way that is not
 * full takes another message however long it is. Underneath is a message ring each way,
 * and a pair of joined sockets on which receivers sleep: so an end has a descriptor
 * from the start, and closing or dying on one side is noticed on the other. While both
 * sides run no system call is made. */
struct sst_pipe;

/* Both ends of a new pipe. One that is not duplex goes one way: end 0 receives, end
 * 1 sends.
 *
 * Returns 0; SST_EMFILE; SST_ENOMEM; SST_ELIMIT.
 * Owns: both ends are the caller's, to be given to sst_pipe_close. */
SST_API SST_MUST_CHECK int sst_pipe_create(struct sst_arena *arena, bool duplex,
                                           struct sst_pipe **end0,
                                           struct sst_pipe **end1,
                                           struct sst_error *err);

/* An end that another process has handed on: the pipe's handle, which end (0 or 1),
 * and a descriptor of that end's socket, for instance by SCM_RIGHTS. The giver keeps
 * its end open until this has returned.
 *
 * Returns 0; SST_ESTALE when nobody has that end open; SST_EINVAL; SST_ELAYOUT;
 * SST_ENOMEM; SST_ELIMIT.
 * Owns: takes the descriptor on success; *out is the caller's. */
SST_API SST_MUST_CHECK int sst_pipe_attach(struct sst_arena *arena,
                                           const struct sst_handle *handle, int end,
                                           int fd_take, struct sst_pipe **out,
                                           struct sst_error *err);

/* The pipe's handle, and which end this is. */
SST_API void sst_pipe_handle(const struct sst_pipe *pipe, struct sst_handle *out,
                             int *end);

/* Names this end itself: for sst_process_hold, beside the pipe's handle, when a child
 * that is being started gets the end and it may be closed here before the child has
 * attached. */
SST_API void sst_pipe_end_handle(const struct sst_pipe *pipe, struct sst_handle *out);

/* Close this view of an end. With the last one, and the last copy of its descriptor,
 * the other end learns of it.
 *
 * Returns NULL. Safe on NULL.
 * Threads: no other may be using this view.
 * Processes: in a forked child it drops the child's own hold; the parent's stays. */
SST_API struct sst_pipe *sst_pipe_close(struct sst_pipe *pipe);

/* Returns the descriptor of this end, which the view owns: to be handed on. */
SST_API int sst_pipe_socket(const struct sst_pipe *pipe);

/* The same descriptor, for poll(), select() and event loops. It is readable at the
 * latest when a message or the end of file is there; from now on a receive or poll
 * that finds nothing makes it unreadable again. What is in it is for the core: do
 * not read.
 *
 * Returns the descriptor. */
SST_API SST_MUST_CHECK int sst_pipe_fd(struct sst_pipe *pipe);

/* Can this end receive; can it send? */
SST_API bool sst_pipe_is_readable(const struct sst_pipe *pipe);
SST_API bool sst_pipe_is_writable(const struct sst_pipe *pipe);

/* Returns how many messages that were sent from this end nobody has taken: all there
 * ever will be, once the other end is closed everywhere. */
SST_API uint64_t sst_pipe_unread(const struct sst_pipe *pipe);

/* Send one message, copied from `data`, all or nothing.
 *
 * Returns 0; SST_EPIPE when nobody has the other end open; SST_ETIMEDOUT when there
 * is no room until the deadline; SST_EINTR; SST_EINVAL at an end that cannot send;
 * SST_ELIMIT; SST_ENOMEM; SST_ECORRUPT.
 * Blocks: while the way is full; and where there is no memory for the message, until it
 * is taken in pieces, as sst_queue_put.
 * Processes: a reader that closes shows at the next send. One that is killed shows
 * once it is swept, when there is no room, or after 64 sends that nobody took. */
SST_API SST_MUST_CHECK int sst_pipe_send(struct sst_pipe *pipe, const void *data,
                                         uint64_t size, int64_t deadline_ns);

/* Send one message whose bytes are the slices one after the other, SST_SLICES_MAX at
 * most.
 *
 * Returns, blocks: as sst_pipe_send. */
SST_API SST_MUST_CHECK int sst_pipe_send_slices(struct sst_pipe *pipe,
                                                const struct sst_slice *slices,
                                                uint32_t count, int64_t deadline_ns);

/* Send a parcel: as sst_queue_put_parcel.
 *
 * Returns, blocks: as sst_pipe_send; SST_EINVAL for a parcel of another arena. */
SST_API SST_MUST_CHECK int sst_pipe_send_parcel(struct sst_pipe *pipe,
                                                struct sst_parcel **parcel,
                                                int64_t deadline_ns);

/* Receive the next message.
 *
 * Returns 0; SST_EOF when there is none and the other end is closed everywhere;
 * SST_ETIMEDOUT; SST_EINTR; SST_EINVAL at an end that cannot receive; SST_ENOMEM or
 * SST_ELIMIT, and the message stays, unless it came in pieces; SST_EOWNERDEAD when it
 * came in pieces and its sender died; SST_ECORRUPT.
 * Blocks: until there is a message or the end of file.
 * Processes: a copy of the other end that a forked process still has open defers the
 * end of file.
 * Owns: the message is the caller's, to be given to sst_message_free. */
SST_API SST_MUST_CHECK int sst_pipe_recv(struct sst_pipe *pipe,
                                         struct sst_message *message,
                                         int64_t deadline_ns);

/* Wait for a message or the end of file without taking anything.
 *
 * Returns 1 when there is either; 0 at the deadline; SST_EINTR; SST_EINVAL;
 * SST_ECORRUPT. */
SST_API SST_MUST_CHECK int sst_pipe_poll(struct sst_pipe *pipe, int64_t deadline_ns);

/* ---- Streams ------------------------------------------------------------------------
 *
 * Messages over a plain byte stream (socket, pipe, terminal) with the framing of
 * Python's multiprocessing: a 4-byte big-endian length, or -1 and 8 bytes for 2 GiB and
 * more. For descriptors that came from elsewhere and for peers that do not know this
 * library. Any descriptor, blocking or not; a blocking one may overrun a deadline once
 * bytes move. There is no lock in it: one thread at a time sends, one receives.
 *
 * A stream that is more than its descriptor (encrypted, say) brings functions that move
 * its bytes. They return how many, at least one; 0 from `read`: the end of the stream;
 * SST_ETIMEDOUT, SST_EINTR, -errno. The deadline is theirs to keep. */
struct sst_stream_io {
    int64_t (*read)(void *context, void *data, uint64_t size, int64_t deadline_ns);
    int64_t (*write)(void *context, const void *data, uint64_t size,
                     int64_t deadline_ns);
    void *context;
};
/* Before a receiver sleeps it may look for a while, where its peer mostly answers at
 * once. What a stream's receiver knows of that; zero at first. */
struct sst_stream_look {
    uint32_t useless; /* looks in a row that found nothing */
    uint32_t looks;
    uint32_t found; /* of these, such as saved a sleep */
};
struct sst_stream_progress {
    uint64_t size;                  /* of the payload; sst_stream_recv_size sets it */
    const struct sst_stream_io *io; /* what moves the bytes; NULL: read and write */
    struct sst_stream_look *look;   /* NULL, or without `io`: sleep at once */
    uint64_t done;                  /* bytes moved, header included */
    uint8_t header[12];
    uint8_t header_size; /* 0 = nothing begun: zero the struct before each message */
};
/* 0; SST_ETIMEDOUT and SST_EINTR: call again with the same progress to go on;
 * SST_EPIPE: nobody is left to read; otherwise -errno. */
SST_API SST_MUST_CHECK int sst_stream_send(int fd, struct sst_stream_progress *progress,
                                           const void *data, uint64_t size,
                                           int64_t deadline_ns);
/* The length of the next message, in progress->size. SST_EOF: the stream ended before
 * it; SST_EPIPE: inside it; SST_EMSGSIZE: the length is negative. Otherwise as
 * above. */
SST_API SST_MUST_CHECK int sst_stream_recv_size(int fd,
                                                struct sst_stream_progress *progress,
                                                int64_t deadline_ns);
/* Then its bytes, into `data` with room for progress->size. SST_EOF: the stream ended
 * before the first of them; SST_EPIPE: later. Otherwise as above. */
SST_API SST_MUST_CHECK int sst_stream_recv(int fd, struct sst_stream_progress *progress,
                                           void *data, int64_t deadline_ns);
/* 1 readable or at its end, 0 not until the deadline; SST_EINTR; SST_EBADF. */
SST_API SST_MUST_CHECK int sst_stream_poll(int fd, int64_t deadline_ns);
/* 0 or -errno; the descriptor is closed in any case. */
SST_API int sst_stream_close(int fd);

/* ---- Processes ----------------------------------------------------------------------
 *
 * A child is made in two steps: sst_process_new gives it a place, so that objects can
 * be held for it before it runs; then sst_process_fork, sst_process_spawn or
 * sst_zygote_start starts it, once.
 *
 * A child is *done* when it has called sst_process_exit: its code has run, its
 * descriptors are closed, its exit code is known. It is *gone* when the kernel has
 * taken back its memory and pid, about a millisecond later; the core reaps it then, in
 * any later call of this section. A child that ends otherwise (killed, _exit, other
 * threads alive) is done when it is gone. Only the process that started a child can
 * join it; a forked child of that process can signal it.
 *
 * Starter and child are joined by a *tether*, a socket pair whose ends belong to this
 * section. It carries what sst_process_send sends, and hangs up when the child is done.
 */
struct sst_process;

struct sst_process_options {
    uint32_t size_of;
    uint32_t die_with_parent; /* SIGKILL when the starter ends, however it ends */
    uint32_t packets;         /* the tether keeps message borders; of a zygote */
    uint32_t warm_max;        /* of a zygote: children it keeps ready at most; 0: 16 */
    uint32_t warm_idle_ms;    /* and for how long without use; 0: 10 seconds */
    uint32_t reserved;
};

/* A child to be. SST_EMFILE, SST_ENOMEM. */
SST_API SST_MUST_CHECK int sst_process_new(struct sst_arena *arena,
                                           const struct sst_process_options *options,
                                           struct sst_process **out,
                                           struct sst_error *err);
/* Give up the object; the child, if it runs, goes on and is reaped when it ends.
 * NULL. */
SST_API struct sst_process *sst_process_close(struct sst_process *process);

/* Keep an object for the child until it has it open itself, whatever becomes of ours.
 * Only for children that are not forked; these have what we have. */
SST_API SST_MUST_CHECK int sst_process_hold(struct sst_process *process,
                                            const struct sst_handle *handle);

/* fork() of the calling thread. 0 in the parent, SST_CHILD in the child, which leaves
 * through sst_process_exit and whose `process` is the parent's: not to be used
 * there. */
enum {
    SST_CHILD = 1
};
SST_API SST_MUST_CHECK int sst_process_fork(struct sst_process *process,
                                            struct sst_error *err);

/* Fork a child that runs fn(context) and exits with what it returns. */
typedef int (*sst_process_fn)(void *context);
SST_API SST_MUST_CHECK int sst_process_run(struct sst_process *process,
                                           sst_process_fn fn, void *context,
                                           struct sst_error *err);

/* A program: what execve takes, and the descriptors it gets beside 0 to 2, under the
 * same numbers. Borrowed for the call. */
struct sst_program {
    uint32_t size_of;
    uint32_t fd_count;
    const int *fds;
    const char *path;
    char *const *argv;
    char *const *env; /* NULL: ours */
};
/* Start it. The program gets the tether and the arena's descriptor as well; it joins
 * the tree by sst_process_adopt, whose arguments its command line should carry. -errno
 * of execve. */
SST_API SST_MUST_CHECK int sst_process_spawn(struct sst_process *process,
                                             const struct sst_program *program,
                                             struct sst_error *err);

/* The numbers for sst_process_adopt, before the start: of the place, and of the child's
 * end of the tether. SST_EMFILE, SST_ELIMIT. */
SST_API SST_MUST_CHECK int sst_process_reserve(struct sst_process *process,
                                               uint64_t *id);
SST_API int sst_process_tether(struct sst_process *process);

/* Bytes down the tether, from *sent on, which advances. 0; SST_EPIPE: the child has let
 * go; SST_EINTR: call again. Blocks while the child does not read. */
SST_API SST_MUST_CHECK int sst_process_send(struct sst_process *process,
                                            const void *data, uint64_t size,
                                            uint64_t *sent);

/* 0 when the child is done; SST_ETIMEDOUT; SST_EINTR; SST_ESRCH: not our child. */
SST_API SST_MUST_CHECK int sst_process_join(struct sst_process *process,
                                            int64_t deadline_ns);
/* The same until it is gone. */
SST_API SST_MUST_CHECK int sst_process_join_gone(struct sst_process *process,
                                                 int64_t deadline_ns);
/* 0 and the exit code, -N when signal N killed it, 255 when others have reaped it;
 * SST_EAGAIN while it runs. */
SST_API SST_MUST_CHECK int sst_process_exit_code(struct sst_process *process,
                                                 int *code);
/* 0 also when it has ended already. */
SST_API SST_MUST_CHECK int sst_process_signal(struct sst_process *process, int signal);
/* SIGKILL for it and for all it has started, its children's children included, also for
 * those that are being started at this moment.
 *
 * Returns how many were killed, 0 when it had ended before; SST_ENOMEM, -errno: not all
 * could be found, those that were are killed; SST_EPERM; SST_ESRCH: not our child.
 * Blocks: until each has stopped, some milliseconds; 20 for one that does not stop.
 * Processes: one whose parent ended before is not found, it belongs to no tree. */
SST_API SST_MUST_CHECK int sst_process_kill_tree(struct sst_process *process);
SST_API int sst_process_pid(const struct sst_process *process);
/* A descriptor that is readable once the child is gone; ours until close. */
SST_API int sst_process_fd(const struct sst_process *process);
/* Reap the children that are done or given up, and now gone; how many. */
SST_API int sst_process_reap(void);

/* ---- In a child ---- */

struct sst_origin {
    uint32_t size_of;
    uint32_t die_with_parent;
    uint64_t id;      /* what sst_process_reserve gave the starter */
    int32_t arena_fd; /* duplicated */
    int32_t tether;   /* taken over */
    int32_t parent_pid;
    int32_t reserved;
};
/* In a spawned program: join the arena in the place that the starter gave us. */
SST_API SST_MUST_CHECK int sst_process_adopt(const struct sst_origin *origin,
                                             struct sst_arena **out,
                                             struct sst_error *err);
/* What was held for us is held by us now: the starter's holds can go. */
SST_API void sst_process_settle(struct sst_arena *arena);
/* Be done, and end. With other threads alive nothing is closed under them: then it only
 * ends. */
SST_API SST_NORETURN void sst_process_exit(struct sst_arena *arena, int code);
/* A descriptor, the caller's, that is readable once the process that started us has
 * ended. */
SST_API SST_MUST_CHECK int sst_process_watch_parent(struct sst_arena *arena,
                                                    int parent_pid);
/* 1 when that happened or the descriptor hung up, SST_ETIMEDOUT, SST_EINTR. */
SST_API SST_MUST_CHECK int sst_process_wait_fd(int fd, int64_t deadline_ns);

/* ---- Zygotes ----
 *
 * A zygote is a small process with one thread that makes children for its owner, by
 * cloning itself. The owner is their real parent, so their exit codes and lives do not
 * depend on the zygote. It dies with its owner.
 *
 * A child is made before there is anything for it to do: it says that it is ready, and
 * sleeps until it is given a job. Those that are ready before they are needed are
 * *warm*. How many are kept follows use: none while the owner has started one process,
 * up to `warm_max` when starts find none. A warm child that nobody needs for
 * `warm_idle_ms` ends by itself. They are children of the owner: its own wait() may see
 * them end. */

enum {
    SST_JOB_FDS_MAX = 250
};

/* What a child gets. Borrowed for the call.
 *
 * The setup is what the owner's jobs have in common. It is compared with that of the
 * job before, and told to the zygote once: children that are made from then on have it
 * before they get a job, and have prepared themselves. To any other child it is sent
 * with the job. A job without one may get a child that has prepared an earlier one. */
struct sst_job {
    uint32_t size_of;
    uint32_t fd_count;
    const int *fds; /* given to the child, beside its standard streams */
    const void *data;
    uint64_t size;
    const void *setup;
    uint64_t setup_size;
};

/* Owner: have the zygote (a started process with `packets`) start `process` with this
 * job.
 *
 * Returns 0; SST_EPIPE when the zygote is dead: start another; SST_EPERM when we are no
 * longer who we were when it started (user, groups, capabilities, umask, limits, name
 * spaces): start another; SST_EINTR: nothing has happened, call again; SST_EMFILE;
 * -EAGAIN at the limit of processes; SST_ESRCH when the zygote is our parent's.
 * Blocks: while no child is ready, and while the child reads a job that is larger than
 * a socket buffer.
 * Threads: one start at a time.
 * Processes: a child killed while it reads its job has been started. */
SST_API SST_MUST_CHECK int sst_zygote_start(struct sst_process *zygote,
                                            struct sst_process *process,
                                            const struct sst_job *job,
                                            struct sst_error *err);

/* Owner: `count` starts follow; have that many children made at once. Never blocks.
 * SST_EPIPE, SST_ESRCH. */
SST_API SST_MUST_CHECK int sst_zygote_expect(struct sst_process *zygote,
                                             uint32_t count);

/* Owner: a start has been joined; have children made in place of those that starts
 * took. Otherwise the next start but one sees to that, beside the child that it starts.
 * Never blocks. SST_ESRCH. Threads: any. */
SST_API SST_MUST_CHECK int sst_zygote_refill(struct sst_process *zygote);

struct sst_zygote_statistics {
    uint32_t size_of;
    int32_t pid;
    uint32_t warm;       /* ready now */
    uint32_t coming;     /* asked for and not ready yet */
    uint32_t wanted;     /* to be kept ready */
    uint32_t is_sibling; /* its children are ours, not its own */
    uint64_t started;
    uint64_t from_warm;  /* of these, how many found a child ready */
    uint64_t given_back; /* warm children that ended without a job */
    uint64_t memory;     /* bytes that the zygote and its warm children have alone */
};
/* Owner: what it does. SST_ESRCH. Threads: any. */
SST_API SST_MUST_CHECK int sst_zygote_statistics(struct sst_process *zygote,
                                                 struct sst_zygote_statistics *out);

/* Zygote: serve the owner at the other end of the tether; `arena` is joined. */
struct sst_zygote;
SST_API SST_MUST_CHECK int sst_zygote_open(struct sst_arena *arena, int tether,
                                           struct sst_zygote **out,
                                           struct sst_error *err);
/* 0 when a child is to be made. SST_EOF: the owner is gone; SST_EINTR. */
SST_API SST_MUST_CHECK int sst_zygote_next(struct sst_zygote *zygote,
                                           int64_t deadline_ns);
/* Make it: SST_CHILD in the child, 0 in the zygote; SST_EOF: the owner is gone. */
SST_API SST_MUST_CHECK int sst_zygote_make(struct sst_zygote *zygote);

/* Child: what it is to do. Descriptors are the receiver's; the data is the zygote
 * object's, until it is closed. */
struct sst_zygote_job {
    uint32_t fd_count;
    int32_t parent_pid;
    int32_t tether;
    int32_t fds[SST_JOB_FDS_MAX];
    const void *data;
    uint64_t size;
    const void *setup; /* NULL: there is none, or sst_zygote_setup gave it */
    uint64_t setup_size;
};
/* Zygote, before it makes a child, or child, before it is ready: the setup of the
 * owner's jobs, for whoever asks to become what it says. It is taken to have done so,
 * and its children with it. NULL: none is known yet, or none that is new. The memory is
 * the zygote object's. */
SST_API const void *sst_zygote_setup(struct sst_zygote *zygote, uint64_t *size);
/* Who has asked could not become that: the setup comes with each job. */
SST_API void sst_zygote_setup_failed(struct sst_zygote *zygote);
/* Child: say that we are ready, and sleep until there is a job. 0; SST_EOF when there
 * is none for us: exit; SST_EINTR: call again. */
SST_API SST_MUST_CHECK int sst_zygote_ready(struct sst_zygote *zygote,
                                            struct sst_zygote_job *job);
SST_API struct sst_zygote *sst_zygote_close(struct sst_zygote *zygote);

/* Threads of this process, 0 when nobody can say; and its pid. */
SST_API uint32_t sst_process_threads(void);
SST_API int sst_process_self(void);

/* CPUs this process may use at a time: the least of machine, affinity mask and the
 * quotas of its control groups (v1 and v2, up the tree), rounded up, at least 1. */
SST_API int sst_cpu_count(void);

/* ---- Pools --------------------------------------------------------------------------
 *
 * Tasks for worker processes. One process, the *owner*, submits tasks and takes their
 * results; others, the *workers*, each in a *seat* of the pool, take tasks and finish
 * them. The pool knows at every instant where a task is: queued, in the seat of one
 * worker (its *lease*), or among the results; and so does whoever comes after a death.
 * For each task submitted there is exactly one result, the worker's or one that says
 * that it was lost, unless it was cancelled while queued.
 *
 * A worker:
 *
 *     sst_pool_attach(arena, &handle, &pool, NULL);      (not after a fork)
 *     sst_pool_enter(pool, seat, &worker, NULL);
 *     rc = sst_pool_take(worker, &job, SST_FOREVER);
 *     while (rc == 0) {
 *         ... run the job, sst_message_free(&job.message), make an outcome ...
 *         rc = sst_pool_finish(worker, &outcome, &job, SST_FOREVER);
 *     }
 *     sst_pool_leave(worker);
 *
 * An owner that leaves workers, deaths and deadlines to a crew (below):
 *
 *     sst_pool_create(arena, NULL, &pool, NULL);
 *     sst_crew_create(pool, &crew_options, &crew, NULL);
 *     sst_pool_submit(pool, &task, SST_FOREVER);
 *     sst_crew_wake(crew);
 *     rc = sst_pool_results(pool, results, 64, SST_FOREVER);
 */

struct sst_pool;

enum {
    SST_POOL_PRIORITIES = 3,   /* 0 goes first */
    SST_POOL_SEATS_MAX = 1024, /* workers of one pool at a time */
};

struct sst_pool_options {
    uint32_t size_of;
    uint32_t seat_max; /* workers at a time, those that are ending included; 0 = 64 */
    uint32_t task_max; /* tasks queued at a time, then submit waits; 0 = no bound */
    uint32_t reserved;
};

/* A new pool; the calling process owns it, and the workers end with it.
 * Returns 0, SST_EINVAL, SST_ENOMEM, SST_ELIMIT. Owns: *out until sst_pool_close. */
SST_API SST_MUST_CHECK int sst_pool_create(struct sst_arena *arena,
                                           const struct sst_pool_options *options,
                                           struct sst_pool **out,
                                           struct sst_error *err);
/* The pool a handle names, for a worker. Returns 0, SST_ESTALE, SST_EINVAL,
 * SST_ELAYOUT, SST_ENOMEM. Owns: as create. */
SST_API SST_MUST_CHECK int sst_pool_attach(struct sst_arena *arena,
                                           const struct sst_handle *handle,
                                           struct sst_pool **out,
                                           struct sst_error *err);
SST_API void sst_pool_handle(const struct sst_pool *pool, struct sst_handle *out);
/* Returns NULL. What is queued is dropped with the last process that has it open. */
SST_API struct sst_pool *sst_pool_close(struct sst_pool *pool);

/* ---- Submitting ---- */

/* A task on its way in. Borrowed for the call. */
struct sst_pool_task {
    /* (uint64_t)generation << 32 | index, of the owner's table of tasks: the index
     * small, and used again only with another generation (1 to 2^31 - 1, rising), once
     * the result was taken or sst_pool_cancel returned 1. */
    uint64_t id;
    uint64_t function; /* for the worker, as it is: say, of sst_pool_post */
    uint64_t tag;      /* for the worker and in the result, as it is */
    int64_t soft_ns;   /* the crew signals the worker after that time; 0 = never */
    int64_t hard_ns;   /* and kills it after that; 0 = never */
    uint32_t priority; /* below SST_POOL_PRIORITIES */
    uint32_t slice_count;
    const struct sst_slice *slices; /* the payload, joined */
    struct sst_parcel **parcel; /* or this; success: *parcel = NULL, it went along */
};

/* Queue a task.
 * Returns 0; SST_ETIMEDOUT: full until the deadline; SST_EINTR; SST_ESHUTDOWN;
 * SST_ENOMEM, SST_ELIMIT, SST_EINVAL. Blocks: while task_max tasks are queued. */
SST_API SST_MUST_CHECK int sst_pool_submit(struct sst_pool *pool,
                                           const struct sst_pool_task *task,
                                           int64_t deadline_ns);
/* Queue several, in this order: waits for room for the first.
 * Returns the number queued, at least 1; or what sst_pool_submit returns. */
SST_API SST_MUST_CHECK int sst_pool_submit_many(struct sst_pool *pool,
                                                const struct sst_pool_task *tasks,
                                                uint32_t count, int64_t deadline_ns);

/* Keep a payload for all tasks that name it as their function: sent once, fetched by
 * each worker at its first use. Borrowed for the call; 256 at a time.
 * Returns 0 and its number, never 0 and never used again; SST_ELIMIT, SST_ENOMEM. */
SST_API SST_MUST_CHECK int sst_pool_post(struct sst_pool *pool,
                                         const struct sst_slice *slices,
                                         uint32_t slice_count, uint64_t *number);
/* No task that is still to run names it. */
SST_API void sst_pool_unpost(struct sst_pool *pool, uint64_t number);
/* A copy of it. Returns 0, SST_ESTALE, SST_ENOMEM. Owns: the message is the
 * caller's. */
SST_API SST_MUST_CHECK int sst_pool_fetch(struct sst_pool *pool, uint64_t number,
                                          struct sst_message *message);

/* Cancel a task that nobody has taken yet.
 * Returns 1: it will never run, and there is no result; 0: it was taken before, and
 * there is or will be a result. */
SST_API SST_MUST_CHECK int sst_pool_cancel(struct sst_pool *pool, uint64_t id);

/* ---- Results ---- */

enum sst_pool_kind {
    SST_POOL_DONE = 1, /* the outcome of a task: code and message are the worker's */
    SST_POOL_LOST = 2, /* the worker ended first: code as of sst_process_exit_code */
    SST_POOL_NOTE = 3, /* not of a task: what sst_pool_tell sent; tag is its */
};

/* Why a worker with a task was killed. */
enum sst_pool_reason {
    SST_POOL_BY_ITSELF, /* it was not, by us */
    SST_POOL_BY_DEADLINE,
    SST_POOL_BY_CANCEL,
    SST_POOL_BY_TERMINATE,
    SST_POOL_BY_MEMORY,
};

struct sst_pool_result {
    uint64_t id;
    uint64_t function;
    uint64_t tag;
    uint32_t kind;   /* enum sst_pool_kind */
    int32_t code;    /* see there */
    uint32_t reason; /* enum sst_pool_reason, of LOST */
    uint32_t seat;   /* index of the worker's */
    int32_t pid;     /* of the worker */
    uint32_t reserved;
    int64_t started_ns; /* when the task was taken */
    int64_t ended_ns;
    struct sst_message message; /* the caller's, to be given to sst_message_free */
};

/* Take results, as many as are there; waits for the first.
 * Returns the number taken, at least 1; SST_ETIMEDOUT, SST_EINTR; SST_EAGAIN, see
 * sst_pool_nudge, but not with SST_NOW; SST_ENOMEM, SST_ELIMIT, and they stay;
 * SST_ECORRUPT. Blocks until the deadline; a look for some
 * microseconds comes before a sleep. Any number of threads may call it, but see
 * sst_pool_lead. */
SST_API SST_MUST_CHECK int sst_pool_results(struct sst_pool *pool,
                                            struct sst_pool_result *results,
                                            uint32_t count, int64_t deadline_ns);
/* A descriptor, the pool's, that is readable when there may be results: for event
 * loops. Having found none with SST_NOW re-arms it. SST_EMFILE, SST_ELIMIT. */
SST_API SST_MUST_CHECK int sst_pool_fd(struct sst_pool *pool, struct sst_error *err);

/* Several threads that wait for different results: one of them *leads*, that is takes
 * the results for all and hands them out; the others follow. No thread is woken to wake
 * another.
 *
 *     while ((rc = sst_pool_lead(pool, &mine->done, deadline_ns)) == 1) {
 *         n = sst_pool_results(pool, results, 64, deadline_ns);
 *         ... note them, set `done` of their waiters to 1 ...
 *         sst_pool_follow(pool);
 *     }
 *
 * Returns 1: the caller leads, until it calls sst_pool_follow; 0: *done is not 0 (that
 * is looked at first); SST_ETIMEDOUT, SST_EINTR. Blocks while another leads. With
 * SST_NOW it is a try. Threads: of the owner only. The crew's thread leads in the same
 * way when it calls `on_results`. */
SST_API SST_MUST_CHECK int sst_pool_lead(struct sst_pool *pool, const uint32_t *done,
                                         int64_t deadline_ns);
/* Lead no longer: those who wait look at their `done`, and one of the others leads. */
SST_API void sst_pool_follow(struct sst_pool *pool);
/* Go on leading, but have the others look. */
SST_API void sst_pool_handed_out(struct sst_pool *pool);
/* Have the one who leads look up from sst_pool_results, which returns SST_EAGAIN if it
 * has nothing, and the others at their `done`: when something was settled that no
 * result says (a task cancelled, the pool given up). The next call of
 * sst_pool_results at the latest. Any thread of the owner. */
SST_API void sst_pool_nudge(struct sst_pool *pool);

/* ---- Working ---- */

struct sst_pool_worker; /* of one thread at a time */

/* Sit down in a seat that sst_pool_reserve, or the crew, gave us. Returns 0;
 * SST_ESTALE: it was given up; SST_ENOMEM. Owns: *out until sst_pool_leave. */
SST_API SST_MUST_CHECK int sst_pool_enter(struct sst_pool *pool, uint64_t seat,
                                          struct sst_pool_worker **out,
                                          struct sst_error *err);
/* A task that was taken. */
struct sst_pool_job {
    uint64_t id;
    uint64_t function;
    uint64_t tag;
    int64_t soft_ns;
    int64_t hard_ns;
    int64_t started_ns;
    struct sst_message message; /* the caller's, to be given to sst_message_free */
};
/* Take the next task.
 * Returns 0; SST_ETIMEDOUT, SST_EINTR; SST_ESHUTDOWN: there will be none any more;
 * SST_EOF: this worker is to leave (resize, number of tasks reached), or the owner is
 * gone; SST_ENOMEM, SST_ELIMIT, and the task stays. Blocks until the deadline, at no
 * cost. */
SST_API SST_MUST_CHECK int sst_pool_take(struct sst_pool_worker *worker,
                                         struct sst_pool_job *job, int64_t deadline_ns);

/* What became of a task. Borrowed for the call. */
struct sst_pool_outcome {
    int32_t code; /* the embedder's; 0 counts as done, others as failed */
    uint32_t slice_count;
    const struct sst_slice *slices;
    struct sst_parcel **parcel; /* instead; success: *parcel = NULL */
};
/* Deliver the outcome of the task in hand, which is done at that instant, and take the
 * next one (`next` NULL: do not), all in one step.
 * Returns 0: delivered, and *next is there. Delivered, but nothing taken: SST_EAGAIN
 * (also with `next` NULL; call sst_pool_take), SST_ETIMEDOUT, SST_EINTR, SST_ESHUTDOWN,
 * SST_EOF. Not delivered, the task is still ours: SST_ENOMEM, SST_ELIMIT, SST_EINVAL
 * (no task in hand); SST_ECLOSED: and will not be, the worker is being killed. */
SST_API SST_MUST_CHECK int sst_pool_finish(struct sst_pool_worker *worker,
                                           const struct sst_pool_outcome *outcome,
                                           struct sst_pool_job *next,
                                           int64_t deadline_ns);
/* Tell the owner something: it gets an SST_POOL_NOTE. Returns 0, SST_ENOMEM,
 * SST_ELIMIT. */
SST_API SST_MUST_CHECK int sst_pool_tell(struct sst_pool_worker *worker, uint64_t tag,
                                         const struct sst_slice *slices,
                                         uint32_t slice_count);
/* Has the soft deadline of the task in hand passed, and have we not been told so
 * before? For the handler of the crew's signal, which may come a task too late.
 * Async-signal-safe. */
SST_API bool sst_pool_soft_deadline(struct sst_pool_worker *worker);
/* The task in hand; 0 = none. */
SST_API uint64_t sst_pool_task_id(const struct sst_pool_worker *worker);
/* Get up. A task in hand is lost. NULL. */
SST_API struct sst_pool_worker *sst_pool_leave(struct sst_pool_worker *worker);

/* ---- Seats: for those who look after workers themselves, without a crew ---- */

/* Keep a seat for a worker that is about to be started. `task_max`: it leaves after so
 * many tasks; 0 = never. Returns 0, SST_ELIMIT: all are taken. */
SST_API SST_MUST_CHECK int sst_pool_reserve(struct sst_pool *pool, uint32_t task_max,
                                            uint64_t *seat);
/* The worker of this seat has ended, with this code, and runs no more: what it had in
 * hand is LOST, and the seat free. Returns 1 when there was a task, else 0. */
SST_API SST_MUST_CHECK int sst_pool_bury(struct sst_pool *pool, uint64_t seat,
                                         int32_t code);
/* Have the worker leave when it has finished what it has in hand. */
SST_API void sst_pool_dismiss(struct sst_pool *pool, uint64_t seat);
/* Decide that the worker which has the task in hand is to be killed: from now on it
 * cannot finish. Returns 1 and its seat, to be killed by the caller and then buried; 0:
 * nobody has it in hand. */
SST_API SST_MUST_CHECK int sst_pool_condemn(struct sst_pool *pool, uint64_t id,
                                            enum sst_pool_reason reason,
                                            uint64_t *seat);

enum sst_pool_seat_state {
    SST_SEAT_FREE,
    SST_SEAT_STARTING, /* reserved */
    SST_SEAT_IDLE,
    SST_SEAT_BUSY, /* with a task in hand */
    SST_SEAT_LEFT, /* its worker has got up, and ends */
};
struct sst_pool_seat {
    uint64_t seat;
    uint64_t id; /* of the task in hand; 0 = none */
    uint32_t state;
    int32_t pid;
    int64_t started_ns; /* when it took that task */
    int64_t soft_ns;
    int64_t hard_ns;
    uint64_t done;    /* tasks */
    uint64_t failed;  /* of them with a code */
    uint64_t busy_ns; /* in tasks it has finished */
    uint32_t dismissed;
    uint32_t condemned; /* enum sst_pool_reason */
};
/* The seat with this index. Returns 0, SST_EINVAL beyond the last. */
SST_API int sst_pool_seat(struct sst_pool *pool, uint32_t index,
                          struct sst_pool_seat *out);

struct sst_pool_statistics {
    uint64_t submitted; /* tasks ever, */
    uint64_t queued;    /* now, those cancelled included; */
    uint64_t taken;     /* ever, by workers */
    uint64_t done;
    uint64_t failed; /* of those done */
    uint64_t lost;
    uint64_t cancelled;
    uint64_t busy_ns; /* of those done */
    uint64_t results; /* waiting to be taken */
    uint32_t seats;   /* in use */
    uint32_t idle;    /* workers */
};
SST_API void sst_pool_statistics(struct sst_pool *pool,
                                 struct sst_pool_statistics *out);
/* Tasks submitted whose result was not taken yet, and which were not cancelled. */
SST_API uint64_t sst_pool_outstanding(const struct sst_pool *pool);

/* No more tasks: workers leave when none is queued. With `immediate` they leave at
 * once, what is queued is dropped without a result and cannot be cancelled any more,
 * and what is in hand may still be finished. */
SST_API void sst_pool_shutdown(struct sst_pool *pool, bool immediate);

/* ---- Crews --------------------------------------------------------------------------
 *
 * The owner's side of the workers: starts them, sees them end, replaces them, watches
 * deadlines. What a worker is and how one is started is behind a seam, struct
 * sst_crew_backend; local processes are one case. A thread of the core does the work
 * while there is any: sst_crew_wake starts it, and it ends by itself when no task is
 * outstanding. */

struct sst_crew;

/* How to start and end workers. Called by the crew's thread and by those who call
 * functions of this section, one at a time. `worker` is what `start` made. NULL
 * members, other than `start`: `worker` is a struct sst_process. */
struct sst_crew_backend {
    uint32_t size_of;
    uint32_t reserved;
    /* Start a worker that will enter `seat`. 0, or a status: tried again later. */
    int (*start)(void *context, uint64_t seat, void **worker);
    /* A descriptor that is readable once it runs no more. */
    int (*fd)(void *context, void *worker);
    /* 0 and how it ended, as sst_process_exit_code; SST_EAGAIN. */
    int (*exit_code)(void *context, void *worker, int *code);
    int (*signal)(void *context, void *worker, int signal);
    /* It has ended and is buried. */
    void (*close)(void *context, void *worker);
};

struct sst_crew_options {
    uint32_t size_of;
    uint32_t worker_count; /* wanted */
    uint32_t task_max;     /* of one worker, then it is replaced; 0 = no limit */
    uint32_t start_max;    /* workers in a row that end before their first take, and
                            * then no more are started; 0 = 3 */
    int32_t soft_signal;   /* for soft deadlines; 0 = SIGUSR1 */
    uint32_t no_results;   /* the embedder polls sst_pool_fd itself */
    const struct sst_crew_backend *backend; /* copied */
    void *context;                          /* of backend and callbacks */
    /* The crew's thread leads, and there are results to be taken. May be NULL. */
    void (*on_results)(void *context);
    /* A worker has ended; `result` is whether it had a task in hand. May be NULL. */
    void (*on_end)(void *context, uint64_t seat, void *worker, int code, bool had_task);
    /* start_max was reached: tasks wait, and nobody will take them. May be NULL. */
    void (*on_stuck)(void *context);
    /* The thread begins (true) and ends. May be NULL. */
    void (*on_thread)(void *context, bool begins);
    /* Asked every `look_ns` while tasks are outstanding, of each worker that has one in
     * hand: whether it is to be killed, SST_POOL_BY_MEMORY. May be NULL. */
    bool (*is_over)(void *context, uint64_t seat, void *worker);
    int64_t look_ns; /* 0 = never */
};

/* A crew for a pool that this process owns. Starts nobody yet.
 * Returns 0, SST_EINVAL, SST_ENOMEM, SST_EMFILE. Owns: *out until sst_crew_close. */
SST_API SST_MUST_CHECK int sst_crew_create(struct sst_pool *pool,
                                           const struct sst_crew_options *options,
                                           struct sst_crew **out,
                                           struct sst_error *err);
/* Start the workers that are wanted, in the calling thread. Returns how many were
 * started, or the status of the backend's start when none could be. */
SST_API SST_MUST_CHECK int sst_crew_fill(struct sst_crew *crew);
/* There is work: have the thread run. Cheap when it does. Returns 0, SST_ENOMEM. */
SST_API SST_MUST_CHECK int sst_crew_wake(struct sst_crew *crew);
/* How many workers are wanted from now on. Those too many leave after their task. */
SST_API SST_MUST_CHECK int sst_crew_resize(struct sst_crew *crew,
                                           uint32_t worker_count);
/* Workers there are, those starting and ending included. */
SST_API uint32_t sst_crew_count(struct sst_crew *crew);
/* Kill the worker that has this task in hand, and no other: its result will be LOST.
 * Returns 1; 0: nobody has it in hand. */
SST_API SST_MUST_CHECK int sst_crew_kill(struct sst_crew *crew, uint64_t id,
                                         enum sst_pool_reason reason);
/* Bury those that have ended, as the thread does while it runs. */
SST_API void sst_crew_tidy(struct sst_crew *crew);
/* Start no more, and send this signal to all workers there are. */
SST_API void sst_crew_terminate(struct sst_crew *crew, int signal);
/* Look after the crew once, in the calling thread: ends, deadlines, starts. Waits for
 * something to do until the deadline. Returns 0, SST_ETIMEDOUT, SST_EINTR; SST_EAGAIN:
 * another thread does. */
SST_API SST_MUST_CHECK int sst_crew_step(struct sst_crew *crew, int64_t deadline_ns);
/* Wait until no worker is left: after sst_pool_shutdown or terminate. Returns 0,
 * SST_ETIMEDOUT, SST_EINTR. */
SST_API SST_MUST_CHECK int sst_crew_join(struct sst_crew *crew, int64_t deadline_ns);
/* Stop the thread and free the crew. Workers that are left are killed. In a forked
 * child only memory is freed. NULL. */
SST_API struct sst_crew *sst_crew_close(struct sst_crew *crew);

/* ---- Servers ------------------------------------------------------------------------
 *
 * The connections of a program that serves others, many of them, in one thread:
 * accepts, cuts what comes into messages (the framing of sst_stream_send), sends
 * answers, ends those that are late. It trusts no peer: each can harm its own
 * connection only. What messages mean, and who may be talked to, is the caller's.
 *
 * A thread takes what happens and answers, or has others answer. After a message
 * nothing more is read of a connection until one of sst_server_send, _greet, _finish,
 * _end or _release: so messages are answered one at a time, in their order, and who
 * does not read its answers is not read either.
 *
 * A connection is *half open* until sst_server_greet: its messages are short, it has
 * not long to show who it is, and there are few of its kind. Connections are named by
 * numbers, none of which is used again: about one that has gone every function says
 * SST_ESTALE.
 *
 * A forked child has no part in its parent's servers: it closes its copies of their
 * descriptors at once, and gets SST_ESTALE. */
struct sst_server;

struct sst_server_options {
    uint32_t size_of;
    uint32_t connections_max;   /* one more is closed at once; 0: 65,536 */
    uint32_t half_open_max;     /* for one more the oldest ends; 0: 64 */
    uint32_t greeting_size_max; /* bytes of a message of those; 0: 256 */
    uint64_t message_size_max;  /* of all others; 0: 1 TiB */
    int64_t greeting_ns;        /* from connecting to sst_server_greet; 0: 5 s */
    int64_t stall_ns; /* without a byte, inside a message or answer; 0: 60 s */
    int64_t idle_ns;  /* without a message; 0: for ever */
};

enum sst_server_what {
    SST_SERVER_OPENED = 1, /* somebody has connected */
    SST_SERVER_MESSAGE,
    SST_SERVER_ENDED, /* the last that is heard of a connection */
    SST_SERVER_WOKEN, /* by sst_server_wake */
};

struct sst_server_event {
    enum sst_server_what what;
    int status; /* of the end: SST_EOF, closed by the peer; SST_EPIPE, the same inside a
                   message, or while it was owed an answer; SST_EMSGSIZE; SST_ETIMEDOUT;
                   SST_ELIMIT, gave way to another; SST_ECLOSED, by us; or what the
                   system said */
    uint64_t connection;
    void *data;    /* of a message: to be given to sst_server_free */
    uint64_t size; /* of a message; of the end: bytes of answers the kernel never got,
                      or 1 when it got all and the peer left some of it unread, which
                      is known of Unix sockets only */
    bool peer_is_known; /* of the opening: a Unix socket, and the kernel says who */
    int32_t peer_pid;
    uint32_t peer_uid;
};

struct sst_server_statistics {
    uint32_t connections; /* now */
    uint32_t half_open;
    uint32_t moving;    /* inside a message or an answer */
    uint32_t at_work;   /* waiting for us */
    uint64_t accepted;  /* ever */
    uint64_t refused;   /* there were too many, no memory, or no descriptors */
    uint64_t displaced; /* half open ones that gave way */
    uint64_t late;
    uint64_t messages;
};

/* A server without connections. `options` NULL: the defaults.
 *
 * Returns 0; SST_EINVAL; SST_ENOMEM; SST_EMFILE.
 * Owns: *out is the caller's, to be given to sst_server_close. */
SST_API SST_MUST_CHECK int sst_server_open(const struct sst_server_options *options,
                                           struct sst_server **out,
                                           struct sst_error *err);

/* Accept at this listening socket, up to 8 of them.
 *
 * Returns 0; SST_ELIMIT; -errno.
 * Owns: takes the descriptor on success, and makes it non-blocking. */
SST_API SST_MUST_CHECK int sst_server_listen(struct sst_server *server, int fd_take);

/* Serve a connected stream socket that came from elsewhere.
 *
 * Returns 0 and its number; SST_ELIMIT; SST_ENOMEM; -errno.
 * Owns: takes the descriptor on success. */
SST_API SST_MUST_CHECK int sst_server_add(struct sst_server *server, int fd_take,
                                          bool is_greeted, uint64_t *connection);

/* Take what has happened.
 *
 * Returns 0; SST_ETIMEDOUT; SST_EINTR; SST_EAGAIN when another thread is taking.
 * Blocks: until something happens, or the deadline.
 * Threads: one at a time. Nothing is read, accepted or found late while none does. */
SST_API SST_MUST_CHECK int sst_server_take(struct sst_server *server,
                                           struct sst_server_event *event,
                                           int64_t deadline_ns);

/* The data of a message. Safe on NULL. */
SST_API void sst_server_free(void *data);

/* Send a message, copied from `data` as far as the kernel does not take it at once.
 *
 * Returns 0: the kernel has it; 1: it has not all of it yet, and SST_SERVER_ENDED will
 * tell of what it never got; SST_ESTALE; SST_EPIPE, SST_ENOMEM or what the system says,
 * and the connection ends.
 * Blocks: never. */
SST_API SST_MUST_CHECK int sst_server_send(struct sst_server *server,
                                           uint64_t connection, const void *data,
                                           uint64_t size);

/* It has shown who it is: the limits of half open connections are over for it. Of one
 * that has before: its message wants no answer, and its next one is read. */
SST_API SST_MUST_CHECK int sst_server_greet(struct sst_server *server,
                                            uint64_t connection);
/* End it as soon as its answers are out. Nothing of it is read any more. */
SST_API SST_MUST_CHECK int sst_server_finish(struct sst_server *server,
                                             uint64_t connection);
/* End it now. SST_SERVER_ENDED follows. */
SST_API SST_MUST_CHECK int sst_server_end(struct sst_server *server,
                                          uint64_t connection);

/* Take it out of the server, between two messages: what it sent after the one that was
 * taken last is still to be read. No event follows.
 *
 * Returns its descriptor, the caller's; SST_ESTALE; SST_EAGAIN inside a message or an
 * answer. */
SST_API SST_MUST_CHECK int sst_server_release(struct sst_server *server,
                                              uint64_t connection);

/* Have the taker get SST_SERVER_WOKEN, once for several calls. */
SST_API void sst_server_wake(struct sst_server *server);

SST_API void sst_server_statistics(struct sst_server *server,
                                   struct sst_server_statistics *out);

/* Close all connections and listeners.
 *
 * Returns NULL. Safe on NULL.
 * Threads: no other may be using it. */
SST_API struct sst_server *sst_server_close(struct sst_server *server);

#ifdef __cplusplus
}
#endif

#endif
