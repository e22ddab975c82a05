/* SPDX-License-Identifier: MIT */

/* Queues under kills: every committed message arrives once, in its producer's order,
 * and nobody sleeps while there is something for it to do. Sizes are tiny
 * (meson.build), so that chunks grow, are drained and freed, and messages travel inline
 * and in extents. Some consumers poll a descriptor. */

#include <sidestep/sidestep.h>
#include <string.h>

#include "objects_sim.h"
#include "ring/ring.h"
#include "shm/arena.h"
#include "shm/layout.h"
#include "sim_scenarios.h"
#include "sim_shm.h"

enum {
    PRODUCER,
    CONSUMER,
    POLLER, /* a consumer that sleeps on the descriptor */
    JOINER,
    ROLES,
    PRODUCERS_MAX = SIM_PROCESSES * OBJECT_THREADS,
    MESSAGES_MAX = 16, /* of one producer */
    BATCH_MAX = 3,
    BODY_MAX = 80,
};

enum fate {
    NOT_YET,
    TRIED, /* put was called: it may be in */
    PUT,   /* put returned: it is in, or was */
    GOT,
};

/* A message: who, which, and bytes that follow from both. */
struct head {
    uint32_t producer;
    uint32_t number;
};

static struct {
    struct sst_queue_options options;
    enum fate fates[PRODUCERS_MAX][MESSAGES_MAX];
    uint32_t seen[SIM_THREADS][PRODUCERS_MAX]; /* next number a consumer may see */
    uint32_t producers;
    uint32_t tries_died; /* takes under way when a consumer was killed, at most */
    uint32_t takes_under_way[SIM_PROCESSES];
    int rounds;
    bool shut, refusing;
    bool trusting; /* nothing was dropped on purpose */
} q;

/* ---- What sleepers are owed ---- */

static uint64_t
count_now(const struct sst_queue_shm *shm)
{
    return ssti_load_rlx(&shm->ring.put_count) - ssti_load_rlx(&shm->ring.got_count);
}

static enum sim_need
getter_need(void *arg)
{
    const struct sst_queue_shm *const shm = objects_shared();

    (void)arg;
    return count_now(shm) != 0 || ssti_load_rlx(&shm->ring.flags) != 0 ? SIM_MUST_WAKE
                                                                       : SIM_MAY_SLEEP;
}

static enum sim_need
putter_need(void *arg)
{
    const struct sst_queue_shm *const shm = objects_shared();

    (void)arg;
    return q.options.item_max == 0 || count_now(shm) < q.options.item_max ||
                   ssti_load_rlx(&shm->ring.flags) != 0
               ? SIM_MUST_WAKE
               : SIM_MAY_SLEEP;
}

/* A joiner of a queue whose takers died is told, if not at once. */
static enum sim_need
joiner_need(void *arg)
{
    const struct sst_queue_shm *const shm = objects_shared();
    const int64_t unfinished = (int64_t)(count_now(shm) + ssti_load_rlx(&shm->taken));

    (void)arg;
    if (unfinished <= 0) {
        return SIM_MUST_WAKE;
    }
    return ssti_load_rlx(&shm->lost) != 0 ? SIM_MUST_LEARN : SIM_MAY_SLEEP;
}

/* ---- Messages ---- */

static uint64_t
compose(uint8_t *body, uint32_t producer, uint32_t number)
{
    const struct head head = {producer, number};
    const uint64_t size = sizeof(head) + (producer * 7 + number * 13) % (BODY_MAX - 8);

    memcpy(body, &head, sizeof(head));
    for (uint64_t i = sizeof(head); i < size; i++) {
        body[i] = (uint8_t)(producer + number + i);
    }
    return size;
}

static void
receive(const struct sst_message *message)
{
    uint32_t *const seen = q.seen[sim.current - sim.threads];
    uint8_t expected[BODY_MAX];
    uint8_t body[BODY_MAX];
    struct head head;
    uint64_t size;

    sim_check(message->size >= sizeof(head) && message->size <= BODY_MAX);
    ssti_copy_out(body, message->data, message->size);
    memcpy(&head, body, sizeof(head));
    sim_check(head.producer < q.producers && head.number < MESSAGES_MAX);
    size = compose(expected, head.producer, head.number);
    sim_check(message->size == size && memcmp(body, expected, size) == 0);
    if (q.fates[head.producer][head.number] == GOT) {
        sim_fail("message %u of producer %u came twice", head.number, head.producer);
    }
    sim_check(q.fates[head.producer][head.number] != NOT_YET);
    if (head.number < seen[head.producer]) {
        sim_fail("message %u of producer %u came out of order", head.number,
                 head.producer);
    }
    seen[head.producer] = head.number + 1;
    q.fates[head.producer][head.number] = GOT;
    sim_trace("got %u of producer %u", head.number, head.producer);
}

