/* SPDX-License-Identifier: MIT */

/* Doorbells: how a queue wakes somebody who sleeps in poll(), select() or an event
 * loop.
 *
 * A queue has no descriptor. Who asks for one binds a datagram socket under a name that
 * the kernel picks and enters the name in the queue's list; no descriptor travels, so
 * it does not matter who was forked when. An entry is *armed* or *rung*. A putter that
 * finds armed entries sends each one byte, marks it rung, and publishes its message,
 * all under the queue's leaf and in this order. The asker, when it found nothing under
 * the leaf, marks its entry armed and reads the bytes. Hence, whenever the leaf is
 * free:
 *
 *   B1  there is a message  =>  no entry is armed, and the socket of each living owner
 *                               has a byte in it
 *   B2  an entry is rung    =>  its owner's socket is readable, or its owner is reading
 *                               it while it holds the leaf
 *
 * so a descriptor is readable at the latest when a message is there, and may be
 * readable once with none: somebody else was faster, or who rang did not live to
 * publish. An entry that is rung costs the putters one load.
 *
 * A putter that cannot ring (no descriptor to be had for the sending socket) does not
 * publish: its put fails. A bell whose socket is gone is left marked rung, and its
 * entry is given to the next asker once its owner is dead.
 *
 * A child of fork() has copies of its parent's descriptors. It knows them by `owner`:
 * it never reads the parent's bell, and closes its copy when it makes one of its own or
 * closes the queue. A ringer may be shared, since a datagram has no other sender state
 * than room: when that is used up (many bells rung and not read) a new one is made.
 *
 * Limit: abstract names belong to a network namespace. A putter in another one than the
 * asker cannot ring it.
 *
 * Death table (process dies after ...)
 *   binding, before the entry     its socket is gone with it
 *   writing half an entry         `owner` is written last: the entry is free
 *   the entry                     the next ring finds nobody and marks it rung; freed
 *                                 when the list is full and somebody asks
 *   sending, before marking       armed still, and the repair marks it unsure: rung
 *                                 again, and who finds nothing reads the byte
 *   marking, before publishing    the asker looks under the leaf, finds nothing, arms
 *   arming, before reading        its own bell: gone with it. Threads die together */

#include "ring/bell.h"

#include "base/crashpoint.h"
#include "base/status.h"
#include "os/os.h"
#include "os/self.h"
#include "shm/arena.h"

void
ssti_bell_init(struct ssti_bell *bell, struct sst_arena *arena,
               struct sst_bell_shm *list, _Atomic uint32_t *armed)
{
    *bell = (struct ssti_bell){
        .arena = arena,
        .list = list,
        .armed = armed,
        .fd = -1,
        .ringer = -1,
    };
}

/* Send one byte to one bell. Statuses are about this process's means only. */
static int
ring_one(struct ssti_bell *bell, const struct sst_bell_shm *entry)
{
    const uint64_t name = ssti_load_rlx(&entry->name);
    const uint32_t size = ssti_load_rlx(&entry->size);

    for (int i = 0; i < 2; i++) {
        if (bell->ringer < 0) {
            bell->ringer = ssti_os_ringer_open();
            if (bell->ringer < 0) {
                return bell->ringer;
            }
        }

        const int rc = ssti_os_bell_ring(bell->ringer, name, size);

        if (rc == 0 || rc == SST_ENOENT || rc == SST_ECORRUPT) {
            return 0; /* nobody there: nobody to tell */
        }
        if (rc != SST_EAGAIN || i == 1) {
            return rc == SST_EAGAIN ? 0 : rc; /* full of rings already */
        }
        /* Either the bell is full or the ringer is: a fresh one tells. */
        bell->ringer = ssti_os_close(bell->ringer);
    }
    return 0;
}

int
ssti_bell_ring_locked(struct ssti_bell *bell)
{
    uint32_t armed = ssti_load_rlx(bell->armed);

    for (uint32_t i = 0; i < SSTI_QUEUE_BELLS; i++) {
        if ((armed & (1U << i)) == 0) {
            continue;
        }

        const int rc = ring_one(bell, &bell->list[i]);

        if (rc != 0) {
            return rc;
        }
        SST_CRASHPOINT(bell_sent);
        armed &= ~(1U << i);
        ssti_store_rel(bell->armed, armed);
        SST_CRASHPOINT(bell_marked);
        ssti_self()->just_woke = 1;
    }
    ssti_store_rel(bell->armed, 0); /* bits beyond the list mean nothing */
    return 0;
}

