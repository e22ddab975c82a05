/* SPDX-License-Identifier: MIT */

/* Workers: take a task, finish it, take the next.
 *
 * Finishing and taking are two steps of lane.c in one section, so that a task costs its
 * worker one round of the leaf. What a lease says besides the id is written before the
 * id is, and means nothing without it.
 *
 * A worker sleeps in class A of the pool's leaf and on the owner's life word: without
 * an owner it ends.
 *
 * Death table: that of lane.c; and (worker dies after ...)
 *   entering          its seat says so: the owner buries it
 *   being counted     done and busy time may miss the last task
 *   getting up        buried like any other */

#include "pool/worker.h"

#include "base/alloc.h"
#include "base/crashpoint.h"
#include "base/status.h"
#include "os/os.h"
#include "shm/arena.h"

enum {
    SKIPPED = 100, /* a cancelled task was taken out: free it, and look again */
};

struct sst_pool_worker {
    struct sst_pool *pool;
    struct sst_pool_seat_shm *seat;
    struct ssti_claim claim;
    struct ssti_spin spin;
    struct sst_message skipped;
    uint64_t number;
    uint64_t owner; /* 0: we are the owner ourselves */
    uint32_t index;
    int32_t pid;
    /* of the task in hand */
    uint64_t id;
    uint64_t function;
    uint64_t tag;
    int64_t started_ns;
};

struct sst_pool_seat_shm *
ssti_seat_locked(struct sst_pool *pool, uint64_t seat)
{
    const uint32_t index = ssti_seat_index(seat);

    if (index >= pool->seat_max ||
        ssti_load_rlx(&pool->seats[index].generation) != (uint32_t)(seat >> 32) ||
        ssti_load_rlx(&pool->seats[index].state) == SST_SEAT_FREE) {
        return NULL;
    }
    return &pool->seats[index];
}

int
sst_pool_enter(struct sst_pool *pool, uint64_t seat, struct sst_pool_worker **out,
               struct sst_error *err)
{
    struct sst_pool_worker *const worker = ssti_alloc(sizeof *worker);
    const uint64_t self = ssti_proc_self(pool->view.arena);
    const uint64_t owner = ssti_load_rlx(&pool->shm->owner);
    struct sst_pool_seat_shm *shm;

    if (worker == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "no memory for a worker");
    }
    *worker = (struct sst_pool_worker){
        .pool = pool,
        .number = seat,
        .owner = owner != self ? owner : 0,
        .index = ssti_seat_index(seat),
        .pid = ssti_os_pid(),
    };
    ssti_claim_init(&worker->claim);
    ssti_view_lock(&pool->view);
    shm = ssti_seat_locked(pool, seat);
    if (shm != NULL && ssti_load_rlx(&shm->proc) == 0) {
        ssti_store_rlx(&shm->pid, (uint32_t)worker->pid);
        ssti_store_rel(&shm->proc, self);
        SST_CRASHPOINT(pool_entered);
        worker->seat = shm;
    }
    ssti_pool_unlock(pool);
    if (worker->seat == NULL) {
        ssti_free(worker);
        return ssti_error_set(err, SST_ESTALE, "the seat was given up");
    }
    *out = worker;
    return 0;
}

/* Was the task of this head cancelled? */
static bool
is_cancelled(struct sst_pool *pool, uint64_t id)
{
    const uint32_t generation = (uint32_t)(id >> 32);
    const uint32_t mark = ssti_load_rlx(ssti_mark_locked(pool, id));
    const uint32_t marked = mark & ~SSTI_POOL_MARK_CANCELLED;

    return marked > generation ||
           (marked == generation && (mark & SSTI_POOL_MARK_CANCELLED) != 0);
}

/* Begin the lease of what front found. */
static int
lease_locked(struct sst_pool_worker *worker, uint32_t lane, struct sst_pool_job *job,
             int64_t now_ns)
{
    const struct sst_pool_head_shm *const head = &worker->claim.head;
    struct sst_pool_seat_shm *const seat = worker->seat;
    int rc;

    ssti_store_rlx(&seat->function, head->function);
    ssti_store_rlx(&seat->tag, head->tag);
    ssti_store_rlx(&seat->started_ns, now_ns);
    ssti_store_rlx(&seat->soft_ns, head->first_ns);
    ssti_store_rlx(&seat->hard_ns, head->second_ns);
    SST_CRASHPOINT(pool_lease_written);
    rc = ssti_lane_take_locked(worker->pool, lane, &worker->claim, worker->index,
                               &job->message);
    if (rc != 0) {
        return rc;
    }
    worker->id = job->id = head->id;
    worker->function = job->function = head->function;
    worker->tag = job->tag = head->tag;
    worker->started_ns = job->started_ns = now_ns;
    job->soft_ns = head->first_ns;
    job->hard_ns = head->second_ns;
    return 0;
}

