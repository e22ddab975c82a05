/* SPDX-License-Identifier: MIT */

/* Queues: a message ring, who waits for it, and how it ends.
 *
 * One leaf guards everything. Getters sleep as class A, putters of a bounded queue that
 * is full as B, joiners as C; what an unlock wakes follows from the state: A while
 * there is a message, B while there is room, C while nothing is unfinished or joiners
 * have something to look at. One sleeper is woken at a time, and the next by the unlock
 * of the one woken. Those who poll a descriptor are rung before the message is there
 * (bell.c).
 *
 * A put runs: an extent for a long payload (no leaf) - leaf: shut? full? a place? -
 * ring the bells - record - cursor - unlock, which wakes. A get the same way round.
 * Neither runs foreign code, and both are done when they return: nothing is buffered in
 * the process, so it may exit or be killed at any time, and what it had put stays.
 *
 * shutdown sets a flag under the leaf; with `immediate` a second one, upon which
 * whoever comes by drops what is left. Flags are only ever set.
 *
 * Invariants
 *   Q1  sleepers in A, B, C and what they wait for: see ssti_queue_wake_locked
 *   Q2  a message is there  =>  every bell of the list is rung (B1 of bell.c)
 *   Q3  an extent belongs to one held entry or to one record, or a redo record says
 *       to which
 *
 * Death table: that of ring.c, bell.c and takers.c; and (process dies after ...)
 *   setting the flag of shutdown    shut; the next unlock wakes who sleeps, and the
 *                                   leaf's next owner wakes all
 *   dropping some of the items      DISCARD is set: the next get or join drops the rest
 *
 * docs/internals/rings.rst tells more. */

#include "ring/queue.h"

#include "ring/bell.h"
#include "ring/pieces.h"
#include "ring/ring.h"
#include "ring/takers.h"
#include "shm/layout.h"
#include "shm/leaf.h"
#include "shm/parcel.h"
#include "sidestep/sidestep.h"
#include "sync/spin.h"
#include "sync/view.h"

enum {
    RUN_MAX = 64,          /* messages moved by the _many functions in one section, */
    RUN_BYTES_MAX = 65536, /* and their bytes, so that others are not kept waiting */
};

uint32_t
ssti_queue_wake_locked(const struct sst_queue *queue)
{
    const uint32_t flags = ssti_ring_flags(&queue->ring);
    uint32_t wake = 0;

    if (flags != 0) {
        return SSTI_LEAF_ALL;
    }
    if (ssti_ring_count(&queue->ring) != 0) {
        wake |= SSTI_LEAF_A;
    }
    if (!ssti_ring_is_full(&queue->ring)) {
        wake |= SSTI_LEAF_B;
    }
    if (queue->joinable && ssti_takers_have_news_locked(&queue->takers)) {
        wake |= SSTI_LEAF_C;
    }
    return wake;
}

void
ssti_queue_unlock(struct sst_queue *queue)
{
    ssti_view_unlock(&queue->view, ssti_queue_wake_locked(queue), 1);
}

void
ssti_queue_repair(const struct ssti_view *view)
{
    struct sst_queue *const queue = ((const struct sst_queue *)view)->self;

    ssti_ring_repair_locked(&queue->ring);
    ssti_bell_repair_locked(queue->shm->bell);
    if (queue->joinable) {
        ssti_takers_repair_locked(&queue->takers);
    }
}

static void
section_lock(void *object)
{
    struct sst_queue *const queue = object;

    ssti_view_lock(&queue->view);
}

static void
section_unlock(void *object)
{
    ssti_queue_unlock(object);
}

struct ssti_ring_section
ssti_queue_section(struct sst_queue *queue)
{
    return (struct ssti_ring_section){section_lock, section_unlock, queue};
}

/* Free what the ring has done with. */
static void
trim(struct sst_queue *queue)
{
    const struct ssti_ring_section section = ssti_queue_section(queue);

    if (__builtin_expect(ssti_ring_has_retired(&queue->ring), 0)) {
        ssti_ring_trim(&queue->ring, &section);
    }
}

