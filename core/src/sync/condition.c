/* SPDX-License-Identifier: MIT */

/* Conditions: waiters that notify lets go, in the order of the rounds they came in.
 *
 * Waiting has three steps, because the lock that goes with a condition is the user's:
 * enter while holding it, wait without it, leave if wait gave up. A waiter counts from
 * enter on, so a notify between enter and sleep reaches it.
 *
 * Time is cut into rounds. A waiter's ticket is the round it entered in:
 *
 *        entitled           R: at stake             R + 1: late
 *     ...   |   members, `credits`   |   came while credits
 *      may all go    |   of them may go       |   were about
 *
 * notify gives credits to round R; any member may use one up. When all members of R are
 * covered the round ends: R grows by one, they may all go whenever they like, and the
 * late ones are at stake. Who enters joins R, or R + 1 while credits are about, so that
 * it cannot take what was meant for those who came before it. Within a round it is left
 * to chance who goes. `turn` holds R and the credits in one word: one store is a
 * notify. The roster holds who has entered and not yet gone, by process and round;
 * every number needed is counted from it, so there are no two places to keep in step.
 *
 * Waiters of round r sleep as class r % 3. Credits wake that many in R's class;
 * entitled ones who have not gone yet make every unlock wake all of theirs. So the wake
 * follows from the state alone. (Class R + 1 is that of R - 2 as well. When members of
 * R - 2 are still about nobody joins R + 1: newcomers join R, and only then may a late
 * one be faster than one of the same round who came before the credit.)
 *
 * The death of a waiter is noticed by the others (lookout.h). Who wakes without cause
 * looks for dead in the roster and takes them out. One that was entitled had a
 * notification that it will not use: it is given on, as a credit. An entitled one need
 * not be asleep, so the kernel may tell nobody of its death: as long as some are, which
 * normally is a moment, the others sleep in slices. `told` is the round whose members
 * were woken to do so.
 *
 * Invariants
 *   C1  credits < members of R, or nobody waits, or the round ends at once (settle); so
 *       no credit is idle, and nobody is late for a round that has no members
 *   C2  whoever may go and sleeps has been woken, or will be by the next unlock
 *   C3  a waiter returns 0 at most once for each notification; with two deaths in a row
 *       (below) more
 *   C4  somebody is entitled and another at stake: one of these sleeps in slices, or
 *       has been woken, or will be by the next unlock
 *
 * Death table (process dies after ...)
 *   enter: stay := ...         it is a waiter, dead like any other
 *   notify: turn := ...        committed; the leaf's next holder wakes (C2)
 *   going: stay := one less    the credit is still there, for another member: passed on
 *   going: turn := one less    gone; nothing is left
 *   reaping: turn := one more  the dead one is still in the roster: the next reaper
 *                              gives another credit. One waiter too many goes, as if
 *                              notified.
 *   reaping: stay := 0         done
 *   asleep, or woken           reaped by another waiter, or by the next notify */

#include <stddef.h>

#include "base/alloc.h"
#include "base/atomic.h"
#include "base/bits.h"
#include "base/crashpoint.h"
#include "base/status.h"
#include "os/os.h"
#include "shm/arena.h"
#include "shm/layout.h"
#include "shm/leaf.h"
#include "sidestep/sidestep.h"
#include "sync/kinds.h"
#include "sync/lookout.h"
#include "sync/roster.h"
#include "sync/spin.h"
#include "sync/view.h"

struct sst_condition {
    struct ssti_view view;
    struct sst_condition_shm *shm;
    struct ssti_roster roster;
    struct ssti_spin spin;
};

/* A consistent look at the state, taken under the leaf. */
struct census {
    uint64_t round;
    uint32_t credits;
    uint32_t members;  /* of `round`, those with credit included */
    uint32_t late;     /* of the round after */
    uint32_t entitled; /* of rounds before, not yet gone */
    uint32_t classes;  /* mask of their classes */
    bool crowded;      /* some of them are of round - 2 or before */
};

static uint64_t
turn_make(uint64_t round, uint32_t credits)
{
    return round << SSTI_STAY_BITS | credits;
}