/* One attempt: 0, SSTI_RING_EMPTY, SSTI_RING_RECEIPT, SKIPPED, a status. */
static int
take_locked(struct sst_pool_worker *worker, struct sst_pool_job *job, int64_t now_ns)
{
    struct sst_pool *const pool = worker->pool;
    const uint32_t flags = ssti_load_rlx(&pool->shm->flags);
    const uint32_t task_max = ssti_load_rlx(&worker->seat->task_max);
    int rc = SSTI_RING_EMPTY;
    uint32_t lane = 0;

    if ((flags & SSTI_POOL_DISCARD) != 0) {
        return SST_ESHUTDOWN;
    }
    if (ssti_load_rlx(&worker->seat->dismissed) != 0 ||
        ssti_load_rlx(&worker->seat->condemned) != 0 ||
        (task_max != 0 && ssti_load_rlx(&worker->seat->done) >= task_max)) {
        return SST_EOF;
    }
    while (lane < SSTI_POOL_RESULTS) {
        rc = ssti_ring_count(&pool->lane[lane]) != 0
                 ? ssti_lane_front_locked(pool, lane, &worker->claim)
                 : SSTI_RING_EMPTY;
        if (rc != SSTI_RING_EMPTY) {
            break;
        }
        lane++;
    }
    if (rc == SSTI_RING_EMPTY) {
        return (flags & SSTI_POOL_SHUT) != 0 ? SST_ESHUTDOWN : rc;
    }
    if (rc != 0) {
        return rc;
    }
    if (!is_cancelled(pool, worker->claim.head.id)) {
        return lease_locked(worker, lane, job, now_ns);
    }
    rc = ssti_lane_take_locked(pool, lane, &worker->claim, SSTI_SEAT_NONE,
                               &worker->skipped);
    if (rc == 0) {
        ssti_store_rlx(&pool->shm->skipped, ssti_load_rlx(&pool->shm->skipped) + 1);
    }
    return rc == 0 ? SKIPPED : rc;
}

static int
take_section(struct sst_pool_worker *worker, struct sst_pool_job *job,
             int64_t deadline_ns)
{
    struct sst_pool *const pool = worker->pool;
    struct ssti_leaf_sleep sleep = {
        .class = SSTI_LEAF_A,
        .deadline_ns = deadline_ns,
        .count = 1,
    };
    int slept = deadline_ns == SST_NOW ? SST_ETIMEDOUT : 0;
    int rc;

    ssti_view_lock(&pool->view);
    if (ssti_load_rlx(&worker->seat->state) == SST_SEAT_STARTING) {
        ssti_store_rlx(&worker->seat->ready, 1);
        ssti_store_rel(&worker->seat->state, SST_SEAT_IDLE);
    }
    while ((rc = take_locked(worker, job, ssti_os_now_ns())) == SSTI_RING_EMPTY) {
        if (slept != 0) {
            rc = slept;
            break;
        }
        if (worker->owner != 0 &&
            !ssti_view_watch(&pool->view, worker->owner, &sleep, deadline_ns)) {
            rc = SST_EOF;
            break;
        }
        sleep.wake = ssti_pool_wake_locked(pool);
        slept = ssti_view_wait(&pool->view, &sleep, deadline_ns);
    }
    ssti_pool_unlock(pool);
    return rc;
}

static bool
looks_ready(const struct sst_pool_worker *worker)
{
    const struct sst_pool *const pool = worker->pool;

    return ssti_pool_queued(pool) != 0 || ssti_load_rlx(&pool->shm->flags) != 0 ||
           ssti_load_rlx(&worker->seat->dismissed) != 0 ||
           ssti_ring_is_orphaned(pool->view.leaf);
}

static void
spin_for_task(struct sst_pool_worker *worker, int64_t deadline_ns)
{
    struct ssti_spin_run run;
    bool ready;

    if (looks_ready(worker)) {
        return;
    }
    ssti_spin_begin(&run, &worker->spin, deadline_ns);
    while (!(ready = looks_ready(worker)) && ssti_spin_next(&run)) {
    }
    ssti_spin_end(&run, ready);
}

int
sst_pool_take(struct sst_pool_worker *worker, struct sst_pool_job *job,
              int64_t deadline_ns)
{
    int rc;

    if (worker->id != 0) {
        return SST_EINVAL;
    }
    spin_for_task(worker, deadline_ns);
    do {
        rc = take_section(worker, job, deadline_ns);
        if (rc == SKIPPED) {
            sst_message_free(&worker->skipped);
        }
        else if (rc == SSTI_RING_RECEIPT) {
            rc = ssti_claim_prepare(worker->pool, &worker->claim);
            rc = rc == 0 ? SSTI_RING_RECEIPT : rc;
        }
    } while (rc == SKIPPED || rc == SSTI_RING_RECEIPT);
    ssti_pool_trim(worker->pool);
    return rc;
}

/* Deliver, and take the next: *taken is the answer to that. 0, SSTI_RING_CHUNK, a
 * status. */
static int
finish_section(struct sst_pool_worker *worker, struct ssti_cargo *cargo,
               struct sst_pool_job *next, int *taken)
{
    struct sst_pool *const pool = worker->pool;
    struct sst_pool_seat_shm *const seat = worker->seat;
    int rc;

