/* SPDX-License-Identifier: MIT */

/* Pipes: a message ring each way, and a pair of sockets for sleepers.
 *
 * Messages never touch the sockets. These are there because a receiver must learn of
 * two things: a message, and that nobody is left who could send one. The second only
 * the kernel knows for certain (it counts the descriptors of an end over forks, passing
 * and deaths), and it tells those who poll the socket. So a receiver sleeps in poll()
 * on the socket of its end, and is rung by one byte from the other.
 *
 * Each end is *rung* or not. Whoever puts a message rings the reading end first unless
 * it is rung already, then publishes. Who found nothing under the leaf, and is going to
 * sleep, marks its end not rung and reads the byte away, under the leaf. Hence,
 * whenever the leaf is free:
 *
 *   P1  a message is there      =>  the end that reads it is rung
 *   P2  an end is rung          =>  its socket is readable, or its reader is gone
 *   P3  room, and a sender      =>  it has been woken, or the leaf's next unlock does
 *       it; sleeps on the leaf          in poll(), its end is rung
 *
 * While both sides run, an end stays rung, and a message costs no system call. The same
 * rules make the descriptor fit for select() at any time. One byte wakes all who poll
 * the end; those who find nothing sleep again.
 *
 * A sender without room could sleep in poll(), too, and does where the pipe goes one
 * way: there nobody else wants the byte. In a duplex pipe it would have to take a byte
 * away that says that there are messages. So it sleeps on the leaf, senders at end 0 as
 * class B, those at end 1 as class C, and asks the socket for a hang-up every SLICE_NS.
 *
 * End of file: the other end has hung up, and after that was seen the ring is empty.
 * The other way round a sender looks at the slot that stands for the reading end
 * (pipe_life.c): it dies with its last holder, one load tells. A reader that was killed
 * holds it until it is swept: so every UNREAD_MAX sends that nobody took, and before
 * sleeping, the socket is asked.
 *
 * Death table: ring.c's; and (process dies after ...)
 *   sending the byte                the repair marks the end unsure: as not rung, but
 *                                   who wakes and finds nothing reads the byte
 *   marking an end not rung,        the same: rung again by the next message, both
 *    before reading the byte         bytes are read at once
 *   counting itself asleep          the count stays too high: takers ring in vain, it
 *                                   is never too low
 *   its last descriptor is closed   the other end hangs up: SST_EOF, or SST_EPIPE */

#include "ring/pipe.h"

#include "base/bits.h"
#include "base/crashpoint.h"
#include "os/os.h"
#include "os/self.h"
#include "ring/pieces.h"
#include "ring/ring.h"
#include "shm/layout.h"
#include "shm/leaf.h"
#include "shm/parcel.h"
#include "sidestep/sidestep.h"
#include "sync/spin.h"
#include "sync/view.h"

enum {
    UNREAD_MAX = 64, /* sends that nobody took, after which the socket is asked */
    YIELDS_MAX = 3,  /* for whoever rang to be done */
    SLICE_NS = 20000000,
};

/* One wait. */
struct wait {
    int64_t deadline_ns;
    bool is_sender;
    bool has_hung_up; /* the other end was seen closed */
};

void
ssti_pipe_repair(const struct ssti_view *view)
{
    struct sst_pipe *const pipe = ((const struct sst_pipe *)view)->self;

    ssti_ring_repair_locked(&pipe->in);
    ssti_ring_repair_locked(&pipe->out);
    for (int i = 0; i < 2; i++) {
        /* Perhaps the dead had sent a byte, or not yet read it. */
        if (ssti_load_rlx(&pipe->shm->end[i].rung) == SSTI_PIPE_QUIET) {
            ssti_store_rel(&pipe->shm->end[i].rung, SSTI_PIPE_UNSURE);
        }
    }
}

/* The class of the senders at an end, and whether there is room for them. The leaf is
 * held. */
