/* SPDX-License-Identifier: MIT */
#ifndef SSTI_SHM_LAYOUT_H
#define SSTI_SHM_LAYOUT_H

/* Every struct that lives in shared memory, and nothing else. Fixed widths, no
 * pointers, sizes and offsets asserted. A value read from here was written by another
 * process, which may be dead, old or hostile: copy it, check its range, then use it.
 *
 * See docs/internals/memory.rst for the map of the arena. */

#include <stdint.h>

#define SST_LINE_PAIR 128

/* ---- Leaf locks (shm/leaf.c) ---- */

enum {
    SSTI_LEAF_CLASSES = 3,
};

/* The lock inside every shared object: a futex word that carries its owner, and what it
 * takes to lose no sleeper when any process dies at any instruction. leaf.c has the
 * protocol. "Guarded by word" means: written only while holding the lock. */
struct sst_leaf_shm {
    _Atomic uint32_t word;       /* TID | FUTEX_WAITERS | FUTEX_OWNER_DIED */
    _Atomic uint32_t contenders; /* asleep wanting the lock; any writer */
    _Atomic uint32_t waiting[SSTI_LEAF_CLASSES]; /* asleep per class; guarded by word */
    /* what a class sleeps on; guarded by word */
    _Atomic uint32_t seq[SSTI_LEAF_CLASSES];
    _Atomic uint32_t intent_class;   /* redo record, guarded by word: */
    _Atomic uint32_t intent_waiting; /*   waiting[intent_class] becomes this, */
    _Atomic uint32_t intent_state;   /*   the wait record's state this, */
    _Atomic uint32_t turn;           /* what contenders sleep on; any writer */
    _Atomic uint64_t intent_record;  /*   of the record at this offset; 0 = none */
};
_Static_assert(sizeof(struct sst_leaf_shm) == 56, "leaf layout");

/* A thread of some process is asleep on a leaf. Writer: that thread, or the sweeper
 * once its process is dead. */
struct sst_wait_shm {
    _Atomic uint64_t leaf;  /* offset of the leaf in the arena */
    _Atomic uint32_t state; /* enum ssti_wait_state */
    /* index into waiting[], or SSTI_LEAF_CLASSES for a contender */
    _Atomic uint32_t class;
};
_Static_assert(sizeof(struct sst_wait_shm) == 16, "wait record layout");

enum ssti_wait_state {
    SSTI_WAIT_FREE,
    SSTI_WAIT_MOVING,  /* between the two: leaf.c says what the sweeper makes of it */
    SSTI_WAIT_COUNTED, /* counted in the leaf: the sweeper must take one off */
};

/* ---- Message rings (ring/) ----
 *
 * All of it is guarded by the leaf of the object the ring is part of, but that the
 * counts may be looked at without: then they are a hint, and the decision is taken
 * under the leaf. ring.c has the protocol, docs/internals/rings.rst the picture. */

/* At the start of an extent that holds records. A cursor is the byte behind this header
 * at which the next record goes or comes from, and SSTI_CURSOR_LAP, which changes
 * whenever the cursor begins anew at 0. */
struct sst_chunk_shm {
    _Atomic uint64_t magic;
    /* the chunk after this one, or the next retired one; 0 = none */
    _Atomic uint64_t next;
    _Atomic uint32_t size; /* bytes of records behind this header */
    _Atomic uint32_t end;  /* the put cursor when `next` was linked: final */
    _Atomic uint64_t reserved[5];
};
_Static_assert(sizeof(struct sst_chunk_shm) == 64, "chunk layout");

struct sst_ring_shm {
    _Atomic uint32_t put_cursor; /* in put_chunk; one store of it commits a put */
    _Atomic uint32_t get_cursor; /* in get_chunk; one store of it commits a take */
    /* messages ever put; follows put_cursor, recounted after a death */
    _Atomic uint64_t put_count;
    _Atomic uint64_t got_count; /* messages ever taken; follows get_cursor */
    _Atomic uint64_t put_bytes; /* their payload */
    _Atomic uint64_t got_bytes;

