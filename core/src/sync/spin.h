/* SPDX-License-Identifier: MIT */
#ifndef SSTI_SYNC_SPIN_H
#define SSTI_SYNC_SPIN_H

/* Looking at a shared word for a while before sleeping on it: the one policy, for
 * every object. spin.c explains it.
 *
 *     struct ssti_spin_run run;
 *
 *     ssti_spin_begin(&run, &view->spin, deadline_ns);
 *     while (!condition && ssti_spin_next(&run)) {
 *     }
 *     ssti_spin_end(&run, condition);
 *
 * The condition is looked at without a lock; what it says is decided again under one.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/atomic.h"

/* What an object's view remembers: how many bouts in a row were useless, [0] before a
 * sleep, [1] when the caller does not mean to sleep. In this process's memory, zeroed
 * at first; any thread writes, and a lost update only makes the guess a little worse.
 */
struct ssti_spin {
    _Atomic uint32_t useless[2];
};

/* One bout of spinning. */
struct ssti_spin_run {
    _Atomic uint32_t *useless; /* NULL: there was no question of spinning */
    int64_t end_ns;            /* 0 until the first look at the clock */
    uint32_t budget_ns;        /* 0 = do not spin */
    uint32_t pauses;           /* before the next look */
};

/* Longest looks, in nanoseconds. */
enum {
    SSTI_SPIN_STARE_NS = 20000,
    SSTI_SPIN_GLANCE_NS = 2000,
};

/* Decide how long to look. With SST_NOW as deadline that is a glance: short enough to
 * be done while holding whatever lock the caller's caller holds, an interpreter's for
 * one. No look at all on one CPU, nor when this thread's last action was to wake
 * somebody. */
void ssti_spin_begin(struct ssti_spin_run *run, struct ssti_spin *spin,
                     int64_t deadline_ns);

/* The same before a sleep, for an object whose other side needs up to `full_ns` to act.
 */
void ssti_spin_begin_long(struct ssti_spin_run *run, struct ssti_spin *spin,
                          uint32_t full_ns);

/* Pause a little. False when the time is up: go to sleep. */
bool ssti_spin_next(struct ssti_spin_run *run);

/* Learn from the bout: did the condition come true while looking? */
void ssti_spin_end(const struct ssti_spin_run *run, bool useful);

/* Is the time of the bout over? Then who looked was off the CPU for a while, and what
 * came meanwhile would have been there after a sleep as well. */
bool ssti_spin_is_late(const struct ssti_spin_run *run);

#endif
