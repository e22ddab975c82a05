/* SPDX-License-Identifier: MIT */

/* Barriers: all wait until the last has come, who runs an action first if there is one.
 *
 * `turn` is the round and its state; one store of it changes either.
 *
 *     FILLING  --the last arrives-->  ACTING  --open-->  FILLING, next round
 *        |                              |
 *        +---abort, time-out, a death---+-->  BROKEN  --reset-->  FILLING, next round
 *
 * The roster says who has arrived in this round; entries of earlier rounds mean
 * nothing, so a round that is over leaves nothing to be cleared away, and nobody has to
 * wait until its last waiter has got up: that one finds another round in `turn`, and in
 * `broken`, one bit for each of the last 64 rounds, how its own ended. A round more
 * than 64 back counts as opened.
 *
 * Who waits sleeps as class A in even rounds, B in odd ones; who comes while the action
 * runs sleeps as C. From the state alone follows who must be awake: those of the other
 * parity, for their round is over; those of this parity when the barrier is broken, or
 * when nobody has arrived yet; C unless the action runs.
 *
 * A dead participant breaks the barrier, for the round could never be complete, also
 * when it was running the action. The others notice as those of a condition do: see
 * condition.c.
 *
 * Invariants
 *   B1  FILLING: fewer than `parties` in the roster, or somebody died while arriving:
 *       then whoever repairs breaks the barrier
 *   B2  whoever sleeps for something that has come about has been woken, or will be by
 *       the next unlock
 *   B3  a waiter learns how its own round ended, however late it gets up
 *
 * Death table (process dies after ...)
 *   stay := ...            it has arrived and is dead: the barrier breaks, at latest
 *                          when the last arrives
 *   turn := ACTING         the same; it would have run the action
 *   turn := next round     committed; the leaf's next holder wakes (B2)
 *   broken := ...          the round is still what it was: the bit is set again, or
 *                          cleared, when it does end
 *   turn := BROKEN         committed; the same
 *   asleep, woken          the round is over: nothing. Else the barrier breaks. */

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
#include "sync/lookout.h"
#include "sync/roster.h"
#include "sync/spin.h"
#include "sync/view.h"

struct sst_barrier {
    struct ssti_view view;
    struct sst_barrier_shm *shm;
    struct ssti_roster roster;
    struct ssti_spin spin;
    uint32_t parties; /* as it was at create or attach */
};

/* In the low bits of `turn`; the round is above. */
enum state {
    FILLING,
    ACTING,
    BROKEN,
};

enum {
    STATE_BITS = 2,
    HISTORY = 64, /* rounds in `broken` */
    PARTIES_MAX = 4096 * 256,
};

static enum state
state_of(uint64_t turn)
{
    return (enum state)(turn & ((1 << STATE_BITS) - 1));
}

static uint64_t
round_of(uint64_t turn)
{
    return turn >> STATE_BITS;
}

static uint64_t
turn_make(uint64_t round, enum state state)
{
    return round << STATE_BITS | (uint64_t)state;
}

static enum ssti_leaf_class
class_of(uint64_t round)
{
    return round % 2 == 0 ? SSTI_LEAF_A : SSTI_LEAF_B;
}

/* How many have arrived in a round. */
static uint32_t
arrived(const struct sst_barrier *barrier, uint64_t round)
{
    const uint32_t used = ssti_roster_used(&barrier->roster);
    uint32_t count = 0;

    for (uint32_t i = 0; i < used; i++) {
        const uint64_t stay = ssti_load_rlx(&barrier->roster.stays[i].stay);

        if (ssti_stay_round(stay) == round) {
            count += ssti_stay_times(stay);
        }
    }
    return count;
}

/* The wake that the state asks for: B2. The leaf is held. */
static uint32_t
due(const struct sst_barrier *barrier)
{
    const uint64_t turn = ssti_load_rlx(&barrier->shm->turn);
    const uint32_t ours = (uint32_t)class_of(round_of(turn));
    uint32_t wake = (SSTI_LEAF_A | SSTI_LEAF_B) & ~ours;

    if (state_of(turn) == BROKEN || arrived(barrier, round_of(turn)) == 0) {
        wake |= ours;
    }
    return state_of(turn) == ACTING ? wake : wake | SSTI_LEAF_C;
}

