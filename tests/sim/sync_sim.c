/* SPDX-License-Identifier: MIT */

/* Events, conditions and barriers under kills: a set or notify reaches whom it must, a
 * notification of the dead is passed on, a barrier breaks for the dead and lets nobody
 * through early. */

#include <sidestep/sidestep.h>
#include <string.h>

#include "objects_sim.h"
#include "shm/arena.h"
#include "shm/layout.h"
#include "sim_scenarios.h"
#include "sim_shm.h"

enum {
    STAY_BITS = 20,
    STAY_MASK = (1 << STAY_BITS) - 1,
    ROUNDS_MAX = 5,
};

static int rounds;

static bool
is_dead(uint64_t proc)
{
    return proc != 0 && !ssti_proc_alive(sim_arena_of(0), proc);
}

/* ---- Events ---- */

enum {
    EVENT_SETTER,
    EVENT_WAITER,
    EVENT_CLEARER,
    EVENT_ROLES,
};

static enum sim_need
event_need(void *arg)
{
    const struct sst_event_shm *const shm = objects_shared();

    (void)arg;
    return (ssti_load_rlx(&shm->state) & 1) != 0 ? SIM_MUST_WAKE : SIM_MAY_SLEEP;
}

static void
event_work(void *object, int role)
{
    struct sst_event *const view = object;

    for (int i = 0; i < rounds; i++) {
        if (role == EVENT_SETTER) {
            sst_event_set(view);
        }
        else if (role == EVENT_CLEARER) {
            sst_event_clear(view);
        }
        else {
            const int64_t deadline_ns = objects_deadline();
            int rc;

            do {
                sim_wants(event_need, NULL);
                rc = sst_event_wait(view, deadline_ns);
                sim_wants(NULL, NULL);
            } while (rc == SST_EINTR);
            sim_check(rc == 0 || (rc == SST_ETIMEDOUT && deadline_ns != SST_FOREVER));
        }
    }
}

static void *
event_create(struct sst_arena *arena, struct sst_handle *handle)
{
    struct sst_event *view;

    sim_check(sst_event_create(arena, &view, NULL) == 0);
    sst_event_handle(view, handle);
    return view;
}

static void *
event_attach(struct sst_arena *arena, const struct sst_handle *handle)
{
    struct sst_event *view;

    return sst_event_attach(arena, handle, &view, NULL) == 0 ? view : NULL;
}

static void
event_close(void *view)
{
    (void)sst_event_close(view);
}

static void
event_setup(void)
{
    static const struct objects_family family = {
        .kind = SST_KIND_EVENT,
        .create = event_create,
        .attach = event_attach,
        .close = event_close,
        .work = event_work,
        .processes_max = 5,
        .roles = EVENT_ROLES,
        .respawns_max = 4,
        .threads = true,
    };

    rounds = 1 + (int)sim_below(ROUNDS_MAX);
    objects_setup(&family);
}

const struct sim_scenario sim_event = {
    .name = "event",
    .setup = event_setup,
    .died = objects_died,
    .finish = objects_finish,
    .kills_max = 4,
    .signals = true,
};

/* ---- Conditions ---- */

static struct {
    int went;     /* waits that returned 0, and leaves that had been notified */
    int notified; /* as notify says; a killed notify may have let `under_way` go */
    int under_way;
} condition;

/* The ticket may go, or a dead waiter's notification waits to be passed on to it. */
static enum sim_need
condition_need(void *arg)
{
    const struct sst_condition_shm *const shm = objects_shared();
    const uint64_t ticket = *(const uint64_t *)arg;
    const uint64_t turn = ssti_load_rlx(&shm->turn);
    const uint64_t round = turn >> STAY_BITS;

    if (ticket < round || (ticket == round && (turn & STAY_MASK) != 0)) {
        return SIM_MUST_WAKE;
    }
    for (uint32_t i = 0; i < ssti_load_rlx(&shm->stays_used); i++) {
        const uint64_t stay = ssti_load_rlx(&shm->stay[i].stay);

        if ((stay & STAY_MASK) != 0 && stay >> STAY_BITS < round &&
            is_dead(ssti_load_rlx(&shm->stay[i].proc))) {
            return SIM_MUST_LEARN;
        }
    }
    return SIM_MAY_SLEEP;
}

