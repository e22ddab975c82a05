/* SPDX-License-Identifier: MIT */

/* Messages in pieces: how a long one gets through a pipe or a bounded queue when the
 * arena has no memory for all of it.
 *
 * The sender makes a *carrier*, a small bounded queue, and puts an announcement where
 * the message would have gone: a parcel that says how long the message is and holds the
 * carrier. Then it puts the pieces on the carrier, each short enough to be inline, and
 * waits for room as often as there is none. Who takes the announcement attaches the
 * carrier and puts the pieces together in memory of its own. So messages keep their
 * order and their borders, whoever else puts and takes, and at most a chunk is needed.
 *
 * Both sides count who holds the carrier: the sender's entry, the announcement, the
 * taker's entry. No forked child gets a share in either, for the entries are tied. The
 * sender that is alone with it knows that the announcement is gone, and the message
 * with who had it; the taker that shares it with the announcement alone knows that no
 * piece will follow. Both write down who they are, too, for a death is known before it
 * is swept, and to who cannot sweep it. Deaths are looked for every LOOK_NS.
 *
 * Until the first piece is taken the sender can withdraw, by shutting the carrier under
 * its leaf: at its deadline, or when a signal came. Who takes the announcement then
 * finds nothing and goes on to the next message. From the first piece on the sender is
 * bound to go on, as with a byte stream, and so is the taker.
 *
 * Death table (process dies after ...)
 *   making carrier or announcement  in its held table: dropped with it
 *   announcing                      the carrier lives in the announcement; who takes it
 *                                   finds the pieces so far, and then that nobody else
 *                                   has the carrier: SST_EOWNERDEAD
 *   the last piece                  the message is all there: it arrives
 *   taking the announcement,        swept, and the announcement with it: the sender is
 *    or some pieces                 alone with the carrier, and done
 *   withdrawing                     withdrawn
 *
 * docs/internals/parcels.rst. */

#include "ring/pieces.h"

#include <string.h>

#include "base/alloc.h"
#include "base/atomic.h"
#include "base/bits.h"
#include "base/crashpoint.h"
#include "os/os.h"
#include "ring/queue.h"
#include "shm/arena.h"
#include "shm/layout.h"
#include "shm/parcel.h"

enum {
    PIECE = 4032,       /* bytes: of these, */
    PIECES_MAX = 3,     /* so many fit into a first chunk, wherever its circle begins */
    LOOK_NS = 20000000, /* how long a side that is dead may go unnoticed */
};

_Static_assert(PIECE <= SSTI_RING_INLINE_MAX, "pieces are inline");
_Static_assert((PIECES_MAX + 1) * (PIECE + 8) + (int)sizeof(struct sst_chunk_shm) <=
                   SSTI_RING_CHUNK_MIN,
               "pieces fit");

enum side {
    SENDER,
    TAKER,
};

static int64_t
soon(void)
{
    return ssti_os_now_ns() + LOOK_NS;
}

static uint32_t
holders(const struct sst_queue *carrier)
{
    const struct sst_slot_shm *const slot = (const void *)carrier->shm;

    return ssti_load_acq(&slot->count);
}

/* This process is a side of the carrier; a child it forks is not. */
static void
be_side(struct sst_queue *carrier, enum side side)
{
    ssti_held_tie(carrier->view.arena, carrier->view.held, carrier->view.offset);
    ssti_store_rel(&carrier->shm->side[side], ssti_proc_self(carrier->view.arena));
}

/* Has a side died? Who cannot sweep it, as its table cannot be mapped for lack of
 * addresses, would wait for ever for its hold to go. */
static bool
is_dead(const struct sst_queue *carrier, enum side side)
{
    const uint64_t proc = ssti_load_acq(&carrier->shm->side[side]);

    return proc != 0 && !ssti_proc_alive(carrier->view.arena, proc);
}

/* ---- Sending ---- */

