/* SPDX-License-Identifier: MIT */

/* Semaphores, counting and bounded.
 *
 * `value` units are to be had. A counting semaphore has no owners: units that a process
 * took with it into death stay taken, as in the stdlib, for nobody can tell a unit that
 * is held from one that was used up. Each change is one store of `value`.
 *
 * A semaphore made full (value == value_max) is bounded: its units stand for something
 * that is given back. It keeps a roster of who holds how many. When no unit is left and
 * all of them belong to dead processes, nobody can give one back, and acquire returns
 * SST_EOWNERDEAD; recover returns the units of the dead. Units that found no room in
 * the roster (more than 22 processes hold some) count as held by the living.
 *
 * Who gave a unit back is not always who took it. A release takes from the releaser's
 * own entry, else from one of a dead process, else from any: so the sum of the roster
 * is never more than the units taken.
 *
 * Who has to wait sleeps as class A; of a bounded one with its eye on the life word of
 * one living holder. One is enough: as long as that one lives not all are dead. As with
 * mutexes, `watched` tells whether the last sleeper's eye is on a holder still.
 *
 * Invariants
 *   S1  value <= value_max; sum of the roster <= value_max - value
 *   S2  value > 0, and somebody asleep in A: as many as there are units have been
 *       woken, or the next unlock of the leaf will wake that many
 *   S3  bounded, no unit left, and somebody asleep in A: one of them sleeps on the life
 *       word of a holder, or has been woken, or the next unlock will wake one; or some
 *       holder is unknown
 *
 * Death table (process dies after ...)
 *   value := ...             of a counting one: committed; the leaf's next holder wakes
 *                            (S2)
 *   intent_* := ...          of a bounded one: without `intent` nothing happened
 *   intent := 1              the next to lock stores value and entry as the record says
 *   value, stay := ...       the same, idempotent
 *   intent := 0              done
 *   some of `count` units    a release of several units does them one by one: those
 *                            that were done are back, the others stay taken
 *   being woken              the leaf passes the wake on (S2) */

#include <stddef.h>

#include "base/alloc.h"
#include "base/atomic.h"
#include "base/bits.h"
#include "base/crashpoint.h"
#include "base/status.h"
#include "shm/arena.h"
#include "shm/layout.h"
#include "shm/leaf.h"
#include "sidestep/sidestep.h"
#include "sync/kinds.h"
#include "sync/roster.h"
#include "sync/spin.h"
#include "sync/view.h"

struct sst_semaphore {
    struct ssti_view view;
    struct sst_semaphore_shm *shm;
    struct ssti_roster roster;
    struct ssti_spin spin;
};

static bool
is_bounded(const struct sst_semaphore *semaphore)
{
    return ssti_load_rlx(&semaphore->shm->bounded) != 0;
}

/* Finish what a dead process began. The leaf is held. */
static void
redo(const struct ssti_view *view)
{
    const struct sst_semaphore *const semaphore = (const struct sst_semaphore *)view;
    struct sst_semaphore_shm *const shm = semaphore->shm;
    const uint32_t index = ssti_load_rlx(&shm->intent_index);

    if (ssti_load_acq(&shm->intent) == 0) {
        return;
    }
    ssti_store_rlx(&shm->value, ssti_load_rlx(&shm->intent_value));
    if (index < SSTI_SEMAPHORE_STAYS) {
        ssti_store_rlx(&shm->stay[index].stay, ssti_load_rlx(&shm->intent_stay));
    }
    ssti_store_rel(&shm->intent, 0);
}

/* value := `value` and stay[index] := `times` as one step. Pairs with redo(). */
static void
account(struct sst_semaphore *semaphore, uint32_t value, int index, uint32_t times)
{
    struct sst_semaphore_shm *const shm = semaphore->shm;

    ssti_store_rlx(&shm->intent_value, value);
    ssti_store_rlx(&shm->intent_index, (uint32_t)index);
    ssti_store_rlx(&shm->intent_stay, ssti_stay_make(0, times));
    SST_CRASHPOINT(semaphore_account_prepared);
    ssti_store_rel(&shm->intent, 1);
    SST_CRASHPOINT(semaphore_account_intended);
    ssti_store_rel(&shm->value, value);
    SST_CRASHPOINT(semaphore_account_counted);
    ssti_store_rel(&shm->stay[index].stay, ssti_stay_make(0, times));
    SST_CRASHPOINT(semaphore_account_noted);
    ssti_store_rel(&shm->intent, 0);
}

