/* SPDX-License-Identifier: MIT */

/* Mutexes and semaphores under kills: exclusion, deaths that are told, units that add
 * up. */

#include <sidestep/sidestep.h>

#include "objects_sim.h"
#include "shm/arena.h"
#include "shm/layout.h"
#include "sim_scenarios.h"
#include "sim_shm.h"

enum {
    ROUNDS_MAX = 4,
    UNITS_MAX = 3,
};

static int rounds;

/* Some steps during which others may run. */
static void
linger(void)
{
    for (uint32_t i = sim_below(6); i > 0; i--) {
        sim_step();
    }
}

/* The process behind an owner word is no more. Asked by checkers. */
static bool
is_dead(uint64_t proc)
{
    return proc != 0 && !ssti_proc_alive(sim_arena_of(0), proc);
}

/* One death is told at once. Of several at a time, also of threads of one process, some
 * may have swallowed the wakes of others: then a time-out has to do. */
static enum sim_need
told_of_death(void)
{
    return sim.kills <= 1 && sim.kills_of_many == 0 ? SIM_MUST_LEARN_SOON
                                                    : SIM_MUST_LEARN;
}

/* ---- Mutexes ---- */

static struct {
    uint32_t flags;
    uint32_t holder; /* tid; 0 = nobody, as far as the holder got to say */
    int holder_process;
    uint64_t excuses;      /* calls that may free a dead owner's mutex */
    uint64_t excuses_then; /* when the holder came to hold it */
} mutex;

static enum sim_need
mutex_need(void *arg)
{
    const struct sst_mutex_shm *const shm = objects_shared();
    const uint64_t owner = ssti_load_rlx(&shm->owner);

    (void)arg;
    if (owner == 0) {
        return SIM_MUST_WAKE;
    }
    return is_dead(owner) ? told_of_death() : SIM_MAY_SLEEP;
}

static void
mutex_entered(void)
{
    if (mutex.holder != 0 && mutex.holder != sim.current->self.tid) {
        if (sim_thread_runs(mutex.holder)) {
            sim_fail("two threads hold the mutex");
        }
        if (mutex.excuses == mutex.excuses_then) {
            sim_fail("a dead owner's mutex was handed on in silence");
        }
    }
    mutex.holder = sim.current->self.tid;
    mutex.holder_process = sim.current->process;
    mutex.excuses_then = mutex.excuses;
}

static void
mutex_hold(struct sst_mutex *view)
{
    const bool again = mutex.flags != 0 && sim_chance(1, 3);

    mutex_entered();
    linger();
    if (again) {
        sim_check(sst_mutex_acquire(view, SST_FOREVER) == 0);
        sim_check(sst_mutex_count(view) == 2);
        linger();
        sim_check(sst_mutex_release(view) == 0);
    }
    sim_check(sst_mutex_is_locked(view));
    sim_check(mutex.holder == sim.current->self.tid);
    mutex.holder = 0;
    sim_check(sst_mutex_release(view) == 0);
}

static void
mutex_work(void *object, int role)
{
    struct sst_mutex *const view = object;

    (void)role;
    for (int i = 0; i < rounds; i++) {
        const int64_t deadline_ns = objects_deadline();
        int rc;

        do {
            sim_wants(mutex_need, NULL);
            rc = sst_mutex_acquire(view, deadline_ns);
            sim_wants(NULL, NULL);
        } while (rc == SST_EINTR);
        if (rc == 0) {
            mutex_hold(view);
        }
        else if (rc == SST_EOWNERDEAD) {
            sim_check(mutex.holder == 0 || !sim_thread_runs(mutex.holder) ||
                      mutex.excuses != mutex.excuses_then || sim.kills > 0);
            if (sim_chance(1, 2)) {
                mutex.excuses++;
                rc = sst_mutex_recover(view);
                sim_check(rc == 0 || rc == 1);
            }
        }
        else {
            sim_check(rc == SST_ETIMEDOUT && deadline_ns != SST_FOREVER);
        }
    }
}

static void *
mutex_create(struct sst_arena *arena, struct sst_handle *handle)
{
    struct sst_mutex *view;

    sim_check(sst_mutex_create(arena, mutex.flags, &view, NULL) == 0);
    sst_mutex_handle(view, handle);
    return view;
}

static void *
mutex_attach(struct sst_arena *arena, const struct sst_handle *handle)
{
    struct sst_mutex *view;

    return sst_mutex_attach(arena, handle, &view, NULL) == 0 ? view : NULL;
}

static void
mutex_close(void *view)
{
    (void)sst_mutex_close(view);
}

static void
mutex_setup(void)
{
    static const struct objects_family family = {
        .kind = SST_KIND_MUTEX,
        .create = mutex_create,
        .attach = mutex_attach,
        .close = mutex_close,
        .work = mutex_work,
        .processes_max = 5,
        .roles = 1,
        .respawns_max = 4,
        .threads = true,
    };

    mutex.flags = sim_chance(1, 2) ? SST_MUTEX_RECURSIVE : 0;
    mutex.holder = 0;
    mutex.excuses = 0;
    rounds = 1 + (int)sim_below(ROUNDS_MAX);
    objects_setup(&family);
}