static uint32_t
wake_senders_locked(const struct sst_pipe *pipe, uint32_t end)
{
    const enum ssti_leaf_class class = end == 0 ? SSTI_LEAF_B : SSTI_LEAF_C;
    const struct ssti_ring *const ring = end == pipe->end ? &pipe->out : &pipe->in;

    if (ssti_leaf_waiting(pipe->view.leaf, class) == 0 || ssti_ring_is_full(ring)) {
        return 0;
    }
    return class;
}

static uint32_t
wake_locked(const struct sst_pipe *pipe)
{
    return wake_senders_locked(pipe, 0) | wake_senders_locked(pipe, 1);
}

void
ssti_pipe_unlock(struct sst_pipe *pipe)
{
    ssti_view_unlock(&pipe->view, wake_locked(pipe), 1);
}

static void
section_lock(void *object)
{
    const struct sst_pipe *const pipe = object;

    ssti_view_lock(&pipe->view);
}

static void
section_unlock(void *object)
{
    ssti_pipe_unlock(object);
}

struct ssti_ring_section
ssti_pipe_section(struct sst_pipe *pipe)
{
    return (struct ssti_ring_section){section_lock, section_unlock, pipe};
}

/* Make the other end look. SST_EPIPE when it is closed everywhere. */
static int
ring_other_locked(struct sst_pipe *pipe, uint32_t asleep)
{
    struct sst_pipe_end_shm *const other = &pipe->shm->end[1 - pipe->end];
    int rc;

    if (ssti_load_rlx(&other->rung) == SSTI_PIPE_RUNG) {
        return 0;
    }
    rc = ssti_os_pair_ring(pipe->fd);
    if (rc != 0 && rc != SST_EAGAIN) {
        return rc;
    }
    SST_CRASHPOINT(pipe_sent);
    ssti_store_rel(&other->rung, SSTI_PIPE_RUNG);
    SST_CRASHPOINT(pipe_marked);
    if (asleep != 0) {
        ssti_self()->just_woke = 1;
    }
    return 0;
}

/* This process found nothing to do at its end: take the byte back, if there is one. */
static void
settle_locked(struct sst_pipe *pipe)
{
    struct sst_pipe_end_shm *const end = &pipe->shm->end[pipe->end];

    if (ssti_load_rlx(&end->rung) != SSTI_PIPE_QUIET) {
        ssti_store_rel(&end->rung, SSTI_PIPE_QUIET);
        SST_CRASHPOINT(pipe_unmarked);
        ssti_os_pair_drain(pipe->fd);
    }
}

/* Whoever rang holds the leaf until the message is there, and on one CPU the ring took
 * him off it: let him go on, which is cheaper than to queue for the leaf and be woken
 * again. */
static void
let_ringer_finish(const struct sst_pipe *pipe)
{
    for (int i = 0; i < YIELDS_MAX && ssti_ring_is_held(pipe->view.leaf); i++) {
        ssti_os_yield();
    }
}

/* Sleep on the socket; the leaf is held before and after. 0 when it is time to look
 * again, SST_ETIMEDOUT, SST_EINTR, SST_EBADF. */
static int
poll_locked(struct sst_pipe *pipe, struct wait *wait)
{
    struct sst_pipe_end_shm *const end = &pipe->shm->end[pipe->end];
    _Atomic uint32_t *const asleep =
        wait->is_sender ? &end->send_asleep : &end->recv_asleep;
    const bool may_block = wait->deadline_ns != SST_NOW;
    uint32_t seen = 0;
    uint32_t count;
    int rc;

    if (may_block || pipe->is_polled) {
        settle_locked(pipe);
    }
    if (may_block) {
        ssti_store_rel(asleep, ssti_load_rlx(asleep) + 1);
        SST_CRASHPOINT(pipe_asleep);
    }
    ssti_pipe_unlock(pipe);

    rc = ssti_os_pair_poll(pipe->fd, &seen, wait->deadline_ns);
    if (rc == 0) {
        let_ringer_finish(pipe);
    }

    ssti_view_lock(&pipe->view);
    if (may_block) {
        count = ssti_load_rlx(asleep);
        ssti_store_rel(asleep, count > 0 ? count - 1 : 0);
    }
    if ((seen & SSTI_OS_PAIR_HUNG_UP) != 0) {
        wait->has_hung_up = true;
    }
    /* With SST_NOW a byte says nothing new. */
    return rc == 0 && !may_block && !wait->has_hung_up ? SST_ETIMEDOUT : rc;
}

