/* SPDX-License-Identifier: MIT */
#ifndef SIM_SHM_H
#define SIM_SHM_H

/* What scenarios may set and see of the modelled arena. */

#include <stdbool.h>
#include <stdint.h>

enum {
    SIM_REGISTRY = 24,
    SIM_WAITS = 8, /* per process */
    SIM_HELD = 16,
    SIM_PRESENCE = 4,
    SIM_SLOTS = 16,
    SIM_EXTENTS = 256,
    SIM_EXTENT_MIN = 64,
    SIM_PATIENCE_NS = 1000000000, /* as in shm/registry.c */
    SIM_SLICE_NS = 20000000,
};

struct sim_shm_state {
    uint32_t waits_per_process; /* fewer records than threads: sleeping without one */
    uint32_t waits_refused;     /* so often */
    /* died while counting themselves: a count too high for good */
    uint32_t contenders_lost;
    bool extents_refuse; /* the budget is spent */
};
extern struct sim_shm_state sim_shm;

/* Is the object at this address still held by anybody? */
bool sim_shm_is_live(const void *object);
int sim_shm_live_slots(void);
int sim_shm_live_extents(void);

#endif
