/* SPDX-License-Identifier: MIT */

/* The life of a queue: made, attached, joined, shut down, polled, closed, destroyed.
 *
 * A view is memory of one process and holds the slot through its held table; the child
 * of a fork has copies of both. With the last hold the queue is destroyed: its messages
 * and chunks are taken out like any others, through a held entry of whoever destroys
 * it, so a destroyer may die, too.
 *
 * Joiners sleep as class C until nothing is unfinished, and on the life words of the
 * takers (takers.c) besides. Where there are more takers than words, and against the
 * case that the kernel's one wake for a death went to somebody who watches the same
 * life for another object, they look at all of them now and then.
 *
 * Death table: queue.c's, takers.c's and bell.c's; and (process dies while ...)
 *   creating          the slot is in its held table: dropped with it
 *   destroying        the sweeper runs destroy again, on what is left
 *   closing           what is left of the taker's entry and the bell is swept as after
 *                     any death */

#include <stddef.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/crashpoint.h"
#include "base/status.h"
#include "os/os.h"
#include "ring/bell.h"
#include "ring/kinds.h"
#include "ring/queue.h"
#include "ring/ring.h"
#include "ring/takers.h"
#include "shm/arena.h"
#include "shm/layout.h"
#include "shm/leaf.h"
#include "sidestep/sidestep.h"
#include "sync/view.h"

enum {
    SLICE_NS = 20000000,  /* how long joiners sleep who cannot watch all takers */
    LOOK_NS = 1000000000, /* and who can: the kernel wakes but one who watches a life */
};

/* ---- Ending ---- */

void
sst_queue_shutdown(struct sst_queue *queue, bool immediate)
{
    const uint32_t flags = SSTI_RING_SHUT | (immediate ? SSTI_RING_DISCARD : 0);

    ssti_view_lock(&queue->view);
    if (ssti_bell_is_wanted(&queue->bell)) {
        /* Who cannot be told learns of it at its next get: a shutdown does not fail. */
        (void)ssti_bell_ring_locked(&queue->bell);
    }
    ssti_store_rel(&queue->ring.shm->flags, ssti_ring_flags(&queue->ring) | flags);
    SST_CRASHPOINT(queue_shut);
    ssti_view_unlock(&queue->view, SSTI_LEAF_ALL, SSTI_LEAF_EVERYBODY);
    ssti_queue_discard(queue);
}

/* ---- Joining ---- */

int
sst_queue_task_done(struct sst_queue *queue)
{
    int rc;

    if (!queue->joinable) {
        return SST_EINVAL;
    }
    rc = ssti_takers_prepare(&queue->takers);
    if (rc != 0) {
        return rc;
    }
    ssti_view_lock(&queue->view);
    rc = ssti_takers_done_locked(&queue->takers);
    ssti_queue_unlock(queue);
    return rc;
}

/* Let the sleep end when a taker dies. False when one is dead already. */
static bool
watch(const struct sst_queue *queue, const struct ssti_takers_dead *dead,
      struct ssti_leaf_sleep *sleep, struct ssti_os_wait *words)
{
    const int64_t deadline_ns = sleep->deadline_ns;
    struct ssti_leaf_sleep one = *sleep;

    sleep->others = words;
    sleep->other_count = 0;
    for (uint32_t i = 0; i < dead->watch_count; i++) {
        if (!ssti_view_watch(&queue->view, dead->watch[i], &one, deadline_ns)) {
            return false;
        }
        if (one.life != NULL) {
            words[sleep->other_count++] =
                (struct ssti_os_wait){one.life, one.life_value};
        }
        sleep->deadline_ns =
            (int64_t)ssti_min((uint64_t)sleep->deadline_ns, (uint64_t)one.deadline_ns);
    }
    if (dead->living != 0) {
        const int64_t look_ns =
            ssti_os_now_ns() + (dead->living > dead->watch_count ? SLICE_NS : LOOK_NS);

        sleep->deadline_ns =
            (int64_t)ssti_min((uint64_t)sleep->deadline_ns, (uint64_t)look_ns);
    }
    return true;
}

/* One look, and one sleep, with the leaf: 0, SST_EOWNERDEAD, or SST_EAGAIN to look
 * again; or why the sleep ended. */