void
ssti_queue_discard(struct sst_queue *queue)
{
    const struct ssti_ring_section section = ssti_queue_section(queue);

    if ((ssti_ring_flags(&queue->ring) & SSTI_RING_DISCARD) != 0 &&
        ssti_ring_count(&queue->ring) != 0) {
        ssti_ring_clear(&queue->ring, &section, false);
    }
}

/* ---- Put ---- */

/* One attempt under the leaf: 0, SSTI_RING_FULL, SSTI_RING_CHUNK, a status. */
static int
put_locked(struct sst_queue *queue, struct ssti_deposit *deposit)
{
    int rc;

    if ((ssti_ring_flags(&queue->ring) & SSTI_RING_SHUT) != 0) {
        return SST_ESHUTDOWN;
    }
    rc = ssti_ring_fit_locked(&queue->ring, deposit);
    if (rc != 0) {
        return rc;
    }
    if (ssti_bell_is_wanted(&queue->bell)) {
        rc = ssti_bell_ring_locked(&queue->bell);
        if (rc != 0) {
            return rc;
        }
    }
    ssti_ring_put_locked(&queue->ring, deposit);
    return 0;
}

/* Take the leaf and put, sleeping while the queue is full. */
static int
put_section(struct sst_queue *queue, struct ssti_deposit *deposit, int64_t deadline_ns)
{
    struct ssti_leaf_sleep sleep = {
        .class = SSTI_LEAF_B,
        .deadline_ns = deadline_ns,
        .count = 1,
    };
    int slept = deadline_ns == SST_NOW ? SST_ETIMEDOUT : 0;
    int rc;

    ssti_view_lock(&queue->view);
    while ((rc = put_locked(queue, deposit)) == SSTI_RING_FULL) {
        if (slept != 0) {
            rc = slept;
            break;
        }
        sleep.wake =
            ssti_queue_wake_locked(queue); /* we may be awake in another's place */
        slept = ssti_view_wait(&queue->view, &sleep, deadline_ns);
    }
    ssti_queue_unlock(queue);
    return rc;
}

/* A bounded queue that is full: look for a while before sleeping. */
static void
spin_for_room(struct sst_queue *queue, int64_t deadline_ns)
{
    struct ssti_spin_run run;

    if (!ssti_ring_is_full(&queue->ring)) {
        return;
    }
    ssti_spin_begin(&run, &queue->put_spin, deadline_ns);
    while (ssti_ring_is_full(&queue->ring) && ssti_spin_next(&run)) {
    }
    ssti_spin_end(&run, !ssti_ring_is_full(&queue->ring));
}

static int
put_deposit(struct sst_queue *queue, struct ssti_deposit *deposit, int64_t deadline_ns)
{
    int rc;

    spin_for_room(queue, deadline_ns);
    rc = put_section(queue, deposit, deadline_ns);
    while (rc == SSTI_RING_CHUNK) {
        rc = ssti_ring_make_chunk(&queue->ring, deposit);
        if (rc == 0) {
            rc = put_section(queue, deposit, deadline_ns);
        }
    }
    return rc;
}

static int
announce(void *object, struct sst_parcel **parcel, int64_t deadline_ns)
{
    return sst_queue_put_parcel(object, parcel, deadline_ns);
}

static int
look(void *object)
{
    const struct sst_queue *const queue = object;

    return (ssti_ring_flags(&queue->ring) & SSTI_RING_DISCARD) != 0 ? SST_ESHUTDOWN : 0;
}

/* There is no memory for a message: where a put may have to wait for a getter anyway it
 * goes in pieces. */
static int
put_pieces(struct sst_queue *queue, const struct sst_slice *slices, uint32_t count,
           int64_t deadline_ns)
{
    const struct ssti_pieces_way way = {
        .arena = queue->view.arena,
        .object = queue,
        .announce = announce,
        .look = look,
    };

    return sst_queue_item_max(queue) != 0
               ? ssti_pieces_send(&way, slices, count, deadline_ns)
               : SST_ELIMIT;
}