    _Atomic uint32_t generation; /* changes before any of the four offsets below does */
    _Atomic uint32_t flags;      /* enum ssti_ring_flag */
    _Atomic uint64_t put_chunk;  /* the last of the chain; 0 = no chunk at all */
    _Atomic uint64_t get_chunk;  /* the first of the chain */
    _Atomic uint64_t spare;      /* a drained chunk kept for the next growth */
    _Atomic uint64_t retired;    /* drained chunks to be freed, chained by `next` */

    _Atomic uint64_t byte_max; /* of records that make it full, 0 = none; const */
    _Atomic uint32_t item_max; /* messages at most, 0 = no bound; const */
    _Atomic uint32_t reserved;

    _Atomic uint32_t intent; /* redo record: enum ssti_ring_intent, written last */
    _Atomic uint32_t intent_cursor; /* meaning by intent, see ring.c */
    _Atomic uint64_t intent_entry;  /* offset of a held entry */
    _Atomic uint64_t intent_extent;
    _Atomic uint64_t intent_next;
};
_Static_assert(sizeof(struct sst_ring_shm) == 128, "ring layout");

/* A descriptor somebody polls (bell.c). Guarded by the leaf. */
struct sst_bell_shm {
    _Atomic uint64_t owner; /* ssti_proc_self() of the asker; 0 = free */
    _Atomic uint64_t name; /* of its datagram socket: the bytes after the leading NUL */
    _Atomic uint32_t size; /* of the name */
    _Atomic uint32_t unsure; /* armed, but its ringer may have died after it rang */
};
_Static_assert(sizeof(struct sst_bell_shm) == 24, "bell layout");

/* A process that takes from a joinable queue, in the queue's table of takers. */
struct sst_taker_shm {
    _Atomic uint64_t proc; /* ssti_proc_self(); 0 = free */
    /* taken less done, two's complement: another process may call done */
    _Atomic uint64_t count;
};
_Static_assert(sizeof(struct sst_taker_shm) == 16, "taker layout");

enum {
    SSTI_QUEUE_BELLS = 8,
    SSTI_QUEUE_TAKERS = 256, /* entries of the table */
};

struct sst_queue_shm {
    _Atomic uint64_t slot[4]; /* struct sst_slot_shm */
    struct sst_leaf_shm leaf; /* A getters, B putters waiting for room, C joiners */
    struct sst_ring_shm ring;

    _Atomic uint32_t bells_armed; /* bit i: bell[i] wants to be rung */
    _Atomic uint32_t joinable;    /* const */
    _Atomic uint64_t takers; /* extent of the table of takers; 0 until the first take */
    _Atomic uint64_t taken;  /* sum of the takers' counts and of `lost`; recounted */
    _Atomic uint64_t lost;   /* counts of takers that died */
    /* a taker has come that the joiners do not watch yet */
    _Atomic uint32_t takers_new;
    _Atomic uint32_t intent; /* redo record: enum ssti_takers_intent, written last; */
    _Atomic uint64_t intent_value; /* what these mean is in takers.c */
    _Atomic uint64_t intent_extent;
    _Atomic uint32_t intent_taker;
    _Atomic uint32_t intent_cursor;
    _Atomic uint64_t offset; /* of this slot; const */
    /* of a carrier (ring/pieces.c): ssti_proc_self() of who sends and who takes; each
     * written by itself, once; 0 = not yet */
    _Atomic uint64_t side[2];
    struct sst_bell_shm bell[SSTI_QUEUE_BELLS];
};
_Static_assert(sizeof(struct sst_queue_shm) == 496, "queue layout");

/* One end of a pipe, in the pipe. Guarded by the pipe's leaf, but for the const
 * ones. */
struct sst_pipe_end_shm {
    /* offset of the end's own slot, whose holders are the end's; const */
    _Atomic uint64_t slot;
    _Atomic uint32_t generation;  /* of that slot; const */
    _Atomic uint32_t rung;        /* enum ssti_pipe_rung */
    _Atomic uint32_t recv_asleep; /* in poll() for a message; too high after deaths */
    _Atomic uint32_t send_asleep; /* in poll() for room; too high after deaths */
};
_Static_assert(sizeof(struct sst_pipe_end_shm) == 24, "pipe end layout");

