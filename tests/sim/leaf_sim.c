/* SPDX-License-Identifier: MIT */

/* The leaf lock under kills: stores of items with room for few, producers (class B) and
 * consumers (class A) of which some give up after a while, and watchers (class C) who
 * wait for one to be empty. A lost wake-up shows only while nothing else happens, so
 * many runs are short, without time-outs and without new processes for the dead. */

#include <linux/futex.h>
#include <sidestep/sidestep.h>

#include "shm/arena.h"
#include "shm/layout.h"
#include "shm/leaf.h"
#include "sim.h"
#include "sim_scenarios.h"
#include "sim_shm.h"

enum {
    PRODUCER,
    CONSUMER,
    WATCHER,
    ROLES,
    STORES = 2,
};

struct store_shm {
    struct sst_leaf_shm leaf;
    _Atomic uint32_t items;
    _Atomic uint32_t mirror; /* equals items, but for a death: who is told repairs it */
};

static struct store_shm *stores;
static uint32_t store_count, capacity;
static uint64_t put_count[STORES], got_count[STORES];
static uint32_t holder[STORES]; /* tid of the thread inside; 0 = nobody */
static int rounds, respawns;
static uint32_t sweeping; /* of 4 */
static bool patience;

/* Who waits for what. */
struct wish {
    struct store_shm *store;
    int role;
};
static struct wish wishes[STORES][ROLES];

/* ---- Mutual exclusion ---- */

static void
entered(const struct store_shm *store)
{
    if (holder[store - stores] != 0 && sim_thread_runs(holder[store - stores])) {
        sim_fail("two threads hold the leaf");
    }
    holder[store - stores] = sim.current->self.tid;
}

/* The leaf is held; `died` tells whether its last owner died. */
static void
look(struct store_shm *store, bool died)
{
    if (died) {
        ssti_store_rel(&store->mirror, ssti_load_rlx(&store->items));
    }
    else if (ssti_load_rlx(&store->mirror) != ssti_load_rlx(&store->items)) {
        sim_fail("nobody was told that the owner died");
    }
}

static void
leaving(const struct store_shm *store)
{
    sim_check(holder[store - stores] == sim.current->self.tid);
    holder[store - stores] = 0;
}

/* ---- The monitor ---- */

static uint32_t
items_now(const struct store_shm *store)
{
    return ssti_load_rlx(&store->items);
}

static uint32_t
wake_mask(const struct store_shm *store)
{
    const uint32_t items = items_now(store);

    return (items > 0 ? SSTI_LEAF_A : 0U) | (items < capacity ? SSTI_LEAF_B : 0U) |
           (items == 0 ? SSTI_LEAF_C : 0U);
}

static bool
satisfied(const struct store_shm *store, int role)
{
    const uint32_t items = items_now(store);

    return role == PRODUCER   ? items < capacity
           : role == CONSUMER ? items > 0
                              : items == 0;
}

static enum sim_need
wants_role(void *arg)
{
    const struct wish *const wish = arg;

    return satisfied(wish->store, wish->role) ? SIM_MUST_WAKE : SIM_MAY_SLEEP;
}

static enum ssti_leaf_class
class_of(int role)
{
    return role == PRODUCER   ? SSTI_LEAF_B
           : role == CONSUMER ? SSTI_LEAF_A
                              : SSTI_LEAF_C;
}

/* Wait until the role's condition holds; false when out of time. The leaf is held. */
static bool
wait_for(struct store_shm *store, int role, bool *repair)
{
    const bool patient = patience || role == WATCHER || sim_chance(1, 2);
    const int64_t deadline_ns = patient ? SST_FOREVER : sim.now_ns + 1 + sim_below(400);

    while (!satisfied(store, role)) {
        const struct ssti_leaf_sleep sleep = {
            .class = class_of(role),
            .wake = *repair ? (uint32_t)SSTI_LEAF_ALL : wake_mask(store),
            .count = *repair ? (int)SSTI_LEAF_EVERYBODY : 1,
            .deadline_ns = deadline_ns,
        };
        int rc;

        leaving(store);
        sim_wants(wants_role, &wishes[store - stores][role]);
        rc = ssti_leaf_wait(sim_arena(), &store->leaf, &sleep);
        sim_wants(NULL, NULL);
        entered(store);
        *repair = rc == SST_EOWNERDEAD;
        look(store, *repair);
        if (rc == SST_ETIMEDOUT && !satisfied(store, role)) {
            return false;
        }
    }
    return true;
}

