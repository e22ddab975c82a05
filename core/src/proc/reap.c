/* SPDX-License-Identifier: MIT */

/* Waiting for children, and taking away their remains.
 *
 * Two things tell that a child has ended, and a joiner sleeps on both: its end of the
 * tether hangs up, which is the last thing it does before _exit, so that the exit code
 * stands in its seat by then; or its pidfd becomes readable, because it is dead. The
 * tether is a hint: a program that closes every descriptor hangs up early, a grandchild
 * that inherited the end keeps it up for longer, and in both cases the pidfd decides.
 * The truth is in the seat (done) and in the kernel (waitid), and look() asks both.
 *
 * A child that is done but not gone is among the remains, and every later call tries to
 * reap those without waiting; so are children that were given up. The others are in a
 * list of their own: thousands of them must not make each start slower. Nothing else is
 * ever waited for.
 *
 * The lists and the states are guarded by one lock, held for a system call at most and
 * taken around every fork. A forked child forgets them: they are not its children.
 * The registry's handlers were registered before ours (a process needs an arena), so
 * fork takes our lock first and the registry's second, as end_locked() does. */

#include <pthread.h>
#include <stddef.h>

#include "base/alloc.h"
#include "base/atomic.h"
#include "base/status.h"
#include "os/local.h"
#include "os/os.h"
#include "proc/nursery.h"
#include "proc/process.h"
#include "shm/arena.h"

enum {
    CODE_LOST = 255, /* others have reaped it, and the code with it */
    CODE_MASK = 0xff,
};

/* Held for one look at a child, which never blocks. The registry's locks may be taken
 * while it is held. */
static struct ssti_local reaper_lock = SSTI_LOCAL_INIT;
static struct sst_process *running; /* guarded by reaper_lock */
static struct sst_process *remains; /* guarded by reaper_lock */
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static int fork_status; /* written under fork_once */

static void
lock(void)
{
    ssti_local_lock(&reaper_lock);
}

static void
unlock(void)
{
    ssti_local_unlock(&reaper_lock);
}

static void
unlink_locked(struct sst_process *process)
{
    if (process->link == NULL) {
        return;
    }
    *process->link = process->next;
    if (process->next != NULL) {
        process->next->link = process->link;
    }
    process->link = NULL;
    process->next = NULL;
}

static void
link_locked(struct sst_process **list, struct sst_process *process)
{
    process->next = *list;
    process->link = list;
    if (*list != NULL) {
        (*list)->link = &process->next;
    }
    *list = process;
}

static void
move_to_remains_locked(struct sst_process *process)
{
    unlink_locked(process);
    link_locked(&remains, process);
}

static void
destroy(struct sst_process *process)
{
    (void)ssti_os_close(process->pidfd);
    (void)ssti_free(process);
}

/* They are our parent's. */
static void
forget(struct sst_process *process)
{
    while (process != NULL) {
        struct sst_process *const next = process->next;

        process->link = NULL;
        process->next = NULL;
        process->tether = ssti_os_close(process->tether);
        if (process->nursery != NULL) {
            ssti_nursery_fork_child(process->nursery);
        }
        if (process->given_up) {
            destroy(process);
        }
        process = next;
    }
}

void
ssti_process_fork_child(void)
{
    ssti_local_init(&reaper_lock);
    ssti_zygote_fork_child();
    forget(running);
    forget(remains);
    running = NULL;
    remains = NULL;
}

static void
register_handlers(void)
{
    fork_status = ssti_os_atfork(lock, unlock, ssti_process_fork_child);
}

int
ssti_process_prepare_forks(void)
{
    (void)pthread_once(&fork_once, register_handlers);
    return fork_status;
}

void
ssti_process_started(struct sst_process *process)
{
    lock();
    process->state = SSTI_CHILD_RUNNING;
    link_locked(&running, process);
    unlock();
}

/* A zygote that had to be the parent reports up the tether. SST_EAGAIN: nothing yet. */
static int
read_report(const struct sst_process *process, int *code)
{
    struct ssti_tether_note note;
    int64_t rc;

    do {
        rc = ssti_os_receive_now(process->tether, &note, sizeof(note));
    } while (rc == sizeof(note) && note.what != SSTI_TETHER_ENDED);
    if (rc == SST_EAGAIN) {
        return SST_EAGAIN;
    }
    *code = rc == sizeof(note) ? note.value : CODE_LOST;
    return 1;
}

/* 1: ended. 0: it runs. SST_ESRCH: ended, and others know how. */
static int
ask_kernel(const struct sst_process *process, int *code)
{
    int rc;

    if (!process->is_foreign) {
        return ssti_os_reap(process->pidfd, code);
    }
    rc = read_report(process, code);
    return rc == SST_EAGAIN ? 0 : rc;
}

/* The kernel's remains, if they can be had without waiting. */
static void
reap_locked(struct sst_process *process)
{
    int code = 0;

    if (!process->reaped &&
        (process->is_foreign || ssti_os_reap(process->pidfd, &code) != 0)) {
        process->reaped = true; /* by us, or by others before us */
        unlink_locked(process);
    }
}

static void
end_locked(struct sst_process *process, int code)
{
    process->state = SSTI_CHILD_ENDED;
    process->code = code;
    if (process->seat != 0) {
        /* A child that died before it sat down leaves what it was to inherit there. */
        ssti_proc_abandon(process->arena, process->seat);
    }
    if (process->gifts != 0) {
        ssti_proc_abandon(process->arena, process->gifts);
        process->gifts = 0;
    }
}