enum ssti_pipe_rung {
    SSTI_PIPE_QUIET,  /* no byte is in the end's socket */
    SSTI_PIPE_RUNG,   /* there is one */
    SSTI_PIPE_UNSURE, /* there may be one that somebody did not live to account for */
};

enum ssti_pipe_role {
    SSTI_PIPE_RINGS = 1,
    SSTI_PIPE_HOLD = 2,
};

struct sst_pipe_shm {
    _Atomic uint64_t slot[4]; /* struct sst_slot_shm */
    _Atomic uint32_t role;    /* SSTI_PIPE_RINGS; const */
    _Atomic uint32_t duplex;  /* const */
    /* B, C: senders at end 0, 1 of a duplex pipe; others poll */
    struct sst_leaf_shm leaf;
    struct sst_ring_shm ring[2]; /* [e] is what end e reads */
    struct sst_pipe_end_shm end[2];
    _Atomic uint64_t offset; /* of this slot; const */
};
_Static_assert(sizeof(struct sst_pipe_shm) == 408, "pipe layout");

/* The slot that stands for one end: as long as it is held somebody has the end open. */
struct sst_pipe_hold_shm {
    _Atomic uint64_t slot[4]; /* struct sst_slot_shm */
    _Atomic uint32_t role;    /* SSTI_PIPE_HOLD; const */
    _Atomic uint32_t end;     /* const */
};
_Static_assert(sizeof(struct sst_pipe_hold_shm) == 40, "pipe hold layout");

/* ---- Synchronisation (sync/) ----
 *
 * The header of a slot comes first, and all of an object that is written on the way of
 * an acquire lies in one pair of lines: on the machines this was measured on a line
 * costs 1.6 us to fetch from the other core, and a second one as much again. */

/* mutex.c. Guarded by the leaf; `owner` may be looked at without. */
struct sst_mutex_shm {
    _Atomic uint64_t slot[4]; /* struct sst_slot_shm */
    struct sst_leaf_shm leaf; /* A: want the mutex */
    /* ssti_proc_self() of the owner, 0 = free; its store commits */
    _Atomic uint64_t owner;
    _Atomic uint32_t thread; /* kernel's id of the owning thread; recursive ones only */
    _Atomic uint32_t depth;  /* times held; meaningful while there is an owner */
    /* owner on whose life word the last in A to lie down sleeps */
    _Atomic uint64_t watched;
    _Atomic uint32_t flags; /* SST_MUTEX_RECURSIVE; const */
    _Atomic uint32_t reserved;
};
_Static_assert(sizeof(struct sst_mutex_shm) == 120, "mutex layout");

/* A process that takes part in an object (sync/roster.c). Guarded by the object's
 * leaf. */
struct sst_stay_shm {
    _Atomic uint64_t proc; /* ssti_proc_self() */
    /* round << 20 | number of times; its store commits; 0 times = free */
    _Atomic uint64_t stay;
};
_Static_assert(sizeof(struct sst_stay_shm) == 16, "stay layout");

enum {
    SSTI_SEMAPHORE_STAYS = 22,
    SSTI_CONDITION_STAYS = 248,
    SSTI_BARRIER_STAYS = 20, /* more are in an extent */
};