/* The same for a sender of a duplex pipe, on the leaf. */
static int
wait_for_room_locked(struct sst_pipe *pipe, struct wait *wait)
{
    struct ssti_leaf_sleep sleep = {
        .class = pipe->end == 0 ? SSTI_LEAF_B : SSTI_LEAF_C,
        .count = 1,
    };
    uint32_t seen;

    if (ssti_os_pair_poll(pipe->fd, &seen, SST_NOW) == 0 &&
        (seen & SSTI_OS_PAIR_HUNG_UP) != 0) {
        wait->has_hung_up = true;
        return 0;
    }
    if (wait->deadline_ns == SST_NOW) {
        return SST_ETIMEDOUT;
    }
    sleep.deadline_ns = (int64_t)ssti_min((uint64_t)wait->deadline_ns,
                                          (uint64_t)ssti_os_now_ns() + SLICE_NS);
    sleep.wake = wake_locked(pipe); /* we may be awake in another's place */
    return ssti_view_wait(&pipe->view, &sleep, wait->deadline_ns);
}

/* ---- Send ---- */

/* Has anybody the other end open? May be true for one who was killed. */
static bool
other_end_is_open(const struct sst_pipe *pipe)
{
    return ssti_load_acq(&pipe->other_hold->generation) == pipe->other_generation &&
           ssti_load_acq(&pipe->other_hold->state) == SSTI_SLOT_LIVE;
}

/* Nobody took anything for many sends: is the reader dead? */
static bool
reader_is_lost(struct sst_pipe *pipe)
{
    const uint64_t got = ssti_load_rlx(&pipe->out.shm->got_count);
    const uint32_t unread = ssti_load_rlx(&pipe->unread);
    uint32_t seen;

    if (got != ssti_load_rlx(&pipe->last_got)) {
        ssti_store_rlx(&pipe->last_got, got);
        ssti_store_rlx(&pipe->unread, 0);
        return false;
    }
    ssti_store_rlx(&pipe->unread, unread + 1);
    if (unread % UNREAD_MAX != UNREAD_MAX - 1) {
        return false;
    }
    return ssti_os_pair_poll(pipe->fd, &seen, SST_NOW) == 0 &&
           (seen & SSTI_OS_PAIR_HUNG_UP) != 0;
}

/* One attempt under the leaf: 0, SSTI_RING_FULL, SSTI_RING_CHUNK, a status. */
static int
send_locked(struct sst_pipe *pipe, struct ssti_deposit *deposit)
{
    const struct sst_pipe_end_shm *const other = &pipe->shm->end[1 - pipe->end];
    int rc = ssti_ring_fit_locked(&pipe->out, deposit);

    if (rc != 0) {
        return rc;
    }
    rc = ring_other_locked(pipe, ssti_load_rlx(&other->recv_asleep)); /* P1 */
    if (rc != 0) {
        return rc;
    }
    ssti_ring_put_locked(&pipe->out, deposit);
    return 0;
}

/* Take the leaf and send, sleeping while there is no room. */
static int
send_section(struct sst_pipe *pipe, struct ssti_deposit *deposit, struct wait *wait)
{
    int slept = 0;
    int rc;

    ssti_view_lock(&pipe->view);
    while ((rc = send_locked(pipe, deposit)) == SSTI_RING_FULL) {
        if (wait->has_hung_up) {
            rc = SST_EPIPE;
            break;
        }
        if (slept != 0) {
            rc = slept;
            break;
        }
        slept =
            pipe->can_recv ? wait_for_room_locked(pipe, wait) : poll_locked(pipe, wait);
    }
    ssti_pipe_unlock(pipe);
    return rc;
}

