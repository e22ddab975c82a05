/* SPDX-License-Identifier: MIT */

/* Leaf locks: the mutual exclusion and the sleeping under every shared object.
 *
 * A leaf is a futex word that holds its owner's thread id. Around every operation the
 * thread's own robust list head points at the word (ssti_pend), which makes the kernel
 * the undertaker: if the thread dies owning the word it gets FUTEX_OWNER_DIED and, when
 * FUTEX_WAITERS is set, one sleeper is woken; if it dies while nobody owns the word,
 * one sleeper is woken in any case; if it dies while somebody else owns it nothing
 * happens, and it is the owner's unlock that must wake.
 *
 * Two kinds of threads sleep, both on two words at once. *Contenders* want the lock:
 * they sleep on (word, turn), at a value of `word` that names an owner. *Waiters* of a
 * class want the object to change: they sleep on (word, seq[class]). A waker changes
 * `seq` under the lock, or `turn` after it gave the lock back, and wakes on that, so
 * that whoever is still on his way to bed finds the value changed; `word` is there for
 * the kernel, which knows no other word of ours. Nobody but the kernel wakes on `word`:
 * a contender's wake that hit a waiter would be passed on by a thread with nothing to
 * do, and with a count that is too high (I5) two such threads would wake each other for
 * ever.
 *
 * The order of the two words matters, since futex_waitv queues one after the other. A
 * dying owner changes seq, frees the word, and the kernel wakes on the word. A sleeper
 * that was queued on `word` by then is woken; one that was not looks at `seq` later
 * still. The other way round it could look at an old seq, and then at a word that is
 * free again.
 *
 * Invariants
 *   I1  whoever sleeps was counted before (`contenders`, or `waiting[class]` under the
 *       lock)
 *   I2  whoever owns the word while anybody is counted has FUTEX_WAITERS in it, so that
 *       its death wakes one: taking computes the bit from the counts, read after the
 *       word was seen free; later contenders set it themselves before they sleep
 *   I3  an unlock wakes for the state of the object, and a contender if one is counted;
 *       so a thread that was woken instead of another passes the wake on when it
 *       unlocks
 *   I4  a sleeper has the word pending: if it is killed after it was woken, the kernel,
 *       or the owner at that moment (I3), wakes the next
 *   I5  counts are too high at worst (a dead sleeper not yet swept), which costs a
 *       system call per unlock; they are never too low
 *   I6  a wait record that an intent names is not FREE: the sweeper of its process
 *       takes the leaf, and thereby has the intent redone, before the record gets
 *       another user
 *
 * Death table (thread dies after ...)
 *   taking the word           word is OWNER_DIED; the next to lock redoes the intent,
 *                             and the object repairs itself
 *   writing a part of intent  record offset is written last: without it nothing
 *                             happened, with it the redo finishes all of it
 *   word := free, before or   nobody owns it: the kernel wakes one (any class), which
 *   between the wakes         locks, and by I3 wakes whoever else has reason to run. If
 *                             somebody took the word meanwhile, his unlock does (I2,
 *                             I3)
 *   being woken               I4
 *   counting a contender      record says MOVING: the sweeper leaves the count, perhaps
 *                             one too high
 *   counting a waiter         record says MOVING: the sweeper takes the leaf (redo),
 *                             then knows whether it was counted
 *
 * docs/internals/waiting.rst tells the story of the designs that lost wake-ups. */

#include "shm/leaf.h"

#include <linux/futex.h>
#include <sidestep/sidestep.h>
#include <stddef.h>

#include "base/assert.h"
#include "base/atomic.h"
#include "base/crashpoint.h"
#include "os/os.h"
#include "os/self.h"
#include "shm/waits.h"

/* A section under a leaf lasts tens of nanoseconds: an owner that runs is done within
 * this many looks, one that does not is worth a sleep (docs/internals/waiting.rst).
 * Looks are further and further apart, for each takes the line from the owner: two who
 * pass messages are a fifth faster for it. */
#ifndef SSTI_LEAF_LOOKS
# define SSTI_LEAF_LOOKS      10
# define SSTI_LEAF_PAUSES_MAX 32
#endif

static uint32_t
class_index(uint32_t class)
{
    return class == SSTI_LEAF_A ? 0 : class == SSTI_LEAF_B ? 1 : 2;
}

static uint32_t
counted(const struct sst_leaf_shm *leaf)
{
    return ssti_load_rlx(&leaf->contenders) | ssti_load_rlx(&leaf->waiting[0]) |
           ssti_load_rlx(&leaf->waiting[1]) | ssti_load_rlx(&leaf->waiting[2]);
}

