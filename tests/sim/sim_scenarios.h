/* SPDX-License-Identifier: MIT */
#ifndef SIM_SCENARIOS_H
#define SIM_SCENARIOS_H

#include "sim.h"

/* Those of this program; NULL ends them. */
extern const struct sim_scenario *const sim_scenarios[];

extern const struct sim_scenario sim_barrier;
extern const struct sim_scenario sim_condition;
extern const struct sim_scenario sim_event;
extern const struct sim_scenario sim_leaf;
extern const struct sim_scenario sim_mutex;
extern const struct sim_scenario sim_pipe;
extern const struct sim_scenario sim_pool;
extern const struct sim_scenario sim_queue;
extern const struct sim_scenario sim_semaphore;

#endif