int
sst_queue_put_slices(struct sst_queue *queue, const struct sst_slice *slices,
                     uint32_t count, int64_t deadline_ns)
{
    struct ssti_deposit deposit;
    int rc;

    if (count > SST_SLICES_MAX) {
        return SST_EINVAL;
    }
    rc = ssti_deposit_init(&queue->ring, &deposit, slices, count);
    if (rc != 0) {
        return rc == SST_ELIMIT || rc == SST_ENOMEM
                   ? put_pieces(queue, slices, count, deadline_ns)
                   : rc;
    }
    rc = put_deposit(queue, &deposit, deadline_ns);
    ssti_deposit_fini(&queue->ring, &deposit);
    return rc;
}

int
sst_queue_put(struct sst_queue *queue, const void *data, uint64_t size,
              int64_t deadline_ns)
{
    const struct sst_slice slice = {data, size};

    return sst_queue_put_slices(queue, &slice, 1, deadline_ns);
}

int
sst_queue_put_parcel(struct sst_queue *queue, struct sst_parcel **parcel,
                     int64_t deadline_ns)
{
    struct ssti_deposit deposit;
    int rc;

    if ((*parcel)->arena != queue->view.arena) {
        return SST_EINVAL;
    }
    ssti_deposit_parcel(&queue->ring, &deposit, *parcel);
    rc = put_deposit(queue, &deposit, deadline_ns);
    ssti_deposit_fini(&queue->ring, &deposit);
    if (rc == 0) {
        ssti_parcel_forget(*parcel);
        *parcel = NULL;
    }
    return rc;
}

/* Put short messages in one section, as far as they fit: how many. */
static uint32_t
put_run(struct sst_queue *queue, const struct sst_slice *messages, uint32_t count)
{
    uint64_t bytes = 0;
    uint32_t done = 0;

    ssti_view_lock(&queue->view);
    while (done < count && done < RUN_MAX && bytes < RUN_BYTES_MAX &&
           messages[done].size <= SSTI_RING_INLINE_MAX) {
        struct ssti_deposit deposit;

        /* Short ones need nothing that could fail, or that fini would give back. */
        if (ssti_deposit_init(&queue->ring, &deposit, &messages[done], 1) != 0 ||
            put_locked(queue, &deposit) != 0) {
            break;
        }
        bytes += messages[done].size;
        done++;
    }
    ssti_queue_unlock(queue);
    return done;
}

int
sst_queue_put_many(struct sst_queue *queue, const struct sst_slice *messages,
                   uint32_t count, int64_t deadline_ns)
{
    uint32_t done = 0;
    int rc = 0;

    if (count > INT32_MAX) {
        return SST_EINVAL;
    }
    while (done < count && rc == 0) {
        const uint32_t run =
            done == 0 ? 0 : put_run(queue, messages + done, count - done);

        done += run;
        if (run == 0) {
            /* The first, or a long one, or one that needs a chunk. */
            rc = sst_queue_put_slices(queue, &messages[done], 1,
                                      done == 0 ? deadline_ns : SST_NOW);
            done += rc == 0 ? 1 : 0;
        }
    }
    return done != 0 ? (int)done : rc;
}

/* ---- Get ---- */

/* One attempt under the leaf: 0, SSTI_RING_EMPTY, SSTI_RING_RECEIPT, a status. */
static int
take_locked(struct sst_queue *queue, struct ssti_receipt *receipt)
{
    const uint32_t flags = ssti_ring_flags(&queue->ring);
    int rc;

    if ((flags & SSTI_RING_DISCARD) != 0) {
        return SST_ESHUTDOWN;
    }
    if (!queue->joinable) {
        rc = ssti_ring_take_locked(&queue->ring, receipt);
    }
    else {
        /* The drained chunks are left first: takers.c recognises a take by the
         * cursor. */
        rc = ssti_ring_peek_locked(&queue->ring);
        if (rc == 0) {
            ssti_takers_enter_locked(&queue->takers);
            rc = ssti_ring_take_locked(&queue->ring, receipt);
            ssti_takers_leave_locked(&queue->takers, rc == 0);
        }
    }
    return rc == SSTI_RING_EMPTY && (flags & SSTI_RING_SHUT) != 0 ? SST_ESHUTDOWN : rc;
}

