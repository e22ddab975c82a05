/* SPDX-License-Identifier: MIT */

/* Pools, the owner's side of tasks and results.
 *
 * One leaf guards everything. Idle workers sleep as class A, the owner's threads that
 * want results as B, submitters to a pool that is full as C; what an unlock wakes
 * follows from the state: A while a task is queued, B while there is a result, C while
 * there is room. One sleeper of a class is woken at a time, and the next by the unlock
 * of the one woken.
 *
 * The steps that touch several words at once are lane.c's. Here each section consists
 * of such steps and of single stores.
 *
 * Death table: that of lane.c, ring.c and bell.c; and (process dies after ...)
 *   marking a task as cancelled  it is cancelled: who takes the record skips it
 *   skipping a record, not yet   the record is gone; the statistics count it as queued
 *    counted                     no more, as cancelled once
 * The owner's death ends the pool: workers see its life word.
 *
 * docs/internals/pool.rst tells more. */

#include "pool/pool.h"

#include "base/crashpoint.h"
#include "os/os.h"
#include "pool/worker.h"
#include "shm/arena.h"

enum {
    RUN_MAX = 64,          /* records moved in one section, */
    RUN_BYTES_MAX = 65536, /* and their bytes, so that others are not kept waiting */
    INLINE_ROOM = SSTI_RING_INLINE_MAX - (int)sizeof(struct sst_pool_head_shm),
};

uint32_t
ssti_pool_wake_locked(const struct sst_pool *pool)
{
    uint32_t wake = 0;

    if (ssti_load_rlx(&pool->shm->flags) != 0) {
        return SSTI_LEAF_ALL;
    }
    if (ssti_pool_queued(pool) != 0) {
        wake |= SSTI_LEAF_A;
    }
    if (ssti_ring_count(&pool->lane[SSTI_POOL_RESULTS]) != 0) {
        wake |= SSTI_LEAF_B;
    }
    if (!ssti_pool_is_full(pool)) {
        wake |= SSTI_LEAF_C;
    }
    return wake;
}

void
ssti_pool_unlock(struct sst_pool *pool)
{
    ssti_view_unlock(&pool->view, ssti_pool_wake_locked(pool), 1);
}

static void
section_lock(void *object)
{
    struct sst_pool *const pool = object;

    ssti_view_lock(&pool->view);
}

static void
section_unlock(void *object)
{
    ssti_pool_unlock(object);
}

struct ssti_ring_section
ssti_pool_section(struct sst_pool *pool)
{
    return (struct ssti_ring_section){section_lock, section_unlock, pool};
}

void
ssti_pool_trim(struct sst_pool *pool)
{
    const struct ssti_ring_section section = ssti_pool_section(pool);

    for (uint32_t i = 0; i < SSTI_POOL_LANES; i++) {
        if (__builtin_expect(ssti_ring_has_retired(&pool->lane[i]), 0)) {
            ssti_ring_trim(&pool->lane[i], &section);
        }
    }
}

/* ---- Submitting ---- */

static uint64_t
generation_of(uint64_t id)
{
    return id >> 32;
}

/* The owner notes that a task is on its way: under the leaf, so that nobody takes its
 * result, and finds that there are no deadlines any more, in between. */
static void
note_task_locked(struct sst_pool *pool, const struct sst_pool_task *task)
{
    uint64_t shortest = ssti_load_rlx(&pool->shortest_ns);
    const int64_t deadlines[2] = {task->soft_ns, task->hard_ns};

    ssti_fetch_add(&pool->outstanding, 1);
    for (int i = 0; i < 2; i++) {
        const uint64_t ns = deadlines[i] > 0 ? (uint64_t)deadlines[i] : 0;

        while (ns != 0 && (shortest == 0 || ns < shortest) &&
               !ssti_cas(&pool->shortest_ns, &shortest, ns)) {
        }
    }
}

static void
fill_head(struct sst_pool_head_shm *head, const struct sst_pool_task *task)
{
    head->id = task->id;
    head->function = task->function;
    head->tag = task->tag;
    head->first_ns = task->soft_ns;
    head->second_ns = task->hard_ns;
    head->kind = 0;
    head->code = 0;
    head->seat = SSTI_SEAT_NONE;
    head->pid = 0;
}