/* semaphore.c. Guarded by the leaf; `value` may be looked at without. */
struct sst_semaphore_shm {
    _Atomic uint64_t slot[4];      /* struct sst_slot_shm */
    struct sst_leaf_shm leaf;      /* A: want a unit */
    _Atomic uint32_t value;        /* units to be had */
    _Atomic uint32_t value_max;    /* const */
    _Atomic uint32_t bounded;      /* holders are known; const */
    _Atomic uint32_t stays_used;   /* stay[i] is free from here on */
    _Atomic uint32_t intent;       /* redo record, 1 = valid, written last: */
    _Atomic uint32_t intent_value; /*   value becomes this, */
    _Atomic uint32_t intent_index; /*   and stay[intent_index] */
    _Atomic uint32_t reserved;
    _Atomic uint64_t intent_stay; /*   that many times */
    _Atomic uint64_t watched;     /* holder on whose life word the last in A sleeps */
    struct sst_stay_shm stay[SSTI_SEMAPHORE_STAYS];
};
_Static_assert(sizeof(struct sst_semaphore_shm) == 488, "semaphore layout");

/* condition.c. Guarded by the leaf; `turn` may be looked at without. */
struct sst_condition_shm {
    _Atomic uint64_t slot[4]; /* struct sst_slot_shm */
    struct sst_leaf_shm leaf; /* class = round % 3: entered in that round */
    _Atomic uint64_t turn; /* round << 20 | credits; one store of it commits a notify */
    _Atomic uint64_t last; /* process that entered last; a hint */
    _Atomic uint32_t stays_used; /* stay[i] is free from here on */
    _Atomic uint32_t reserved;
    _Atomic uint64_t told; /* round whose members know that others are entitled */
    _Atomic uint64_t reserved_too;
    struct sst_stay_shm stay[SSTI_CONDITION_STAYS];
};
_Static_assert(sizeof(struct sst_condition_shm) == 4096, "condition layout");

/* event.c. Guarded by the leaf; `state` may be looked at without. */
struct sst_event_shm {
    _Atomic uint64_t slot[4]; /* struct sst_slot_shm */
    /* A, B: came to wait after an even, an odd number of sets */
    struct sst_leaf_shm leaf;
    _Atomic uint32_t state; /* number of sets << 1 | is set; one store of it commits */
    _Atomic uint32_t reserved;
};
_Static_assert(sizeof(struct sst_event_shm) == 96, "event layout");

/* barrier.c. Guarded by the leaf; `turn` may be looked at without. */
struct sst_barrier_shm {
    _Atomic uint64_t slot[4]; /* struct sst_slot_shm */
    /* A, B: wait in an even, an odd round; C: want to arrive */
    struct sst_leaf_shm leaf;
    _Atomic uint64_t turn; /* round << 2 | enum ssti_barrier_state; its store commits */
    _Atomic uint64_t broken;     /* bit r % 64: round r ended broken */
    _Atomic uint64_t last;       /* process that arrived last; a hint */
    _Atomic uint32_t parties;    /* const */
    _Atomic uint32_t stays_used; /* stay[i] is free from here on */
    _Atomic uint64_t extent; /* where the stays are when there are more; 0 = below */
    _Atomic uint64_t extent_word; /* offset of `extent` in the arena; const */
    _Atomic uint64_t reserved[2];
    struct sst_stay_shm stay[SSTI_BARRIER_STAYS];
};
_Static_assert(sizeof(struct sst_barrier_shm) == 472, "barrier layout");

/* ---- The first page ---- */

#define SST_ARENA_MAGIC   UINT64_C(0x0a70657473656473) /* "sdestep\n" */
#define SST_ARENA_VERSION 1

/* Written by the creator before anybody else can see the arena, constant afterwards. */
struct sst_header_shm {
    _Atomic uint64_t magic;
    _Atomic uint32_t version;
    _Atomic uint32_t layout; /* ssti_layout_hash() of the creator */
    _Atomic uint64_t size;   /* of the whole arena; with process_max it fixes the map */
    _Atomic uint64_t id;     /* random, never 0 */
    _Atomic uint32_t process_max;
    _Atomic uint32_t creator_pid;
    _Atomic uint64_t creator_born; /* boot ticks */
    /* lock words hold thread ids: one name space per arena */
    _Atomic uint64_t pid_space;
    _Atomic uint64_t budget; /* bytes the user allows; 0 = no limit of his */
};
_Static_assert(sizeof(struct sst_header_shm) == 64, "header layout");

/* ---- Slots (shm/slots.c) ---- */

