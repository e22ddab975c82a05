/* SPDX-License-Identifier: MIT */

/* Rosters: who takes part in an object, so that a death can be told from a long wait.
 *
 * An entry names a process and says how often it takes part, and in which round. One
 * entry serves all threads of a process, so a table of a few hundred is enough for
 * trees of a few hundred processes. `stay` is the word that counts: zero times means
 * free, whatever `proc` says, and its store commits every change. Objects that count in
 * rounds let old rounds rot: an entry of a round before `oldest` is as good as free.
 *
 * Death table (process dies under the leaf after ...)
 *   used := i + 1     entries from the old bound on are still free: nothing happened
 *   proc := itself    the entry has zero times (or an old round): free
 *   stay := ...       committed; the object decides what a dead participant means
 *   used := less      only free entries are behind it */

#include "sync/roster.h"

#include <stdbool.h>

#include "base/atomic.h"
#include "base/crashpoint.h"
#include "sidestep/sidestep.h"

int
ssti_roster_find(const struct ssti_roster *roster, uint64_t proc, uint64_t round)
{
    const uint32_t used = ssti_roster_used(roster);

    for (uint32_t i = 0; i < used; i++) {
        const uint64_t stay = ssti_load_rlx(&roster->stays[i].stay);

        if (ssti_stay_times(stay) != 0 && ssti_stay_round(stay) == round &&
            ssti_load_rlx(&roster->stays[i].proc) == proc) {
            return (int)i;
        }
    }
    return -1;
}

int
ssti_roster_claim(const struct ssti_roster *roster, uint64_t proc, uint64_t oldest)
{
    const uint32_t used = ssti_roster_used(roster);
    uint32_t i = 0;

    for (; i < used; i++) {
        const uint64_t stay = ssti_load_rlx(&roster->stays[i].stay);

        if (ssti_stay_times(stay) == 0 || ssti_stay_round(stay) < oldest) {
            break;
        }
    }
    if (i == roster->max) {
        return -1;
    }
    ssti_store_rel(&roster->stays[i].stay, 0);
    if (i == used) {
        ssti_store_rlx(roster->used, i + 1);
        SST_CRASHPOINT(roster_claim_used);
    }
    ssti_store_rlx(&roster->stays[i].proc, proc);
    SST_CRASHPOINT(roster_claim_named);
    return (int)i;
}

int
ssti_roster_join(const struct ssti_roster *roster, uint64_t proc, uint64_t round,
                 uint64_t oldest)
{
    int index = ssti_roster_find(roster, proc, round);
    uint32_t times = 0;

    if (index >= 0) {
        times = ssti_stay_times(ssti_load_rlx(&roster->stays[index].stay));
    }
    else {
        index = ssti_roster_claim(roster, proc, oldest);
    }
    if (index < 0 || times == SSTI_STAY_MASK) {
        return SST_ELIMIT;
    }
    ssti_store_rel(&roster->stays[index].stay, ssti_stay_make(round, times + 1));
    SST_CRASHPOINT(roster_join_committed);
    return 0;
}

void
ssti_roster_leave(const struct ssti_roster *roster, int index)
{
    struct sst_stay_shm *const entry = &roster->stays[index];
    const uint64_t stay = ssti_load_rlx(&entry->stay);
    const uint32_t times = ssti_stay_times(stay);

    ssti_store_rel(&entry->stay,
                   times > 1 ? ssti_stay_make(ssti_stay_round(stay), times - 1) : 0);
    SST_CRASHPOINT(roster_leave_committed);
    if (times <= 1) {
        ssti_roster_trim(roster);
    }
}

void
ssti_roster_trim(const struct ssti_roster *roster)
{
    uint32_t used = ssti_roster_used(roster);

    while (used > 0 &&
           ssti_stay_times(ssti_load_rlx(&roster->stays[used - 1].stay)) == 0) {
        used--;
    }
    ssti_store_rlx(roster->used, used);
}

uint64_t
ssti_roster_other(const struct ssti_roster *roster, uint64_t self, uint64_t preferred,
                  uint64_t oldest)
{
    const uint32_t used = ssti_roster_used(roster);
    bool behind_self = false;
    uint64_t found = 0;

    for (uint32_t i = 0; i < used; i++) {
        const uint64_t stay = ssti_load_rlx(&roster->stays[i].stay);
        const uint64_t proc = ssti_load_rlx(&roster->stays[i].proc);

        if (ssti_stay_times(stay) == 0 || ssti_stay_round(stay) < oldest) {
            continue;
        }
        if (proc == self) {
            behind_self = true;
            continue;
        }
        if (proc == preferred) {
            return proc;
        }
        if (found == 0 || behind_self) {
            found = proc;
            behind_self = false;
        }
    }
    return found;
}
