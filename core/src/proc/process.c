/* SPDX-License-Identifier: MIT */

/* Starting processes, the starter's side: fork and spawn. Zygotes are in zygote.c,
 * waiting and reaping in reap.c, the child's side in origin.c.
 *
 *   new    tether (socket pair)
 *   spawn  seat reserved, objects held in it; exec, then the child attaches in it
 *   fork   seat made by the registry's at-fork handler, which copies what we hold; the
 *          child has it from its first instruction
 *   start  pidfd, listed for the reaper, our copy of the child's tether end closed
 *
 * The pidfd is opened after the fork. That is safe: the child is ours, so its pid stays
 * its own until somebody waits for it.
 *
 * Death table (the starter dies after ...)
 *   reserving a seat      the seat is unborn and its reserver dead: the sweeper frees
 *                         it and what it holds
 *   the fork or exec      the child runs; its own end of the tether reads end of file
 *                         where the job should be, so that a program without a job
 *                         ends. One that must die with its parent looks for the parent
 *                         by hand once armed
 * (the child dies after ...)
 *   fork, before anything the pidfd tells; the registry's fork hook knows the seat
 *   storing `done`        what it held is undone already (ssti_proc_leave)
 *
 * See docs/internals/processes.rst. */

#include "proc/process.h"

#include <errno.h>
#include <stddef.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "base/status.h"
#include "os/os.h"
#include "shm/arena.h"

enum {
    PROGRAM_FDS_MAX = 256,
};

int
sst_process_new(struct sst_arena *arena, const struct sst_process_options *options,
                struct sst_process **out, struct sst_error *err)
{
    const struct sst_process_options none = {.size_of = sizeof(none)};
    const struct sst_process_options *const chosen = options != NULL ? options : &none;

    *out = NULL;
    if (arena == NULL) {
        return ssti_error_set(err, SST_EINVAL, "a process needs an arena");
    }
    (void)sst_process_reap();

    int rc = ssti_process_prepare_forks();
    struct sst_process *process = rc == 0 ? ssti_alloc(sizeof(*process)) : NULL;

    if (process == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "no memory for a process");
    }
    process->arena = arena;
    process->owner_pid = ssti_os_pid();
    process->pidfd = -1;
    process->tether = -1;
    process->tether_child = -1;
    process->die_with_parent = chosen->die_with_parent != 0;
    if (chosen->packets != 0) {
        rc = ssti_zygote_new(process, chosen);
    }
    if (rc < 0) {
        (void)sst_process_close(process);
        return ssti_error_set(err, rc, "cannot tell who we are");
    }
    *out = process;
    return 0;
}

struct sst_process *
sst_process_close(struct sst_process *process)
{
    if (process == NULL) {
        return NULL;
    }
    if (process->pid == 0 && process->gifts != 0 &&
        process->owner_pid == ssti_os_pid()) {
        ssti_proc_abandon(process->arena, process->gifts);
    }
    if (process->nursery != NULL) {
        ssti_zygote_free(process);
    }
    process->tether = ssti_os_close(process->tether);
    process->tether_child = ssti_os_close(process->tether_child);
    ssti_process_drop(process);
    return NULL;
}

static int
reserve(struct sst_process *process)
{
    return process->gifts != 0 ? 0 : ssti_proc_reserve(process->arena, &process->gifts);
}

int
sst_process_hold(struct sst_process *process, const struct sst_handle *handle)
{
    const int rc = reserve(process);

    return rc < 0 ? rc : ssti_proc_hold_for(process->arena, process->gifts, handle);
}

int
sst_process_reserve(struct sst_process *process, uint64_t *id)
{
    const int rc = reserve(process);

    *id = process->gifts;
    return rc;
}

/* Made when it is needed: a warm child brings its own. */
static int
make_tether(struct sst_process *process)
{
    if (process->tether >= 0) {
        return 0;
    }
    return ssti_os_tether(process->nursery != NULL, &process->tether,
                          &process->tether_child);
}

int
sst_process_tether(struct sst_process *process)
{
    const int rc = process->pid == 0 ? make_tether(process) : 0;

    return rc < 0 ? rc : process->tether_child;
}

int
ssti_process_check_unstarted(const struct sst_process *process, struct sst_error *err)
{
    if (process->pid != 0) {
        return ssti_error_set(err, SST_EINVAL, "the process was started already");
    }
    if (process->owner_pid != ssti_os_pid()) {
        return ssti_error_set(err, SST_EINVAL, "the process belongs to our parent");
    }
    return 0;
}

