/* SPDX-License-Identifier: MIT */

/* Every kind of object there is, for the registry: whoever sweeps after a dead process
 * meets kinds that it never opened itself. Called when an arena is created or attached.
 */

#include "pool/kinds.h"
#include "ring/kinds.h"
#include "shm/arena.h"
#include "shm/parcel.h"
#include "sidestep/sidestep.h"
#include "sync/kinds.h"

void
ssti_kinds_init(void)
{
    ssti_kind_register(SST_KIND_MUTEX, ssti_mutex_kind());
    ssti_kind_register(SST_KIND_SEMAPHORE, ssti_semaphore_kind());
    ssti_kind_register(SST_KIND_CONDITION, ssti_condition_kind());
    ssti_kind_register(SST_KIND_EVENT, ssti_event_kind());
    ssti_kind_register(SST_KIND_BARRIER, ssti_barrier_kind());
    ssti_kind_register(SST_KIND_QUEUE, ssti_queue_kind());
    ssti_kind_register(SST_KIND_PIPE, ssti_pipe_kind());
    ssti_kind_register(SST_KIND_PARCEL, ssti_parcel_kind());
    ssti_kind_register(SST_KIND_POOL, ssti_pool_kind());
}