static bool
is_done(const struct sst_process *process, int *code)
{
    int32_t stored = 0;
    _Atomic uint32_t *const done =
        process->seat != 0 ? ssti_proc_done(process->arena, process->seat, &stored)
                           : NULL;

    /* Pairs with the release in ssti_proc_leave: the code was stored before. */
    if (done == NULL || ssti_load_acq(done) == 0) {
        return false;
    }
    /* Asked again, for the code as it stands now that done is seen. */
    if (ssti_proc_done(process->arena, process->seat, &stored) == NULL) {
        return false;
    }
    *code = stored & CODE_MASK;
    return true;
}

/* Has it ended? One that is done is not reaped here: the kernel is busy taking it
 * apart, and waitid would wait for that. */
static bool
look_locked(struct sst_process *process)
{
    int code = 0;
    int rc;

    if (process->state != SSTI_CHILD_RUNNING) {
        return process->state == SSTI_CHILD_ENDED;
    }
    if (is_done(process, &code)) {
        end_locked(process, code);
        move_to_remains_locked(process);
        return true;
    }
    rc = ask_kernel(process, &code);
    if (rc == 0) {
        return false;
    }
    process->reaped = true;
    unlink_locked(process);
    end_locked(process, rc > 0 ? code : CODE_LOST);
    return true;
}

/* The same, and reaps it if it is gone. */
static bool
look_and_reap_locked(struct sst_process *process)
{
    const bool ended = look_locked(process);

    if (ended) {
        reap_locked(process);
    }
    return ended;
}

void
ssti_process_drop(struct sst_process *process)
{
    bool mine;

    lock();
    process->given_up = true;
    mine = process->owner_pid == ssti_os_pid();
    if (mine && process->state != SSTI_CHILD_NEW) {
        (void)look_and_reap_locked(process);
    }
    if (mine && process->state != SSTI_CHILD_NEW && !process->reaped) {
        move_to_remains_locked(process);
        process = NULL; /* they keep it */
    }
    else {
        unlink_locked(process);
    }
    unlock();
    if (process != NULL) {
        destroy(process);
    }
}

int
sst_process_reap(void)
{
    int count = 0;

    lock();
    for (struct sst_process *process = remains, *next; process != NULL;
         process = next) {
        next = process->next;
        (void)look_and_reap_locked(process);
        if (process->reaped) {
            count++;
            if (process->given_up) {
                destroy(process);
            }
        }
    }
    unlock();
    return count;
}

static int
check_joinable(const struct sst_process *process)
{
    if (process->pid == 0) {
        return SST_EINVAL;
    }
    return process->owner_pid == ssti_os_pid() ? 0 : SST_ESRCH;
}

/* True when there is nothing to wait for; else the descriptors to wait on. */
static bool
is_over(struct sst_process *process, bool gone, int fds[2])
{
    bool over;

    lock();
    over =
        gone ? look_and_reap_locked(process) && process->reaped : look_locked(process);
    fds[0] = process->pidfd;
    fds[1] = process->state == SSTI_CHILD_ENDED || process->tether_spent
                 ? -1
                 : process->tether;
    unlock();
    return over;
}

/* The tether hung up. Should the child not be done it means nothing, now and later. */
static void
spend_tether(struct sst_process *process)
{
    lock();
    if (!look_locked(process)) {
        process->tether_spent = true;
    }
    unlock();
}

static int
join(struct sst_process *process, bool gone, int64_t deadline_ns)
{
    int rc = check_joinable(process);
    int fds[2];

    while (rc >= 0) {
        if (is_over(process, gone, fds)) {
            return 0;
        }
        if (deadline_ns == SST_NOW) {
            return SST_ETIMEDOUT;
        }
        rc = ssti_os_wait_hangup(fds, 2, process->is_foreign ? 2 : 1, deadline_ns);
        if (rc > 0 && (rc & 2) != 0) {
            spend_tether(process);
        }
    }
    return rc == SST_ETIMEDOUT && is_over(process, gone, fds) ? 0 : rc;
}

int
sst_process_join(struct sst_process *process, int64_t deadline_ns)
{
    return join(process, false, deadline_ns);
}

int
sst_process_join_gone(struct sst_process *process, int64_t deadline_ns)
{
    return join(process, true, deadline_ns);
}

int
sst_process_exit_code(struct sst_process *process, int *code)
{
    int fds[2];
    const int rc = check_joinable(process);

    if (rc < 0) {
        return rc;
    }
    if (!is_over(process, false, fds)) {
        return SST_EAGAIN;
    }
    *code = process->code;
    return 0;
}

int
sst_process_kill_tree(struct sst_process *process)
{
    int fds[2];
    const int rc = check_joinable(process);

    if (rc < 0) {
        return rc;
    }
    return is_over(process, false, fds)
               ? 0
               : ssti_os_kill_tree(process->pid, process->pidfd);
}

int
sst_process_signal(struct sst_process *process, int signal)
{
    if (process->pid == 0) {
        return SST_EINVAL;
    }

    const int rc = ssti_os_signal(process->pidfd, signal);

    return rc == SST_ESRCH ? 0 : rc;
}