enum {
    SSTI_SLOT_CLASSES = 6, /* 128 << class bytes */
    SSTI_SLOT_SIZE_MIN = 128,
    SSTI_SLOT_SIZE_MAX = 4096,
};

enum ssti_slot_state {
    SSTI_SLOT_FREE,
    SSTI_SLOT_LIVE,
    SSTI_SLOT_DYING, /* its last holder runs the kind's destroy */
};

/* First member of every object in a slot. Guarded by the class's leaf. */
struct sst_slot_shm {
    /* of the object; one more each time the slot is freed */
    _Atomic uint32_t generation;
    _Atomic uint32_t kind;   /* enum sst_kind */
    _Atomic uint32_t state;  /* enum ssti_slot_state */
    _Atomic uint32_t count;  /* held entries and messages that hold it */
    _Atomic uint32_t layout; /* hash of the object's struct, by its creator */
    _Atomic uint32_t reserved;
    _Atomic uint64_t next; /* offset of the next free slot of the class; 0 = last */
};
_Static_assert(sizeof(struct sst_slot_shm) == 32, "slot layout");

/* A size class. Guarded by leaf. The intent is the whole of the next change: values
 * that become true, so that applying it twice is applying it once. */
struct sst_class_shm {
    struct sst_leaf_shm leaf;
    _Atomic uint64_t free;        /* offset of the first free slot; 0 = none */
    _Atomic uint64_t bump;        /* bytes of the class's range that were ever in use */
    _Atomic uint64_t live;        /* slots in use */
    _Atomic uint64_t intent_slot; /* offset of the slot; 0 = no intent. Written last */
    _Atomic uint64_t intent_next;
    _Atomic uint64_t intent_free;
    _Atomic uint64_t intent_bump;
    _Atomic uint64_t intent_live;
    _Atomic uint64_t intent_entry; /* offset of a held entry's value; 0 = none */
    _Atomic uint64_t intent_value;
    _Atomic uint32_t intent_generation;
    _Atomic uint32_t intent_kind;
    _Atomic uint32_t intent_state;
    _Atomic uint32_t intent_count;
    _Atomic uint32_t intent_layout;
    uint32_t padding[25];
};
_Static_assert(sizeof(struct sst_class_shm) == 256, "class layout");

/* ---- Extents (shm/heap.c) ---- */

enum {
    SSTI_UNIT = 4096,
    SSTI_ORDERS = 32,       /* an extent is SSTI_UNIT << order bytes */
    SSTI_UNIT_ORDER = 0x3f, /* parts of a unit's state */
    SSTI_UNIT_KIND = 0xc0,
    SSTI_UNIT_COLD = 0x40, /* free, and all zero */
    SSTI_UNIT_WARM = 0x80, /* free, with pages that may be used again */
    SSTI_UNIT_USED = 0xc0,
    SSTI_UNIT_SHARE =
        0x100, /* of a used extent: one share, counted in the upper bits */
};

/* One per 4 KiB of the heap; meaningful at the first unit of a block. `state` is the
 * truth, the links are derived from it. Guarded by the heap's leaf. */
struct sst_unit_shm {
    _Atomic uint32_t state;
    _Atomic uint32_t next; /* unit + 1 of the next free block of its list; 0 = last */
    _Atomic uint32_t previous;
    _Atomic uint32_t reserved;
};
_Static_assert(sizeof(struct sst_unit_shm) == 16, "unit layout");

