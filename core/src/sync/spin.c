/* SPDX-License-Identifier: MIT */

/* When to look and when to sleep.
 *
 * A message to a process that looks costs a cache line's way to the other core and
 * back, 1.6 us on the machine this was designed on; to one that sleeps it costs a
 * wake-up, 83 us across cores and 7 on the same one. So looking pays when the other
 * side runs and is about to act, and not otherwise. The rules, each from a measurement
 * (docs/internals/sync.rst):
 *
 *   - Who woke somebody sleeps at once. The woken one mostly starts on the waker's CPU:
 *     a waker that looks for the answer keeps it from being made. Round trips 300 us
 *     apart took 171 us with a waker that looks and 10 with one that sleeps.
 *   - The budget is a quarter of a cross-core wake-up, then the sleep is the smaller
 *     loss.
 *   - An object where looking did not pay lately gets less of it: each useless bout
 *     halves the budget down to a floor that costs next to nothing; every 32nd in a row
 *     is a full one, for times change. One useful bout restores it.
 *   - On one CPU the other side cannot act while we look: never.
 *
 * The number of running processes is not asked for: that is a system call, and a
 * container does not see it.
 *
 * Nothing here is shared between processes, and nothing depends on it but time; so the
 * death table is empty. */

#include "sync/spin.h"

#include <stddef.h>

#include "base/atomic.h"
#include "os/os.h"
#include "os/self.h"
#include "sidestep/sidestep.h"

enum {
    FLOOR_NS = 300,    /* a few looks: what useless bouts shrink to */
    PROBE_PERIOD = 32, /* of useless bouts in a row: then a full one */
    PAUSES_MAX = 8,    /* between looks: a line read all the time is slow to write */
    CPU_PERIOD = 1024, /* bouts after which the set of CPUs is asked for again */
};

/* More than one CPU to run on? Asked for once in a while: taskset may change it. */
static bool
has_company(void)
{
    static _Atomic uint32_t bouts; /* of the process; a lost update is harmless */
    static _Atomic uint32_t company;
    const uint32_t bout = ssti_load_rlx(&bouts);

    if (bout % CPU_PERIOD == 0) {
        ssti_store_rlx(&company, ssti_os_cpu_affinity() > 1 ? 1 : 0);
    }
    ssti_store_rlx(&bouts, bout + 1);
    return ssti_load_rlx(&company) != 0;
}

/* The time to look after so many useless bouts in a row. */
static uint32_t
budget(uint32_t useless, uint32_t full_ns, uint32_t floor_ns)
{
    const uint32_t halved = useless < PROBE_PERIOD ? full_ns >> useless : 0;

    if (useless % PROBE_PERIOD == 0) {
        return full_ns;
    }
    return halved > FLOOR_NS ? halved : floor_ns;
}

/* Nothing to look with yet; false: it stays so. */
static bool
may_look(struct ssti_spin_run *run)
{
    struct ssti_self *const self = ssti_self();

    run->useless = NULL;
    run->end_ns = 0;
    run->pauses = 1;
    run->budget_ns = 0;
    self->was_woken = 0; /* every operation that may sleep begins here */
    if (self->just_woke != 0 || !has_company()) {
        self->just_woke = 0;
        return false;
    }
    return true;
}

void
ssti_spin_begin(struct ssti_spin_run *run, struct ssti_spin *spin, int64_t deadline_ns)
{
    const bool glance = deadline_ns == SST_NOW;

    if (!may_look(run)) {
        return;
    }
    run->useless = &spin->useless[glance ? 1 : 0];
    /* Somebody who polls wants no more than a glance: that shrinks to nothing. */
    run->budget_ns = budget(ssti_load_rlx(run->useless),
                            glance ? SSTI_SPIN_GLANCE_NS : SSTI_SPIN_STARE_NS,
                            glance ? 0 : FLOOR_NS);
}

void
ssti_spin_begin_long(struct ssti_spin_run *run, struct ssti_spin *spin,
                     uint32_t full_ns)
{
    if (!may_look(run)) {
        return;
    }
    run->useless = &spin->useless[0];
    run->budget_ns = budget(ssti_load_rlx(run->useless), full_ns, 0);
}

bool
ssti_spin_next(struct ssti_spin_run *run)
{
    int64_t now_ns;

    if (run->budget_ns == 0) {
        return false;
    }
    for (uint32_t i = 0; i < run->pauses; i++) {
        ssti_pause();
    }
    now_ns = ssti_os_now_ns();
    if (run->end_ns == 0) {
        run->end_ns = now_ns + run->budget_ns;
    }
    else if (now_ns >= run->end_ns) {
        return false;
    }
    if (run->pauses < PAUSES_MAX) {
        run->pauses *= 2;
    }
    return true;
}

void
ssti_spin_end(const struct ssti_spin_run *run, bool useful)
{
    if (run->useless != NULL) {
        ssti_store_rlx(run->useless, useful ? 0 : ssti_load_rlx(run->useless) + 1);
    }
}

bool
ssti_spin_is_late(const struct ssti_spin_run *run)
{
    return run->end_ns != 0 && ssti_os_now_ns() >= run->end_ns;
}