static void
unlock(const struct sst_barrier *barrier)
{
    ssti_view_unlock(&barrier->view, due(barrier), SSTI_LEAF_EVERYBODY);
}

/* The leaf is held. */
static void
break_locked(const struct sst_barrier *barrier)
{
    const uint64_t turn = ssti_load_rlx(&barrier->shm->turn);

    ssti_store_rel(&barrier->shm->turn, turn_make(round_of(turn), BROKEN));
    SST_CRASHPOINT(barrier_break_committed);
}

/* End the round and begin the next. The leaf is held. */
static void
advance(const struct sst_barrier *barrier, bool broken)
{
    const uint64_t round = round_of(ssti_load_rlx(&barrier->shm->turn));
    const uint64_t bit = UINT64_C(1) << (round % HISTORY);
    const uint64_t history = ssti_load_rlx(&barrier->shm->broken);

    /* Released: who reads it must not read an older `turn` after it, see outcome(). */
    ssti_store_rel(&barrier->shm->broken, broken ? history | bit : history & ~bit);
    SST_CRASHPOINT(barrier_advance_noted);
    ssti_store_rel(&barrier->shm->turn, turn_make(round + 1, FILLING));
    SST_CRASHPOINT(barrier_advance_committed);
    ssti_store_rlx(&barrier->shm->stays_used, 0); /* all are of rounds gone by */
}

/* Somebody died under the leaf: while it arrived as the last, maybe. B1. */
static void
repair(const struct ssti_view *view)
{
    const struct sst_barrier *const barrier = (const struct sst_barrier *)view;
    const uint64_t turn = ssti_load_rlx(&barrier->shm->turn);

    if (state_of(turn) == FILLING &&
        arrived(barrier, round_of(turn)) >= barrier->parties) {
        break_locked(barrier);
    }
}

/* Break the barrier when a participant is dead. The leaf is held. */
static void
reap(const struct sst_barrier *barrier)
{
    const uint64_t turn = ssti_load_rlx(&barrier->shm->turn);
    const uint32_t used = ssti_roster_used(&barrier->roster);

    if (state_of(turn) == BROKEN) {
        return;
    }
    for (uint32_t i = 0; i < used; i++) {
        const uint64_t stay = ssti_load_rlx(&barrier->roster.stays[i].stay);

        if (ssti_stay_times(stay) != 0 && ssti_stay_round(stay) == round_of(turn) &&
            !ssti_proc_alive(barrier->view.arena,
                             ssti_load_rlx(&barrier->roster.stays[i].proc))) {
            break_locked(barrier);
            return;
        }
    }
}

/* How round `ticket` ended, or SST_EAGAIN. */
static int
outcome(const struct sst_barrier *barrier, uint64_t ticket)
{
    uint64_t turn = ssti_load_acq(&barrier->shm->turn); /* pairs with advance() */
    uint64_t history;

    if (round_of(turn) == ticket) {
        return state_of(turn) == BROKEN ? SST_EBROKEN : SST_EAGAIN;
    }
    /* The bit is still that round's if it is not long ago after the bit was read. */
    history = ssti_load_acq(&barrier->shm->broken);
    turn = ssti_load_acq(&barrier->shm->turn);
    return round_of(turn) - ticket < HISTORY && (history >> (ticket % HISTORY) & 1) != 0
               ? SST_EBROKEN
               : 0;
}

/* Woken without cause. Lets go of the leaf for a moment. */
static void
look_out(const struct sst_barrier *barrier, struct ssti_lookout *lookout)
{
    ssti_lookout_alarm(lookout);
    reap(barrier);
    unlock(barrier);
    (void)ssti_proc_sweep(barrier->view.arena); /* how many it were: no matter */
    ssti_view_lock(&barrier->view);
}

/* Sleep in `class` until `turn` is another. The leaf is held. Results of
 * ssti_view_wait. */
