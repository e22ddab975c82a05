/* SPDX-License-Identifier: MIT */

/* Seats, the owner's side: given, watched, condemned, buried.
 *
 * Who is to be killed is condemned first, under the leaf: from then on it cannot
 * finish, so that a result and a kill exclude each other. When a worker has ended, and
 * only then, its seat is buried: a lease that is left becomes a LOST result by the same
 * step that finishing is.
 *
 * Death table: that of lane.c. Only the owner writes here, and its death ends the
 * pool. */

#include "base/crashpoint.h"
#include "os/os.h"
#include "pool/worker.h"

int
sst_pool_reserve(struct sst_pool *pool, uint32_t task_max, uint64_t *seat)
{
    int rc = SST_ELIMIT;

    ssti_view_lock(&pool->view);
    for (uint32_t i = 0; i < pool->seat_max && rc != 0; i++) {
        struct sst_pool_seat_shm *const shm = &pool->seats[i];
        const uint32_t generation = ssti_load_rlx(&shm->generation) + 1;

        if (ssti_load_rlx(&shm->state) != SST_SEAT_FREE) {
            continue;
        }
        ssti_store_rlx(&shm->generation, generation);
        ssti_store_rlx(&shm->proc, 0);
        ssti_store_rlx(&shm->pid, 0);
        ssti_store_rlx(&shm->task_max, task_max);
        ssti_store_rlx(&shm->dismissed, 0);
        ssti_store_rlx(&shm->condemned, 0);
        ssti_store_rlx(&shm->ready, 0);
        ssti_store_rlx(&shm->soft_due, 0);
        ssti_store_rlx(&shm->done, 0);
        ssti_store_rlx(&shm->failed, 0);
        ssti_store_rlx(&shm->busy_ns, 0);
        ssti_store_rel(&shm->state, SST_SEAT_STARTING);
        *seat = ssti_seat_number(generation, i);
        rc = 0;
    }
    ssti_pool_unlock(pool);
    return rc;
}

/* Its lease, if there is one, becomes the head of a result. */
static bool
lost_head(const struct sst_pool_seat_shm *shm, uint32_t index, int32_t code,
          struct sst_pool_head_shm *head)
{
    head->id = ssti_load_rlx(&shm->task);
    head->function = ssti_load_rlx(&shm->function);
    head->tag = ssti_load_rlx(&shm->tag);
    head->kind = SST_POOL_LOST | ssti_load_rlx(&shm->condemned) << 16;
    head->code = code;
    head->seat = index;
    head->pid = (int32_t)ssti_load_rlx(&shm->pid);
    head->first_ns = ssti_load_rlx(&shm->started_ns);
    head->second_ns = ssti_os_now_ns();
    return head->id != 0;
}

/* One attempt: 1 when there was a task, 0, SSTI_RING_CHUNK, a status. */
static int
bury_locked(struct sst_pool *pool, struct sst_pool_seat_shm *shm, uint32_t index,
            int32_t code, struct ssti_cargo *cargo)
{
    struct sst_pool_shm *const own = pool->shm;
    int rc = 0;

    if (lost_head(shm, index, code, &cargo->head)) {
        rc = ssti_pool_deliver_locked(pool, cargo, index);
        if (rc != 0) {
            return rc;
        }
        ssti_store_rlx(&own->past_lost, ssti_load_rlx(&own->past_lost) + 1);
        rc = 1;
    }
    ssti_store_rlx(&own->past_done,
                   ssti_load_rlx(&own->past_done) + ssti_load_rlx(&shm->done));
    ssti_store_rlx(&own->past_failed,
                   ssti_load_rlx(&own->past_failed) + ssti_load_rlx(&shm->failed));
    ssti_store_rlx(&own->past_busy_ns,
                   ssti_load_rlx(&own->past_busy_ns) + ssti_load_rlx(&shm->busy_ns));
    ssti_store_rel(&shm->state, SST_SEAT_FREE);
    SST_CRASHPOINT(pool_buried);
    return rc;
}

int
sst_pool_bury(struct sst_pool *pool, uint64_t seat, int32_t code)
{
    struct sst_pool_seat_shm *shm;
    struct ssti_cargo cargo;
    int rc = ssti_cargo_init(pool, &cargo, SSTI_POOL_RESULTS, NULL, 0, NULL);

    if (rc != 0) {
        return rc;
    }
    do {
        ssti_view_lock(&pool->view);
        shm = ssti_seat_locked(pool, seat);
        rc = shm != NULL ? bury_locked(pool, shm, ssti_seat_index(seat), code, &cargo)
                         : 0;
        ssti_pool_unlock(pool);
        if (rc == SSTI_RING_CHUNK) {
            rc = ssti_ring_make_chunk(&pool->lane[SSTI_POOL_RESULTS], &cargo.deposit);
            rc = rc == 0 ? SSTI_RING_CHUNK : rc;
        }
    } while (rc == SSTI_RING_CHUNK);
    ssti_cargo_fini(pool, &cargo, SSTI_POOL_RESULTS);
    return rc;
}