void
ssti_bell_repair_locked(struct sst_bell_shm *list)
{
    for (uint32_t i = 0; i < SSTI_QUEUE_BELLS; i++) {
        ssti_store_rel(&list[i].unsure, 1);
    }
}

bool
ssti_bell_is_mine(const struct ssti_bell *bell)
{
    return ssti_load_acq(&bell->fd) >= 0 && bell->owner == ssti_proc_self(bell->arena);
}

void
ssti_bell_disown(struct ssti_bell *bell)
{
    if (ssti_bell_is_there(bell) && !ssti_bell_is_mine(bell)) {
        ssti_os_close(ssti_load_rlx(&bell->fd));
        ssti_store_rel(&bell->fd, -1);
    }
}

void
ssti_bell_settle_locked(struct ssti_bell *bell)
{
    const uint32_t armed = ssti_load_rlx(bell->armed);
    struct sst_bell_shm *const entry = &bell->list[bell->index];

    if ((armed & (1U << bell->index)) != 0 && ssti_load_rlx(&entry->unsure) == 0) {
        return; /* not rung since the last time: nothing to read */
    }
    ssti_store_rel(&entry->unsure, 0);
    ssti_store_rel(bell->armed, armed | 1U << bell->index);
    ssti_os_bell_drain(ssti_load_rlx(&bell->fd));
}

int
ssti_bell_prepare(struct ssti_bell *bell, struct ssti_bell_opening *opening,
                  struct sst_error *err)
{
    opening->owner = ssti_proc_self(bell->arena);
    for (uint32_t i = 0; i < SSTI_QUEUE_BELLS; i++) {
        const uint64_t owner = ssti_load_acq(&bell->list[i].owner);
        const bool dead = owner != 0 && owner != opening->owner &&
                          !ssti_proc_alive(bell->arena, owner);

        opening->dead[i] = dead ? owner : 0;
    }
    opening->fd = ssti_os_bell_open(&opening->name, &opening->name_size);
    if (opening->fd < 0) {
        return ssti_error_set(err, opening->fd, "a doorbell socket cannot be made");
    }
    return 0;
}

int
ssti_bell_enter_locked(struct ssti_bell *bell, const struct ssti_bell_opening *opening,
                       bool rung)
{
    if (ssti_bell_is_there(bell)) {
        return 0; /* another thread was faster */
    }
    for (uint32_t i = 0; i < SSTI_QUEUE_BELLS; i++) {
        struct sst_bell_shm *const entry = &bell->list[i];
        const uint64_t owner = ssti_load_rlx(&entry->owner);
        const uint32_t armed = ssti_load_rlx(bell->armed);

        if (owner != 0 && owner != opening->dead[i]) {
            continue;
        }
        ssti_store_rel(bell->armed, armed & ~(1U << i));
        ssti_store_rel(&entry->owner, 0);
        ssti_store_rlx(&entry->name, opening->name);
        ssti_store_rlx(&entry->size, opening->name_size);
        SST_CRASHPOINT(bell_entry_written);

        const int rc = rung ? ring_one(bell, entry) : 0;

        if (rc != 0) {
            return rc;
        }
        ssti_store_rel(&entry->owner, opening->owner);
        SST_CRASHPOINT(bell_entered);
        bell->index = i;
        bell->owner = opening->owner;
        ssti_store_rel(&bell->fd, opening->fd);
        if (!rung) {
            ssti_store_rel(bell->armed, armed | 1U << i);
        }
        return 0;
    }
    return SST_ELIMIT;
}

int
ssti_bell_opened(struct ssti_bell *bell, struct ssti_bell_opening *opening, int rc,
                 struct sst_error *err)
{
    const int fd = ssti_load_acq(&bell->fd);

    if (fd != opening->fd) {
        ssti_os_close(opening->fd);
    }
    if (rc == 0) {
        return fd;
    }
    if (rc == SST_ELIMIT) {
        return ssti_error_set(err, rc,
                              "%d processes poll this queue's descriptor already",
                              SSTI_QUEUE_BELLS);
    }
    return ssti_error_set(err, rc, "the doorbell cannot be rung");
}

void
ssti_bell_leave_locked(struct ssti_bell *bell)
{
    ssti_store_rel(bell->armed, ssti_load_rlx(bell->armed) & ~(1U << bell->index));
    ssti_store_rel(&bell->list[bell->index].owner, 0);
}

void
ssti_bell_fini(struct ssti_bell *bell)
{
    if (ssti_bell_is_there(bell)) {
        ssti_os_close(ssti_load_rlx(&bell->fd));
        ssti_store_rel(&bell->fd, -1);
    }
    if (bell->ringer >= 0) {
        bell->ringer = ssti_os_close(bell->ringer);
    }
}
