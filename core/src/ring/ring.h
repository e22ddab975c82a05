/* SPDX-License-Identifier: MIT */
#ifndef SSTI_RING_RING_H
#define SSTI_RING_RING_H

/* A message ring: what queues and pipes put into and take from. It has no lock and no
 * sleepers of its own: the object it is part of has the leaf, and functions named
 * _locked want it held. ring.c has the protocol, chunk.c where the records live. */

#include <stdbool.h>
#include <stdint.h>

#include "base/atomic.h"
#include "shm/layout.h"
#include "sidestep/sidestep.h"

/* The simulation makes these tiny. */
#ifndef SSTI_RING_INLINE_MAX
# define SSTI_RING_INLINE_MAX 4096 /* payload bytes; longer messages get an extent */
#endif
#ifndef SSTI_RING_CHUNK_MIN
# define SSTI_RING_CHUNK_MIN 16384 /* bytes of the first chunk, header included */
#endif
#ifndef SSTI_RING_CHUNK_MAX
# define SSTI_RING_CHUNK_MAX 1048576
#endif
#ifndef SSTI_RING_CHUNK_KEEP
# define SSTI_RING_CHUNK_KEEP 65536 /* an empty ring keeps no chunk larger than this */
#endif

enum ssti_ring_flag {
    SSTI_RING_SHUT = 1,    /* no more puts */
    SSTI_RING_DISCARD = 2, /* nor takes: what is left is to be dropped */
    SSTI_RING_CORRUPT = 4, /* what was found cannot have been written by us */
};

/* What a _locked function answers besides 0 and statuses: do that without the leaf, and
 * try again. */
enum ssti_ring_answer {
    SSTI_RING_EMPTY = 1,  /* nothing to take */
    SSTI_RING_FULL = 2,   /* a bound is reached: wait for a take */
    SSTI_RING_CHUNK = 3,  /* ssti_ring_make_chunk */
    SSTI_RING_RECEIPT = 4 /* ssti_receipt_prepare */
};

/* This process's view of a ring. */
struct ssti_ring {
    struct sst_arena *arena;
    struct sst_ring_shm *shm;
    /* offset of the slot it is part of: what held entries are tied to */
    uint64_t object;

    /* The two chunks at the time the ring had this generation. Guarded by the leaf. */
    uint32_t generation; /* 0 = never looked */
    uint32_t put_size;
    uint32_t get_size;
    struct sst_chunk_shm *put;
    struct sst_chunk_shm *get;
};

/* A message on its way in. */
struct ssti_deposit {
    const struct sst_slice *slices;
    uint32_t count;
    uint32_t length; /* of the record, header included */
    uint64_t size;   /* of the payload */
    uint64_t extent; /* the payload was written there; or a parcel's slot; 0 = inline */
    uint64_t data;   /* where the bytes of that parcel are; 0 = it is none */
    uint64_t chunk;  /* made for the ring to link; 0 = none */
    uint32_t chunk_size;  /* that it should have, set with SSTI_RING_CHUNK */
    uint32_t extent_held; /* the entries that hold extent and chunk */
    uint32_t chunk_held;
    uint32_t at;          /* where the record goes, decided by ssti_ring_fit_locked: */
    uint32_t skip;        /* first the rest of the chunk is skipped, if not 0, */
    uint32_t put_cursor;  /* cursors before */
    uint32_t next_cursor; /* and after */
};

/* A message on its way out: what has to be at hand before it can be taken. */
struct ssti_receipt {
    struct sst_message *message;
    void *buffer;              /* for messages that do not fit into message->small */
    void *mapped;              /* the extent of `want`, mapped; NULL = not yet */
    struct sst_parcel *parcel; /* or a view of the parcel there; the same */
    uint64_t want_extent;      /* the message found; 0 = it needs `buffer` */
    uint64_t want_size;
    uint64_t want_data; /* 0 = no parcel */
    uint32_t held;      /* an empty entry for the extent */
    bool has_held;
    bool is_ready;   /* what is wanted is there, and mapped */
    bool is_unread;  /* the messages are only to be freed: nothing is mapped */
    uint8_t misfits; /* how often in a row the extent was none */
};

/* What `extent` of a message that was taken says; see message.c. */
enum {
    SSTI_MESSAGE_HELD = 1, /* and above: the entry that holds it, plus this */
};
#define SSTI_MESSAGE_PARCEL UINT64_MAX

/* ---- View ---- */

/* A new ring in zeroed shared memory. */
void ssti_ring_format(struct sst_ring_shm *shm, uint32_t item_max, uint64_t byte_max);
void ssti_ring_view(struct ssti_ring *ring, struct sst_arena *arena,
                    struct sst_ring_shm *shm, uint64_t object);