static void
condition_wait(struct sst_condition *view)
{
    const int64_t deadline_ns = objects_deadline();
    uint64_t ticket;
    int rc;

    sim_check(sst_condition_enter(view, &ticket) == 0);
    do {
        sim_wants(condition_need, &ticket);
        rc = sst_condition_wait(view, ticket, deadline_ns);
        sim_wants(NULL, NULL);
    } while (rc == SST_EINTR && sim_chance(3, 4));
    if (rc == 0) {
        condition.went++;
        return;
    }
    sim_check(rc == SST_EINTR || (rc == SST_ETIMEDOUT && deadline_ns != SST_FOREVER));
    condition.went += sst_condition_leave(view, ticket);
}

static void
condition_work(void *object, int role)
{
    struct sst_condition *const view = object;

    for (int i = 0; i < rounds; i++) {
        if (role != 0) {
            condition_wait(view);
        }
        else {
            const int wanted = 1 + (int)sim_below(3);
            int given;

            condition.under_way += wanted;
            given = sst_condition_notify(view, (uint32_t)wanted);
            condition.under_way -= wanted;
            sim_check(given >= 0 && given <= wanted);
            condition.notified += given;
        }
    }
}

static void *
condition_create(struct sst_arena *arena, struct sst_handle *handle)
{
    struct sst_condition *view;

    sim_check(sst_condition_create(arena, &view, NULL) == 0);
    sst_condition_handle(view, handle);
    return view;
}

static void *
condition_attach(struct sst_arena *arena, const struct sst_handle *handle)
{
    struct sst_condition *view;

    return sst_condition_attach(arena, handle, &view, NULL) == 0 ? view : NULL;
}

static void
condition_close(void *view)
{
    (void)sst_condition_close(view);
}

static void
condition_setup(void)
{
    static const struct objects_family family = {
        .kind = SST_KIND_CONDITION,
        .create = condition_create,
        .attach = condition_attach,
        .close = condition_close,
        .work = condition_work,
        .processes_max = 5,
        .roles = 3, /* two of three wait */
        .respawns_max = 4,
        .threads = true,
    };

    memset(&condition, 0, sizeof(condition));
    rounds = 1 + (int)sim_below(ROUNDS_MAX);
    objects_setup(&family);
}

/* Nobody goes who was not notified. Each death may let one more go for each of its
 * threads. */
static void
condition_settled(void)
{
    const int excuse = condition.under_way + (int)sim.kills * OBJECT_THREADS;

    if (condition.went > condition.notified + excuse) {
        sim_fail("%d went, %d were notified", condition.went, condition.notified);
    }
}

const struct sim_scenario sim_condition = {
    .name = "condition",
    .setup = condition_setup,
    .settled = condition_settled,
    .died = objects_died,
    .finish = objects_finish,
    .kills_max = 4,
    .signals = true,
};

/* ---- Barriers ---- */

enum {
    ACTING = 1, /* in the low bits of turn */
};

static struct {
    uint32_t parties;
    uint64_t arrived, passed; /* calls that came in, waits that returned 0 */
    bool disturbed;           /* somebody timed out, died, reset or aborted */
} barrier;

/* Of those who came in, one is dead: the barrier is as good as broken. */
static enum sim_need
barrier_need(void *arg)
{
    const struct sst_barrier_shm *const shm = objects_shared();
    const uint64_t ticket = *(const uint64_t *)arg;
    const uint64_t round = ssti_load_rlx(&shm->turn) >> 2;

    if (round > ticket) {
        return SIM_MUST_WAKE;
    }
    if ((ssti_load_rlx(&shm->turn) & 3) == ACTING && sim.kills == 0) {
        return SIM_MUST_WAKE; /* and nobody acts */
    }
    for (uint32_t i = 0; i < ssti_load_rlx(&shm->stays_used); i++) {
        const uint64_t stay = ssti_load_rlx(&shm->stay[i].stay);

        if ((stay & STAY_MASK) != 0 && stay >> STAY_BITS == round &&
            is_dead(ssti_load_rlx(&shm->stay[i].proc))) {
            return SIM_MUST_LEARN;
        }
    }
    return SIM_MAY_SLEEP;
}