static int
sleep_turn(const struct sst_barrier *barrier, enum ssti_leaf_class class,
           struct ssti_lookout *lookout, int64_t deadline_ns)
{
    const uint64_t turn = ssti_load_rlx(&barrier->shm->turn);
    const uint64_t self = ssti_proc_self(barrier->view.arena);
    const uint64_t other =
        ssti_roster_other(&barrier->roster, self, ssti_load_rlx(&barrier->shm->last),
                          round_of(turn));
    struct ssti_leaf_sleep sleep = {
        .class = class,
        .wake = due(barrier),
        .count = SSTI_LEAF_EVERYBODY,
    };
    int rc = 0;

    if (ssti_lookout_prepare(lookout, &barrier->view, other, &sleep, deadline_ns)) {
        rc = ssti_view_wait(&barrier->view, &sleep, deadline_ns);
    }
    if (rc == 0 && ssti_load_rlx(&barrier->shm->turn) == turn) {
        look_out(barrier, lookout);
    }
    return rc;
}

/* Count the caller in; the round is FILLING. Its index. The leaf is held. */
static int
arrive_locked(const struct sst_barrier *barrier, uint64_t round)
{
    const uint64_t self = ssti_proc_self(barrier->view.arena);
    const int rc = ssti_roster_join(&barrier->roster, self, round, round);
    uint32_t count;

    if (rc < 0) {
        return rc;
    }
    ssti_store_rlx(&barrier->shm->last, self);
    count = arrived(barrier, round);
    if (count >= barrier->parties) {
        SST_CRASHPOINT(barrier_arrive_complete);
        ssti_store_rel(&barrier->shm->turn, turn_make(round, ACTING));
        SST_CRASHPOINT(barrier_arrive_acting);
    }
    return (int)count - 1;
}

/* Who runs the action does not sleep here: one of those who do is to watch it. */
static void
unlock_arrived(const struct sst_barrier *barrier)
{
    const uint64_t turn = ssti_load_rlx(&barrier->shm->turn);

    if (state_of(turn) == ACTING) {
        ssti_view_unlock(&barrier->view,
                         due(barrier) | (uint32_t)class_of(round_of(turn)), 1);
    }
    else {
        unlock(barrier);
    }
}

int
sst_barrier_arrive(struct sst_barrier *barrier, uint64_t *ticket, int64_t deadline_ns)
{
    struct ssti_lookout lookout;
    int rc = deadline_ns == SST_NOW ? SST_ETIMEDOUT : 0;

    ssti_lookout_begin(&lookout);
    ssti_view_lock(&barrier->view);
    for (;;) {
        const uint64_t turn = ssti_load_rlx(&barrier->shm->turn);

        if (state_of(turn) == FILLING) {
            /* The last to come decides for all: the dead do not make up the number. */
            if (arrived(barrier, round_of(turn)) + 1 >= barrier->parties) {
                reap(barrier);
                if (ssti_load_rlx(&barrier->shm->turn) != turn) {
                    continue;
                }
            }
            *ticket = round_of(turn);
            rc = arrive_locked(barrier, round_of(turn));
            break;
        }
        if (state_of(turn) != ACTING) {
            rc = SST_EBROKEN;
            break;
        }
        if (rc != 0) {
            break;
        }
        rc = sleep_turn(barrier, SSTI_LEAF_C, &lookout, deadline_ns);
    }
    unlock_arrived(barrier);
    ssti_lookout_end(&lookout, rc);
    return rc;
}

int
sst_barrier_open(struct sst_barrier *barrier, uint64_t ticket)
{
    int rc;

    ssti_view_lock(&barrier->view);
    rc = outcome(barrier, ticket);
    if (rc == SST_EAGAIN) {
        if (state_of(ssti_load_rlx(&barrier->shm->turn)) == ACTING) {
            advance(barrier, false);
            rc = 0;
        }
        else {
            rc = SST_EINVAL;
        }
    }
    unlock(barrier);
    return rc;
}

static int
sleep_wait(struct sst_barrier *barrier, uint64_t ticket, int64_t deadline_ns)
{
    struct ssti_lookout lookout;
    int rc = deadline_ns == SST_NOW ? SST_ETIMEDOUT : 0;
    int ended;

    ssti_lookout_begin(&lookout);
    ssti_view_lock(&barrier->view);
    while ((ended = outcome(barrier, ticket)) == SST_EAGAIN) {
        if (rc == SST_ETIMEDOUT) {
            if (state_of(ssti_load_rlx(&barrier->shm->turn)) == FILLING) {
                break_locked(barrier);
                break;
            }
            deadline_ns = SST_FOREVER; /* all have come: it ends with the action */
            rc = 0;
        }
        if (rc != 0) {
            break;
        }
        rc = sleep_turn(barrier, class_of(ticket), &lookout, deadline_ns);
    }
    unlock(barrier);
    rc = ended != SST_EAGAIN ? ended : rc;
    ssti_lookout_end(&lookout, rc);
    return rc;
}