int
ssti_process_adopt_pid(struct sst_process *process, int pid, struct sst_error *err)
{
    const int pidfd = ssti_os_pidfd_open(pid);

    if (pidfd < 0) {
        int code = 0;

        ssti_os_kill_pid(pid);
        (void)ssti_os_reap_pid(pid, &code);
        return ssti_error_set(err, pidfd, "cannot open a descriptor of the child");
    }
    process->pidfd = pidfd;
    process->pid = pid;
    process->tether_child = ssti_os_close(process->tether_child);
    ssti_process_started(process);
    return 0;
}

/* The child of a fork: from here on its own master, its parent's view is not its
 * own. */
static int
begin_child(struct sst_process *process, uint64_t parent_seat)
{
    ssti_origin_set(process->arena, parent_seat, process->owner_pid,
                    process->tether_child);
    process->tether_child = -1;
    process->tether = ssti_os_close(process->tether);
    if (process->die_with_parent) {
        /* Where the kernel refuses the child lives on as a non-daemonic one would. */
        (void)ssti_os_die_with_parent(process->owner_pid);
    }
    return SST_CHILD;
}

int
sst_process_fork(struct sst_process *process, struct sst_error *err)
{
    int rc = ssti_process_check_unstarted(process, err);

    if (rc < 0) {
        return rc;
    }
    rc = make_tether(process);
    if (rc < 0) {
        return ssti_error_set(err, rc, "cannot make the socket pair of a process");
    }

    const uint64_t self = ssti_proc_self(process->arena);

    ssti_proc_watch_next_fork();
    rc = ssti_os_fork();
    if (rc == 0) {
        return begin_child(process, self);
    }
    process->seat = ssti_proc_last_child(process->arena);
    if (rc < 0) {
        ssti_proc_abandon(process->arena, process->seat);
        process->seat = 0;
        return ssti_error_set(err, rc, "cannot fork");
    }
    return ssti_process_adopt_pid(process, rc, err);
}

int
sst_process_run(struct sst_process *process, sst_process_fn fn, void *context,
                struct sst_error *err)
{
    struct sst_arena *const arena = process->arena;
    const int rc = sst_process_fork(process, err);

    if (rc == SST_CHILD) {
        sst_process_exit(arena, fn(context));
    }
    return rc;
}

/* Insert into an ascending list without repetition. */
static uint32_t
insert_fd(int *fds, uint32_t count, int fd)
{
    uint32_t at = count;

    while (at > 0 && fds[at - 1] > fd) {
        at--;
    }
    if (fd < 0 || (at > 0 && fds[at - 1] == fd)) {
        return count;
    }
    for (uint32_t i = count; i > at; i--) {
        fds[i] = fds[i - 1];
    }
    fds[at] = fd;
    return count + 1;
}

int
sst_process_spawn(struct sst_process *process, const struct sst_program *program,
                  struct sst_error *err)
{
    int fds[PROGRAM_FDS_MAX + 2];
    uint32_t count = 0;
    int rc = ssti_process_check_unstarted(process, err);

    if (rc < 0) {
        return rc;
    }
    if (program->fd_count > PROGRAM_FDS_MAX) {
        return ssti_error_set(err, SST_EINVAL, "too many descriptors");
    }
    rc = reserve(process);
    if (rc < 0) {
        return ssti_error_set(err, rc, "no place for another process in the arena");
    }
    rc = make_tether(process);
    if (rc < 0) {
        return ssti_error_set(err, rc, "cannot make the socket pair of a process");
    }
    count = insert_fd(fds, count, process->tether_child);
    count = insert_fd(fds, count, sst_arena_fd(process->arena));
    for (uint32_t i = 0; i < program->fd_count; i++) {
        count = insert_fd(fds, count, program->fds[i]);
    }

    const struct ssti_os_program native = {
        .path = program->path,
        .argv = program->argv,
        .env = program->env,
        .fds = fds,
        .fd_count = count,
    };

    rc = ssti_os_spawn(&native);
    if (rc < 0) {
        return ssti_error_set(err, rc, "cannot execute %s", program->path);
    }
    process->seat = process->gifts;
    process->gifts = 0;
    return ssti_process_adopt_pid(process, rc, err);
}

int
sst_process_send(struct sst_process *process, const void *data, uint64_t size,
                 uint64_t *sent)
{
    while (*sent < size) {
        const int64_t rc = ssti_os_send(process->tether, (const char *)data + *sent,
                                        size - *sent, SST_FOREVER);

        if (rc < 0) {
            return rc == -ECONNRESET ? SST_EPIPE : (int)rc;
        }
        *sent += (uint64_t)rc;
    }
    return 0;
}

int
sst_process_pid(const struct sst_process *process)
{
    return process->pid;
}

int
sst_process_fd(const struct sst_process *process)
{
    return process->pidfd;
}