static int
join_section(struct sst_queue *queue, const struct ssti_takers_dead *dead, int slept,
             int64_t deadline_ns)
{
    struct ssti_leaf_sleep sleep = {
        .class = SSTI_LEAF_C,
        .deadline_ns = deadline_ns,
        .count = 1,
    };
    struct ssti_os_wait words[SSTI_LEAF_OTHERS_MAX];
    int rc = SST_EAGAIN;

    ssti_view_lock(&queue->view);
    ssti_takers_bury_locked(&queue->takers, dead);
    if (ssti_takers_unfinished(&queue->takers) <= 0) {
        rc = 0;
    }
    else if (ssti_takers_lost_locked(&queue->takers) != 0) {
        rc = SST_EOWNERDEAD;
    }
    else if (slept != 0) {
        rc = slept;
    }
    else if (ssti_load_rlx(&queue->shm->takers_new) != 0) {
        ssti_store_rel(&queue->shm->takers_new, 0); /* look who lives, once more */
    }
    else if (watch(queue, dead, &sleep, words)) {
        sleep.wake = ssti_queue_wake_locked(queue);
        rc = ssti_view_wait(&queue->view, &sleep, deadline_ns);
        rc = rc == 0 ? SST_EAGAIN : rc;
    }
    ssti_queue_unlock(queue);
    return rc;
}

int
sst_queue_join(struct sst_queue *queue, int64_t deadline_ns)
{
    int slept = deadline_ns == SST_NOW ? SST_ETIMEDOUT : 0;
    struct ssti_takers_dead dead;
    int rc;

    if (!queue->joinable) {
        return SST_EINVAL;
    }
    for (;;) {
        ssti_queue_discard(queue);
        ssti_takers_find_dead(&queue->takers, &dead);
        rc = join_section(queue, &dead, slept, deadline_ns);
        if (rc == SST_ETIMEDOUT || rc == SST_EINTR) {
            if (slept != 0) {
                return rc;
            }
            slept = rc; /* one last look */
            continue;
        }
        if (rc != SST_EAGAIN) {
            return rc;
        }
    }
}

int
sst_queue_recover(struct sst_queue *queue)
{
    struct ssti_takers_dead dead;
    int64_t count;

    if (!queue->joinable) {
        return 0;
    }
    ssti_takers_find_dead(&queue->takers, &dead);
    ssti_view_lock(&queue->view);
    ssti_takers_bury_locked(&queue->takers, &dead);
    count = ssti_takers_recover_locked(&queue->takers);
    ssti_queue_unlock(queue);
    return count > INT32_MAX ? INT32_MAX : (int)count;
}

uint64_t
sst_queue_unfinished(const struct sst_queue *queue)
{
    const int64_t unfinished =
        queue->joinable ? ssti_takers_unfinished(&queue->takers) : 0;

    return unfinished > 0 ? (uint64_t)unfinished : 0;
}

/* ---- The descriptor ---- */

int
sst_queue_fd(struct sst_queue *queue, struct sst_error *err)
{
    struct ssti_bell_opening opening;
    bool rung;
    int rc;

    if (ssti_bell_is_mine(&queue->bell)) {
        return ssti_load_acq(&queue->bell.fd);
    }
    ssti_bell_disown(&queue->bell);
    rc = ssti_bell_prepare(&queue->bell, &opening, err);
    if (rc != 0) {
        return rc;
    }
    ssti_view_lock(&queue->view);
    rung = ssti_ring_peek_locked(&queue->ring) != SSTI_RING_EMPTY ||
           ssti_ring_flags(&queue->ring) != 0;
    rc = ssti_bell_enter_locked(&queue->bell, &opening, rung);
    ssti_queue_unlock(queue);
    return ssti_bell_opened(&queue->bell, &opening, rc, err);
}

int
sst_queue_fd_drain(struct sst_queue *queue)
{
    int rc;

    ssti_view_lock(&queue->view);
    rc = ssti_ring_peek_locked(&queue->ring);
    if (rc == SSTI_RING_EMPTY && ssti_ring_flags(&queue->ring) == 0) {
        ssti_queue_settle_bell_locked(queue);
        rc = 0;
    }
    else {
        rc = rc < 0 ? rc : 1;
    }
    ssti_queue_unlock(queue);
    return rc;
}

/* ---- Life ---- */

/* Make a view of the object at `shm`; view.arena and view.offset are set. */
static void
bind(struct sst_queue *queue, struct sst_queue_shm *shm)
{
    struct sst_arena *const arena = queue->view.arena;

    queue->shm = shm;
    queue->view.leaf = &shm->leaf;
    queue->view.repair = ssti_queue_repair;
    queue->self = queue;
    queue->joinable = ssti_load_rlx(&shm->joinable) != 0;
    ssti_ring_view(&queue->ring, arena, &shm->ring, queue->view.offset);
    ssti_bell_init(&queue->bell, arena, shm->bell, &shm->bells_armed);
    queue->takers = (struct ssti_takers){
        .view = &queue->view,
        .ring = &queue->ring,
        .shm = shm,
    };
}