/* Not to be sent after all, unless somebody has begun to take it. */
static bool
withdraw(struct sst_queue *carrier)
{
    bool is_untouched;

    ssti_view_lock(&carrier->view);
    is_untouched = ssti_load_rlx(&carrier->ring.shm->got_count) == 0;
    if (is_untouched) {
        ssti_store_rel(&carrier->ring.shm->flags, ssti_ring_flags(&carrier->ring) |
                                                      SSTI_RING_SHUT |
                                                      SSTI_RING_DISCARD);
        SST_CRASHPOINT(pieces_withdrawn);
    }
    ssti_queue_unlock(carrier);
    return is_untouched;
}

/* A piece found no room: `rc` says how the wait for it ended. 0: go on. *is_over: there
 * is nobody to send to. */
static int
look_after(const struct ssti_pieces_way *way, struct sst_queue *carrier, int rc,
           int64_t deadline_ns, bool *is_over)
{
    if (rc == SST_ESHUTDOWN) {
        *is_over = true; /* the taker gave up */
        return 0;
    }
    if (rc != SST_ETIMEDOUT && rc != SST_EINTR) {
        return rc;
    }
    (void)ssti_proc_sweep(way->arena);
    if (holders(carrier) <= 1 || is_dead(carrier, TAKER)) {
        *is_over = true;
        return way->look(way->object);
    }
    if (ssti_load_acq(&carrier->ring.shm->got_count) != 0) {
        return 0;
    }
    if ((rc == SST_EINTR || ssti_os_now_ns() >= deadline_ns) && withdraw(carrier)) {
        return rc;
    }
    return way->look(way->object);
}

/* Put the pieces from the `skip`th byte of the first slice on. */
static int
feed(const struct ssti_pieces_way *way, struct sst_queue *carrier,
     const struct sst_slice *slices, uint32_t count, uint64_t skip, int64_t deadline_ns)
{
    bool is_over = false;
    int rc = 0;

    for (uint32_t i = 0; i < count; i++) {
        const char *const data = slices[i].data;

        for (uint64_t at = i == 0 ? skip : 0; at < slices[i].size && rc == 0;) {
            const uint64_t size = ssti_min(PIECE, slices[i].size - at);
            const int put = sst_queue_put(carrier, data + at, size, soon());

            if (put == 0) {
                at += size;
                SST_CRASHPOINT(pieces_put);
                continue;
            }
            rc = look_after(way, carrier, put, deadline_ns, &is_over);
            if (is_over) {
                return rc;
            }
        }
    }
    return rc;
}

/* The announcement of a message of so many bytes. */
static int
make_announcement(struct sst_queue *carrier, uint64_t total, struct sst_parcel **out)
{
    struct sst_handle handle;
    struct sst_parcel *parcel;
    int rc = sst_parcel_create(carrier->view.arena, sizeof total, 1, &parcel, NULL);

    if (rc != 0) {
        return rc;
    }
    ssti_held_tie(parcel->arena, parcel->held, parcel->offset);
    sst_queue_handle(carrier, &handle);
    ssti_copy_in(sst_parcel_data(parcel), &total, sizeof total);
    rc = sst_parcel_hold(parcel, &handle, NULL);
    if (rc != 0) {
        (void)sst_parcel_close(parcel);
        return rc;
    }
    ssti_store_rel(&parcel->shm->in_pieces, 1);
    *out = parcel;
    return 0;
}