static enum ssti_leaf_class
class_of(uint64_t round)
{
    const uint32_t remainder = (uint32_t)(round % 3);

    return remainder == 0 ? SSTI_LEAF_A : remainder == 1 ? SSTI_LEAF_B : SSTI_LEAF_C;
}

static struct census
count(const struct sst_condition *condition)
{
    const uint64_t turn = ssti_load_rlx(&condition->shm->turn);
    const uint32_t used = ssti_roster_used(&condition->roster);
    struct census census = {
        .round = ssti_stay_round(turn),
        .credits = ssti_stay_times(turn),
    };

    for (uint32_t i = 0; i < used; i++) {
        const uint64_t stay = ssti_load_rlx(&condition->shm->stay[i].stay);
        const uint64_t round = ssti_stay_round(stay);
        const uint32_t times = ssti_stay_times(stay);

        if (times == 0) {
            continue;
        }
        if (round < census.round) {
            census.entitled += times;
            census.classes |= (uint32_t)class_of(round);
            census.crowded = census.crowded || round + 1 < census.round;
        }
        else if (round == census.round) {
            census.members += times;
        }
        else {
            census.late += times;
        }
    }
    return census;
}

/* End the round when all its members are covered, or none is left and others are late:
 * C1. Credits beyond that, of members who died, go to the next. The leaf is held. */
static struct census
settle(struct sst_condition *condition)
{
    struct census census = count(condition);

    while (census.credits >= census.members &&
           (census.credits != 0 || census.late != 0)) {
        const uint32_t surplus = census.credits - census.members;

        ssti_store_rel(&condition->shm->turn,
                       turn_make(census.round + 1,
                                 (uint32_t)ssti_min(surplus, census.late)));
        SST_CRASHPOINT(condition_settle_committed);
        census = count(condition);
    }
    return census;
}

/* The wake that the state asks for: C2, C4. */
static uint32_t
due(const struct sst_condition *condition, const struct census *census)
{
    const uint32_t members = (uint32_t)class_of(census->round);
    uint32_t wake = census->classes;

    if (census->credits != 0) {
        wake |= members;
    }
    if (census->entitled != 0 && census->members != 0 &&
        ssti_load_rlx(&condition->shm->told) != census->round) {
        ssti_store_rlx(&condition->shm->told, census->round);
        wake |= members;
    }
    return wake;
}

static int
due_count(const struct census *census)
{
    return census->entitled != 0 ? SSTI_LEAF_EVERYBODY : (int)census->credits;
}

static void
unlock(struct sst_condition *condition)
{
    const struct census census = settle(condition);

    ssti_view_unlock(&condition->view, due(condition, &census), due_count(&census));
}

/* Credits for up to `wanted` of those who wait; how many. The leaf is held. */
static uint32_t
give(struct sst_condition *condition, uint32_t wanted)
{
    uint32_t given = 0;

    for (;;) {
        const struct census census = settle(condition);
        const uint32_t room = census.members - census.credits;
        const uint32_t now = (uint32_t)ssti_min(room, wanted - given);

        if (now == 0) {
            return given;
        }
        ssti_store_rel(&condition->shm->turn,
                       turn_make(census.round, census.credits + now));
        SST_CRASHPOINT(condition_give_committed);
        given += now;
    }
}

/* Take the dead out of the roster and give on what they were notified of. The leaf is
 * held. */
static void
reap(struct sst_condition *condition)
{
    const uint64_t self = ssti_proc_self(condition->view.arena);

    for (uint32_t i = 0; i < ssti_roster_used(&condition->roster); i++) {
        struct sst_stay_shm *const entry = &condition->shm->stay[i];
        const uint64_t stay = ssti_load_rlx(&entry->stay);
        const uint64_t proc = ssti_load_rlx(&entry->proc);
        const uint64_t round = ssti_stay_round(ssti_load_rlx(&condition->shm->turn));

        if (ssti_stay_times(stay) == 0 || proc == self ||
            ssti_proc_alive(condition->view.arena, proc)) {
            continue;
        }
        if (ssti_stay_round(stay) < round) {
            (void)give(condition, ssti_stay_times(stay));
            SST_CRASHPOINT(condition_reap_given);
        }
        ssti_store_rel(&entry->stay, 0);
        SST_CRASHPOINT(condition_reap_removed);
    }
    ssti_roster_trim(&condition->roster);
}