/* Finish what a dead owner began. Idempotent; the caller holds the lock. */
static void
redo(struct sst_arena *arena, struct sst_leaf_shm *leaf)
{
    const uint64_t offset = ssti_load_acq(&leaf->intent_record);
    const uint32_t index = ssti_load_rlx(&leaf->intent_class);

    if (offset == 0) {
        return;
    }

    struct sst_wait_shm *const record = ssti_waits_at(arena, offset);

    if (record != NULL && index < SSTI_LEAF_CLASSES) {
        ssti_store_rlx(&leaf->waiting[index], ssti_load_rlx(&leaf->intent_waiting));
        ssti_store_rlx(&record->state, ssti_load_rlx(&leaf->intent_state));
    }
    ssti_store_rel(&leaf->intent_record, 0);
}

/* Change waiting[index] and the wait record's state as one step that survives death.
 * The caller holds the lock. The record is MOVING before and while it is not counted
 * (I6). Pairs with redo(). */
static void
recount(struct sst_arena *arena, struct sst_leaf_shm *leaf, struct sst_wait_shm *record,
        uint32_t index, int change)
{
    const uint32_t waiting = ssti_load_rlx(&leaf->waiting[index]) + (uint32_t)change;
    const uint32_t state = change > 0 ? SSTI_WAIT_COUNTED : SSTI_WAIT_MOVING;

    if (record == NULL) {
        ssti_store_rlx(&leaf->waiting[index], waiting);
        return;
    }
    ssti_store_rlx(&leaf->intent_class, index);
    ssti_store_rlx(&leaf->intent_waiting, waiting);
    ssti_store_rlx(&leaf->intent_state, state);
    SST_CRASHPOINT(leaf_intent_unsigned);
    ssti_store_rel(&leaf->intent_record, ssti_waits_offset(arena, record));
    SST_CRASHPOINT(leaf_intent_signed);
    ssti_store_rel(&leaf->waiting[index], waiting);
    SST_CRASHPOINT(leaf_counted);
    ssti_store_rel(&record->state, state);
    ssti_store_rel(&leaf->intent_record, 0);
}

/* Take a free word. SST_EAGAIN when it is owned, or was taken under our hands. */
static int
take(struct sst_leaf_shm *leaf, uint32_t tid)
{
    uint32_t word = ssti_load_acq(&leaf->word);

    if ((word & FUTEX_TID_MASK) != 0) {
        return SST_EAGAIN;
    }

    const uint32_t sleepers = counted(leaf) != 0 ? FUTEX_WAITERS : 0; /* I2 */
    const uint32_t old = word;

    if (!ssti_cas(&leaf->word, &word, tid | sleepers | (old & FUTEX_WAITERS))) {
        return SST_EAGAIN;
    }
    return (old & FUTEX_OWNER_DIED) != 0 ? SST_EOWNERDEAD : 0;
}

/* Do the kernel's part where it does not: mark the word of an owner that has ended. */
static void
undertake(struct sst_leaf_shm *leaf)
{
    uint32_t word = ssti_load_acq(&leaf->word);

    if ((word & FUTEX_TID_MASK) != 0 && ssti_os_thread_is_gone(word & FUTEX_TID_MASK)) {
        /* Failing means that somebody else was faster. */
        (void)ssti_cas(&leaf->word, &word, (word & FUTEX_WAITERS) | FUTEX_OWNER_DIED);
    }
}

/* Sleep until the word may be free. Sets WAITERS first, so that owner or kernel
 * wakes. */
static void
sleep_contended(struct sst_leaf_shm *leaf)
{
    const uint32_t turn = ssti_load_acq(&leaf->turn);
    uint32_t word = ssti_load_acq(&leaf->word);

    if ((word & FUTEX_TID_MASK) == 0) {
        return;
    }
    if ((word & FUTEX_WAITERS) == 0) {
        if (!ssti_cas(&leaf->word, &word, word | FUTEX_WAITERS)) {
            return;
        }
        word |= FUTEX_WAITERS;
    }

    const struct ssti_os_wait words[2] = {{&leaf->word, word}, {&leaf->turn, turn}};

    /* Whatever else it returns, the caller looks at the word again. */
    if (ssti_os_futex_waitv(words, 2, ssti_os_slice(SST_FOREVER)) == SST_ETIMEDOUT) {
        undertake(leaf);
    }
}

