/* SPDX-License-Identifier: MIT */
#include "objects_sim.h"

#include "ring/kinds.h"
#include "shm/arena.h"
#include "sim_shm.h"
#include "sync/kinds.h"

int objects_process_count;

static const struct objects_family *family;
static struct sst_handle handle;
static bool is_made;
static int respawns;
static bool patience;
static bool crowded;
static uint32_t sweeping; /* of 4 */

/* A thread's orders. */
static struct order {
    void *view;
    int role;
} orders[SIM_PROCESSES][OBJECT_THREADS];

static void
work(void *arg)
{
    const struct order *const order = arg;

    family->work(order->view, order->role);
    if (sim_chance(sweeping, 4)) {
        (void)ssti_proc_sweep(sim_arena());
    }
}

static void
be_busy(struct order *own, void *view)
{
    const int process = sim.current->process;
    const bool helped = family->threads && sim_chance(1, 3);

    own[0] = (struct order){view, sim.processes[process].role};
    own[1] = (struct order){view, (int)sim_below((uint32_t)family->roles)};
    if (helped) {
        (void)sim_thread_start(process, work, &own[1]);
    }
    work(&own[0]);
    sim_join_others();
    family->close(view);
}

static void
worker(void *arg)
{
    void *const view = family->attach(sim_arena(), &handle);

    (void)arg;
    if (view != NULL) {
        be_busy(orders[sim.current->process], view);
    }
}

/* All roles in turn; or a crowd of the first two, who have most trouble with each
 * other. */
static int
role_of(int index)
{
    return crowded ? (int)sim_below(2) % family->roles : index % family->roles;
}

static void
creator(void *arg)
{
    void *const view = family->create(sim_arena(), &handle);

    (void)arg;
    /* a handle travels by fork or message, which order what was stored before */
    sim_fence();
    is_made = true;
    for (int i = 1; i < objects_process_count; i++) {
        (void)sim_process_start(role_of(i), worker, NULL);
    }
    sim.processes[sim.current->process].immortal = false;
    be_busy(orders[sim.current->process], view);
}

void
objects_setup(const struct objects_family *new_family)
{
    ssti_kind_register(SST_KIND_MUTEX, ssti_mutex_kind());
    ssti_kind_register(SST_KIND_SEMAPHORE, ssti_semaphore_kind());
    ssti_kind_register(SST_KIND_CONDITION, ssti_condition_kind());
    ssti_kind_register(SST_KIND_EVENT, ssti_event_kind());
    ssti_kind_register(SST_KIND_BARRIER, ssti_barrier_kind());
    ssti_kind_register(SST_KIND_QUEUE, ssti_queue_kind());
    ssti_kind_register(SST_KIND_PIPE, ssti_pipe_kind());
    family = new_family;
    is_made = false;
    respawns = sim_chance(1, 2) ? 0 : family->respawns_max;
    patience = sim_chance(1, 2);
    crowded = sim_chance(1, 3);
    sweeping = sim_below(3);
    objects_process_count = 2 + (int)sim_below((uint32_t)family->processes_max - 1);
    sim.processes[sim_process_start(0, creator, NULL)].immortal = true;
}

void
objects_died(int process)
{
    if (sim.processes[process].killed && respawns > 0) {
        respawns--;
        (void)sim_process_start(sim.processes[process].role, worker, NULL);
    }
}

void
objects_finish(void)
{
    if (sim_shm_live_slots() != 0 || sim_shm_live_extents() != 0) {
        sim_fail("%d slots and %d extents are left over", sim_shm_live_slots(),
                 sim_shm_live_extents());
    }
}

void *
objects_shared(void)
{
    return is_made ? sim_buffer + handle.offset : NULL;
}

int64_t
objects_deadline(void)
{
    if (patience || sim_chance(1, 2)) {
        return SST_FOREVER;
    }
    return sim_chance(1, 4) ? SST_NOW : sim.now_ns + 1 + sim_below(400);
}
