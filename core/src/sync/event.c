/* SPDX-License-Identifier: MIT */

/* Events: a flag that any number of processes wait for.
 *
 * `state` counts how often the event went from unset to set, and whether it is set now;
 * one store of it is a set or a clear. A waiter remembers the count it saw when it
 * came: it may go when the event is set, or when the count is another, because then it
 * was set while the waiter waited, though somebody may have cleared it again.
 *
 * Waiters who came at an even count sleep as class A, at an odd one as class B. So from
 * the state alone follows who must be awake: everybody when the event is set; else
 * those of the parity before the current one, who slept through a set. A set that died
 * before its wakes is made good by whoever holds the leaf next.
 *
 * set and clear take the leaf even when they change nothing: without it a set that
 * finds the event set could be overtaken by the clear that is about to look at what the
 * set announced.
 *
 * Invariants
 *   E1  the event is set: nobody who sleeps has not been woken, or will be by the next
 *       unlock
 *   E2  it is not set: the same for those whose parity is not the count's
 *
 * Death table (process dies after ...)
 *   state := set      committed; the leaf's next holder, woken by the kernel, wakes all
 *                     (E1)
 *   state := cleared  committed; the same for those who slept through the set (E2)
 *   being woken       the others were woken as well, or are by the next unlock
 *
 * After 2^31 sets within one wait the count is the same again; if the event has been
 * cleared by then the waiter goes on waiting. */

#include <stddef.h>

#include "base/alloc.h"
#include "base/atomic.h"
#include "base/bits.h"
#include "base/crashpoint.h"
#include "base/status.h"
#include "shm/arena.h"
#include "shm/layout.h"
#include "shm/leaf.h"
#include "sidestep/sidestep.h"
#include "sync/kinds.h"
#include "sync/spin.h"
#include "sync/view.h"

struct sst_event {
    struct ssti_view view;
    struct sst_event_shm *shm;
    struct ssti_spin spin;
};

enum {
    IS_SET = 1, /* in `state`; the count of sets is above it */
};

static enum ssti_leaf_class
class_of(uint32_t state)
{
    return (state >> 1) % 2 == 0 ? SSTI_LEAF_A : SSTI_LEAF_B;
}

/* Let go of the leaf with the wake that the state asks for: E1, E2. */
static void
unlock(struct sst_event *event)
{
    const uint32_t state = ssti_load_rlx(&event->shm->state);
    const uint32_t both = SSTI_LEAF_A | SSTI_LEAF_B;

    ssti_view_unlock(&event->view,
                     (state & IS_SET) != 0 ? both : both & ~(uint32_t)class_of(state),
                     SSTI_LEAF_EVERYBODY);
}

void
sst_event_set(struct sst_event *event)
{
    uint32_t state;

    ssti_view_lock(&event->view);
    state = ssti_load_rlx(&event->shm->state);
    if ((state & IS_SET) == 0) {
        ssti_store_rel(&event->shm->state, (state + 2) | IS_SET);
        SST_CRASHPOINT(event_set_committed);
    }
    unlock(event);
}

void
sst_event_clear(struct sst_event *event)
{
    ssti_view_lock(&event->view);
    ssti_store_rel(&event->shm->state,
                   ssti_load_rlx(&event->shm->state) & ~(uint32_t)IS_SET);
    SST_CRASHPOINT(event_clear_committed);
    unlock(event);
}

bool
sst_event_is_set(const struct sst_event *event)
{
    return (ssti_load_acq(&event->shm->state) & IS_SET) != 0; /* pairs with set */
}

/* Has it been set since it was in `state`, or is it set now? */
static bool
may_go(const struct sst_event *event, uint32_t state)
{
    const uint32_t now = ssti_load_acq(&event->shm->state); /* pairs with set */

    return (now & IS_SET) != 0 || now >> 1 != state >> 1;
}

static int
sleep_wait(struct sst_event *event, uint32_t state, int64_t deadline_ns)
{
    const struct ssti_leaf_sleep sleep = {
        .class = class_of(state),
        .wake = SSTI_LEAF_ALL & ~(uint32_t)class_of(state),
        .count = SSTI_LEAF_EVERYBODY,
        .deadline_ns = deadline_ns,
    };
    int rc = 0;

    ssti_view_lock(&event->view);
    while (!may_go(event, state) && rc == 0) {
        rc = ssti_view_wait(&event->view, &sleep, deadline_ns);
    }
    if (may_go(event, state)) {
        rc = 0;
    }
    unlock(event);
    return rc;
}

int
sst_event_wait(struct sst_event *event, int64_t deadline_ns)
{
    const uint32_t state = ssti_load_acq(&event->shm->state); /* pairs with set */
    struct ssti_spin_run run;
    bool set = (state & IS_SET) != 0;

    if (set) {
        return 0;
    }
    ssti_spin_begin(&run, &event->spin, deadline_ns);
    while (!set && ssti_spin_next(&run)) {
        set = may_go(event, state);
    }
    ssti_spin_end(&run, set);
    if (set) {
        return 0;
    }
    return deadline_ns == SST_NOW ? SST_ETIMEDOUT
                                  : sleep_wait(event, state, deadline_ns);
}

/* ---- Life ---- */

static void
bind(struct sst_event *event, void *object)
{
    event->shm = object;
    event->view.leaf = &event->shm->leaf;
}

int
sst_event_create(struct sst_arena *arena, struct sst_event **out, struct sst_error *err)
{
    struct sst_event *const event = ssti_alloc(sizeof(*event));
    void *object;
    int rc;

    if (event == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "no memory for an event");
    }
    rc = ssti_view_create(&event->view, arena, SST_KIND_EVENT, sizeof(*event->shm),
                          &object, err);
    if (rc < 0) {
        ssti_free(event);
        return rc;
    }
    bind(event, object);
    *out = event;
    return 0;
}

int
sst_event_attach(struct sst_arena *arena, const struct sst_handle *handle,
                 struct sst_event **out, struct sst_error *err)
{
    struct sst_event *const event = ssti_alloc(sizeof(*event));
    void *object;
    int rc;

    if (event == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "no memory for an event");
    }
    rc = ssti_view_attach(&event->view, arena, SST_KIND_EVENT, sizeof(*event->shm),
                          handle, &object, err);
    if (rc < 0) {
        ssti_free(event);
        return rc;
    }
    bind(event, object);
    *out = event;
    return 0;
}

void
sst_event_handle(const struct sst_event *event, struct sst_handle *out)
{
    ssti_view_handle(&event->view, out);
}

struct sst_event *
sst_event_close(struct sst_event *event)
{
    if (event != NULL) {
        ssti_view_fini(&event->view);
        ssti_free(event);
    }
    return NULL;
}

const struct ssti_kind_ops *
ssti_event_kind(void)
{
    static struct ssti_kind_ops ops;

    ops.layout = SSTI_LAYOUT_HASH(sizeof(struct sst_event_shm),
                                  offsetof(struct sst_event_shm, leaf),
                                  offsetof(struct sst_event_shm, state));
    return &ops;
}