/* The heap. Guarded by leaf. */
struct sst_heap_shm {
    struct sst_leaf_shm leaf;
    _Atomic uint64_t high;    /* units that were ever part of a block */
    _Atomic uint64_t used;    /* units in extents; derived */
    _Atomic uint64_t warm;    /* units in warm free blocks; derived */
    _Atomic uint64_t extents; /* number in use; derived */
    _Atomic uint64_t credit;  /* bytes of growth the budget has granted already */
    /* unit + 1 of the block; 0 = no intent. Written last */
    _Atomic uint64_t intent_unit;
    _Atomic uint64_t intent_state;
    /* offset of a word that becomes from_value; 0 = none */
    _Atomic uint64_t intent_from;
    _Atomic uint64_t intent_from_value;
    _Atomic uint64_t intent_to; /* offset of a word that becomes to_value; 0 = none */
    _Atomic uint64_t intent_to_value;
    _Atomic uint32_t mask[2];              /* orders whose list is not empty; derived */
    _Atomic uint32_t list[2][SSTI_ORDERS]; /* [0] cold, [1] warm: unit + 1; derived */
    _Atomic uint64_t idle_since;           /* hints, see warmth.c; any writer */
    _Atomic uint64_t idle_low;
    uint32_t padding[22];
};
_Static_assert(sizeof(struct sst_heap_shm) == 512, "heap layout");

/* ---- Processes (shm/registry.c) ---- */

enum ssti_process_state {
    SSTI_PROCESS_FREE,
    SSTI_PROCESS_UNBORN, /* a seat for a child that has not stamped it */
    SSTI_PROCESS_LIVE,
    SSTI_PROCESS_SWEEPING, /* dead; `sweeper` undoes what it held */
    SSTI_PROCESS_DONE,     /* dead and swept; its watcher has not read the exit code */
};

/* A seat in the registry. Guarded by the registry's leaf where nothing else is said. */
struct sst_process_shm {
    _Atomic uint32_t generation;
    _Atomic uint32_t state;   /* enum ssti_process_state */
    _Atomic uint32_t pid;     /* single writer: the process; 0 = not known yet */
    _Atomic uint32_t watched; /* a parent will read the exit code */
    _Atomic uint64_t parent;  /* id of the process that reserved the seat; 0 = nobody */
    _Atomic uint64_t sweeper; /* id of who sweeps */
    _Atomic uint64_t born;    /* boot ticks, not before the process started */
    _Atomic uint32_t held_high; /* entries of the held table ever used; single writer */
    _Atomic uint32_t waits_high;
    _Atomic uint32_t presence_count;
    _Atomic uint32_t gifts; /* entries the parent made before the child was born */
    /* 1 + offset of the word in `life`; 0 = the kernel is asked */
    _Atomic uint32_t life_word;
    _Atomic uint32_t life_is_main; /* the main thread holds the life words */
    uint64_t life[8]; /* a robust mutex: for whoever waits for the process's locks */
    /* the same for the parent alone, whose wake nobody can take */
    uint64_t life_parent[8];
    _Atomic uint32_t done; /* 1 once it has left in order; slept on */
    _Atomic uint32_t exit_code;
    _Atomic uint32_t left_names; /* uses no name any more; single writer */
    uint32_t padding[13];
};
_Static_assert(sizeof(struct sst_process_shm) == 256, "process layout");

struct sst_registry_shm {
    struct sst_leaf_shm leaf;
    _Atomic uint32_t high;  /* seats ever used */
    _Atomic uint32_t hint;  /* no free seat below; derived */
    _Atomic uint64_t swept; /* processes, for statistics */
    uint64_t padding[7];
};
_Static_assert(sizeof(struct sst_registry_shm) == 128, "registry layout");

/* What a process holds. Single writer, that process: then its sweeper. */
struct sst_held_shm {
    /* 0, the offset of an extent, or of a slot; with SSTI_HELD_* */
    _Atomic uint64_t value;
    _Atomic uint64_t tie; /* offset of the object this is moving into or out of */
};
_Static_assert(sizeof(struct sst_held_shm) == 16, "held layout");

enum {
    SSTI_HELD_SLOT = 1,    /* `value` is the offset of a slot */
    SSTI_HELD_INHERIT = 2, /* an extent of which forked children get a share */
    SSTI_HELD_FLAGS = 3,
};

/* A process takes part in an object. Single writer: its process; value: any of its
 * threads. */
struct sst_presence_shm {
    _Atomic uint64_t object; /* offset of the slot; 0 = free, 1 = was used */
    _Atomic int64_t value;
    _Atomic uint32_t generation; /* of the slot */
    uint32_t padding[3];
};
_Static_assert(sizeof(struct sst_presence_shm) == 32, "presence layout");

