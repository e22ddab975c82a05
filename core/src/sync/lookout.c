/* SPDX-License-Identifier: MIT */

/* Looking out for the death of other participants; lookout.h tells why. Writes no
 * shared memory. */

#include "sync/lookout.h"

#include "os/os.h"
#include "sidestep/sidestep.h"

enum {
    NAP_FIRST_NS = 1000000,
    NAP_LAST_NS = 64000000, /* the naps add up to 127 ms */
};

/* Of the wait that a signal interrupted in this thread. When another object's wait is
 * the next to begin, that one takes a few looks too many. */
static _Thread_local int64_t interrupted_nap_ns;

void
ssti_lookout_begin(struct ssti_lookout *lookout)
{
    lookout->nap_ns = interrupted_nap_ns;
    lookout->until_ns = SST_FOREVER;
    interrupted_nap_ns = 0;
}

void
ssti_lookout_end(const struct ssti_lookout *lookout, int rc)
{
    interrupted_nap_ns = rc == SST_EINTR ? lookout->nap_ns : 0;
}

void
ssti_lookout_alarm(struct ssti_lookout *lookout)
{
    if (lookout->nap_ns != 0) {
        lookout->nap_ns = lookout->nap_ns < NAP_LAST_NS ? 2 * lookout->nap_ns : 0;
    }
    else if (ssti_os_now_ns() < lookout->until_ns) {
        lookout->nap_ns = NAP_FIRST_NS;
    }
}

bool
ssti_lookout_prepare(struct ssti_lookout *lookout, const struct ssti_view *view,
                     uint64_t other, struct ssti_leaf_sleep *sleep, int64_t deadline_ns)
{
    bool alive = true;

    sleep->life = NULL;
    sleep->deadline_ns = deadline_ns;
    if (other != 0) {
        alive = ssti_view_watch(view, other, sleep, deadline_ns);
    }
    else {
        /* Who comes later and dies before it sleeps here is seen by nobody else. */
        sleep->deadline_ns =
            ssti_proc_patience(view->arena, ssti_proc_self(view->arena), deadline_ns);
    }
    if (lookout->nap_ns != 0) {
        const int64_t soon_ns = ssti_os_now_ns() + lookout->nap_ns;

        if (soon_ns < sleep->deadline_ns) {
            sleep->deadline_ns = soon_ns;
        }
    }
    lookout->until_ns = sleep->deadline_ns;
    return alive;
}