/* ---- Looking: without the leaf a hint, with it exact ---- */

static inline uint64_t
ssti_ring_count(const struct ssti_ring *ring)
{
    const uint64_t got = ssti_load_acq(&ring->shm->got_count);
    const uint64_t put = ssti_load_acq(&ring->shm->put_count);

    return put > got ? put - got : 0;
}

static inline uint64_t
ssti_ring_bytes(const struct ssti_ring *ring)
{
    const uint64_t got = ssti_load_acq(&ring->shm->got_bytes);
    const uint64_t put = ssti_load_acq(&ring->shm->put_bytes);

    return put > got ? put - got : 0;
}

static inline uint32_t
ssti_ring_flags(const struct ssti_ring *ring)
{
    return ssti_load_acq(&ring->shm->flags);
}

/* Its last owner died, and nobody has taken the leaf since: there may be a message that
 * is not counted yet. */
bool ssti_ring_is_orphaned(const struct sst_leaf_shm *leaf);
/* Somebody is in a section. */
bool ssti_ring_is_held(const struct sst_leaf_shm *leaf);

/* Does the next put have to wait for a take? The same for all, whatever they want to
 * put: so those who wait have one condition, and one of them can be woken in another's
 * place.
 */
bool ssti_ring_is_full(const struct ssti_ring *ring);

/* ---- Putting ---- */

/* Begin: a long payload is copied into an extent of its own now. SST_ELIMIT,
 * SST_ENOMEM, SST_EINVAL. The slices are borrowed until fini. */
int ssti_deposit_init(struct ssti_ring *ring, struct ssti_deposit *deposit,
                      const struct sst_slice *slices, uint32_t count);
/* The same for a parcel, whose hold is to move into the ring. Cannot fail. */
void ssti_deposit_parcel(struct ssti_ring *ring, struct ssti_deposit *deposit,
                         const struct sst_parcel *parcel);
/* Give back what the ring did not take over; a parcel stays its owner's. */
void ssti_deposit_fini(struct ssti_ring *ring, struct ssti_deposit *deposit);

/* Give back an extent that is still ours, or the entry of one that is not (0). */
void ssti_ring_give_back(struct ssti_ring *ring, uint64_t extent, uint32_t held);
/* The slices, one after the other. */
void ssti_ring_copy_slices(unsigned char *to, const struct sst_slice *slices,
                           uint32_t count);

/* Find the place. 0; SSTI_RING_FULL, SSTI_RING_CHUNK; SST_ECORRUPT. */
int ssti_ring_fit_locked(struct ssti_ring *ring, struct ssti_deposit *deposit);
/* Put it there. Follows a fit in the same section, and cannot fail. */
void ssti_ring_put_locked(struct ssti_ring *ring, struct ssti_deposit *deposit);
/* Make the chunk that fit asked for. SST_ELIMIT, SST_ENOMEM. */
int ssti_ring_make_chunk(struct ssti_ring *ring, struct ssti_deposit *deposit);

/* ---- Taking ---- */

void ssti_receipt_init(struct ssti_receipt *receipt, struct sst_message *message);
/* Go on to the next message of a batch. */
void ssti_receipt_next(struct ssti_receipt *receipt, struct sst_message *message);
void ssti_receipt_fini(struct ssti_ring *ring, struct ssti_receipt *receipt);
/* Get what the last try lacked. SST_ENOMEM, SST_ELIMIT, SST_ECORRUPT. */
int ssti_receipt_prepare(struct ssti_ring *ring, struct ssti_receipt *receipt);

/* Is there a message? 0; SSTI_RING_EMPTY; SST_ECORRUPT. */
int ssti_ring_peek_locked(struct ssti_ring *ring);
/* Take the next one. 0; SSTI_RING_EMPTY, SSTI_RING_RECEIPT; SST_ECORRUPT. */
int ssti_ring_take_locked(struct ssti_ring *ring, struct ssti_receipt *receipt);

/* ---- Life ---- */

/* The last owner of the leaf died: redo its intent, then count again. */
void ssti_ring_repair_locked(struct ssti_ring *ring);
/* Chunks wait to be freed: call ssti_ring_trim without the leaf. */
bool ssti_ring_has_retired(const struct ssti_ring *ring);

/* How functions that free under way take and release the leaf of the object. */
struct ssti_ring_section {
    void (*lock)(void *object);
    void (*unlock)(void *object);
    void *object;
};
/* Free the retired chunks. */
void ssti_ring_trim(struct ssti_ring *ring, const struct ssti_ring_section *section);
/* Drop all messages; with `last` the chunks too, as the object is being destroyed. */
void ssti_ring_clear(struct ssti_ring *ring, const struct ssti_ring_section *section,
                     bool last);

#endif