/* The area of a seat: wait records, presence records, then the held table to the
 * end. */
enum {
    SSTI_AREA_WAITS = 4096,
    SSTI_AREA_PRESENCES = 4096,
    SSTI_AREA_PRESENCE_OFFSET = SSTI_AREA_WAITS * 16,
    SSTI_AREA_HELD_OFFSET = SSTI_AREA_PRESENCE_OFFSET + SSTI_AREA_PRESENCES * 32,
};

/* ---- The control pages: offset 4096 ---- */

enum {
    SSTI_CONTROL_OFFSET = 4096,
};

struct sst_control_shm {
    struct sst_registry_shm registry;
    struct sst_heap_shm heap;
    _Atomic uint64_t ledger; /* 1 once there is one (ledger.c); any writer */
    uint64_t padding[15];
    struct sst_class_shm classes[SSTI_SLOT_CLASSES];
};
_Static_assert(sizeof(struct sst_control_shm) == 768 + 6 * 256, "control layout");

/* ---- Blocks (shm/block.c) ---- */

struct sst_block_shm {
    struct sst_slot_shm slot;
    _Atomic uint64_t size;   /* constant */
    _Atomic uint64_t extent; /* 0: the bytes follow this struct */
    uint64_t padding[2];
};
_Static_assert(sizeof(struct sst_block_shm) == 64, "block layout");

/* ---- Parcels (shm/parcel.c) ---- */

struct sst_parcel_shm {
    struct sst_slot_shm slot;
    _Atomic uint64_t size;       /* of the bytes; constant */
    _Atomic uint64_t extent;     /* 0: the bytes are in this slot */
    _Atomic uint64_t data;       /* offset of the bytes; constant */
    _Atomic uint64_t words;      /* offset of the hold words; constant */
    _Atomic uint64_t offset;     /* of this slot; constant, written last */
    _Atomic uint32_t hold_max;   /* number of hold words; constant */
    _Atomic uint32_t hold_count; /* used; single writer: who prepares it */
    _Atomic uint32_t sealed;     /* 1: never changes again */
    _Atomic uint32_t in_pieces;  /* 1: announces a message (ring/pieces.c) */
    uint32_t padding[2];
};
_Static_assert(sizeof(struct sst_parcel_shm) == 96, "parcel layout");

/* ---- Pools (pool/) ----
 *
 * All of it is guarded by the pool's leaf, but that the rings' counts, the flags and a
 * seat's own fields may be looked at without, as a hint. docs/internals/pool.rst. */

/* At the start of each record of a pool's rings, before what of the payload is inline.
 * Not atomic: it is copied in and out with the record. */
struct sst_pool_head_shm {
    uint64_t id;
    uint64_t function;
    uint64_t tag;
    int64_t first_ns;  /* of a task: soft deadline; of a result: when it was taken */
    int64_t second_ns; /* of a task: hard deadline; of a result: when it ended */
    uint64_t word;     /* extent, or slot | SSTI_HELD_SLOT; 0 = the payload is inline */
    uint64_t size;     /* of the payload */
    uint32_t kind; /* of a result: enum sst_pool_kind | enum sst_pool_reason << 16 */
    int32_t code;
    uint32_t seat; /* index, of a result */
    int32_t pid;
};
_Static_assert(sizeof(struct sst_pool_head_shm) == 72, "pool head layout");

/* The same of a task without deadlines, whose payload is inline: most are. */
struct sst_pool_brief_shm {
    uint64_t id;   /* with SSTI_POOL_BRIEF */
    uint64_t call; /* function << 8 | tag: where they are small enough */
};
_Static_assert(sizeof(struct sst_pool_brief_shm) == 16, "pool brief layout");
#define SSTI_POOL_BRIEF (UINT64_C(1) << 63) /* no id has it: generations are 31 bits */