int
sst_condition_enter(struct sst_condition *condition, uint64_t *ticket)
{
    const uint64_t self = ssti_proc_self(condition->view.arena);
    struct census census;
    uint64_t round;
    int rc;

    ssti_view_lock(&condition->view);
    census = settle(condition);
    round = census.credits != 0 && !census.crowded ? census.round + 1 : census.round;
    rc = ssti_roster_join(&condition->roster, self, round, 0);
    if (rc == SST_ELIMIT) {
        reap(condition);
        rc = ssti_roster_join(&condition->roster, self, round, 0);
    }
    ssti_store_rlx(&condition->shm->last, self);
    unlock(condition);

    *ticket = round;
    return rc;
}

/* May the holder of this ticket go, as far as one can see without the leaf? */
static bool
may_go(const struct sst_condition *condition, uint64_t ticket)
{
    const uint64_t turn = ssti_load_acq(&condition->shm->turn); /* pairs with give() */

    return ticket < ssti_stay_round(turn) ||
           (ticket == ssti_stay_round(turn) && ssti_stay_times(turn) != 0);
}

/* Go if that is allowed: true, and no waiter any more. The leaf is held. */
static bool
go_locked(struct sst_condition *condition, uint64_t ticket, int index)
{
    const uint64_t turn = ssti_load_rlx(&condition->shm->turn);

    if (!may_go(condition, ticket)) {
        return false;
    }
    ssti_roster_leave(&condition->roster, index);
    SST_CRASHPOINT(condition_go_left);
    if (ticket == ssti_stay_round(turn)) {
        ssti_store_rel(&condition->shm->turn, turn - 1);
        SST_CRASHPOINT(condition_go_paid);
    }
    return true;
}

/* The waiter has been woken and may not go. Somebody may have died, or be about to.
 * Lets go of the leaf for a moment. */
static void
look_out(struct sst_condition *condition, struct ssti_lookout *lookout)
{
    ssti_lookout_alarm(lookout);
    reap(condition);
    unlock(condition);
    (void)ssti_proc_sweep(condition->view.arena); /* how many it were: no matter */
    ssti_view_lock(&condition->view);
}

enum {
    WATCH_NS = 20000000, /* between looks at those who are entitled and do not go */
};

/* Make ready to sleep. False when the process to watch is dead already: look again. */
static bool
prepare(struct sst_condition *condition, uint64_t ticket, struct ssti_lookout *lookout,
        struct ssti_leaf_sleep *sleep, int64_t deadline_ns)
{
    const struct census census = settle(condition);
    const uint64_t self = ssti_proc_self(condition->view.arena);
    const uint64_t other = ssti_roster_other(&condition->roster, self,
                                             ssti_load_rlx(&condition->shm->last), 0);

    const int64_t watch_ns =
        census.entitled != 0 ? ssti_os_now_ns() + WATCH_NS : SST_FOREVER;

    *sleep = (struct ssti_leaf_sleep){
        .class = class_of(ticket),
        .wake = due(condition, &census),
        .count = due_count(&census),
    };
    return ssti_lookout_prepare(lookout, &condition->view, other, sleep,
                                watch_ns < deadline_ns ? watch_ns : deadline_ns);
}

static int
sleep_wait(struct sst_condition *condition, uint64_t ticket, int64_t deadline_ns)
{
    const uint64_t self = ssti_proc_self(condition->view.arena);
    struct ssti_lookout lookout;
    int rc = 0;

    ssti_lookout_begin(&lookout);
    ssti_view_lock(&condition->view);
    for (;;) {
        const int index = ssti_roster_find(&condition->roster, self, ticket);
        struct ssti_leaf_sleep sleep;

        if (index < 0) {
            rc = SST_EINVAL;
            break;
        }
        if (go_locked(condition, ticket, index)) {
            rc = 0;
            break;
        }
        if (rc != 0) {
            break;
        }
        if (prepare(condition, ticket, &lookout, &sleep, deadline_ns)) {
            rc = ssti_view_wait(&condition->view, &sleep, deadline_ns);
            if (rc != 0 || may_go(condition, ticket)) {
                continue;
            }
        }
        look_out(condition, &lookout);
    }
    unlock(condition);
    ssti_lookout_end(&lookout, rc);
    return rc;
}

