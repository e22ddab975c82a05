/* SPDX-License-Identifier: MIT */

/* The child's side: where it comes from, and how it leaves.
 *
 * Leaving in order, with no other thread alive:
 *
 *   leave the names                           the last of the tree removes them
 *   close every descriptor but the tether     ports, locks on files and pipes are free
 *   leave the arena                           what we held is undone, code and done
 *                                             stored
 *   close the tether                          the joiner wakes and finds done
 *   _exit                                     the kernel takes back the rest
 *
 * Death table (the child dies after ...)
 *   closing descriptors    not done: the joiner learns the signal from the pidfd
 *   leaving                done: the exit code stands, the joiner is woken by the
 *                          kernel, which closes the tether
 *
 * The tether's number may have been closed and given to another file by the program: it
 * is closed only if it still is the same socket. */

#include <stddef.h>

#include "base/status.h"
#include "os/os.h"
#include "proc/process.h"
#include "shm/arena.h"
#include "shm/ledger.h"

enum {
    CODE_MASK = 0xff,
};

/* Set once by the thread that begins the child, before any other exists. */
static struct {
    struct sst_arena *arena;
    uint64_t parent_seat;
    uint64_t tether_id;
    int parent_pid;
    int tether;
} origin = {.tether = -1};

static int
tether_still_ours(void)
{
    if (origin.tether < 0 || ssti_os_file_id(origin.tether) != origin.tether_id) {
        return -1;
    }
    return origin.tether;
}

void
ssti_origin_set(struct sst_arena *arena, uint64_t parent_seat, int parent_pid,
                int tether)
{
    /* Our parent's tether to its own starter: kept open here it would hang up too
     * late. */
    (void)ssti_os_close(tether_still_ours());
    origin.arena = arena;
    origin.parent_seat = parent_seat;
    origin.parent_pid = parent_pid;
    origin.tether = tether;
    origin.tether_id = ssti_os_file_id(tether);
}

int
sst_process_adopt(const struct sst_origin *from, struct sst_arena **out,
                  struct sst_error *err)
{
    const int rc = ssti_arena_attach_as(from->arena_fd, from->id, out, err);

    if (rc < 0) {
        return rc;
    }
    ssti_origin_set(*out, 0, from->parent_pid, from->tether);
    if (from->die_with_parent != 0) {
        /* Where the kernel refuses the child lives on as a non-daemonic one would. */
        (void)ssti_os_die_with_parent(from->parent_pid);
    }
    return 0;
}

void
sst_process_settle(struct sst_arena *arena)
{
    ssti_proc_drop_gifts(arena);
}

void
sst_process_exit(struct sst_arena *arena, int code)
{
    if (arena != NULL && ssti_os_thread_count() == 1) {
        const int tether = tether_still_ours();

        ssti_ledger_leave(arena, true);
        ssti_os_close_all_but(tether);
        ssti_proc_leave(arena, code & CODE_MASK);
        (void)ssti_os_close(tether);
    }
    ssti_os_exit(code & CODE_MASK);
}

/* A descriptor that is readable from the start. */
static int
open_hung_up(void)
{
    int ours = -1;
    int theirs = -1;
    const int rc = ssti_os_tether(false, &ours, &theirs);

    (void)ssti_os_close(theirs);
    return rc < 0 ? rc : ours;
}

/* Is that process still the one that started us? */
static bool
is_parent(struct sst_arena *arena, int parent_pid)
{
    if (ssti_os_parent_pid() == parent_pid) {
        return true;
    }
    /* We were forked by other means, or our parent has died. */
    return arena != NULL && origin.parent_pid == parent_pid &&
           origin.parent_seat != 0 && ssti_proc_alive(arena, origin.parent_seat);
}

int
sst_process_watch_parent(struct sst_arena *arena, int parent_pid)
{
    const int fd = ssti_os_pidfd_open(parent_pid);

    /* Asked after opening: what was the parent then is the parent behind the
     * descriptor. */
    if (fd >= 0 && is_parent(arena, parent_pid)) {
        return fd;
    }
    (void)ssti_os_close(fd);
    return fd < 0 && fd != SST_ESRCH ? fd : open_hung_up();
}

int
sst_process_wait_fd(int fd, int64_t deadline_ns)
{
    const int rc = ssti_os_wait_hangup(&fd, 1, 1, deadline_ns);

    return rc > 0 ? 1 : rc;
}

uint32_t
sst_process_threads(void)
{
    return ssti_os_thread_count();
}

int
sst_process_self(void)
{
    return ssti_os_pid();
}