/* The ring is full: look for a while before sleeping. */
static void
spin_for_room(struct sst_pipe *pipe, int64_t deadline_ns)
{
    struct ssti_spin_run run;

    if (!ssti_ring_is_full(&pipe->out)) {
        return;
    }
    ssti_spin_begin(&run, &pipe->send_spin, deadline_ns);
    while (ssti_ring_is_full(&pipe->out) && ssti_spin_next(&run)) {
    }
    ssti_spin_end(&run, !ssti_ring_is_full(&pipe->out));
}

static int
send_deposit(struct sst_pipe *pipe, struct ssti_deposit *deposit, int64_t deadline_ns)
{
    struct wait wait = {.deadline_ns = deadline_ns, .is_sender = true};
    int rc;

    spin_for_room(pipe, deadline_ns);
    rc = send_section(pipe, deposit, &wait);
    while (rc == SSTI_RING_CHUNK) {
        rc = ssti_ring_make_chunk(&pipe->out, deposit);
        if (rc == 0) {
            rc = send_section(pipe, deposit, &wait);
        }
    }
    return rc;
}

static int
announce(void *object, struct sst_parcel **parcel, int64_t deadline_ns)
{
    return sst_pipe_send_parcel(object, parcel, deadline_ns);
}

static int
look(void *object)
{
    const struct sst_pipe *const pipe = object;
    uint32_t seen;

    if (!other_end_is_open(pipe) || (ssti_os_pair_poll(pipe->fd, &seen, SST_NOW) == 0 &&
                                     (seen & SSTI_OS_PAIR_HUNG_UP) != 0)) {
        return SST_EPIPE;
    }
    return 0;
}

int
sst_pipe_send_slices(struct sst_pipe *pipe, const struct sst_slice *slices,
                     uint32_t count, int64_t deadline_ns)
{
    struct ssti_deposit deposit;
    int rc;

    if (!pipe->can_send || count > SST_SLICES_MAX) {
        return SST_EINVAL;
    }
    if (!other_end_is_open(pipe) || reader_is_lost(pipe)) {
        return SST_EPIPE;
    }
    rc = ssti_deposit_init(&pipe->out, &deposit, slices, count);
    if (rc == SST_ELIMIT || rc == SST_ENOMEM) {
        const struct ssti_pieces_way way = {
            .arena = pipe->view.arena,
            .object = pipe,
            .announce = announce,
            .look = look,
        };

        return ssti_pieces_send(&way, slices, count, deadline_ns);
    }
    if (rc != 0) {
        return rc;
    }
    rc = send_deposit(pipe, &deposit, deadline_ns);
    ssti_deposit_fini(&pipe->out, &deposit);
    return rc;
}

int
sst_pipe_send_parcel(struct sst_pipe *pipe, struct sst_parcel **parcel,
                     int64_t deadline_ns)
{
    struct ssti_deposit deposit;
    int rc;

    if (!pipe->can_send || (*parcel)->arena != pipe->view.arena) {
        return SST_EINVAL;
    }
    if (!other_end_is_open(pipe) || reader_is_lost(pipe)) {
        return SST_EPIPE;
    }
    ssti_deposit_parcel(&pipe->out, &deposit, *parcel);
    rc = send_deposit(pipe, &deposit, deadline_ns);
    ssti_deposit_fini(&pipe->out, &deposit);
    if (rc == 0) {
        ssti_parcel_forget(*parcel);
        *parcel = NULL;
    }
    return rc;
}

int
sst_pipe_send(struct sst_pipe *pipe, const void *data, uint64_t size,
              int64_t deadline_ns)
{
    const struct sst_slice slice = {data, size};

    return sst_pipe_send_slices(pipe, &slice, 1, deadline_ns);
}

/* ---- Receive ---- */

/* One attempt under the leaf: 0, SSTI_RING_EMPTY, SSTI_RING_RECEIPT, a status. */
static int
recv_locked(struct sst_pipe *pipe, struct ssti_receipt *receipt)
{
    const uint32_t senders = ssti_load_rlx(&pipe->shm->end[1 - pipe->end].send_asleep);

    if (senders != 0 && ssti_ring_count(&pipe->in) != 0) {
        /* P3. If it cannot be rung nobody is there who would want to send. */
        (void)ring_other_locked(pipe, senders);
    }
    return ssti_ring_take_locked(&pipe->in, receipt);
}