static void
act(struct store_shm *store, int role)
{
    const uint32_t items = items_now(store);

    if (role == PRODUCER) {
        ssti_store_rel(&store->items, items + 1);
        put_count[store - stores]++;
        sim_hot_death();
        ssti_store_rel(&store->mirror, items + 1);
    }
    else if (role == CONSUMER) {
        ssti_store_rel(&store->items, items - 1);
        got_count[store - stores]++;
        sim_hot_death();
        ssti_store_rel(&store->mirror, items - 1);
    }
}

static void
one_round(struct store_shm *store, int role)
{
    bool repair;

    repair = ssti_leaf_lock(sim_arena(), &store->leaf) == SST_EOWNERDEAD;
    entered(store);
    look(store, repair);
    if (wait_for(store, role, &repair)) {
        act(store, role);
    }

    const uint32_t wake = repair ? (uint32_t)SSTI_LEAF_ALL : wake_mask(store);

    leaving(store);
    ssti_leaf_unlock(&store->leaf, wake, repair ? (int)SSTI_LEAF_EVERYBODY : 1);
    if (sim_chance(sweeping, 4)) {
        (void)ssti_proc_sweep(sim_arena());
    }
}

static void
worker(void *arg)
{
    const int role = (int)(intptr_t)arg;

    for (int i = 0; i < rounds; i++) {
        one_round(&stores[sim_below(store_count)], role);
    }
}

/* ---- The run ---- */

static void
start(int role)
{
    const int process = sim_process_start(role, worker, (void *)(intptr_t)role);

    if (process >= 0 && sim_chance(1, 3)) {
        (void)sim_thread_start(process, worker, (void *)(intptr_t)sim_below(ROLES));
    }
}

static void
setup(void)
{
    const int processes = 2 + (int)sim_below(4);

    stores = sim_memory(sizeof(*stores) * STORES, 128);
    for (int i = 0; i < STORES; i++) {
        sim_name(&stores[i], sizeof(*stores), i == 0 ? "leaf" : "leaf2");
        put_count[i] = 0;
        got_count[i] = 0;
        holder[i] = 0;
        for (int role = 0; role < ROLES; role++) {
            wishes[i][role] = (struct wish){&stores[i], role};
        }
    }
    store_count = 1 + sim_chance(1, 3);
    capacity = 1 + sim_below(3);
    rounds = 1 + (int)sim_below(6);
    respawns = sim_chance(1, 2) ? 0 : 6;
    patience = sim_chance(1, 2);
    sweeping = sim_below(3);
    if (sim_chance(1, 8)) {
        sim_shm.waits_per_process = sim_below(2);
    }
    for (int i = 0; i < processes; i++) {
        start((int)sim_below(i < 2 ? 2 : ROLES));
    }
}

static void
died(int process)
{
    if (sim.processes[process].killed && respawns > 0) {
        respawns--;
        start(sim.processes[process].role);
    }
}

static void
settled(void)
{
    for (uint32_t s = 0; s < STORES; s++) {
        struct sst_leaf_shm *const leaf = &stores[s].leaf;

        sim_check((atomic_load(&leaf->word) & FUTEX_TID_MASK) == 0);
        sim_check(put_count[s] - got_count[s] == atomic_load(&stores[s].items));
        for (uint32_t i = 0; i < SSTI_LEAF_CLASSES; i++) {
            const uint32_t asleep = (uint32_t)sim_kernel_sleepers(&leaf->seq[i]);

            if (atomic_load(&leaf->waiting[i]) < asleep) {
                sim_fail("class %u: %u asleep, %u counted", i, asleep,
                         atomic_load(&leaf->waiting[i]));
            }
        }
    }
}

static void
finish(void)
{
    uint32_t contenders = 0;

    for (uint32_t s = 0; s < STORES; s++) {
        const struct sst_leaf_shm *const leaf = &stores[s].leaf;

        sim_check(put_count[s] - got_count[s] == atomic_load(&stores[s].items));
        sim_check(atomic_load(&leaf->intent_record) == 0 ||
                  (atomic_load(&leaf->word) & FUTEX_OWNER_DIED) != 0);
        contenders += atomic_load(&leaf->contenders);
        for (uint32_t i = 0; i < SSTI_LEAF_CLASSES; i++) {
            if (sim_shm.waits_refused == 0 && atomic_load(&leaf->waiting[i]) != 0) {
                sim_fail("class %u: %u counted, all are dead and swept", i,
                         atomic_load(&leaf->waiting[i]));
            }
        }
    }
    if (sim_shm.waits_refused == 0 && contenders > sim_shm.contenders_lost) {
        sim_fail("%u contenders counted, all are dead and swept", contenders);
    }
}

const struct sim_scenario sim_leaf = {
    .name = "leaf",
    .setup = setup,
    .settled = settled,
    .died = died,
    .finish = finish,
    .kills_max = 5,
    .signals = true,
};