static bool
is_sane(const struct sst_pool_task *task)
{
    return generation_of(task->id) != 0 &&
           generation_of(task->id) < SSTI_POOL_MARK_CANCELLED &&
           task->priority < SST_POOL_PRIORITIES && task->soft_ns >= 0 &&
           task->hard_ns >= 0;
}

/* One attempt under the leaf: 0, SSTI_RING_FULL, SSTI_RING_CHUNK, a status. */
static int
put_locked(struct sst_pool *pool, const struct sst_pool_task *task,
           struct ssti_cargo *cargo)
{
    const uint32_t lane = task->priority;
    int rc;

    if ((ssti_load_rlx(&pool->shm->flags) & SSTI_POOL_SHUT) != 0) {
        return SST_ESHUTDOWN;
    }
    if (ssti_pool_is_full(pool)) {
        return SSTI_RING_FULL;
    }
    rc = ssti_lane_fit_locked(pool, lane, cargo);
    if (rc == 0) {
        ssti_lane_put_locked(pool, lane, cargo, SSTI_SEAT_NONE);
        note_task_locked(pool, task);
    }
    return rc;
}

static int
put_section(struct sst_pool *pool, const struct sst_pool_task *task,
            struct ssti_cargo *cargo, int64_t deadline_ns)
{
    struct ssti_leaf_sleep sleep = {
        .class = SSTI_LEAF_C,
        .deadline_ns = deadline_ns,
        .count = 1,
    };
    int slept = deadline_ns == SST_NOW ? SST_ETIMEDOUT : 0;
    int rc;

    ssti_view_lock(&pool->view);
    while ((rc = put_locked(pool, task, cargo)) == SSTI_RING_FULL) {
        if (slept != 0) {
            rc = slept;
            break;
        }
        sleep.wake = ssti_pool_wake_locked(pool);
        slept = ssti_view_wait(&pool->view, &sleep, deadline_ns);
    }
    ssti_pool_unlock(pool);
    return rc;
}

int
sst_pool_submit(struct sst_pool *pool, const struct sst_pool_task *task,
                int64_t deadline_ns)
{
    const uint32_t lane = task->priority;
    struct sst_parcel *const parcel = task->parcel != NULL ? *task->parcel : NULL;
    struct ssti_cargo cargo;
    int rc;

    if (!is_sane(task)) {
        return SST_EINVAL;
    }
    rc = ssti_mark_locked(pool, task->id) == NULL ? ssti_mark_map(pool, task->id, true)
                                                  : 0;
    fill_head(&cargo.head, task);
    if (rc == 0) {
        rc = ssti_cargo_init(pool, &cargo, lane, task->slices, task->slice_count,
                             parcel);
    }
    if (rc != 0) {
        return rc;
    }
    do {
        rc = put_section(pool, task, &cargo, deadline_ns);
        if (rc == SSTI_RING_CHUNK) {
            rc = ssti_ring_make_chunk(&pool->lane[lane], &cargo.deposit);
            rc = rc == 0 ? SSTI_RING_CHUNK : rc;
        }
    } while (rc == SSTI_RING_CHUNK);
    ssti_cargo_fini(pool, &cargo, lane);
    if (rc == 0 && task->parcel != NULL) {
        *task->parcel = NULL;
    }
    return rc;
}

/* Can it be put without anything that may fail? */
static bool
is_short(struct sst_pool *pool, const struct sst_pool_task *task)
{
    uint64_t size = 0;

    if (task->parcel != NULL || task->slice_count > SST_SLICES_MAX || !is_sane(task)) {
        return false;
    }
    for (uint32_t i = 0; i < task->slice_count; i++) {
        if (task->slices[i].size > INLINE_ROOM) {
            return false;
        }
        size += task->slices[i].size;
    }
    return size <= INLINE_ROOM && ssti_mark_locked(pool, task->id) != NULL;
}

/* Put short tasks in one section, as far as they fit: how many. */
static uint32_t
put_run(struct sst_pool *pool, const struct sst_pool_task *tasks, uint32_t count)
{
    uint64_t bytes = 0;
    uint32_t done = 0;

    ssti_view_lock(&pool->view);
    while (done < count && done < RUN_MAX && bytes < RUN_BYTES_MAX &&
           is_short(pool, &tasks[done])) {
        const struct sst_pool_task *const task = &tasks[done];
        struct ssti_cargo cargo;

        fill_head(&cargo.head, task);
        if (ssti_cargo_init(pool, &cargo, task->priority, task->slices,
                            task->slice_count, NULL) != 0 ||
            put_locked(pool, task, &cargo) != 0) {
            break;
        }
        bytes += cargo.head.size;
        done++;
    }
    ssti_pool_unlock(pool);
    return done;
}