static uint32_t
times_of(const struct sst_semaphore *semaphore, int index)
{
    return ssti_stay_times(ssti_load_rlx(&semaphore->shm->stay[index].stay));
}

/* Units taken by nobody in the roster. */
static uint32_t
unknown(const struct sst_semaphore *semaphore)
{
    const struct sst_semaphore_shm *const shm = semaphore->shm;
    const uint32_t used = ssti_roster_used(&semaphore->roster);
    uint64_t known = ssti_load_rlx(&shm->value);
    const uint32_t max = ssti_load_rlx(&shm->value_max);

    for (uint32_t i = 0; i < used; i++) {
        known += times_of(semaphore, (int)i);
    }
    return known < max ? max - (uint32_t)known : 0;
}

static bool
is_watched(const struct sst_semaphore *semaphore)
{
    const uint64_t watched = ssti_load_rlx(&semaphore->shm->watched);

    return watched != 0 && ssti_roster_find(&semaphore->roster, watched, 0) >= 0;
}

/* Let go of the leaf with the wake that the state asks for: S2, S3. */
static void
unlock(struct sst_semaphore *semaphore)
{
    const uint32_t value = ssti_load_rlx(&semaphore->shm->value);
    int count = value < INT32_MAX ? (int)value : INT32_MAX;

    if (value == 0 && ssti_leaf_waiting(semaphore->view.leaf, SSTI_LEAF_A) != 0 &&
        is_bounded(semaphore) && !is_watched(semaphore)) {
        count = 1;
    }
    ssti_view_unlock(&semaphore->view, count > 0 ? SSTI_LEAF_A : 0, count);
}

/* Take a unit if there is one; the leaf is held. */
static int
take_locked(struct sst_semaphore *semaphore)
{
    struct sst_semaphore_shm *const shm = semaphore->shm;
    const uint32_t value = ssti_load_rlx(&shm->value);
    int index = -1;

    if (value == 0) {
        return SST_EAGAIN;
    }
    if (is_bounded(semaphore)) {
        const uint64_t self = ssti_proc_self(semaphore->view.arena);

        index = ssti_roster_find(&semaphore->roster, self, 0);
        if (index < 0) {
            index = ssti_roster_claim(&semaphore->roster, self, 0);
        }
    }
    if (index >= 0 && times_of(semaphore, index) < SSTI_STAY_MASK) {
        account(semaphore, value - 1, index, times_of(semaphore, index) + 1);
        return 0;
    }
    ssti_store_rel(&shm->value, value - 1);
    SST_CRASHPOINT(semaphore_take_committed);
    return 0;
}

static int
try_acquire(struct sst_semaphore *semaphore)
{
    int rc;

    if (ssti_load_acq(&semaphore->shm->value) == 0) {
        return SST_EAGAIN;
    }
    ssti_view_lock(&semaphore->view);
    rc = take_locked(semaphore);
    unlock(semaphore);
    return rc;
}

static int
spin_acquire(struct sst_semaphore *semaphore, int64_t deadline_ns)
{
    struct ssti_spin_run run;
    int rc = SST_EAGAIN;

    ssti_spin_begin(&run, &semaphore->spin, deadline_ns);
    while (rc == SST_EAGAIN && ssti_spin_next(&run)) {
        rc = try_acquire(semaphore);
    }
    ssti_spin_end(&run, rc == 0);
    return rc;
}

/* Make ready to sleep for want of a unit: keep an eye on a living holder. False when
 * there is none and none is unknown. The leaf is held. */
static bool
watch_holder(struct sst_semaphore *semaphore, struct ssti_leaf_sleep *sleep,
             int64_t deadline_ns)
{
    const uint32_t used = ssti_roster_used(&semaphore->roster);

    sleep->life = NULL;
    sleep->deadline_ns = deadline_ns;
    if (!is_bounded(semaphore) || unknown(semaphore) != 0) {
        return true;
    }
    for (uint32_t i = 0; i < used; i++) {
        const uint64_t proc = ssti_load_rlx(&semaphore->shm->stay[i].proc);

        if (times_of(semaphore, (int)i) != 0 &&
            ssti_view_watch(&semaphore->view, proc, sleep, deadline_ns)) {
            ssti_store_rlx(&semaphore->shm->watched, proc);
            return true;
        }
    }
    return false;
}

