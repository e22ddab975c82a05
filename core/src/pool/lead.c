/* SPDX-License-Identifier: MIT */

/* Leading: which of the owner's threads takes results for all.
 *
 * `leading` is a lock that the leader holds over its sleep in the pool's leaf; `turn`
 * is what the others sleep on. It changes after each batch that was handed out, and
 * when the leader stops: then everybody looks at its own flag, and one of those whose
 * flag is not set leads. A thread that waits alone never sleeps here.
 *
 * Nothing here is shared between processes: the death table is empty. */

#include "os/os.h"
#include "pool/pool.h"

int
sst_pool_lead(struct sst_pool *pool, const uint32_t *done, int64_t deadline_ns)
{
    const _Atomic uint32_t *const flag = (const _Atomic uint32_t *)(const void *)done;
    int rc = 0;

    for (;;) {
        /* Before the looks: a change after them ends the sleep. */
        const uint32_t turn = ssti_load_acq(&pool->turn);
        uint32_t nobody = 0;

        if (flag != NULL && ssti_load_acq(flag) != 0) {
            return 0;
        }
        if (ssti_cas(&pool->leading, &nobody, 1)) {
            if (flag == NULL || ssti_load_acq(flag) == 0) {
                return 1;
            }
            /* The last leader set it after our look, and led no longer. */
            sst_pool_follow(pool);
            return 0;
        }
        if (rc == SST_ETIMEDOUT || rc == SST_EINTR) {
            return rc;
        }
        if (deadline_ns == SST_NOW) {
            return SST_ETIMEDOUT;
        }
        ssti_fetch_add(&pool->followers, 1);
        rc = ssti_os_futex_wait(&pool->turn, turn, deadline_ns);
        ssti_fetch_sub(&pool->followers, 1);
    }
}

void
sst_pool_handed_out(struct sst_pool *pool)
{
    ssti_fetch_add(&pool->turn, 1);
    if (ssti_load_acq(&pool->followers) != 0) {
        (void)ssti_os_futex_wake(&pool->turn, SSTI_LEAF_EVERYBODY);
    }
}

void
sst_pool_nudge(struct sst_pool *pool)
{
    ssti_xchg(&pool->nudged, 1);
    sst_pool_handed_out(pool);
    ssti_view_lock(&pool->view);
    ssti_view_unlock(&pool->view, SSTI_LEAF_ALL, SSTI_LEAF_EVERYBODY);
}

void
sst_pool_follow(struct sst_pool *pool)
{
    ssti_store_rel(&pool->leading, 0);
    sst_pool_handed_out(pool);
    if (pool->on_follow != NULL) {
        pool->on_follow(pool->crew);
    }
}
