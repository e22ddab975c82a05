/* SPDX-License-Identifier: MIT */

/* Views: the process-local side of the objects in sync/.
 *
 * A view is heap memory of one process, made by create or attach, freed by close. It
 * holds its slot through one entry of the process's held table. A child of fork() has
 * copies of both, the view by copy-on-write and the entry by the registry's fork hook,
 * under the same index: so the child's close drops the child's hold and nobody else's.
 *
 * Whoever takes a leaf whose holder died repairs the object, lets go with a wake for
 * everybody, and takes the leaf again: from then on there is nothing special about it.
 * A second death in between is the same case once more.
 *
 * Death table: this file writes no shared memory of its own; see shm/ for slots and
 * holds, and leaf.c for the leaf. */

#include "sync/view.h"

#include <string.h>

#include "base/atomic.h"
#include "base/status.h"
#include "os/os.h"
#include "os/self.h"
#include "shm/arena.h"
#include "shm/layout.h"

static int
open_slot(struct ssti_view *view, uint32_t size, void **object, struct sst_error *err)
{
    struct sst_slot_shm *const slot = ssti_arena_ptr(view->arena, view->offset, size);

    if (slot == NULL) {
        ssti_slot_drop(view->arena, view->held);
        return ssti_error_set(err, SST_ENOMEM, "the slot's memory cannot be mapped");
    }
    view->generation = ssti_load_rlx(&slot->generation);
    *object = slot;
    return 0;
}

int
ssti_view_create(struct ssti_view *view, struct sst_arena *arena, enum sst_kind kind,
                 uint32_t size, void **object, struct sst_error *err)
{
    const int rc = ssti_slot_create(arena, kind, size, &view->held, &view->offset, err);

    if (rc < 0) {
        return rc;
    }
    view->arena = arena;
    view->kind = kind;
    return open_slot(view, size, object, err);
}

int
ssti_view_attach(struct ssti_view *view, struct sst_arena *arena, enum sst_kind kind,
                 uint32_t size, const struct sst_handle *handle, void **object,
                 struct sst_error *err)
{
    int rc;

    if (handle->kind != (uint32_t)kind) {
        return ssti_error_set(err, SST_EINVAL, "the handle is of kind %u, not %u",
                              handle->kind, (unsigned)kind);
    }
    rc = ssti_slot_hold(arena, handle, &view->held, err);
    if (rc < 0) {
        return rc;
    }
    view->arena = arena;
    view->kind = kind;
    view->offset = handle->offset;
    return open_slot(view, size, object, err);
}

void
ssti_view_fini(struct ssti_view *view)
{
    ssti_slot_drop(view->arena, view->held);
}

void
ssti_view_handle(const struct ssti_view *view, struct sst_handle *out)
{
    *out = (struct sst_handle){
        .arena = sst_arena_id(view->arena),
        .offset = view->offset,
        .generation = view->generation,
        .kind = view->kind,
    };
}

void
ssti_view_lock_repair(const struct ssti_view *view)
{
    do {
        if (view->repair != NULL) {
            view->repair(view);
        }
        ssti_leaf_unlock(view->leaf, SSTI_LEAF_ALL, SSTI_LEAF_EVERYBODY);
    } while (ssti_leaf_lock(view->arena, view->leaf) != 0);
}

enum {
    NAP_NS =
        100000000, /* a sleep up to this is one of several that watch for a death */
};

static bool signals_are_deferred; /* set at start, then const */

void
sst_view_defer_signals(void)
{
    signals_are_deferred = true;
}

/* Who is woken and signalled at once is only told that he was woken, and who is
 * signalled between two sleeps is told nothing: the handler has run, and nobody learns
 * of it. So who was woken, found nothing and is going to sleep again for long reports
 * an interruption first, to a caller who sees to his signals only then. */
static bool
may_have_missed_signal(struct ssti_self *self, const struct ssti_leaf_sleep *sleep)
{
    if (!signals_are_deferred || self->was_woken == 0 ||
        sleep->deadline_ns < ssti_os_now_ns() + NAP_NS) {
        return false;
    }
    self->was_woken = 0;
    return true;
}

int
ssti_view_wait(const struct ssti_view *view, const struct ssti_leaf_sleep *sleep,
               int64_t deadline_ns)
{
    struct ssti_self *const self = ssti_self();
    int rc;

    if (may_have_missed_signal(self, sleep)) {
        return SST_EINTR;
    }

    rc = ssti_leaf_wait(view->arena, view->leaf, sleep);
    if (rc == SST_EOWNERDEAD) {
        ssti_view_lock_repair(view);
        rc = 0;
    }
    else if (rc == SST_ETIMEDOUT && sleep->deadline_ns < deadline_ns) {
        rc = 0;
    }
    self->was_woken |= rc == 0;
    return rc;
}

bool
ssti_view_watch(const struct ssti_view *view, uint64_t proc,
                struct ssti_leaf_sleep *sleep, int64_t deadline_ns)
{
    sleep->life = ssti_proc_life(view->arena, proc, &sleep->life_value);
    sleep->deadline_ns = ssti_proc_patience(view->arena, proc, deadline_ns);
    if (sleep->life != NULL && ssti_load_acq(sleep->life) == sleep->life_value) {
        return true;
    }
    /* Its main thread has ended. Other threads may live on, and the process with them:
     * then the word says nothing, and patience bounds the sleep. */
    sleep->life = NULL;
    return ssti_proc_alive(view->arena, proc);
}