static int
sleep_acquire(struct sst_semaphore *semaphore, int64_t deadline_ns)
{
    struct ssti_leaf_sleep sleep = {.class = SSTI_LEAF_A};
    int rc = 0;

    ssti_view_lock(&semaphore->view);
    while (take_locked(semaphore) != 0) {
        if (rc == 0 && !watch_holder(semaphore, &sleep, deadline_ns)) {
            ssti_view_unlock(&semaphore->view, SSTI_LEAF_A, SSTI_LEAF_EVERYBODY);
            return SST_EOWNERDEAD;
        }
        if (rc == 0 && deadline_ns == SST_NOW) {
            rc = SST_ETIMEDOUT;
        }
        if (rc != 0) {
            ssti_store_rlx(&semaphore->shm->watched, 0); /* maybe it was we */
            unlock(semaphore);
            return rc;
        }
        rc = ssti_view_wait(&semaphore->view, &sleep, deadline_ns);
    }
    unlock(semaphore);
    return 0;
}

int
sst_semaphore_acquire(struct sst_semaphore *semaphore, int64_t deadline_ns)
{
    int rc = try_acquire(semaphore);

    if (rc == SST_EAGAIN) {
        rc = spin_acquire(semaphore, deadline_ns);
    }
    if (rc == SST_EAGAIN && deadline_ns == SST_NOW && !is_bounded(semaphore)) {
        return SST_ETIMEDOUT;
    }
    return rc == SST_EAGAIN ? sleep_acquire(semaphore, deadline_ns) : rc;
}

/* The entry a released unit comes from: our own, else a dead process's, else any; -1
 * when the roster is empty. The leaf is held. */
static int
giver(const struct sst_semaphore *semaphore)
{
    const uint32_t used = ssti_roster_used(&semaphore->roster);
    struct sst_arena *const arena = semaphore->view.arena;
    int any = ssti_roster_find(&semaphore->roster, ssti_proc_self(arena), 0);

    if (any >= 0) {
        return any;
    }
    for (uint32_t i = 0; i < used; i++) {
        if (times_of(semaphore, (int)i) == 0) {
            continue;
        }
        any = (int)i;
        if (!ssti_proc_alive(arena, ssti_load_rlx(&semaphore->shm->stay[i].proc))) {
            break;
        }
    }
    return any;
}

static int
release_locked(struct sst_semaphore *semaphore, uint32_t count)
{
    struct sst_semaphore_shm *const shm = semaphore->shm;
    uint32_t value = ssti_load_rlx(&shm->value);
    const uint32_t max = ssti_load_rlx(&shm->value_max);

    if (value > max || count > max - value) {
        return SST_EOVERFLOW;
    }
    if (!is_bounded(semaphore)) {
        ssti_store_rel(&shm->value, value + count);
        SST_CRASHPOINT(semaphore_release_committed);
        return 0;
    }
    while (count > 0) {
        const int index = giver(semaphore);
        const uint32_t units =
            index < 0 ? count : (uint32_t)ssti_min(count, times_of(semaphore, index));

        if (index < 0) {
            ssti_store_rel(&shm->value, value + units);
        }
        else {
            account(semaphore, value + units, index,
                    times_of(semaphore, index) - units);
        }
        value += units;
        count -= units;
    }
    ssti_roster_trim(&semaphore->roster);
    return 0;
}

int
sst_semaphore_release(struct sst_semaphore *semaphore, uint32_t count)
{
    int rc;

    ssti_view_lock(&semaphore->view);
    rc = release_locked(semaphore, count);
    unlock(semaphore);
    return rc;
}