int
sst_barrier_wait(struct sst_barrier *barrier, uint64_t ticket, int64_t deadline_ns)
{
    struct ssti_spin_run run;
    int ended = outcome(barrier, ticket);

    if (ended != SST_EAGAIN) {
        return ended;
    }
    ssti_spin_begin(&run, &barrier->spin, deadline_ns);
    while (ended == SST_EAGAIN && ssti_spin_next(&run)) {
        ended = outcome(barrier, ticket);
    }
    ssti_spin_end(&run, ended != SST_EAGAIN);
    return ended != SST_EAGAIN ? ended : sleep_wait(barrier, ticket, deadline_ns);
}

int
sst_barrier_try_wait(const struct sst_barrier *barrier, uint64_t ticket)
{
    return outcome(barrier, ticket);
}

void
sst_barrier_leave(struct sst_barrier *barrier, uint64_t ticket)
{
    const uint64_t self = ssti_proc_self(barrier->view.arena);
    int index;

    ssti_view_lock(&barrier->view);
    index = ssti_roster_find(&barrier->roster, self, ticket);
    if (index >= 0 &&
        ssti_load_rlx(&barrier->shm->turn) == turn_make(ticket, FILLING)) {
        ssti_roster_leave(&barrier->roster, index);
    }
    unlock(barrier);
}

void
sst_barrier_abort(struct sst_barrier *barrier)
{
    ssti_view_lock(&barrier->view);
    break_locked(barrier);
    unlock(barrier);
}

void
sst_barrier_reset(struct sst_barrier *barrier)
{
    uint64_t turn;

    ssti_view_lock(&barrier->view);
    turn = ssti_load_rlx(&barrier->shm->turn);
    if (state_of(turn) != FILLING || arrived(barrier, round_of(turn)) != 0) {
        advance(barrier, true);
    }
    unlock(barrier);
}

uint32_t
sst_barrier_parties(const struct sst_barrier *barrier)
{
    return barrier->parties;
}

uint32_t
sst_barrier_waiting(const struct sst_barrier *barrier)
{
    const uint64_t turn = ssti_load_acq(&barrier->shm->turn);

    return state_of(turn) == BROKEN ? 0 : arrived(barrier, round_of(turn));
}

bool
sst_barrier_is_broken(const struct sst_barrier *barrier)
{
    return state_of(ssti_load_acq(&barrier->shm->turn)) == BROKEN;
}

/* ---- Life ---- */

static uint64_t
table_size(uint32_t parties)
{
    return (uint64_t)parties * sizeof(struct sst_stay_shm);
}

/* A table for more parties than the slot has room for. */
static int
make_table(struct sst_barrier *barrier, uint32_t parties, struct sst_error *err)
{
    struct sst_arena *const arena = barrier->view.arena;
    const uint64_t word =
        barrier->view.offset + offsetof(struct sst_barrier_shm, extent);
    uint64_t extent;
    uint32_t held;
    int rc;

    rc = ssti_extent_create_zeroed(arena, table_size(parties), &held, &extent, err);
    if (rc < 0) {
        return rc;
    }
    ssti_store_rlx(&barrier->shm->extent_word, word);
    ssti_extent_give(arena, held, word);
    return 0;
}

