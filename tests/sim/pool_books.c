/* SPDX-License-Identifier: MIT */
#include "pool_books.h"

#include <string.h>

#include "pool/pool.h"
#include "ring/record.h"
#include "shm/arena.h"
#include "sim_shm.h"

struct pool_books p;

/* ---- What sleepers are owed ---- */

static uint64_t
count_now(uint32_t lane)
{
    return ssti_load_rlx(&p.shm->ring[lane].put_count) -
           ssti_load_rlx(&p.shm->ring[lane].got_count);
}

static uint64_t
queued_now(void)
{
    return count_now(0) + count_now(1) + count_now(2);
}

static enum sim_need
told_of_death(void)
{
    return sim.kills <= 1 && sim.kills_of_many == 0 ? SIM_MUST_LEARN_SOON
                                                    : SIM_MUST_LEARN;
}

struct sst_pool_seat_shm *
pool_seat_shm(uint32_t index)
{
    return (struct sst_pool_seat_shm *)(void *)(sim_buffer +
                                                ssti_load_rlx(&p.shm->seats)) +
           index;
}

enum sim_need
pool_worker_need(void *arg)
{
    const uint32_t index = (uint32_t)*(const uint64_t *)arg - 1;

    if (sim.processes[p.owner].dead) {
        return told_of_death();
    }
    return queued_now() != 0 || ssti_load_rlx(&p.shm->flags) != 0 ||
                   ssti_load_rlx(&pool_seat_shm(index)->dismissed) != 0
               ? SIM_MUST_WAKE
               : SIM_MAY_SLEEP;
}

enum sim_need
pool_submitter_need(void *arg)
{
    (void)arg;
    return queued_now() < p.options.task_max || ssti_load_rlx(&p.shm->flags) != 0
               ? SIM_MUST_WAKE
               : SIM_MAY_SLEEP;
}

enum sim_need
pool_waiter_need(void *arg)
{
    (void)arg;
    return p.all_done != 0 || count_now(SSTI_POOL_RESULTS) != 0 ||
                   ssti_load_rlx(&p.pool->leading) == 0
               ? SIM_MUST_WAKE
               : SIM_MAY_SLEEP;
}

enum sim_need
pool_poller_need(void *arg)
{
    (void)arg;
    return count_now(SSTI_POOL_RESULTS) != 0 ? SIM_MUST_WAKE : SIM_MAY_SLEEP;
}

enum sim_need
pool_no_need(void *arg)
{
    (void)arg;
    return SIM_MAY_SLEEP;
}

/* ---- Books ---- */

uint64_t
pool_compose(uint8_t *body, uint32_t number, uint32_t salt)
{
    const uint64_t size = (number * 37 + salt * 11) % BODY_MAX;

    for (uint64_t i = 0; i < size; i++) {
        body[i] = (uint8_t)(number * 5 + salt + i);
    }
    return size;
}

void
pool_check_body(const struct sst_message *message, uint32_t number, uint32_t salt)
{
    uint8_t expected[BODY_MAX];
    uint8_t body[BODY_MAX];
    const uint64_t size = pool_compose(expected, number, salt);

    sim_check(message->size == size);
    ssti_copy_out(body, message->data, size);
    sim_check(memcmp(body, expected, size) == 0);
}

bool
pool_is_open(const struct task *task)
{
    return task->fate == TRIED || task->fate == SUBMITTED;
}

struct task *
pool_task(uint64_t id, uint64_t tag)
{
    sim_check(tag < p.begun && p.tasks[tag].id == id);
    return &p.tasks[tag];
}

void
pool_look_whether_done(void)
{
    for (uint32_t i = 0; i < p.task_count; i++) {
        if (p.tasks[i].fate == NOT_YET || pool_is_open(&p.tasks[i])) {
            return;
        }
    }
    p.all_done = p.all_in;
}

void
pool_settle(struct task *task, enum fate fate)
{
    sim_check(pool_is_open(task));
    task->fate = fate;
    pool_look_whether_done();
}

/* ---- Where tasks are ---- */

/* Count each task in a lane. */
static void
look_into(uint32_t lane, uint32_t *places)
{
    const struct sst_ring_shm *const ring = &p.shm->ring[lane];
    uint64_t at = ssti_load_rlx(&ring->get_chunk);
    uint32_t cursor = ssti_load_rlx(&ring->get_cursor);

    while (at != 0) {
        struct sst_chunk_shm *const chunk = (void *)(sim_buffer + at);
        const bool is_last = at == ssti_load_rlx(&ring->put_chunk);
        const uint32_t limit =
            is_last ? ssti_load_rlx(&ring->put_cursor) : ssti_load_rlx(&chunk->end);
        struct ssti_record record;

        while (ssti_record_read(chunk, ssti_load_rlx(&chunk->size), cursor, limit,
                                &record) == 0) {
            struct sst_pool_head_shm head;
            const uint32_t size =
                ssti_head_decode(ssti_chunk_data(chunk, record.at), record.size, &head);

            sim_check(size != 0);
            if ((head.kind & UINT16_MAX) != SST_POOL_NOTE) {
                (void)pool_task(head.id, head.tag);
                places[head.tag]++;
            }
            cursor = record.next;
        }
        at = is_last ? 0 : ssti_load_rlx(&chunk->next);
        cursor = 0;
    }
}

void
pool_check_places(void)
{
    uint32_t queued[TASKS_MAX] = {0};
    uint32_t taken[TASKS_MAX] = {0};
    uint32_t open = 0;

    if (p.shm == NULL || sim.processes[p.owner].killed || !sim_shm_is_live(p.shm) ||
        (ssti_load_rlx(&p.shm->leaf.word) & UINT32_C(0x40000000)) != 0) {
        return;
    }
    for (uint32_t lane = 0; lane < SSTI_POOL_LANES; lane++) {
        look_into(lane, lane == SSTI_POOL_RESULTS ? taken : queued);
    }
    for (uint32_t s = 0; s < SEATS; s++) {
        const uint64_t id = ssti_load_rlx(&pool_seat_shm(s)->task);

        for (uint32_t i = 0; id != 0 && i < p.begun; i++) {
            taken[i] += p.tasks[i].id == id;
        }
    }
    for (uint32_t i = 0; i < p.begun; i++) {
        const enum fate fate = p.tasks[i].fate;

        open += pool_is_open(&p.tasks[i]);
        if (fate == SUBMITTED && queued[i] + taken[i] != 1 && !p.is_shut) {
            sim_fail("task %u is queued %u times and taken %u times", i, queued[i],
                     taken[i]);
        }
        if ((fate == CANCELLED || fate == ANSWERED) && taken[i] != 0) {
            sim_fail("task %u is pool_check_places, and taken %u times", i, taken[i]);
        }
    }
    if (!p.is_shut && sst_pool_outstanding(p.pool) != open) {
        sim_fail("%llu tasks are outstanding, not %u",
                 (unsigned long long)sst_pool_outstanding(p.pool), open);
    }
}