void
ssti_queue_settle_bell_locked(struct sst_queue *queue)
{
    if (__builtin_expect(ssti_bell_is_there(&queue->bell), 0) &&
        ssti_bell_is_mine(&queue->bell)) {
        ssti_bell_settle_locked(&queue->bell);
    }
}

/* Take up to `count` messages; *taken of them were. The answer to the next is
 * returned. */
static int
take_run_locked(struct sst_queue *queue, struct ssti_receipt *receipt,
                struct sst_message *messages, uint32_t count, uint32_t *taken)
{
    uint64_t bytes = 0;
    uint32_t run = 0;
    int rc;

    while ((rc = take_locked(queue, receipt)) == 0) {
        *taken += 1;
        run++;
        bytes += messages[*taken - 1].size;
        if (*taken == count) {
            break;
        }
        ssti_receipt_next(receipt,
                          &messages[*taken]); /* before the next section, too */
        if (run == RUN_MAX || bytes >= RUN_BYTES_MAX) {
            break;
        }
    }
    return rc;
}

/* Take the leaf and as many messages as are there, sleeping while there are none. */
static int
take_section(struct sst_queue *queue, struct ssti_receipt *receipt,
             struct sst_message *messages, uint32_t count, uint32_t *taken,
             int64_t deadline_ns)
{
    struct ssti_leaf_sleep sleep = {
        .class = SSTI_LEAF_A,
        .deadline_ns = deadline_ns,
        .count = 1,
    };
    const uint32_t before = *taken;
    int slept = deadline_ns == SST_NOW ? SST_ETIMEDOUT : 0;
    int rc;

    ssti_view_lock(&queue->view);
    for (;;) {
        rc = take_run_locked(queue, receipt, messages, count, taken);
        if (rc != SSTI_RING_EMPTY || *taken != before) {
            break;
        }
        ssti_queue_settle_bell_locked(queue);
        if (slept != 0) {
            rc = slept;
            break;
        }
        sleep.wake =
            ssti_queue_wake_locked(queue); /* we may be awake in another's place */
        slept = ssti_view_wait(&queue->view, &sleep, deadline_ns);
    }
    ssti_queue_unlock(queue);
    return rc;
}

/* Is there a reason to take the leaf? A hint, but no message stays unseen for ever: a
 * putter that died between its message and its count leaves the leaf marked. */
static bool
looks_ready(const struct sst_queue *queue)
{
    return ssti_ring_count(&queue->ring) != 0 || ssti_ring_flags(&queue->ring) != 0 ||
           ssti_ring_is_orphaned(queue->view.leaf);
}

/* Look for a while whether something comes: false if nothing did. */
static bool
spin_for_message(struct sst_queue *queue, int64_t deadline_ns)
{
    struct ssti_spin_run run;
    bool ready;

    ssti_spin_begin(&run, &queue->get_spin, deadline_ns);
    while (!(ready = looks_ready(queue)) && ssti_spin_next(&run)) {
    }
    ssti_spin_end(&run, ready);
    return ready;
}

/* As sst_queue_get_many, of messages as they lie in the ring; count is not 0. */
static int
get_raw(struct sst_queue *queue, struct sst_message *messages, uint32_t count,
        int64_t deadline_ns)
{
    struct ssti_receipt receipt;
    uint32_t taken = 0;
    int rc = 0;

    if (queue->joinable) {
        rc = ssti_takers_prepare(&queue->takers);
        if (rc != 0) {
            return rc;
        }
    }
    if (!looks_ready(queue) && !spin_for_message(queue, deadline_ns) &&
        deadline_ns == SST_NOW && !ssti_bell_is_there(&queue->bell)) {
        return SST_ETIMEDOUT;
    }

    ssti_receipt_init(&receipt, messages);
    do {
        if (rc == SSTI_RING_RECEIPT) {
            rc = ssti_receipt_prepare(&queue->ring, &receipt);
        }
        if (rc == 0) {
            rc = take_section(queue, &receipt, messages, count, &taken,
                              taken == 0 ? deadline_ns : SST_NOW);
        }
    } while (taken < count && (rc == 0 || rc == SSTI_RING_RECEIPT));
    ssti_receipt_fini(&queue->ring, &receipt);

    trim(queue);
    ssti_queue_discard(queue);
    return taken != 0 ? (int)taken : rc;
}