enum {
    SSTI_POOL_LANES = 4,        /* rings: of tasks by priority, the last of results */
    SSTI_POOL_MARK_BLOCKS = 20, /* block b has SSTI_POOL_MARK_FIRST << b marks */
    SSTI_POOL_MARK_FIRST = 1024,
    SSTI_POOL_POSTS = 256,
};
#define SSTI_POOL_MARK_CANCELLED UINT32_C(0x80000000)

/* A place for a worker. */
struct sst_pool_seat_shm {
    _Atomic uint64_t proc;  /* ssti_proc_self() of the worker; 0 = not there yet */
    _Atomic uint32_t state; /* enum sst_pool_seat_state, but BUSY is never stored */
    _Atomic uint32_t generation; /* of the reservation */
    /* the task in hand, 0 = none: with this store a lease begins and ends */
    _Atomic uint64_t task;
    _Atomic uint64_t function; /* of that task, and the next four */
    _Atomic uint64_t tag;
    _Atomic int64_t started_ns;
    _Atomic int64_t soft_ns;
    _Atomic int64_t hard_ns;
    _Atomic uint64_t soft_due; /* the task whose soft deadline has passed */
    _Atomic uint64_t done;
    _Atomic uint64_t failed;
    _Atomic uint64_t busy_ns;
    _Atomic uint32_t pid;
    _Atomic uint32_t task_max;  /* 0 = no limit */
    _Atomic uint32_t dismissed; /* is to leave */
    _Atomic uint32_t condemned; /* enum sst_pool_reason: cannot finish any more */
    _Atomic uint32_t ready;     /* its worker has asked for a task */
    uint32_t padding_0;
    uint64_t padding;
};
_Static_assert(sizeof(struct sst_pool_seat_shm) == 128, "pool seat layout");

/* A payload that is kept for many tasks. Single writer: the owner. */
struct sst_pool_post_shm {
    _Atomic uint64_t number; /* 0 = none; its store publishes */
    _Atomic uint64_t extent; /* size, then bytes */
};
_Static_assert(sizeof(struct sst_pool_post_shm) == 16, "pool post layout");

struct sst_pool_shm {
    _Atomic uint64_t slot[4];  /* struct sst_slot_shm */
    struct sst_leaf_shm leaf;  /* A idle workers, B the owner, C submitters */
    _Atomic uint64_t offset;   /* of this slot; const */
    _Atomic uint64_t owner;    /* ssti_proc_self(); const */
    _Atomic uint32_t seat_max; /* const */
    _Atomic uint32_t task_max; /* const */
    _Atomic uint32_t flags;    /* enum ssti_pool_flag; only ever set */
    _Atomic uint32_t bells_armed;
    struct sst_ring_shm ring[SSTI_POOL_LANES];

    _Atomic uint32_t intent; /* redo record: enum ssti_pool_intent, written last; */
    _Atomic uint32_t intent_lane; /* what these mean is in lane.c */
    _Atomic uint32_t intent_seat;
    _Atomic uint32_t intent_cursor;
    _Atomic uint64_t intent_chunk;
    _Atomic uint64_t intent_entry;
    _Atomic uint64_t intent_id;
    _Atomic uint64_t past_done; /* of workers that are buried, and the next three */
    _Atomic uint64_t past_failed;
    _Atomic uint64_t past_busy_ns;
    _Atomic uint64_t past_lost;
    _Atomic uint64_t cancelled; /* tasks that were, ever */
    _Atomic uint64_t skipped;   /* of them, records that are gone */

    _Atomic uint64_t seats;      /* extent of the table of seats; const */
    _Atomic uint64_t posts;      /* extent of the table of posts; const */
    _Atomic uint64_t post_count; /* ever; single writer: the owner */
    /* extents of 32-bit marks, one for each index of a task: generation, and whether
     * that task was cancelled, or taken */
    _Atomic uint64_t marks[SSTI_POOL_MARK_BLOCKS];
    struct sst_bell_shm bell[SSTI_QUEUE_BELLS];
};
_Static_assert(sizeof(struct sst_pool_shm) == 1096, "pool layout");

#endif
