/* SPDX-License-Identifier: MIT */

/* Mutexes, plain and recursive, owned by a process.
 *
 * The owner word says who holds the mutex: 0 nobody, else ssti_proc_self() of the
 * process. Everything happens under the leaf, and each change is one store of the owner
 * word (or of the depth, of a recursive mutex that is held): what is written before the
 * owner word means nothing while there is no owner. So there is nothing to repair when
 * somebody dies under the leaf, and the wake that he owed follows from the owner word:
 * free, then wake one.
 *
 * A plain mutex belongs to the process, as in Python's multiprocessing: any thread of
 * it may release it, and so may any other process, also when the owner is dead. A
 * recursive one belongs to a thread. A child of fork() is another process and owns
 * nothing.
 *
 * Who has to wait sleeps as class A, and on the owner's life word besides. The death of
 * the owner wakes one of those who sleep on the life word; that one finds the owner
 * dead and lets go of the leaf with a wake for all. acquire then returns SST_EOWNERDEAD
 * to each of them, and the mutex stays as it is until somebody recovers or releases it:
 * what it protects may be half done, and only the user can know.
 *
 * The owner changes while others sleep on. One sleeper at least must have its eye on
 * the new one: `watched` says on whom the last to lie down has, and whoever takes the
 * mutex while others sleep and finds another name there wakes one of them, to look up
 * and lie down again.
 *
 * Invariants
 *   M1  owner == 0: the mutex is free, `thread` and `depth` mean nothing
 *   M2  owner != 0: depth >= 1; depth > 1 only in recursive mutexes
 *   M3  free, and somebody asleep in A: one of them has been woken, or the next unlock
 *       of the leaf will wake one
 *   M4  held, and somebody asleep in A: one of them sleeps on the owner's life word, or
 *       has been woken, or the next unlock will wake one
 *
 * Death table (process dies after ...)
 *   thread, depth := ...      owner is 0: nothing happened (M1)
 *   owner := itself           it is a dead owner like any other: SST_EOWNERDEAD
 *   depth := depth +- 1       the same
 *   owner := 0                free; the leaf's next holder wakes one (M3)
 *   being woken               the leaf passes the wake on to the next in A
 *   returning the mutex       dead owner
 *
 * The life word of the dead wakes a single sleeper. If that one is killed within the
 * same moment, those who wait for *other* mutexes of the first dead learn of it when
 * their patience ends (ssti_proc_patience), within a second. */

#include <stddef.h>

#include "base/alloc.h"
#include "base/atomic.h"
#include "base/bits.h"
#include "base/crashpoint.h"
#include "base/status.h"
#include "os/self.h"
#include "shm/arena.h"
#include "shm/layout.h"
#include "shm/leaf.h"
#include "sidestep/sidestep.h"
#include "sync/kinds.h"
#include "sync/spin.h"
#include "sync/view.h"

struct sst_mutex {
    struct ssti_view view;
    struct sst_mutex_shm *shm;
    struct ssti_spin spin;
};

/* Who is asking. */
struct asker {
    uint64_t proc;
    uint32_t thread; /* 0 for plain mutexes, whose owner is the process */
};

static struct asker
asker(const struct sst_mutex *mutex)
{
    return (struct asker){
        .proc = ssti_proc_self(mutex->view.arena),
        .thread = sst_mutex_is_recursive(mutex) ? ssti_self()->tid : 0,
    };
}

/* Held by the asking thread: only recursive ones can tell. */
static bool
is_mine(const struct sst_mutex *mutex, const struct asker *me)
{
    return me->thread != 0 && ssti_load_rlx(&mutex->shm->owner) == me->proc &&
           ssti_load_rlx(&mutex->shm->thread) == me->thread;
}

/* Let go of the leaf with the wake that the state asks for: M3, M4. */
static void
unlock(struct sst_mutex *mutex)
{
    const struct sst_mutex_shm *const shm = mutex->shm;
    const uint64_t owner = ssti_load_rlx(&shm->owner);
    const bool due = owner == 0 || ssti_load_rlx(&shm->watched) != owner;

    ssti_view_unlock(&mutex->view, due ? SSTI_LEAF_A : 0, 1);
}

/* Take it if that can be done now; the leaf is held. SST_EAGAIN when it belongs to
 * another. */