int
sst_condition_wait(struct sst_condition *condition, uint64_t ticket,
                   int64_t deadline_ns)
{
    struct ssti_spin_run run;
    bool notified = may_go(condition, ticket);

    if (!notified) {
        ssti_spin_begin(&run, &condition->spin, deadline_ns);
        while (!notified && ssti_spin_next(&run)) {
            notified = may_go(condition, ticket);
        }
        ssti_spin_end(&run, notified);
    }
    if (!notified && deadline_ns == SST_NOW) {
        return SST_ETIMEDOUT;
    }
    return sleep_wait(condition, ticket, deadline_ns);
}

bool
sst_condition_leave(struct sst_condition *condition, uint64_t ticket)
{
    const uint64_t self = ssti_proc_self(condition->view.arena);
    bool notified = false;
    int index;

    ssti_view_lock(&condition->view);
    index = ssti_roster_find(&condition->roster, self, ticket);
    if (index >= 0) {
        notified = go_locked(condition, ticket, index);
        if (!notified) {
            ssti_roster_leave(&condition->roster, index);
        }
    }
    unlock(condition);
    return notified;
}

int
sst_condition_notify(struct sst_condition *condition, uint32_t wanted)
{
    uint32_t given;

    ssti_view_lock(&condition->view);
    reap(condition);
    given = give(condition, wanted);
    unlock(condition);
    return given < INT32_MAX ? (int)given : INT32_MAX;
}

uint32_t
sst_condition_waiters(const struct sst_condition *condition)
{
    const struct census census = count(condition); /* without the leaf: a snapshot */
    const uint32_t waiting = census.members + census.late;

    return waiting > census.credits ? waiting - census.credits : 0;
}

/* ---- Life ---- */

static void
bind(struct sst_condition *condition, void *object)
{
    condition->shm = object;
    condition->view.leaf = &condition->shm->leaf;
    condition->roster = (struct ssti_roster){
        .stays = condition->shm->stay,
        .used = &condition->shm->stays_used,
        .max = SSTI_CONDITION_STAYS,
    };
}

int
sst_condition_create(struct sst_arena *arena, struct sst_condition **out,
                     struct sst_error *err)
{
    struct sst_condition *const condition = ssti_alloc(sizeof(*condition));
    void *object;
    int rc;

    if (condition == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "no memory for a condition");
    }
    rc = ssti_view_create(&condition->view, arena, SST_KIND_CONDITION,
                          sizeof(*condition->shm), &object, err);
    if (rc < 0) {
        ssti_free(condition);
        return rc;
    }
    bind(condition, object);
    *out = condition;
    return 0;
}

int
sst_condition_attach(struct sst_arena *arena, const struct sst_handle *handle,
                     struct sst_condition **out, struct sst_error *err)
{
    struct sst_condition *const condition = ssti_alloc(sizeof(*condition));
    void *object;
    int rc;

    if (condition == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "no memory for a condition");
    }
    rc = ssti_view_attach(&condition->view, arena, SST_KIND_CONDITION,
                          sizeof(*condition->shm), handle, &object, err);
    if (rc < 0) {
        ssti_free(condition);
        return rc;
    }
    bind(condition, object);
    *out = condition;
    return 0;
}

void
sst_condition_handle(const struct sst_condition *condition, struct sst_handle *out)
{
    ssti_view_handle(&condition->view, out);
}

struct sst_condition *
sst_condition_close(struct sst_condition *condition)
{
    if (condition != NULL) {
        ssti_view_fini(&condition->view);
        ssti_free(condition);
    }
    return NULL;
}

const struct ssti_kind_ops *
ssti_condition_kind(void)
{
    static struct ssti_kind_ops ops;

    ops.layout = SSTI_LAYOUT_HASH(sizeof(struct sst_condition_shm),
                                  offsetof(struct sst_condition_shm, leaf),
                                  offsetof(struct sst_condition_shm, turn),
                                  offsetof(struct sst_condition_shm, last),
                                  offsetof(struct sst_condition_shm, stays_used),
                                  offsetof(struct sst_condition_shm, told),
                                  offsetof(struct sst_condition_shm, stay),
                                  SSTI_CONDITION_STAYS);
    return &ops;
}