const struct sim_scenario sim_mutex = {
    .name = "mutex",
    .setup = mutex_setup,
    .died = objects_died,
    .finish = objects_finish,
    .kills_max = 4,
    .signals = true,
};

/* ---- Semaphores ---- */

static struct {
    uint32_t value, value_max;
    int holders; /* living threads that hold a unit; more than this have taken one */
    uint32_t tids[SIM_THREADS];
} semaphore;

static bool
semaphore_is_bounded(void)
{
    return semaphore.value == semaphore.value_max;
}

/* Every unit belongs to the dead, and all of them are known. */
static bool
semaphore_is_lost(const struct sst_semaphore_shm *shm)
{
    uint32_t dead = 0;

    for (uint32_t i = 0; i < ssti_load_rlx(&shm->stays_used); i++) {
        const uint64_t stay = ssti_load_rlx(&shm->stay[i].stay);

        if (is_dead(ssti_load_rlx(&shm->stay[i].proc))) {
            dead += (uint32_t)(stay & 0xfffff);
        }
    }
    return dead == ssti_load_rlx(&shm->value_max);
}

static enum sim_need
semaphore_need(void *arg)
{
    const struct sst_semaphore_shm *const shm = objects_shared();

    (void)arg;
    if (ssti_load_rlx(&shm->value) != 0) {
        return SIM_MUST_WAKE;
    }
    return semaphore_is_bounded() && semaphore_is_lost(shm) ? told_of_death()
                                                            : SIM_MAY_SLEEP;
}

static void
semaphore_entered(void)
{
    uint32_t living = 1;
    int free = -1;

    for (int i = 0; i < SIM_THREADS; i++) {
        if (semaphore.tids[i] != 0 && sim_thread_runs(semaphore.tids[i])) {
            living++;
        }
        else {
            free = i;
        }
    }
    if (living > semaphore.value_max) {
        sim_fail("%u hold a unit, of %u", living, semaphore.value_max);
    }
    semaphore.tids[free] = sim.current->self.tid;
}

static void
semaphore_leaving(void)
{
    for (int i = 0; i < SIM_THREADS; i++) {
        if (semaphore.tids[i] == sim.current->self.tid) {
            semaphore.tids[i] = 0;
        }
    }
}

static void
semaphore_work(void *object, int role)
{
    struct sst_semaphore *const view = object;

    (void)role;
    for (int i = 0; i < rounds; i++) {
        const int64_t deadline_ns = objects_deadline();
        int rc;

        do {
            sim_wants(semaphore_need, NULL);
            rc = sst_semaphore_acquire(view, deadline_ns);
            sim_wants(NULL, NULL);
        } while (rc == SST_EINTR);
        if (rc == 0) {
            semaphore_entered();
            linger();
            semaphore_leaving();
            sim_check(sst_semaphore_release(view, 1) == 0);
        }
        else if (rc == SST_EOWNERDEAD) {
            sim_check(semaphore_is_bounded() && sim.kills > 0);
            sim_check(sst_semaphore_recover(view) >= 0);
        }
        else {
            sim_check(rc == SST_ETIMEDOUT && deadline_ns != SST_FOREVER);
        }
    }
}

static void *
semaphore_create(struct sst_arena *arena, struct sst_handle *handle)
{
    struct sst_semaphore *view;

    sim_check(sst_semaphore_create(arena, semaphore.value, semaphore.value_max, &view,
                                   NULL) == 0);
    sst_semaphore_handle(view, handle);
    return view;
}

static void *
semaphore_attach(struct sst_arena *arena, const struct sst_handle *handle)
{
    struct sst_semaphore *view;

    return sst_semaphore_attach(arena, handle, &view, NULL) == 0 ? view : NULL;
}

static void
semaphore_close(void *view)
{
    (void)sst_semaphore_close(view);
}

static void
semaphore_setup(void)
{
    static const struct objects_family family = {
        .kind = SST_KIND_SEMAPHORE,
        .create = semaphore_create,
        .attach = semaphore_attach,
        .close = semaphore_close,
        .work = semaphore_work,
        .processes_max = 5,
        .roles = 1,
        .respawns_max = 4,
        .threads = true,
    };

    semaphore.value = 1 + sim_below(UNITS_MAX);
    semaphore.value_max = semaphore.value + sim_chance(1, 2);
    for (int i = 0; i < SIM_THREADS; i++) {
        semaphore.tids[i] = 0;
    }
    rounds = 1 + (int)sim_below(ROUNDS_MAX);
    objects_setup(&family);
}

/* Nobody runs: units taken and units left are all there are. */
static void
semaphore_settled(void)
{
    const struct sst_semaphore_shm *const shm = objects_shared();

    if (shm != NULL && sim.kills == 0) {
        sim_check(ssti_load_rlx(&shm->value) <= semaphore.value);
    }
    if (shm != NULL) {
        sim_check(ssti_load_rlx(&shm->value) <= semaphore.value_max);
    }
}

const struct sim_scenario sim_semaphore = {
    .name = "semaphore",
    .setup = semaphore_setup,
    .settled = semaphore_settled,
    .died = objects_died,
    .finish = objects_finish,
    .kills_max = 4,
    .signals = true,
};