static int
take_locked(struct sst_mutex *mutex, const struct asker *me)
{
    struct sst_mutex_shm *const shm = mutex->shm;

    if (ssti_load_rlx(&shm->owner) == 0) {
        ssti_store_rlx(&shm->thread, me->thread);
        ssti_store_rlx(&shm->depth, 1);
        SST_CRASHPOINT(mutex_take_prepared);
        ssti_store_rel(&shm->owner, me->proc);
        SST_CRASHPOINT(mutex_take_committed);
        return 0;
    }
    if (is_mine(mutex, me)) {
        const uint32_t depth = ssti_load_rlx(&shm->depth);

        if (depth == UINT32_MAX) {
            return SST_EOVERFLOW;
        }
        ssti_store_rel(&shm->depth, depth + 1);
        SST_CRASHPOINT(mutex_take_deeper);
        return 0;
    }
    return SST_EAGAIN;
}

/* One attempt. Looks first: a mutex that is held costs its holder no cache line. */
static int
try_acquire(struct sst_mutex *mutex, const struct asker *me)
{
    int rc;

    if (ssti_load_acq(&mutex->shm->owner) != 0 && !is_mine(mutex, me)) {
        return SST_EAGAIN;
    }
    ssti_view_lock(&mutex->view);
    rc = take_locked(mutex, me);
    unlock(mutex);
    return rc;
}

/* Look for a while whether it becomes free, and take it. */
static int
spin_acquire(struct sst_mutex *mutex, const struct asker *me, int64_t deadline_ns)
{
    struct ssti_spin_run run;
    int rc = SST_EAGAIN;

    ssti_spin_begin(&run, &mutex->spin, deadline_ns);
    while (rc == SST_EAGAIN && ssti_spin_next(&run)) {
        if (ssti_load_acq(&mutex->shm->owner) == 0) {
            rc = try_acquire(mutex, me);
        }
    }
    ssti_spin_end(&run, rc == 0);
    return rc;
}

/* Sleep until it can be taken, or its owner is dead, or time or a signal ends it. */
static int
sleep_acquire(struct sst_mutex *mutex, const struct asker *me, int64_t deadline_ns)
{
    struct ssti_leaf_sleep sleep = {.class = SSTI_LEAF_A};
    int rc = 0;

    ssti_view_lock(&mutex->view);
    for (;;) {
        const uint64_t owner = ssti_load_rlx(&mutex->shm->owner);
        const int taken = take_locked(mutex, me);

        if (taken != SST_EAGAIN) {
            unlock(mutex);
            return taken;
        }
        if (rc != 0) {
            ssti_store_rlx(&mutex->shm->watched, 0); /* maybe it was we who watched */
            unlock(mutex);
            return rc;
        }
        if (!ssti_view_watch(&mutex->view, owner, &sleep, deadline_ns)) {
            /* All others who sleep must see it, too. */
            ssti_view_unlock(&mutex->view, SSTI_LEAF_A, SSTI_LEAF_EVERYBODY);
            return SST_EOWNERDEAD;
        }
        ssti_store_rlx(&mutex->shm->watched, owner);
        rc = ssti_view_wait(&mutex->view, &sleep, deadline_ns);
    }
}

int
sst_mutex_acquire(struct sst_mutex *mutex, int64_t deadline_ns)
{
    const struct asker me = asker(mutex);
    int rc = try_acquire(mutex, &me);

    if (rc == SST_EAGAIN) {
        rc = spin_acquire(mutex, &me, deadline_ns);
    }
    if (rc == SST_EAGAIN && deadline_ns == SST_NOW) {
        const uint64_t owner = ssti_load_acq(&mutex->shm->owner);
        const bool dead = owner != 0 && !ssti_proc_alive(mutex->view.arena, owner);

        /* The same owner still: dead while it held the mutex, during this call. */
        return dead && ssti_load_acq(&mutex->shm->owner) == owner ? SST_EOWNERDEAD
                                                                  : SST_ETIMEDOUT;
    }
    return rc == SST_EAGAIN ? sleep_acquire(mutex, &me, deadline_ns) : rc;
}

static int
release_locked(struct sst_mutex *mutex, const struct asker *me)
{
    struct sst_mutex_shm *const shm = mutex->shm;
    const uint32_t depth = ssti_load_rlx(&shm->depth);

    if (me->thread != 0 && !is_mine(mutex, me)) {
        return SST_ENOTOWNER;
    }
    if (ssti_load_rlx(&shm->owner) == 0) {
        return SST_EOVERFLOW;
    }
    if (me->thread != 0 && depth > 1) {
        ssti_store_rel(&shm->depth, depth - 1);
        SST_CRASHPOINT(mutex_release_shallower);
        return 0;
    }
    ssti_store_rel(&shm->owner, 0);
    SST_CRASHPOINT(mutex_release_committed);
    return 0;
}