static int
lock_slow(struct sst_arena *arena, struct sst_leaf_shm *leaf, struct ssti_self *self)
{
    int rc = SST_EAGAIN;
    int pauses = 1;

    for (int i = 0; rc == SST_EAGAIN && i < SSTI_LEAF_LOOKS; i++) {
        for (int j = 0; j < pauses; j++) {
            ssti_pause();
        }
        if (pauses < SSTI_LEAF_PAUSES_MAX) {
            pauses *= 2;
        }
        rc = take(leaf, self->tid);
    }
    if (rc != SST_EAGAIN) {
        return rc;
    }

    struct sst_wait_shm *const record =
        ssti_waits_take(arena, &leaf->word, SSTI_LEAF_CLASSES);

    if (record != NULL) {
        ssti_store_rel(&record->state, SSTI_WAIT_MOVING);
    }
    ssti_fetch_add(&leaf->contenders, 1);
    if (record != NULL) {
        ssti_store_rel(&record->state, SSTI_WAIT_COUNTED);
    }

    while ((rc = take(leaf, self->tid)) == SST_EAGAIN) {
        sleep_contended(leaf);
    }

    if (record != NULL) {
        ssti_store_rel(&record->state, SSTI_WAIT_MOVING);
    }
    ssti_fetch_sub(&leaf->contenders, 1);
    if (record != NULL) {
        ssti_store_rel(&record->state, SSTI_WAIT_FREE);
        ssti_waits_give(arena, record);
    }
    return rc;
}

int
ssti_leaf_lock(struct sst_arena *arena, struct sst_leaf_shm *leaf)
{
    struct ssti_self *const self = ssti_self();
    int rc;

    ssti_pend(self, &leaf->word);
    rc = take(leaf, self->tid);
    if (rc == SST_EAGAIN) {
        rc = lock_slow(arena, leaf, self);
    }
    SST_CRASHPOINT(leaf_taken);
    if (rc == SST_EOWNERDEAD) {
        redo(arena, leaf);
    }
    return rc;
}

/* Tell the sleepers of the classes in `wake` that the object changed, still holding the
 * lock. Returns the classes in which anybody sleeps. */
static uint32_t
announce(struct sst_leaf_shm *leaf, uint32_t wake)
{
    uint32_t sleeping = 0;

    for (uint32_t i = 0; i < SSTI_LEAF_CLASSES; i++) {
        if ((wake & (1U << i)) != 0 && ssti_load_rlx(&leaf->waiting[i]) != 0) {
            ssti_store_rlx(&leaf->seq[i], ssti_load_rlx(&leaf->seq[i]) + 1);
            sleeping |= 1U << i;
        }
    }
    return sleeping;
}

/* Give the word back as `free_word` and wake. The lock is not held any more on return;
 * the word is still pending. */
static void
release(struct sst_leaf_shm *leaf, uint32_t free_word, uint32_t wake, int count)
{
    const uint32_t sleeping = wake != 0 ? announce(leaf, wake) : 0;
    uint32_t old;

    SST_CRASHPOINT(leaf_announced);
    old = ssti_xchg(&leaf->word, free_word); /* pairs with take() */
    SST_CRASHPOINT(leaf_released);

    if (sleeping == 0 && (old & FUTEX_WAITERS) == 0) {
        return;
    }
    for (uint32_t i = 0; i < SSTI_LEAF_CLASSES; i++) {
        if ((sleeping & (1U << i)) != 0) {
            ssti_os_futex_wake(&leaf->seq[i], count);
        }
    }
    /* A contender counts itself, then looks at the word; we do it the other way
     * round. */
    ssti_fence();
    if (ssti_load_acq(&leaf->contenders) != 0) {
        ssti_fetch_add(&leaf->turn, 1); /* pairs with the load in sleep_contended() */
        ssti_os_futex_wake(&leaf->turn, 1);
    }
}

void
ssti_leaf_unlock(struct sst_leaf_shm *leaf, uint32_t wake, int count)
{
    struct ssti_self *const self = ssti_self();

    sst_dassert((ssti_load_rlx(&leaf->word) & FUTEX_TID_MASK) == self->tid);
    release(leaf, counted(leaf) != 0 ? FUTEX_WAITERS : 0, wake, count);
    ssti_unpend(self);
}