int
sst_pool_submit_many(struct sst_pool *pool, const struct sst_pool_task *tasks,
                     uint32_t count, int64_t deadline_ns)
{
    uint32_t done = 0;
    int rc = 0;

    if (count > INT32_MAX) {
        return SST_EINVAL;
    }
    while (done < count && rc == 0) {
        const uint32_t run = done == 0 ? 0 : put_run(pool, tasks + done, count - done);

        done += run;
        if (run == 0) {
            /* The first, or a long one, or one that needs memory. */
            rc = sst_pool_submit(pool, &tasks[done], done == 0 ? deadline_ns : SST_NOW);
            done += rc == 0 ? 1 : 0;
        }
    }
    return done != 0 ? (int)done : rc;
}

int
sst_pool_cancel(struct sst_pool *pool, uint64_t id)
{
    const uint32_t generation = (uint32_t)generation_of(id);
    _Atomic uint32_t *mark;
    uint32_t value;
    int rc = 0;

    ssti_view_lock(&pool->view);
    mark = ssti_mark_locked(pool, id);
    value = mark != NULL ? ssti_load_rlx(mark) : 0;
    if (mark != NULL && (value & ~SSTI_POOL_MARK_CANCELLED) < generation) {
        ssti_store_rel(mark, generation | SSTI_POOL_MARK_CANCELLED);
        SST_CRASHPOINT(pool_cancelled);
        ssti_store_rlx(&pool->shm->cancelled, ssti_load_rlx(&pool->shm->cancelled) + 1);
        rc = 1;
    }
    ssti_pool_unlock(pool);
    if (rc == 1) {
        ssti_fetch_sub(&pool->outstanding, 1);
    }
    return rc;
}

uint64_t
sst_pool_outstanding(const struct sst_pool *pool)
{
    return ssti_load_acq(&pool->outstanding);
}

/* ---- Results ---- */

int
ssti_pool_deliver_locked(struct sst_pool *pool, struct ssti_cargo *cargo, uint32_t seat)
{
    int rc = ssti_lane_fit_locked(pool, SSTI_POOL_RESULTS, cargo);

    if (rc == 0 && ssti_bell_is_wanted(&pool->bell)) {
        rc = ssti_bell_ring_locked(&pool->bell);
    }
    if (rc == 0) {
        ssti_lane_put_locked(pool, SSTI_POOL_RESULTS, cargo, seat);
    }
    return rc;
}

static void
unpack_result(struct sst_pool *pool, const struct sst_pool_head_shm *head,
              struct sst_pool_result *result)
{
    result->id = head->id;
    result->function = head->function;
    result->tag = head->tag;
    result->kind = head->kind & UINT16_MAX;
    result->reason = head->kind >> 16;
    result->code = head->code;
    result->seat = head->seat;
    result->pid = head->pid;
    result->started_ns = head->first_ns;
    result->ended_ns = head->second_ns;
    if (result->kind != SST_POOL_NOTE && ssti_fetch_sub(&pool->outstanding, 1) == 1) {
        ssti_store_rlx(&pool->shortest_ns, 0);
    }
}

/* Take up to `count` results; *taken of them were. The answer to the next is
 * returned. */
static int
take_run_locked(struct sst_pool *pool, struct ssti_claim *claim,
                struct sst_pool_result *results, uint32_t count, uint32_t *taken)
{
    uint64_t bytes = 0;
    uint32_t run = 0;
    int rc = 0;

    while (rc == 0 && *taken < count && run < RUN_MAX && bytes < RUN_BYTES_MAX) {
        struct sst_pool_result *const result = &results[*taken];

        rc = ssti_lane_front_locked(pool, SSTI_POOL_RESULTS, claim);
        if (rc == 0) {
            rc = ssti_lane_take_locked(pool, SSTI_POOL_RESULTS, claim, SSTI_SEAT_NONE,
                                       &result->message);
        }
        if (rc == 0) {
            unpack_result(pool, &claim->head, result);
            bytes += result->message.size;
            *taken += 1;
            run++;
        }
    }
    return rc;
}