int
sst_queue_create(struct sst_arena *arena, const struct sst_queue_options *options,
                 struct sst_queue **out, struct sst_error *err)
{
    struct sst_queue_options wanted = {0};
    struct sst_queue_shm *shm;
    struct sst_queue *queue;
    void *object;
    int rc;

    if (options != NULL) {
        if (options->size_of != sizeof wanted) {
            return ssti_error_set(err, SST_EINVAL, "options of %u bytes, not %zu",
                                  options->size_of, sizeof wanted);
        }
        wanted = *options;
    }
    queue = ssti_alloc(sizeof *queue);
    if (queue == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "no memory for a queue");
    }
    rc = ssti_view_create(&queue->view, arena, SST_KIND_QUEUE, sizeof *shm, &object,
                          err);
    if (rc < 0) {
        ssti_free(queue);
        return rc;
    }

    shm = object;
    ssti_store_rlx(&shm->joinable, wanted.joinable != 0 ? 1 : 0);
    ssti_store_rlx(&shm->offset, queue->view.offset);
    ssti_ring_format(&shm->ring, wanted.item_max, 0);
    bind(queue, shm);
    *out = queue;
    return 0;
}

int
sst_queue_attach(struct sst_arena *arena, const struct sst_handle *handle,
                 struct sst_queue **out, struct sst_error *err)
{
    struct sst_queue *const queue = ssti_alloc(sizeof *queue);
    void *object;
    int rc;

    if (queue == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "no memory for a queue");
    }
    rc = ssti_view_attach(&queue->view, arena, SST_KIND_QUEUE,
                          sizeof(struct sst_queue_shm), handle, &object, err);
    if (rc < 0) {
        ssti_free(queue);
        return rc;
    }
    bind(queue, object);
    *out = queue;
    return 0;
}

void
sst_queue_handle(const struct sst_queue *queue, struct sst_handle *out)
{
    ssti_view_handle(&queue->view, out);
}

struct sst_queue *
sst_queue_close(struct sst_queue *queue)
{
    if (queue == NULL) {
        return NULL;
    }
    if (queue->joinable || ssti_bell_is_mine(&queue->bell)) {
        ssti_view_lock(&queue->view);
        if (queue->joinable) {
            ssti_takers_quit_locked(&queue->takers);
        }
        if (ssti_bell_is_mine(&queue->bell)) {
            ssti_bell_leave_locked(&queue->bell);
        }
        ssti_queue_unlock(queue);
    }
    ssti_bell_fini(&queue->bell);
    ssti_view_fini(&queue->view);
    return ssti_free(queue);
}

/* ---- For the registry's sweeper and the last drop ---- */

/* A view for the time of a call; it holds nothing. */
static void
borrow(struct sst_queue *queue, struct sst_arena *arena, struct sst_queue_shm *shm)
{
    *queue = (struct sst_queue){
        .view.arena = arena,
        .view.offset = ssti_load_rlx(&shm->offset),
    };
    bind(queue, shm);
}

static void
destroy(struct sst_arena *arena, void *object)
{
    struct sst_queue queue;
    struct ssti_ring_section section;
    uint32_t held;
    bool moved;

    borrow(&queue, arena, object);
    section = ssti_queue_section(&queue);
    ssti_ring_clear(&queue.ring, &section, true);
    if (queue.joinable && ssti_held_reserve(arena, &held) == 0) {
        ssti_held_tie(arena, held, queue.view.offset);
        ssti_view_lock(&queue.view);
        moved = ssti_takers_free_locked(&queue.takers, ssti_held_offset(arena, held));
        ssti_queue_unlock(&queue);
        ssti_held_tie(arena, held, 0);
        if (moved) {
            ssti_extent_drop(arena, held);
        }
        else {
            ssti_held_release(arena, held);
        }
    }
}

static bool
settle(struct sst_arena *arena, void *object)
{
    struct sst_queue queue;

    borrow(&queue, arena, object);
    ssti_view_lock(&queue.view);
    ssti_queue_unlock(&queue);
    return true;
}

const struct ssti_kind_ops *
ssti_queue_kind(void)
{
    static struct ssti_kind_ops ops = {.destroy = destroy, .settle = settle};

    ops.layout =
        SSTI_LAYOUT_HASH(sizeof(struct sst_queue_shm),
                         offsetof(struct sst_queue_shm, ring),
                         offsetof(struct sst_queue_shm, takers),
                         offsetof(struct sst_queue_shm, bell),
                         sizeof(struct sst_ring_shm), sizeof(struct sst_chunk_shm),
                         SSTI_RING_INLINE_MAX, SSTI_RING_CHUNK_MAX);
    return &ops;
}