/* Take the leaf and a message, or with `receipt` NULL only look for one, sleeping while
 * there is none. */
static int
recv_section(struct sst_pipe *pipe, struct ssti_receipt *receipt, struct wait *wait)
{
    bool has_slept = false;
    int slept = 0;
    int rc;

    ssti_view_lock(&pipe->view);
    for (;;) {
        rc = receipt != NULL ? recv_locked(pipe, receipt)
                             : ssti_ring_peek_locked(&pipe->in);
        if (rc != SSTI_RING_EMPTY) {
            break;
        }
        if (wait->has_hung_up) {
            rc = SST_EOF;
            break;
        }
        if (slept != 0) {
            rc = slept;
            break;
        }
        slept = poll_locked(pipe, wait);
        has_slept = wait->deadline_ns != SST_NOW;
    }
    if (rc == 0 && (has_slept || pipe->is_polled) && ssti_ring_count(&pipe->in) == 0) {
        /* Who slept is going to sleep again: read the byte while the sender waits for
         * the answer, rather than when it needs the leaf to send the next. And who
         * asked for the descriptor selects on it: what it says has to be so, for others
         * who share this end, too. */
        settle_locked(pipe);
    }
    ssti_pipe_unlock(pipe);
    return rc;
}

/* Is there a reason to take the leaf? As in queue.c. */
static bool
looks_ready(const struct sst_pipe *pipe)
{
    return ssti_ring_count(&pipe->in) != 0 || ssti_ring_is_orphaned(pipe->view.leaf);
}

static void
spin_for_message(struct sst_pipe *pipe, int64_t deadline_ns)
{
    struct ssti_spin_run run;
    bool ready = looks_ready(pipe);

    if (ready) {
        return;
    }
    ssti_spin_begin(&run, &pipe->recv_spin, deadline_ns);
    while (!(ready = looks_ready(pipe)) && ssti_spin_next(&run)) {
    }
    ssti_spin_end(&run, ready);
}

/* A message as it lies in the ring. */
static int
recv_raw(struct sst_pipe *pipe, struct sst_message *message, int64_t deadline_ns)
{
    struct wait wait = {.deadline_ns = deadline_ns};
    struct ssti_receipt receipt;
    int rc;

    spin_for_message(pipe, deadline_ns);
    ssti_receipt_init(&receipt, message);
    rc = recv_section(pipe, &receipt, &wait);
    while (rc == SSTI_RING_RECEIPT) {
        rc = ssti_receipt_prepare(&pipe->in, &receipt);
        if (rc == 0) {
            rc = recv_section(pipe, &receipt, &wait);
        }
    }
    ssti_receipt_fini(&pipe->in, &receipt);
    if (__builtin_expect(ssti_ring_has_retired(&pipe->in), 0)) {
        const struct ssti_ring_section section = ssti_pipe_section(pipe);

        ssti_ring_trim(&pipe->in, &section);
    }
    return rc;
}

int
sst_pipe_recv(struct sst_pipe *pipe, struct sst_message *message, int64_t deadline_ns)
{
    int rc;

    if (!pipe->can_recv) {
        return SST_EINVAL;
    }
    do {
        rc = recv_raw(pipe, message, deadline_ns);
        if (rc == 0 && ssti_pieces_possible(message)) {
            rc = ssti_pieces_gather(message);
        }
    } while (rc == SST_EAGAIN); /* it was withdrawn: the next one */
    return rc;
}

int
sst_pipe_poll(struct sst_pipe *pipe, int64_t deadline_ns)
{
    struct wait wait = {.deadline_ns = deadline_ns};
    int rc;

    if (!pipe->can_recv) {
        return SST_EINVAL;
    }
    spin_for_message(pipe, deadline_ns);
    rc = recv_section(pipe, NULL, &wait);
    if (rc == SST_ETIMEDOUT) {
        return 0;
    }
    return rc == 0 || rc == SST_EOF ? 1 : rc;
}