    ssti_view_lock(&pool->view);
    rc = ssti_load_rlx(&seat->condemned) != 0
             ? SST_ECLOSED
             : ssti_pool_deliver_locked(pool, cargo, worker->index);
    if (rc == 0) {
        const int64_t busy_ns = cargo->head.second_ns - cargo->head.first_ns;

        ssti_store_rlx(&seat->done, ssti_load_rlx(&seat->done) + 1);
        ssti_store_rlx(&seat->busy_ns,
                       ssti_load_rlx(&seat->busy_ns) + (uint64_t)busy_ns);
        if (cargo->head.code != 0) {
            ssti_store_rlx(&seat->failed, ssti_load_rlx(&seat->failed) + 1);
        }
        worker->id = 0;
        if (next != NULL) {
            *taken = take_locked(worker, next, cargo->head.second_ns);
        }
    }
    ssti_pool_unlock(pool);
    return rc;
}

static void
fill_head(const struct sst_pool_worker *worker, struct sst_pool_head_shm *head,
          uint32_t kind)
{
    head->id = worker->id;
    head->function = worker->function;
    head->tag = worker->tag;
    head->kind = kind;
    head->code = 0;
    head->seat = worker->index;
    head->pid = worker->pid;
    head->first_ns = worker->started_ns;
    head->second_ns = ssti_os_now_ns();
}

int
sst_pool_finish(struct sst_pool_worker *worker, const struct sst_pool_outcome *outcome,
                struct sst_pool_job *next, int64_t deadline_ns)
{
    struct sst_pool *const pool = worker->pool;
    struct sst_parcel *const parcel = outcome->parcel != NULL ? *outcome->parcel : NULL;
    struct ssti_cargo cargo;
    int taken = SST_EAGAIN;
    int rc;

    if (worker->id == 0) {
        return SST_EINVAL;
    }
    rc = ssti_cargo_init(pool, &cargo, SSTI_POOL_RESULTS, outcome->slices,
                         outcome->slice_count, parcel);
    if (rc != 0) {
        return rc;
    }
    fill_head(worker, &cargo.head, SST_POOL_DONE);
    cargo.head.code = outcome->code;
    while ((rc = finish_section(worker, &cargo, next, &taken)) == SSTI_RING_CHUNK) {
        rc = ssti_ring_make_chunk(&pool->lane[SSTI_POOL_RESULTS], &cargo.deposit);
        if (rc != 0) {
            break;
        }
    }
    ssti_cargo_fini(pool, &cargo, SSTI_POOL_RESULTS);
    if (rc != 0) {
        return rc;
    }
    if (outcome->parcel != NULL) {
        *outcome->parcel = NULL;
    }
    if (taken == SKIPPED) {
        sst_message_free(&worker->skipped);
    }
    else if (taken <= 0) {
        return taken;
    }
    rc = sst_pool_take(worker, next, deadline_ns);
    return rc == SST_ENOMEM || rc == SST_ELIMIT ? SST_EAGAIN : rc;
}

int
sst_pool_tell(struct sst_pool_worker *worker, uint64_t tag,
              const struct sst_slice *slices, uint32_t slice_count)
{
    struct sst_pool *const pool = worker->pool;
    struct ssti_cargo cargo;
    int rc =
        ssti_cargo_init(pool, &cargo, SSTI_POOL_RESULTS, slices, slice_count, NULL);

    if (rc != 0) {
        return rc;
    }
    fill_head(worker, &cargo.head, SST_POOL_NOTE);
    cargo.head.tag = tag;
    do {
        ssti_view_lock(&pool->view);
        rc = ssti_pool_deliver_locked(pool, &cargo, SSTI_SEAT_NONE);
        ssti_pool_unlock(pool);
        if (rc == SSTI_RING_CHUNK) {
            rc = ssti_ring_make_chunk(&pool->lane[SSTI_POOL_RESULTS], &cargo.deposit);
            rc = rc == 0 ? SSTI_RING_CHUNK : rc;
        }
    } while (rc == SSTI_RING_CHUNK);
    ssti_cargo_fini(pool, &cargo, SSTI_POOL_RESULTS);
    return rc;
}

bool
sst_pool_soft_deadline(struct sst_pool_worker *worker)
{
    const uint64_t id = ssti_load_acq(&worker->seat->task);

    if (id == 0 || ssti_load_acq(&worker->seat->soft_due) != id) {
        return false;
    }
    ssti_store_rel(&worker->seat->soft_due, 0);
    return true;
}

uint64_t
sst_pool_task_id(const struct sst_pool_worker *worker)
{
    return worker->id;
}

struct sst_pool_worker *
sst_pool_leave(struct sst_pool_worker *worker)
{
    if (worker == NULL) {
        return NULL;
    }
    ssti_view_lock(&worker->pool->view);
    if (ssti_seat_locked(worker->pool, worker->number) == worker->seat) {
        ssti_store_rel(&worker->seat->state, SST_SEAT_LEFT);
        SST_CRASHPOINT(pool_left);
    }
    ssti_pool_unlock(worker->pool);
    ssti_claim_fini(worker->pool, &worker->claim);
    return ssti_free(worker);
}