int
ssti_pieces_send(const struct ssti_pieces_way *way, const struct sst_slice *slices,
                 uint32_t count, int64_t deadline_ns)
{
    const struct sst_queue_options options = {
        .size_of = sizeof options,
        .item_max = PIECES_MAX,
    };
    struct sst_parcel *parcel = NULL;
    struct sst_queue *carrier;
    uint64_t total = 0;
    uint64_t first;
    int rc;

    if (deadline_ns == SST_NOW) {
        return SST_ELIMIT;
    }
    while (count > 0 && slices->size == 0) {
        slices++;
        count--;
    }
    for (uint32_t i = 0; i < count; i++) {
        total += slices[i].size; /* was checked */
    }
    rc = sst_queue_create(way->arena, &options, &carrier, NULL);
    if (rc != 0) {
        return rc;
    }
    be_side(carrier, SENDER);
    /* The first piece brings the chunk: if there is no memory for that, we say so. */
    first = ssti_min(PIECE, slices->size);
    rc = sst_queue_put(carrier, slices->data, first, SST_NOW);
    if (rc == 0) {
        rc = make_announcement(carrier, total, &parcel);
    }
    if (rc == 0) {
        SST_CRASHPOINT(pieces_ready);
        rc = way->announce(way->object, &parcel, deadline_ns);
    }
    if (rc == 0) {
        rc = feed(way, carrier, slices, count, first, deadline_ns);
    }
    (void)sst_parcel_close(parcel);
    (void)sst_queue_close(carrier);
    return rc;
}

/* ---- Taking ---- */

/* The next piece. SST_EOWNERDEAD: none will come. */
static int
next_piece(struct sst_queue *carrier, struct sst_message *piece)
{
    int rc;

    while ((rc = ssti_queue_take(carrier, piece, soon())) == SST_ETIMEDOUT ||
           rc == SST_EINTR) {
        (void)ssti_proc_sweep(carrier->view.arena);
        if (holders(carrier) > 2 && !is_dead(carrier, SENDER)) {
            continue;
        }
        rc = ssti_queue_take(carrier, piece, SST_NOW); /* it may have come since */
        return rc == SST_ETIMEDOUT ? SST_EOWNERDEAD : rc;
    }
    return rc;
}

static int
take_pieces(struct sst_queue *carrier, char *to, uint64_t total)
{
    uint64_t done = 0;

    while (done < total) {
        struct sst_message piece;
        const int rc = next_piece(carrier, &piece);

        if (rc != 0) {
            return rc == SST_ESHUTDOWN ? SST_EAGAIN : rc;
        }

        const uint64_t size = piece.size;

        if (size != 0 && size <= total - done) {
            memcpy(to + done, piece.data, size);
            done += size;
        }
        sst_message_free(&piece);
        SST_CRASHPOINT(pieces_taken);
        if (size == 0 || done > total) {
            return SST_ECORRUPT;
        }
    }
    return 0;
}

/* The message that a parcel announces, in a block of this process's heap. */
static int
gather(const struct sst_parcel *parcel, char **out, uint64_t *total)
{
    struct sst_handle handle;
    struct sst_queue *carrier;
    int rc;

    if (parcel->size != sizeof *total ||
        sst_parcel_handle_at(parcel, 0, &handle) != 0) {
        return SST_ECORRUPT;
    }
    ssti_held_tie(parcel->arena, parcel->held, parcel->offset);
    ssti_copy_out(total, parcel->data, sizeof *total);
    rc = sst_queue_attach(parcel->arena, &handle, &carrier, NULL);
    if (rc != 0) {
        return rc;
    }
    be_side(carrier, TAKER);
    *out = *total != 0 && *total <= INT64_MAX ? ssti_alloc(*total) : NULL;
    rc = *out != NULL ? take_pieces(carrier, *out, *total) : SST_ENOMEM;
    if (rc != 0) {
        *out = ssti_free(*out);
        sst_queue_shutdown(carrier, true); /* the sender need not go on */
    }
    (void)sst_queue_close(carrier);
    return rc;
}

int
ssti_pieces_gather(struct sst_message *message)
{
    const struct sst_parcel *const parcel = sst_message_parcel(message);
    uint64_t total = 0;
    char *data = NULL;
    int rc;

    if (parcel == NULL || ssti_load_acq(&parcel->shm->in_pieces) == 0) {
        return 0;
    }
    rc = gather(parcel, &data, &total);
    sst_message_free(message);
    if (rc == 0) {
        message->data = data;
        message->size = total;
        message->owner = data;
    }
    return rc;
}