/* ---- Roles ---- */

/* One message, copied by the core or written in place. */
static int
put_one(struct sst_queue *view, const struct sst_slice *slice, int64_t deadline_ns)
{
    struct sst_parcel *parcel;
    int rc;

    if (!sim_chance(1, 3)) {
        return sst_queue_put(view, slice->data, slice->size, deadline_ns);
    }
    rc = sst_parcel_create(sim_arena(), slice->size, 0, &parcel, NULL);
    if (rc != 0) {
        return rc;
    }
    ssti_copy_in(sst_parcel_data(parcel), slice->data, slice->size);
    rc = sst_queue_put_parcel(view, &parcel, deadline_ns);
    sim_check((rc == 0) == (parcel == NULL));
    if (rc != 0) {
        (void)sst_parcel_close(parcel);
    }
    return rc;
}

static int
put_batch(struct sst_queue *view, uint32_t producer, uint32_t first, uint32_t count,
          int64_t deadline_ns)
{
    static uint8_t bodies[SIM_THREADS][BATCH_MAX][BODY_MAX];
    struct sst_slice slices[BATCH_MAX];
    int done;

    for (uint32_t i = 0; i < count; i++) {
        uint8_t *const body = bodies[sim.current - sim.threads][i];

        slices[i] = (struct sst_slice){body, compose(body, producer, first + i)};
        q.fates[producer][first + i] = TRIED;
    }
    do {
        sim_wants(putter_need, NULL);
        if (count == 1) {
            done = put_one(view, &slices[0], deadline_ns);
            done = done == 0 ? 1 : done;
        }
        else {
            done = sst_queue_put_many(view, slices, count, deadline_ns);
        }
        sim_wants(NULL, NULL);
    } while (done == SST_EINTR);
    for (uint32_t i = 0; i < count; i++) {
        enum fate *const fate = &q.fates[producer][first + i];

        if ((int)i >= done) {
            sim_check(*fate == TRIED);
            *fate = NOT_YET;
        }
        else if (*fate == TRIED) {
            *fate = PUT;
        }
    }
    return done;
}

static void
produce(struct sst_queue *view)
{
    const uint32_t producer = q.producers++;
    uint32_t number = 0;

    sim_check(producer < PRODUCERS_MAX);
    for (int i = 0; i < q.rounds; i++) {
        const uint32_t count = 1 + sim_below(BATCH_MAX);
        const int64_t deadline_ns = objects_deadline();
        int rc;

        if (number + count > MESSAGES_MAX) {
            return;
        }
        rc = put_batch(view, producer, number, count, deadline_ns);
        if (rc == SST_ESHUTDOWN) {
            sim_check(q.shut);
            return;
        }
        sim_check(rc > 0 || (rc == SST_ETIMEDOUT && deadline_ns != SST_FOREVER) ||
                  (rc == SST_ELIMIT && q.refusing));
        number += rc > 0 ? (uint32_t)rc : 0;
    }
}

/* Up to BATCH_MAX messages; how many, or the status. */
static int
get_some(struct sst_queue *view, int64_t deadline_ns)
{
    static struct sst_message messages[SIM_THREADS][BATCH_MAX];
    struct sst_message *const batch = messages[sim.current - sim.threads];
    const uint32_t count = 1 + sim_below(BATCH_MAX);
    int rc;

    q.takes_under_way[sim.current->process] += count;
    do {
        sim_wants(getter_need, NULL);
        rc = count == 1 ? sst_queue_get(view, batch, deadline_ns)
                        : sst_queue_get_many(view, batch, count, deadline_ns);
        sim_wants(NULL, NULL);
    } while (rc == SST_EINTR);
    rc = count == 1 && rc == 0 ? 1 : rc;
    for (int i = 0; i < rc; i++) {
        receive(&batch[i]);
    }
    q.takes_under_way[sim.current->process] -= count;
    for (int i = 0; i < rc; i++) {
        sst_message_free(&batch[i]);
        if (q.options.joinable) {
            sim_check(sst_queue_task_done(view) == 0);
        }
    }
    return rc;
}

static void
consume(struct sst_queue *view)
{
    for (int i = 0; i < q.rounds; i++) {
        const int64_t deadline_ns = objects_deadline();
        const int rc = get_some(view, deadline_ns);

        if (rc == SST_ESHUTDOWN) {
            sim_check(q.shut);
            return;
        }
        sim_check(rc > 0 || (rc == SST_ETIMEDOUT && deadline_ns != SST_FOREVER));
    }
}