/* One of several messages that were taken takes the place of another. */
static void
move_message(struct sst_message *to, struct sst_message *from)
{
    const bool is_small = from->data == from->small;

    if (to != from) {
        *to = *from;
        to->data = is_small ? to->small : from->data;
    }
}

/* Put together what came in pieces. How many messages are whole, those first; or why
 * there is none, SST_EAGAIN if there may be another. */
static int
gather(struct sst_queue *queue, struct sst_message *messages, int count)
{
    int failed = 0;
    int whole = 0;

    for (int i = 0; i < count; i++) {
        const int rc =
            ssti_pieces_possible(&messages[i]) ? ssti_pieces_gather(&messages[i]) : 0;

        if (rc == 0) {
            move_message(&messages[whole++], &messages[i]);
        }
        else if (rc != SST_EAGAIN || failed == 0) {
            failed = rc;
        }
        if (rc != 0 && queue->joinable) {
            /* What nobody gets is no item; it was counted, so this cannot fail. */
            (void)!sst_queue_task_done(queue);
        }
    }
    return whole != 0 ? whole : failed;
}

int
ssti_queue_take(struct sst_queue *queue, struct sst_message *message,
                int64_t deadline_ns)
{
    const int rc = get_raw(queue, message, 1, deadline_ns);

    return rc > 0 ? 0 : rc;
}

int
sst_queue_get_many(struct sst_queue *queue, struct sst_message *messages,
                   uint32_t count, int64_t deadline_ns)
{
    int rc;

    if (count == 0 || count > INT32_MAX) {
        return count == 0 ? 0 : SST_EINVAL;
    }
    do {
        rc = get_raw(queue, messages, count, deadline_ns);
        if (rc > 1 || (rc == 1 && ssti_pieces_possible(messages))) {
            rc = gather(queue, messages, rc);
        }
    } while (rc == SST_EAGAIN);
    return rc;
}

int
sst_queue_get(struct sst_queue *queue, struct sst_message *message, int64_t deadline_ns)
{
    const int rc = sst_queue_get_many(queue, message, 1, deadline_ns);

    return rc > 0 ? 0 : rc;
}

int
sst_queue_poll(struct sst_queue *queue, int64_t deadline_ns)
{
    struct ssti_leaf_sleep sleep = {
        .class = SSTI_LEAF_A,
        .deadline_ns = deadline_ns,
        .count = 1,
    };
    int slept = deadline_ns == SST_NOW ? SST_ETIMEDOUT : 0;
    int rc;

    if (looks_ready(queue) || spin_for_message(queue, deadline_ns)) {
        if (ssti_ring_count(&queue->ring) != 0) {
            return 1;
        }
    }
    else if (deadline_ns == SST_NOW && !ssti_bell_is_there(&queue->bell)) {
        return 0;
    }

    ssti_view_lock(&queue->view);
    for (;;) {
        rc = ssti_ring_peek_locked(&queue->ring);
        if (rc != SSTI_RING_EMPTY) {
            rc = rc == 0 ? 1 : rc;
            break;
        }
        if ((ssti_ring_flags(&queue->ring) & SSTI_RING_SHUT) != 0) {
            rc = 1;
            break;
        }
        ssti_queue_settle_bell_locked(queue);
        if (slept != 0) {
            rc = slept == SST_ETIMEDOUT ? 0 : slept;
            break;
        }
        sleep.wake =
            ssti_queue_wake_locked(queue); /* we may be awake in another's place */
        slept = ssti_view_wait(&queue->view, &sleep, deadline_ns);
    }
    ssti_queue_unlock(queue);
    trim(queue);
    return rc;
}

uint64_t
sst_queue_count(const struct sst_queue *queue)
{
    return ssti_ring_count(&queue->ring);
}

uint64_t
sst_queue_bytes(const struct sst_queue *queue)
{
    return ssti_ring_bytes(&queue->ring);
}

uint32_t
sst_queue_item_max(const struct sst_queue *queue)
{
    return ssti_load_rlx(&queue->shm->ring.item_max);
}