static int
take_section(struct sst_pool *pool, struct ssti_claim *claim,
             struct sst_pool_result *results, uint32_t count, uint32_t *taken,
             int64_t deadline_ns)
{
    struct ssti_leaf_sleep sleep = {
        .class = SSTI_LEAF_B,
        .deadline_ns = deadline_ns,
        .count = 1,
    };
    const uint32_t before = *taken;
    int slept = deadline_ns == SST_NOW ? SST_ETIMEDOUT : 0;
    int rc;

    ssti_view_lock(&pool->view);
    for (;;) {
        rc = take_run_locked(pool, claim, results, count, taken);
        if (rc != SSTI_RING_EMPTY || *taken != before) {
            break;
        }
        /* Who only tries looks up anyway, and is to arm the bell. */
        if (ssti_load_acq(&pool->nudged) != 0 && ssti_xchg(&pool->nudged, 0) != 0 &&
            deadline_ns != SST_NOW) {
            rc = SST_EAGAIN;
            break;
        }
        if (deadline_ns == SST_NOW && ssti_bell_is_there(&pool->bell) &&
            ssti_bell_is_mine(&pool->bell)) {
            ssti_bell_settle_locked(&pool->bell);
        }
        if (slept != 0) {
            rc = slept;
            break;
        }
        sleep.wake = ssti_pool_wake_locked(pool);
        slept = ssti_view_wait(&pool->view, &sleep, deadline_ns);
    }
    ssti_pool_unlock(pool);
    return rc;
}

static bool
looks_ready(const struct sst_pool *pool)
{
    return ssti_ring_count(&pool->lane[SSTI_POOL_RESULTS]) != 0 ||
           ssti_ring_is_orphaned(pool->view.leaf);
}

/* Look for a while. False when nothing came: then the crew's thread should run, for
 * who sleeps sees no death. */
static bool
spin_for_result(struct sst_pool *pool, int64_t deadline_ns)
{
    struct ssti_spin_run run;
    bool ready;

    ssti_spin_begin(&run, &pool->result_spin, deadline_ns);
    while (!(ready = looks_ready(pool)) && ssti_spin_next(&run)) {
    }
    ssti_spin_end(&run, ready);
    return ready;
}

int
sst_pool_results(struct sst_pool *pool, struct sst_pool_result *results, uint32_t count,
                 int64_t deadline_ns)
{
    struct ssti_claim claim;
    uint32_t taken = 0;
    int rc = 0;

    if (count == 0 || count > INT32_MAX) {
        return count == 0 ? 0 : SST_EINVAL;
    }
    if (!looks_ready(pool) && !spin_for_result(pool, deadline_ns)) {
        if (deadline_ns == SST_NOW && !ssti_bell_is_there(&pool->bell)) {
            return SST_ETIMEDOUT;
        }
        if (deadline_ns != SST_NOW && pool->on_sleep != NULL) {
            pool->on_sleep(pool->crew);
        }
    }
    ssti_claim_init(&claim);
    do {
        if (rc == SSTI_RING_RECEIPT) {
            rc = ssti_claim_prepare(pool, &claim);
        }
        if (rc == 0) {
            rc = take_section(pool, &claim, results, count, &taken,
                              taken == 0 ? deadline_ns : SST_NOW);
        }
    } while (taken < count && (rc == 0 || rc == SSTI_RING_RECEIPT));
    ssti_claim_fini(pool, &claim);
    ssti_pool_trim(pool);
    return taken != 0 ? (int)taken : rc;
}

int
sst_pool_fd(struct sst_pool *pool, struct sst_error *err)
{
    struct ssti_bell_opening opening;
    int rc;

    if (ssti_bell_is_mine(&pool->bell)) {
        return ssti_load_acq(&pool->bell.fd);
    }
    ssti_bell_disown(&pool->bell);
    rc = ssti_bell_prepare(&pool->bell, &opening, err);
    if (rc != 0) {
        return rc;
    }
    ssti_view_lock(&pool->view);
    rc = ssti_bell_enter_locked(&pool->bell, &opening,
                                ssti_ring_count(&pool->lane[SSTI_POOL_RESULTS]) != 0);
    ssti_pool_unlock(pool);
    return ssti_bell_opened(&pool->bell, &opening, rc, err);
}
