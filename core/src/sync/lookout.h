/* SPDX-License-Identifier: MIT */
#ifndef SSTI_SYNC_LOOKOUT_H
#define SSTI_SYNC_LOOKOUT_H

/* Sleeping among others whose death matters: what conditions and barriers share.
 *
 * A sleeper is told of a death in two ways. The dead one had the leaf pending, so the
 * kernel wakes another of its sleepers; and each sleeper has its eye on the life word
 * of one other participant. Either way it wakes without cause and looks who is dead. A
 * thread may be gone a little before its process counts as dead, though: who finds
 * nobody looks again, a few times at growing distances, before it sleeps soundly. */

#include <stdbool.h>
#include <stdint.h>

#include "shm/leaf.h"
#include "sync/roster.h"
#include "sync/view.h"

/* Of one wait. */
struct ssti_lookout {
    int64_t nap_ns;   /* until the next look at who lives; 0 = sleep soundly */
    int64_t until_ns; /* when the last sleep was to end of itself */
};

/* Begin a wait, or go on with one that a signal interrupted in this thread; end it with
 * what it returns. */
void ssti_lookout_begin(struct ssti_lookout *lookout);
void ssti_lookout_end(const struct ssti_lookout *lookout, int rc);

/* The sleeper is awake and has nothing to go for: if it was woken, look again soon. */
void ssti_lookout_alarm(struct ssti_lookout *lookout);

/* Complete `sleep`, of which class, wake and count are set: whom to watch, how long.
 * `other` is that process, 0 = nobody. False when it is dead already: do not sleep. */
bool ssti_lookout_prepare(struct ssti_lookout *lookout, const struct ssti_view *view,
                          uint64_t other, struct ssti_leaf_sleep *sleep,
                          int64_t deadline_ns);

#endif