/* The words to sleep on: those of the living first, then the leaf's own two. */
static uint32_t
words_of(struct sst_leaf_shm *leaf, uint32_t index, uint32_t seq, uint32_t word,
         const struct ssti_leaf_sleep *sleep, struct ssti_os_wait *words)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < sleep->other_count && i < SSTI_LEAF_OTHERS_MAX; i++) {
        words[count++] = sleep->others[i];
    }
    if (sleep->life != NULL) {
        words[count++] = (struct ssti_os_wait){sleep->life, sleep->life_value};
    }
    words[count++] = (struct ssti_os_wait){&leaf->word, word};
    words[count++] = (struct ssti_os_wait){&leaf->seq[index], seq};
    return count;
}

/* Sleep on seq, word and perhaps life words until the first of them changes. */
static int
sleep_waiting(struct sst_leaf_shm *leaf, uint32_t index, uint32_t seq,
              const struct ssti_leaf_sleep *sleep)
{
    const int64_t until = ssti_os_slice(sleep->deadline_ns);
    int rc = 0;

    while (rc == 0) {
        const uint32_t word = ssti_load_acq(&leaf->word);

        if ((word & FUTEX_OWNER_DIED) != 0 || ssti_load_acq(&leaf->seq[index]) != seq) {
            return 0;
        }

        struct ssti_os_wait words[SSTI_LEAF_OTHERS_MAX + 3];
        const uint32_t count = words_of(leaf, index, seq, word, sleep, words);

        rc = ssti_os_futex_waitv(words, count, until);
        if (rc == SST_ETIMEDOUT && until < sleep->deadline_ns) {
            return 0; /* a wake may have been lost with its waker: look */
        }
        if (rc != SST_EAGAIN) {
            return rc;
        }
        /* One of the values was another already. If it is the word, somebody is only
         * passing through: his unlock wakes us if there is reason (I3). */
        for (uint32_t i = 0; i + 2 < count; i++) {
            if (ssti_load_acq(words[i].word) != words[i].value) {
                return 0;
            }
        }
        rc = 0;
    }
    return rc;
}

int
ssti_leaf_wait(struct sst_arena *arena, struct sst_leaf_shm *leaf,
               const struct ssti_leaf_sleep *sleep)
{
    const uint32_t index = class_index(sleep->class);
    const uint32_t seq = ssti_load_rlx(&leaf->seq[index]);
    struct sst_wait_shm *const record = ssti_waits_take(arena, &leaf->word, index);
    int slept;
    int locked;

    if (record != NULL) {
        ssti_store_rel(&record->state, SSTI_WAIT_MOVING); /* I6 */
    }
    recount(arena, leaf, record, index, +1);
    release(leaf, FUTEX_WAITERS, sleep->wake & ~(uint32_t)sleep->class, sleep->count);

    slept = sleep_waiting(leaf, index, seq, sleep);

    locked = ssti_leaf_lock(arena, leaf);
    recount(arena, leaf, record, index, -1);
    if (record != NULL) {
        ssti_store_rel(&record->state, SSTI_WAIT_FREE);
        ssti_waits_give(arena, record);
    }
    return locked != 0 ? locked : slept;
}

uint32_t
ssti_leaf_waiting(const struct sst_leaf_shm *leaf, enum ssti_leaf_class class)
{
    return ssti_load_rlx(&leaf->waiting[class_index(class)]);
}

void
ssti_leaf_forget(struct sst_arena *arena, struct sst_wait_shm *record)
{
    struct sst_leaf_shm *const leaf = ssti_waits_leaf(arena, record);
    const uint32_t index = ssti_load_rlx(&record->class);

    if (leaf == NULL || index > SSTI_LEAF_CLASSES) {
        ssti_store_rel(&record->state, SSTI_WAIT_FREE);
        return;
    }
    if (index == SSTI_LEAF_CLASSES) {
        if (ssti_load_acq(&record->state) == SSTI_WAIT_COUNTED) {
            ssti_store_rel(&record->state, SSTI_WAIT_MOVING);
            ssti_fetch_sub(&leaf->contenders, 1);
        }
        ssti_store_rel(&record->state, SSTI_WAIT_FREE);
        return;
    }

    /* A dead owner's intent may concern this very record: redone by the lock. What else
     * that owner left half done is the object's to repair: the word stays
     * OWNER_DIED. */
    const uint32_t died = ssti_leaf_lock(arena, leaf) != 0 ? FUTEX_OWNER_DIED : 0;

    if (ssti_load_acq(&record->state) == SSTI_WAIT_COUNTED) {
        recount(arena, leaf, record, index, -1);
    }
    ssti_store_rel(&record->state, SSTI_WAIT_FREE);
    release(leaf, FUTEX_WAITERS | died, SSTI_LEAF_ALL, SSTI_LEAF_EVERYBODY);
    ssti_unpend(ssti_self());
}
