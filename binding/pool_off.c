/* SPDX-License-Identifier: MIT */

/* In place of pool_engine.c and its siblings where they are not built: there are pools
 * of threads only. See process_pools in meson.build. */

#include "pool.h"

int
sstpy_pool_engine_exec(PyObject *module, struct sstpy_state *state)
{
    (void)module;
    (void)state;
    return 0;
}

int
sstpy_pool_worker_exec(PyObject *module, struct sstpy_state *state)
{
    (void)module;
    (void)state;
    return 0;
}