/* Fill in the view from the shared struct, which another process may have written. */
static int
bind(struct sst_barrier *barrier, struct sst_error *err)
{
    struct sst_barrier_shm *const shm = barrier->shm;
    struct sst_arena *const arena = barrier->view.arena;
    const uint32_t parties = ssti_load_acq(&shm->parties);
    const uint64_t extent = ssti_load_acq(&shm->extent);

    if (parties == 0 || parties > PARTIES_MAX) {
        return ssti_error_set(err, SST_ECORRUPT, "a barrier for %u parties", parties);
    }
    barrier->parties = parties;
    barrier->view.leaf = &shm->leaf;
    barrier->view.repair = repair;
    barrier->roster = (struct ssti_roster){
        .stays = shm->stay,
        .used = &shm->stays_used,
        .max = SSTI_BARRIER_STAYS,
    };
    if (parties <= SSTI_BARRIER_STAYS) {
        return 0;
    }
    if (ssti_extent_size(arena, extent) < table_size(parties)) {
        return ssti_error_set(err, SST_ECORRUPT, "a barrier's table is too small");
    }
    barrier->roster.max = parties;
    barrier->roster.stays = ssti_arena_ptr(arena, extent, table_size(parties));
    if (barrier->roster.stays == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "a barrier's table cannot be mapped");
    }
    return 0;
}

int
sst_barrier_create(struct sst_arena *arena, uint32_t parties, struct sst_barrier **out,
                   struct sst_error *err)
{
    struct sst_barrier *barrier;
    void *object;
    int rc;

    if (parties == 0 || parties > PARTIES_MAX) {
        return ssti_error_set(err, SST_EINVAL, "a barrier for %u parties", parties);
    }
    barrier = ssti_alloc(sizeof(*barrier));
    if (barrier == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "no memory for a barrier");
    }
    rc = ssti_view_create(&barrier->view, arena, SST_KIND_BARRIER,
                          sizeof(*barrier->shm), &object, err);
    if (rc < 0) {
        ssti_free(barrier);
        return rc;
    }
    barrier->shm = object;
    ssti_store_rlx(&barrier->shm->parties, parties);
    if (parties > SSTI_BARRIER_STAYS) {
        rc = make_table(barrier, parties, err);
    }
    if (rc == 0) {
        rc = bind(barrier, err);
    }
    if (rc < 0) {
        *out = sst_barrier_close(barrier);
        return rc;
    }
    *out = barrier;
    return 0;
}

int
sst_barrier_attach(struct sst_arena *arena, const struct sst_handle *handle,
                   struct sst_barrier **out, struct sst_error *err)
{
    struct sst_barrier *const barrier = ssti_alloc(sizeof(*barrier));
    void *object;
    int rc;

    if (barrier == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "no memory for a barrier");
    }
    rc = ssti_view_attach(&barrier->view, arena, SST_KIND_BARRIER,
                          sizeof(*barrier->shm), handle, &object, err);
    if (rc < 0) {
        ssti_free(barrier);
        return rc;
    }
    barrier->shm = object;
    rc = bind(barrier, err);
    if (rc < 0) {
        *out = sst_barrier_close(barrier);
        return rc;
    }
    *out = barrier;
    return 0;
}

void
sst_barrier_handle(const struct sst_barrier *barrier, struct sst_handle *out)
{
    ssti_view_handle(&barrier->view, out);
}

struct sst_barrier *
sst_barrier_close(struct sst_barrier *barrier)
{
    if (barrier != NULL) {
        ssti_view_fini(&barrier->view);
        ssti_free(barrier);
    }
    return NULL;
}

static void
kind_destroy(struct sst_arena *arena, void *object)
{
    struct sst_barrier_shm *const shm = object;

    if (ssti_load_acq(&shm->extent) != 0) {
        ssti_extent_free_at(arena, ssti_load_rlx(&shm->extent_word), 0);
    }
}

const struct ssti_kind_ops *
ssti_barrier_kind(void)
{
    static struct ssti_kind_ops ops;

    ops.destroy = kind_destroy;
    ops.layout =
        SSTI_LAYOUT_HASH(sizeof(struct sst_barrier_shm),
                         offsetof(struct sst_barrier_shm, leaf),
                         offsetof(struct sst_barrier_shm, turn),
                         offsetof(struct sst_barrier_shm, broken),
                         offsetof(struct sst_barrier_shm, last),
                         offsetof(struct sst_barrier_shm, parties),
                         offsetof(struct sst_barrier_shm, stays_used),
                         offsetof(struct sst_barrier_shm, extent),
                         offsetof(struct sst_barrier_shm, extent_word),
                         offsetof(struct sst_barrier_shm, stay), SSTI_BARRIER_STAYS);
    return &ops;
}
