/* SPDX-License-Identifier: MIT */

/* The scenarios of queues, pipes, locks and what they are made of. */

#include "sim_scenarios.h"

const struct sim_scenario *const sim_scenarios[] = {
    &sim_leaf,  &sim_mutex,     &sim_pipe,    &sim_queue, &sim_semaphore,
    &sim_event, &sim_condition, &sim_barrier, NULL,
};