int
sst_semaphore_recover(struct sst_semaphore *semaphore)
{
    struct sst_semaphore_shm *const shm = semaphore->shm;
    int recovered = 0;

    if (!is_bounded(semaphore)) {
        return 0;
    }
    ssti_view_lock(&semaphore->view);
    for (uint32_t i = 0; i < ssti_roster_used(&semaphore->roster); i++) {
        const uint32_t times = times_of(semaphore, (int)i);
        const uint64_t proc = ssti_load_rlx(&shm->stay[i].proc);

        if (times != 0 && !ssti_proc_alive(semaphore->view.arena, proc)) {
            account(semaphore, ssti_load_rlx(&shm->value) + times, (int)i, 0);
            recovered += (int)times;
        }
    }
    ssti_roster_trim(&semaphore->roster);
    unlock(semaphore);
    return recovered;
}

uint32_t
sst_semaphore_value(const struct sst_semaphore *semaphore)
{
    return ssti_load_acq(&semaphore->shm->value);
}

uint32_t
sst_semaphore_value_max(const struct sst_semaphore *semaphore)
{
    return ssti_load_rlx(&semaphore->shm->value_max);
}

/* ---- Life ---- */

static void
bind(struct sst_semaphore *semaphore, void *object)
{
    semaphore->shm = object;
    semaphore->view.leaf = &semaphore->shm->leaf;
    semaphore->view.repair = redo;
    semaphore->roster = (struct ssti_roster){
        .stays = semaphore->shm->stay,
        .used = &semaphore->shm->stays_used,
        .max = SSTI_SEMAPHORE_STAYS,
    };
}

int
sst_semaphore_create(struct sst_arena *arena, uint32_t value, uint32_t value_max,
                     struct sst_semaphore **out, struct sst_error *err)
{
    struct sst_semaphore *semaphore;
    void *object;
    int rc;

    if (value_max == 0 || value > value_max) {
        return ssti_error_set(err, SST_EINVAL, "a semaphore of %u units with value %u",
                              value_max, value);
    }
    semaphore = ssti_alloc(sizeof(*semaphore));
    if (semaphore == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "no memory for a semaphore");
    }
    rc = ssti_view_create(&semaphore->view, arena, SST_KIND_SEMAPHORE,
                          sizeof(*semaphore->shm), &object, err);
    if (rc < 0) {
        ssti_free(semaphore);
        return rc;
    }
    bind(semaphore, object);
    ssti_store_rlx(&semaphore->shm->value, value);
    ssti_store_rlx(&semaphore->shm->value_max, value_max);
    ssti_store_rlx(&semaphore->shm->bounded, value == value_max ? 1 : 0);
    *out = semaphore;
    return 0;
}

int
sst_semaphore_attach(struct sst_arena *arena, const struct sst_handle *handle,
                     struct sst_semaphore **out, struct sst_error *err)
{
    struct sst_semaphore *const semaphore = ssti_alloc(sizeof(*semaphore));
    void *object;
    int rc;

    if (semaphore == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "no memory for a semaphore");
    }
    rc = ssti_view_attach(&semaphore->view, arena, SST_KIND_SEMAPHORE,
                          sizeof(*semaphore->shm), handle, &object, err);
    if (rc < 0) {
        ssti_free(semaphore);
        return rc;
    }
    bind(semaphore, object);
    *out = semaphore;
    return 0;
}

void
sst_semaphore_handle(const struct sst_semaphore *semaphore, struct sst_handle *out)
{
    ssti_view_handle(&semaphore->view, out);
}

struct sst_semaphore *
sst_semaphore_close(struct sst_semaphore *semaphore)
{
    if (semaphore != NULL) {
        ssti_view_fini(&semaphore->view);
        ssti_free(semaphore);
    }
    return NULL;
}

const struct ssti_kind_ops *
ssti_semaphore_kind(void)
{
    static struct ssti_kind_ops ops;

    ops.layout = SSTI_LAYOUT_HASH(sizeof(struct sst_semaphore_shm),
                                  offsetof(struct sst_semaphore_shm, leaf),
                                  offsetof(struct sst_semaphore_shm, value),
                                  offsetof(struct sst_semaphore_shm, value_max),
                                  offsetof(struct sst_semaphore_shm, bounded),
                                  offsetof(struct sst_semaphore_shm, stays_used),
                                  offsetof(struct sst_semaphore_shm, intent),
                                  offsetof(struct sst_semaphore_shm, watched),
                                  offsetof(struct sst_semaphore_shm, stay),
                                  SSTI_SEMAPHORE_STAYS);
    return &ops;
}