/* The same, asleep on the descriptor. */
static void
poll_and_consume(struct sst_queue *view)
{
    const int fd = sst_queue_fd(view, NULL);

    sim_check(fd >= 0 || fd == SST_ELIMIT);
    for (int i = 0; fd >= 0 && i < q.rounds; i++) {
        const int64_t deadline_ns = objects_deadline();
        int rc;

        sim_wants(getter_need, NULL);
        rc = sim_poll(fd, deadline_ns);
        sim_wants(NULL, NULL);
        if (rc <= 0) {
            continue;
        }
        rc = get_some(view, SST_NOW);
        if (rc == SST_ESHUTDOWN) {
            sim_check(q.shut);
            return;
        }
        if (rc <= 0 && rc != SST_ETIMEDOUT) {
            sim_fail("a get without waiting returns %d", rc);
        }
    }
}

static void
join(struct sst_queue *view)
{
    int rc;

    if (!q.options.joinable) {
        if (sim_chance(1, 4)) {
            q.shut = true;
            q.trusting = q.trusting && !sim_chance(1, 2);
            sst_queue_shutdown(view, !q.trusting);
        }
        return;
    }
    do {
        sim_wants(joiner_need, NULL);
        rc = sst_queue_join(view, objects_deadline());
        sim_wants(NULL, NULL);
    } while (rc == SST_EINTR);
    if (rc == SST_EOWNERDEAD) {
        sim_check(sim.kills != 0);
        sim_check(sst_queue_recover(view) >= 0);
    }
    else {
        sim_check(rc == 0 || rc == SST_ETIMEDOUT);
    }
}

static void
work(void *view, int role)
{
    memset(q.seen[sim.current - sim.threads], 0, sizeof(q.seen[0]));
    switch (role) {
    case PRODUCER:
        produce(view);
        break;
    case CONSUMER:
        consume(view);
        break;
    case POLLER:
        poll_and_consume(view);
        break;
    default:
        join(view);
        break;
    }
}

/* ---- The run ---- */

static void *
create(struct sst_arena *arena, struct sst_handle *handle)
{
    struct sst_queue *view;

    sim_check(sst_queue_create(arena, &q.options, &view, NULL) == 0);
    sst_queue_handle(view, handle);
    return view;
}

static void *
attach(struct sst_arena *arena, const struct sst_handle *handle)
{
    struct sst_queue *view;

    return sst_queue_attach(arena, handle, &view, NULL) == 0 ? view : NULL;
}

static void
close_view(void *view)
{
    (void)sst_queue_close(view);
}

static void
setup(void)
{
    static const struct objects_family family = {
        .kind = SST_KIND_QUEUE,
        .create = create,
        .attach = attach,
        .close = close_view,
        .work = work,
        .processes_max = 5,
        .roles = ROLES,
        .respawns_max = 4,
        .threads = true,
    };

    memset(&q, 0, sizeof(q));
    q.options = (struct sst_queue_options){
        .size_of = sizeof(q.options),
        .item_max = sim_chance(1, 2) ? 0 : 1 + sim_below(3),
        .joinable = sim_chance(1, 3),
    };
    q.rounds = 1 + (int)sim_below(5);
    q.trusting = true;
    objects_setup(&family);
}

static void
died(int process)
{
    q.tries_died += q.takes_under_way[process];
    q.takes_under_way[process] = 0;
    objects_died(process);
}

/* Nobody runs. What was put and not got is in the queue, but for what was on its way
 * into the hands of a consumer that was killed. */
static void
settled(void)
{
    const struct sst_queue_shm *const shm = objects_shared();
    uint64_t least = 0;
    uint64_t most = 0;

    if (shm == NULL) {
        return;
    }
    for (uint32_t p = 0; p < q.producers; p++) {
        for (int i = 0; i < MESSAGES_MAX; i++) {
            least += q.fates[p][i] == PUT;
            most += q.fates[p][i] == PUT || q.fates[p][i] == TRIED;
        }
    }
    /* A dead owner's counts are made right by the next to take the leaf. */
    if (q.trusting && (ssti_load_rlx(&shm->leaf.word) & UINT32_C(0x40000000)) == 0 &&
        sim_shm_is_live(shm)) {
        if (count_now(shm) > most || count_now(shm) + q.tries_died < least) {
            sim_fail("%llu messages, of which %llu to %llu were put and not got",
                     (unsigned long long)count_now(shm), (unsigned long long)least,
                     (unsigned long long)most);
        }
    }
}

const struct sim_scenario sim_queue = {
    .name = "queue",
    .setup = setup,
    .settled = settled,
    .died = died,
    .finish = objects_finish,
    .kills_max = 4,
    .signals = true,
};