int
sst_mutex_release(struct sst_mutex *mutex)
{
    const struct asker me = asker(mutex);
    int rc;

    ssti_view_lock(&mutex->view);
    rc = release_locked(mutex, &me);
    unlock(mutex);
    return rc;
}

int
sst_mutex_recover(struct sst_mutex *mutex)
{
    const uint64_t owner = ssti_load_acq(&mutex->shm->owner);
    int recovered = 0;

    /* Asked outside the leaf, for a death may have to be confirmed by the kernel. */
    if (owner == 0 || ssti_proc_alive(mutex->view.arena, owner)) {
        return 0;
    }
    ssti_view_lock(&mutex->view);
    if (ssti_load_rlx(&mutex->shm->owner) == owner) {
        ssti_store_rel(&mutex->shm->owner, 0);
        SST_CRASHPOINT(mutex_recover_committed);
        recovered = 1;
    }
    unlock(mutex);
    return recovered;
}

bool
sst_mutex_is_locked(const struct sst_mutex *mutex)
{
    return ssti_load_acq(&mutex->shm->owner) != 0;
}

bool
sst_mutex_is_recursive(const struct sst_mutex *mutex)
{
    return (ssti_load_rlx(&mutex->shm->flags) & SST_MUTEX_RECURSIVE) != 0;
}

uint32_t
sst_mutex_count(const struct sst_mutex *mutex)
{
    const struct asker me = asker(mutex);

    if (me.thread == 0) {
        return ssti_load_acq(&mutex->shm->owner) == me.proc ? 1 : 0;
    }
    return is_mine(mutex, &me) ? ssti_load_rlx(&mutex->shm->depth) : 0;
}

/* ---- Life ---- */

static void
bind(struct sst_mutex *mutex, void *object)
{
    mutex->shm = object;
    mutex->view.leaf = &mutex->shm->leaf;
}

int
sst_mutex_create(struct sst_arena *arena, uint32_t flags, struct sst_mutex **out,
                 struct sst_error *err)
{
    struct sst_mutex *mutex;
    void *object;
    int rc;

    if ((flags & ~(uint32_t)SST_MUTEX_RECURSIVE) != 0) {
        return ssti_error_set(err, SST_EINVAL, "unknown mutex flags 0x%x", flags);
    }
    mutex = ssti_alloc(sizeof(*mutex));
    if (mutex == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "no memory for a mutex");
    }
    rc = ssti_view_create(&mutex->view, arena, SST_KIND_MUTEX, sizeof(*mutex->shm),
                          &object, err);
    if (rc < 0) {
        ssti_free(mutex);
        return rc;
    }
    bind(mutex, object);
    ssti_store_rlx(&mutex->shm->flags, flags);
    *out = mutex;
    return 0;
}

int
sst_mutex_attach(struct sst_arena *arena, const struct sst_handle *handle,
                 struct sst_mutex **out, struct sst_error *err)
{
    struct sst_mutex *const mutex = ssti_alloc(sizeof(*mutex));
    void *object;
    int rc;

    if (mutex == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "no memory for a mutex");
    }
    rc = ssti_view_attach(&mutex->view, arena, SST_KIND_MUTEX, sizeof(*mutex->shm),
                          handle, &object, err);
    if (rc < 0) {
        ssti_free(mutex);
        return rc;
    }
    bind(mutex, object);
    *out = mutex;
    return 0;
}

void
sst_mutex_handle(const struct sst_mutex *mutex, struct sst_handle *out)
{
    ssti_view_handle(&mutex->view, out);
}

struct sst_mutex *
sst_mutex_close(struct sst_mutex *mutex)
{
    if (mutex != NULL) {
        ssti_view_fini(&mutex->view);
        ssti_free(mutex);
    }
    return NULL;
}

const struct ssti_kind_ops *
ssti_mutex_kind(void)
{
    static struct ssti_kind_ops ops;

    ops.layout = SSTI_LAYOUT_HASH(sizeof(struct sst_mutex_shm),
                                  offsetof(struct sst_mutex_shm, leaf),
                                  offsetof(struct sst_mutex_shm, owner),
                                  offsetof(struct sst_mutex_shm, thread),
                                  offsetof(struct sst_mutex_shm, depth),
                                  offsetof(struct sst_mutex_shm, watched),
                                  offsetof(struct sst_mutex_shm, flags));
    return &ops;
}