void
sst_pool_dismiss(struct sst_pool *pool, uint64_t seat)
{
    struct sst_pool_seat_shm *shm;

    ssti_view_lock(&pool->view);
    shm = ssti_seat_locked(pool, seat);
    if (shm != NULL) {
        ssti_store_rel(&shm->dismissed, 1);
    }
    ssti_view_unlock(&pool->view, SSTI_LEAF_ALL, SSTI_LEAF_EVERYBODY);
}

int
sst_pool_condemn(struct sst_pool *pool, uint64_t id, enum sst_pool_reason reason,
                 uint64_t *seat)
{
    int rc = 0;

    ssti_view_lock(&pool->view);
    for (uint32_t i = 0; id != 0 && i < pool->seat_max && rc == 0; i++) {
        struct sst_pool_seat_shm *const shm = &pool->seats[i];

        if (ssti_load_rlx(&shm->state) != SST_SEAT_FREE &&
            ssti_load_rlx(&shm->task) == id) {
            if (ssti_load_rlx(&shm->condemned) == 0) {
                ssti_store_rel(&shm->condemned, (uint32_t)reason);
            }
            *seat = ssti_seat_number(ssti_load_rlx(&shm->generation), i);
            rc = 1;
        }
    }
    ssti_pool_unlock(pool);
    return rc;
}

bool
ssti_seat_soften(struct sst_pool *pool, uint64_t seat, uint64_t id)
{
    struct sst_pool_seat_shm *shm;
    bool still;

    ssti_view_lock(&pool->view);
    shm = ssti_seat_locked(pool, seat);
    still = shm != NULL && ssti_load_rlx(&shm->task) == id;
    if (still) {
        ssti_store_rel(&shm->soft_due, id);
    }
    ssti_pool_unlock(pool);
    return still;
}

bool
ssti_seat_was_ready(struct sst_pool *pool, uint64_t seat)
{
    struct sst_pool_seat_shm *shm;
    bool ready;

    ssti_view_lock(&pool->view);
    shm = ssti_seat_locked(pool, seat);
    ready = shm != NULL && ssti_load_rlx(&shm->ready) != 0;
    ssti_pool_unlock(pool);
    return ready;
}

int
sst_pool_seat(struct sst_pool *pool, uint32_t index, struct sst_pool_seat *out)
{
    struct sst_pool_seat_shm *shm;

    if (index >= pool->seat_max) {
        return SST_EINVAL;
    }
    shm = &pool->seats[index];
    ssti_view_lock(&pool->view);
    *out = (struct sst_pool_seat){
        .seat = ssti_seat_number(ssti_load_rlx(&shm->generation), index),
        .id = ssti_load_rlx(&shm->task),
        .state = ssti_load_rlx(&shm->state),
        .pid = (int32_t)ssti_load_rlx(&shm->pid),
        .started_ns = ssti_load_rlx(&shm->started_ns),
        .soft_ns = ssti_load_rlx(&shm->soft_ns),
        .hard_ns = ssti_load_rlx(&shm->hard_ns),
        .done = ssti_load_rlx(&shm->done),
        .failed = ssti_load_rlx(&shm->failed),
        .busy_ns = ssti_load_rlx(&shm->busy_ns),
        .dismissed = ssti_load_rlx(&shm->dismissed),
        .condemned = ssti_load_rlx(&shm->condemned),
    };
    ssti_pool_unlock(pool);
    if (out->state == SST_SEAT_IDLE && out->id != 0) {
        out->state = SST_SEAT_BUSY;
    }
    return 0;
}

void
sst_pool_statistics(struct sst_pool *pool, struct sst_pool_statistics *out)
{
    struct sst_pool_shm *const shm = pool->shm;

    *out = (struct sst_pool_statistics){0};
    ssti_view_lock(&pool->view);
    out->done = ssti_load_rlx(&shm->past_done);
    out->failed = ssti_load_rlx(&shm->past_failed);
    out->busy_ns = ssti_load_rlx(&shm->past_busy_ns);
    out->lost = ssti_load_rlx(&shm->past_lost);
    out->cancelled = ssti_load_rlx(&shm->cancelled);
    for (uint32_t i = 0; i < SSTI_POOL_RESULTS; i++) {
        out->submitted += ssti_load_rlx(&shm->ring[i].put_count);
        out->taken += ssti_load_rlx(&shm->ring[i].got_count);
    }
    out->queued = out->submitted - out->taken;
    out->taken -= ssti_load_rlx(&shm->skipped);
    out->results = ssti_ring_count(&pool->lane[SSTI_POOL_RESULTS]);
    for (uint32_t i = 0; i < pool->seat_max; i++) {
        const struct sst_pool_seat_shm *const seat = &pool->seats[i];
        const uint32_t state = ssti_load_rlx(&seat->state);

        if (state == SST_SEAT_FREE) {
            continue;
        }
        out->seats++;
        out->idle += state == SST_SEAT_IDLE && ssti_load_rlx(&seat->task) == 0;
        out->done += ssti_load_rlx(&seat->done);
        out->failed += ssti_load_rlx(&seat->failed);
        out->busy_ns += ssti_load_rlx(&seat->busy_ns);
    }
    ssti_pool_unlock(pool);
}