static enum sim_need
arrival_need(void *arg)
{
    (void)arg;
    return SIM_MAY_SLEEP;
}

static int
barrier_arrive(struct sst_barrier *view, uint64_t *ticket)
{
    int rc;

    do {
        sim_wants(arrival_need, NULL);
        rc = sst_barrier_arrive(view, ticket, SST_FOREVER);
        sim_wants(NULL, NULL);
    } while (rc == SST_EINTR);
    return rc;
}

static int
barrier_pass(struct sst_barrier *view, uint64_t ticket, int64_t deadline_ns)
{
    int rc;

    do {
        sim_wants(barrier_need, &ticket);
        rc = sst_barrier_wait(view, ticket, deadline_ns);
        sim_wants(NULL, NULL);
    } while (rc == SST_EINTR);
    return rc;
}

static void
barrier_work(void *object, int role)
{
    struct sst_barrier *const view = object;

    (void)role;
    for (int i = 0; i < rounds; i++) {
        const int64_t deadline_ns = objects_deadline();
        uint64_t ticket;
        int rc;

        barrier.disturbed = barrier.disturbed || deadline_ns != SST_FOREVER;
        barrier.arrived++; /* somewhere in the next call */
        rc = barrier_arrive(view, &ticket);
        if (rc >= 0) {
            sim_check((uint32_t)rc < barrier.parties);
            if ((uint32_t)rc == barrier.parties - 1) {
                rc = sst_barrier_open(view, ticket);
            }
            else {
                rc = barrier_pass(view, ticket, deadline_ns);
            }
        }
        if (rc == 0) {
            barrier.passed++;
            if (barrier.passed > barrier.arrived) {
                sim_fail("more have passed than arrived");
            }
            if (!barrier.disturbed && sim.kills == 0 &&
                barrier.arrived / barrier.parties * barrier.parties < barrier.passed) {
                sim_fail("somebody passed before all had arrived");
            }
            continue;
        }
        sim_check(rc == SST_EBROKEN || rc == SST_ETIMEDOUT);
        sim_check(barrier.disturbed || sim.kills != 0 || rc == SST_ETIMEDOUT);
        barrier.disturbed = true;
        if (sim_chance(1, 2)) {
            sst_barrier_reset(view);
        }
    }
}

static void *
barrier_create(struct sst_arena *arena, struct sst_handle *handle)
{
    struct sst_barrier *view;

    sim_check(sst_barrier_create(arena, barrier.parties, &view, NULL) == 0);
    sst_barrier_handle(view, handle);
    return view;
}

static void *
barrier_attach(struct sst_arena *arena, const struct sst_handle *handle)
{
    struct sst_barrier *view;

    return sst_barrier_attach(arena, handle, &view, NULL) == 0 ? view : NULL;
}

static void
barrier_close(void *view)
{
    (void)sst_barrier_close(view);
}

static void
barrier_setup(void)
{
    static const struct objects_family family = {
        .kind = SST_KIND_BARRIER,
        .create = barrier_create,
        .attach = barrier_attach,
        .close = barrier_close,
        .work = barrier_work,
        .processes_max = 5,
        .roles = 1,
        .respawns_max = 4,
        .threads = true,
    };

    memset(&barrier, 0, sizeof(barrier));
    barrier.parties = 2 + sim_below(3);
    rounds = 1 + (int)sim_below(ROUNDS_MAX);
    objects_setup(&family);
}

const struct sim_scenario sim_barrier = {
    .name = "barrier",
    .setup = barrier_setup,
    .died = objects_died,
    .finish = objects_finish,
    .kills_max = 4,
    .signals = true,
};
