/* SPDX-License-Identifier: MIT */

/* Slots: the small objects of an arena.
 *
 * A slot has one of six sizes, each size a range of its own with a leaf, a stack of
 * free slots and a mark below which slots were ever used. `count` says how many entries
 * of held tables (and how many messages) hold the slot; it changes only together with
 * such an entry. Everything a change touches, slot, class and entry, is first written
 * down as the class's intent, in values that become true; then it is applied; then the
 * intent is withdrawn. Whoever finds the leaf's owner dead applies the intent once
 * more. The one change that is a single store needs no intent: LIVE to DYING.
 *
 * The last holder destroys: it makes the slot DYING under the leaf, which closes the
 * door for new holders, runs the kind's destroy without the leaf, and frees the slot.
 * Its entry stays until then, so if it dies on the way the sweeper does the same from
 * its table. A kind that this process never registered is left to one that did.
 *
 * Invariants
 *   I1  count = entries and messages that hold the slot, whenever no intent is set
 *   I2  a slot that is not FREE has generation g; when it is freed g becomes g + 1, and
 *       every handle with g is stale
 *   I3  a DYING slot has count 1, and the entry that holds it belongs to who destroys
 *       it
 *
 * Death table (process dies after ...)
 *   taking a held entry, before the intent   nothing happened; the entry is 0
 *   writing the intent, not its slot         nothing happened
 *   writing intent_slot                      all of it happens: redone by the next to
 *                                            lock, at the latest by the sweeper
 *   applying a part                          the same
 *   making it DYING, inside destroy          the sweeper finds the entry, destroys
 *                                            again (destroy is idempotent) and frees
 *
 * docs/internals/memory.rst. */

#include "base/alloc.h"
#include "base/atomic.h"
#include "base/bits.h"
#include "base/crashpoint.h"
#include "base/status.h"
#include "shm/view.h"

#include <inttypes.h>
#include <string.h>

enum {
    GROWTH_STEP = 1 << 20, /* memory for slots is asked of the budget in such steps */
    DESTROYS_MAX = 16,     /* one in the other, where they cannot be put off */
};

static const struct ssti_kind_ops *_Atomic kinds[SST_KIND_COUNT];
static _Atomic uint32_t kinds_known;

void
ssti_kind_register(enum sst_kind kind, const struct ssti_kind_ops *ops)
{
    if (ssti_xchg(&kinds[kind], ops) == NULL) {
        ssti_fetch_add(&kinds_known, 1);
    }
}

uint32_t
ssti_kinds_known(void)
{
    return ssti_load_acq(&kinds_known);
}

const struct ssti_kind_ops *
ssti_kind_ops(uint32_t kind)
{
    return kind < SST_KIND_COUNT ? ssti_load_acq(&kinds[kind]) : NULL;
}

/* ---- Places ---- */

static uint64_t
size_of_class(uint32_t class)
{
    return (uint64_t)SSTI_SLOT_SIZE_MIN << class;
}

static uint64_t
range_of_class(const struct sst_arena *arena, uint32_t class)
{
    return arena->map.slots + class * arena->map.slot_span;
}

/* The class in whose range an offset is the start of a slot; SSTI_SLOT_CLASSES if
 * none. */
static uint32_t
class_of_offset(const struct sst_arena *arena, uint64_t offset)
{
    uint32_t class;

    if (offset < arena->map.slots || offset >= arena->map.units) {
        return SSTI_SLOT_CLASSES;
    }
    class = (uint32_t)((offset - arena->map.slots) / arena->map.slot_span);
    return offset % size_of_class(class) == 0 ? class : SSTI_SLOT_CLASSES;
}

uint64_t
ssti_slot_room(const struct sst_arena *arena, uint64_t offset)
{
    const uint32_t class = class_of_offset(arena, offset);

    return class < SSTI_SLOT_CLASSES ? size_of_class(class) : 0;
}

static struct sst_slot_shm *
slot_at(struct sst_arena *arena, uint64_t offset)
{
    const uint32_t class = class_of_offset(arena, offset);

    return class < SSTI_SLOT_CLASSES
               ? ssti_arena_ptr(arena, offset, size_of_class(class))
               : NULL;
}

/* ---- Changes ---- */

/* A change of a class, one of its slots and one held entry. Starts as what is, then the
 * caller sets what becomes. */
struct change {
    struct sst_slot_shm *slot;
    uint64_t offset;
    uint64_t next;
    uint64_t free;
    uint64_t bump;
    uint64_t live;
    uint64_t entry;
    uint64_t value;
    uint32_t generation;
    uint32_t kind;
    uint32_t state;
    uint32_t count;
    uint32_t layout;
};

static struct change
change_of(const struct sst_class_shm *class, struct sst_slot_shm *slot, uint64_t offset)
{
    return (struct change){
        .slot = slot,
        .offset = offset,
        .next = ssti_load_rlx(&slot->next),
        .free = ssti_load_rlx(&class->free),
        .bump = ssti_load_rlx(&class->bump),
        .live = ssti_load_rlx(&class->live),
        .generation = ssti_load_rlx(&slot->generation),
        .kind = ssti_load_rlx(&slot->kind),
        .state = ssti_load_rlx(&slot->state),
        .count = ssti_load_rlx(&slot->count),
        .layout = ssti_load_rlx(&slot->layout),
    };
}

/* Make the intent true. Idempotent; the caller holds the leaf. */
static void
apply(struct sst_class_shm *class, struct sst_slot_shm *slot, _Atomic uint64_t *value)
{
    ssti_store_rlx(&slot->generation, ssti_load_rlx(&class->intent_generation));
    ssti_store_rlx(&slot->kind, ssti_load_rlx(&class->intent_kind));
    ssti_store_rlx(&slot->count, ssti_load_rlx(&class->intent_count));
    ssti_store_rlx(&slot->layout, ssti_load_rlx(&class->intent_layout));
    ssti_store_rlx(&slot->next, ssti_load_rlx(&class->intent_next));
    SST_CRASHPOINT(slot_half_applied);
    ssti_store_rlx(&class->free, ssti_load_rlx(&class->intent_free));
    ssti_store_rlx(&class->bump, ssti_load_rlx(&class->intent_bump));
    ssti_store_rlx(&class->live, ssti_load_rlx(&class->intent_live));
    if (value != NULL) {
        ssti_store_rel(value, ssti_load_rlx(&class->intent_value));
    }
    ssti_store_rel(&slot->state, ssti_load_rlx(&class->intent_state));
    SST_CRASHPOINT(slot_applied);
    ssti_store_rel(&class->intent_slot, 0);
}

/* Write the intent down, validity last, and make it true. The caller holds the leaf. */
static void
commit(struct sst_arena *arena, struct sst_class_shm *class,
       const struct change *change)
{
    ssti_store_rlx(&class->intent_generation, change->generation);
    ssti_store_rlx(&class->intent_kind, change->kind);
    ssti_store_rlx(&class->intent_state, change->state);
    ssti_store_rlx(&class->intent_count, change->count);
    ssti_store_rlx(&class->intent_layout, change->layout);
    ssti_store_rlx(&class->intent_next, change->next);
    ssti_store_rlx(&class->intent_free, change->free);
    ssti_store_rlx(&class->intent_bump, change->bump);
    ssti_store_rlx(&class->intent_live, change->live);
    ssti_store_rlx(&class->intent_entry, change->entry);
    ssti_store_rlx(&class->intent_value, change->value);
    SST_CRASHPOINT(slot_intent_unsigned);
    ssti_store_rel(&class->intent_slot, change->offset); /* pairs with repair() */
    SST_CRASHPOINT(slot_intent_signed);
    apply(class, change->slot,
          change->entry != 0 ? ssti_arena_word(arena, change->entry) : NULL);
}

/* Finish what a dead owner of the leaf began. */
static void
repair(struct sst_arena *arena, struct sst_class_shm *class)
{
    const uint64_t offset = ssti_load_acq(&class->intent_slot);
    const uint64_t entry = ssti_load_rlx(&class->intent_entry);
    struct sst_slot_shm *const slot = slot_at(arena, offset);

    if (slot != NULL) {
        apply(class, slot, entry != 0 ? ssti_arena_word(arena, entry) : NULL);
    }
}

static void
lock(struct sst_arena *arena, struct sst_class_shm *class)
{
    while (ssti_leaf_lock(arena, &class->leaf) != 0) {
        repair(arena, class);
        ssti_leaf_unlock(&class->leaf, SSTI_LEAF_ALL, SSTI_LEAF_EVERYBODY);
    }
}

static void
unlock(struct sst_class_shm *class)
{
    ssti_leaf_unlock(&class->leaf, 0, 0);
}

/* ---- Making ---- */

/* The next free slot of a class, and in *change what taking it means. SST_ELIMIT: the
 * range is used up; SST_EAGAIN: ask the budget first; SST_ECORRUPT; SST_ENOMEM. */
static int
choose_locked(struct sst_arena *arena, uint32_t index, bool is_granted,
              struct change *change)
{
    struct sst_class_shm *const class = &arena->control->classes[index];
    const uint64_t range = range_of_class(arena, index);
    const uint64_t size = size_of_class(index);
    const uint64_t bump = ssti_load_rlx(&class->bump);
    uint64_t offset = ssti_load_rlx(&class->free);
    const bool is_fresh = offset == 0;
    struct sst_slot_shm *slot;

    if (is_fresh) {
        if (bump + size > arena->map.slot_span) {
            return SST_ELIMIT;
        }
        if (bump % GROWTH_STEP == 0 && !is_granted) {
            return SST_EAGAIN;
        }
        offset = range + bump;
    }
    if (class_of_offset(arena, offset) != index) {
        return SST_ECORRUPT;
    }
    slot = ssti_arena_ptr(arena, offset, size);
    if (slot == NULL) {
        return SST_ENOMEM;
    }
    *change = change_of(class, slot, offset);
    change->free = is_fresh ? 0 : change->next;
    change->bump = is_fresh ? bump + size : bump;
    change->next = 0;
    return 0;
}

static int
create_in(struct sst_arena *arena, uint32_t index, enum sst_kind kind, uint32_t held,
          bool is_granted, uint64_t *offset)
{
    struct sst_class_shm *const class = &arena->control->classes[index];
    const struct ssti_kind_ops *const ops = ssti_kind_ops(kind);
    struct change change;
    int rc;

    lock(arena, class);
    rc = choose_locked(arena, index, is_granted, &change);
    if (rc == 0) {
        memset(change.slot + 1, 0, size_of_class(index) - sizeof *change.slot);
        SST_CRASHPOINT(slot_zeroed);
        change.live++;
        change.generation += change.generation == 0; /* handles never have 0 */
        change.kind = kind;
        change.state = SSTI_SLOT_LIVE;
        change.count = 1;
        change.layout = ops != NULL ? ops->layout : 0;
        change.entry = ssti_held_offset(arena, held);
        change.value = change.offset | SSTI_HELD_SLOT;
        commit(arena, class, &change);
        *offset = change.offset;
    }
    unlock(class);
    return rc;
}

int
ssti_slot_create(struct sst_arena *arena, enum sst_kind kind, uint32_t size,
                 uint32_t *held, uint64_t *offset, struct sst_error *err)
{
    uint32_t class = 0;
    uint64_t granted;
    int rc;

    if (size > SSTI_SLOT_SIZE_MAX) {
        return ssti_error_set(err, SST_EINVAL, "no slot has %" PRIu32 " bytes", size);
    }
    while (size_of_class(class) < size) {
        class++;
    }
    rc = ssti_held_reserve(arena, held);
    if (rc != 0) {
        return ssti_error_set(err, rc, "this process cannot hold more objects");
    }
    rc = create_in(arena, class, kind, *held, false, offset);
    if (rc == SST_EAGAIN) {
        rc = ssti_budget_ask(GROWTH_STEP, &granted, err);
        if (rc == 0) {
            rc = create_in(arena, class, kind, *held, true, offset);
        }
    }
    else if (rc != 0) {
        ssti_error_set(err, rc, "no slot of %" PRIu64 " bytes is left in the arena",
                       size_of_class(class));
    }
    if (rc != 0) {
        ssti_held_release(arena, *held);
    }
    return rc;
}

/* ---- Holding ---- */

static int
check_handle(const struct sst_slot_shm *slot, const struct sst_handle *handle,
             struct sst_error *err)
{
    const struct ssti_kind_ops *const ops = ssti_kind_ops(handle->kind);
    const uint32_t layout = ssti_load_rlx(&slot->layout);

    if (ssti_load_acq(&slot->state) != SSTI_SLOT_LIVE ||
        ssti_load_rlx(&slot->generation) != handle->generation ||
        ssti_load_rlx(&slot->kind) != handle->kind) {
        return ssti_error_set(err, SST_ESTALE, "%s", sst_status_text(SST_ESTALE));
    }
    if (ops != NULL && layout != 0 && ops->layout != layout) {
        return ssti_error_set(err, SST_ELAYOUT,
                              "the object's layout is %08" PRIx32
                              ", ours is %08" PRIx32,
                              layout, ops->layout);
    }
    return 0;
}

int
ssti_slot_hold_into(struct sst_arena *arena, const struct sst_handle *handle,
                    uint64_t entry_offset, struct sst_error *err)
{
    const uint32_t index = class_of_offset(arena, handle->offset);
    struct sst_slot_shm *const slot = slot_at(arena, handle->offset);
    struct sst_class_shm *class;
    struct change change;
    int rc;

    if (handle->arena != arena->id || handle->kind == SST_KIND_NONE ||
        handle->kind >= SST_KIND_COUNT || index >= SSTI_SLOT_CLASSES) {
        return ssti_error_set(err, SST_EINVAL,
                              "the handle names no object of this arena");
    }
    /* A count without its word would never be dropped. */
    if (slot == NULL || ssti_arena_word(arena, entry_offset) == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "the slot's memory cannot be mapped");
    }
    class = &arena->control->classes[index];
    lock(arena, class);
    rc = check_handle(slot, handle, err);
    if (rc == 0) {
        change = change_of(class, slot, handle->offset);
        change.count++;
        change.entry = entry_offset;
        change.value = handle->offset | SSTI_HELD_SLOT;
        commit(arena, class, &change);
    }
    unlock(class);
    return rc;
}

int
ssti_slot_hold(struct sst_arena *arena, const struct sst_handle *handle, uint32_t *held,
               struct sst_error *err)
{
    int rc = ssti_held_reserve(arena, held);

    if (rc != 0) {
        return ssti_error_set(err, rc, "this process cannot hold more objects");
    }
    rc = ssti_slot_hold_into(arena, handle, ssti_held_offset(arena, *held), err);
    if (rc != 0) {
        ssti_held_release(arena, *held);
    }
    return rc;
}

/* Raise the count of the slot that a word holds and write the same into another, as one
 * step. */
static bool
share_word(struct sst_arena *arena, const _Atomic uint64_t *from, uint64_t entry_offset)
{
    const uint64_t value = ssti_load_acq(from);
    const uint64_t offset = value & ~(uint64_t)SSTI_HELD_FLAGS;
    const uint32_t index = class_of_offset(arena, offset);
    struct sst_slot_shm *const slot = slot_at(arena, offset);
    struct sst_class_shm *class;
    bool is_held;

    if ((value & SSTI_HELD_SLOT) == 0 || slot == NULL) {
        return false;
    }
    class = &arena->control->classes[index];
    lock(arena, class);
    /* The entry may have been dropped by another thread meanwhile. */
    is_held =
        ssti_load_acq(from) == value && ssti_load_rlx(&slot->state) == SSTI_SLOT_LIVE;
    if (is_held) {
        struct change change = change_of(class, slot, offset);

        change.count++;
        change.entry = entry_offset;
        change.value = value;
        commit(arena, class, &change);
    }
    unlock(class);
    return is_held;
}

bool
ssti_slot_share(struct sst_arena *arena, const struct sst_held_shm *from,
                uint64_t entry_offset)
{
    return share_word(arena, &from->value, entry_offset);
}

/* ---- Dropping ---- */

/* What a destroy drops for good may have a destroy of its own, and so on for as long as
 * the user has put queues into queues. So only the outermost one on a thread runs them,
 * one after the other: the others put theirs off here, in entries of our own table. A
 * process that dies on the way leaves them to the sweeper like all it holds. */
struct put_off {
    struct sst_arena *arena;
    uint32_t held;
};
static _Thread_local struct put_off *put_off;
static _Thread_local uint32_t put_off_count;
static _Thread_local uint32_t put_off_room;
static _Thread_local uint32_t destroys; /* under way, one in the other */
static _Thread_local bool is_catching_up;

/* False without memory. */
static bool
put_off_drop(struct sst_arena *arena, uint32_t held)
{
    struct put_off *grown;

    if (put_off_count == put_off_room) {
        const uint32_t room = put_off_room * 2 + 16;

        grown = ssti_realloc(put_off, room * sizeof *grown);
        if (grown == NULL) {
            return false;
        }
        put_off = grown;
        put_off_room = room;
    }
    put_off[put_off_count++] = (struct put_off){arena, held};
    return true;
}

/* The outermost destroy is done: go on with what was put off meanwhile, and by that. */
static void
drop_put_off(void)
{
    is_catching_up = true;
    while (put_off_count > 0) {
        const struct put_off next = put_off[--put_off_count];

        ssti_slot_drop(next.arena, next.held);
    }
    is_catching_up = false;
    put_off = ssti_free(put_off);
    put_off_room = 0;
}

/* Take the hold off that an entry has, unless it is the last. False then, and the slot
 * is DYING if it may; the entry still holds it. */
static bool
drop_one(struct sst_arena *arena, struct sst_class_shm *class,
         struct sst_slot_shm *slot, uint64_t offset, uint64_t entry_offset,
         bool may_die)
{
    const _Atomic uint64_t *const entry = ssti_arena_word(arena, entry_offset);
    struct change change;
    bool is_last;

    lock(arena, class);
    if ((ssti_load_acq(entry) & ~(uint64_t)SSTI_HELD_FLAGS) != offset) {
        unlock(class); /* moved into an object, or undone already */
        return true;
    }
    change = change_of(class, slot, offset);
    is_last = change.count <= 1;
    if (is_last && may_die) {
        ssti_store_rel(&slot->state, SSTI_SLOT_DYING);
        SST_CRASHPOINT(slot_dying);
    }
    else if (!is_last) {
        change.count--;
        change.entry = entry_offset;
        change.value = 0;
        commit(arena, class, &change);
    }
    unlock(class);
    return !is_last;
}

static void
free_slot(struct sst_arena *arena, struct sst_class_shm *class,
          struct sst_slot_shm *slot, uint64_t offset, uint64_t entry_offset)
{
    struct change change;

    lock(arena, class);
    change = change_of(class, slot, offset);
    change.generation++;
    change.generation += change.generation == 0;
    change.kind = SST_KIND_NONE;
    change.state = SSTI_SLOT_FREE;
    change.count = 0;
    change.next = change.free;
    change.free = offset;
    change.live--;
    change.entry = entry_offset;
    change.value = 0;
    commit(arena, class, &change);
    unlock(class);
}

static bool
drop_entry(struct sst_arena *arena, uint64_t entry_offset)
{
    _Atomic uint64_t *const entry = ssti_arena_word(arena, entry_offset);
    const uint64_t value = entry != NULL ? ssti_load_acq(entry) : 0;
    const uint64_t offset = value & ~(uint64_t)SSTI_HELD_FLAGS;
    const uint32_t index = class_of_offset(arena, offset);
    struct sst_slot_shm *const slot = slot_at(arena, offset);
    const struct ssti_kind_ops *ops;
    struct sst_class_shm *class;

    if (slot == NULL) {
        return entry == NULL || value == 0 || index == SSTI_SLOT_CLASSES;
    }
    class = &arena->control->classes[index];
    /* Without the kind's destroy the last hold is left alone; others may go. Looked up
     * before, because once DYING the slot is ours to destroy. */
    ops = ssti_kind_ops(ssti_load_rlx(&slot->kind));
    if (ops == NULL && ssti_load_acq(&slot->count) <= 1) {
        return false;
    }
    if (drop_one(arena, class, slot, offset, entry_offset, true)) {
        return true;
    }
    if (ops == NULL) {
        return false;
    }
    if (ops->destroy != NULL) {
        destroys++;
        ops->destroy(arena, slot);
        destroys--;
    }
    SST_CRASHPOINT(slot_destroyed);
    free_slot(arena, class, slot, offset, entry_offset);
    return true;
}

bool
ssti_slot_drop_entry(struct sst_arena *arena, uint64_t entry_offset)
{
    const bool is_done = drop_entry(arena, entry_offset);

    if (put_off != NULL && destroys == 0 && !is_catching_up) {
        drop_put_off();
    }
    return is_done;
}

void
ssti_slot_drop_word(struct sst_arena *arena, uint64_t word_offset)
{
    const _Atomic uint64_t *const word = ssti_arena_word(arena, word_offset);
    const uint64_t value = word != NULL ? ssti_load_acq(word) : 0;
    const uint64_t offset = value & ~(uint64_t)SSTI_HELD_FLAGS;
    const uint32_t index = class_of_offset(arena, offset);
    struct sst_slot_shm *const slot = slot_at(arena, offset);
    uint32_t held;

    if (slot == NULL || drop_one(arena, &arena->control->classes[index], slot, offset,
                                 word_offset, false)) {
        return;
    }
    if (ssti_held_reserve(arena, &held) == 0) {
        if (share_word(arena, word, ssti_held_offset(arena, held))) {
            SST_CRASHPOINT(slot_word_shared);
            (void)drop_entry(arena, word_offset); /* not the last: ours is another */
            ssti_slot_drop(arena, held);
            return;
        }
        ssti_held_release(arena, held); /* somebody died while he destroyed it */
    }
    if (destroys < DESTROYS_MAX) {
        (void)drop_entry(arena, word_offset);
    }
    /* Else, with no entry to be had at such a depth, it is never dropped. */
}

void
ssti_slot_drop(struct sst_arena *arena, uint32_t held)
{
    if (ssti_arena_is_left(arena) || (destroys > 0 && put_off_drop(arena, held)) ||
        destroys >= DESTROYS_MAX) {
        return; /* in the last case it is held until we are dead */
    }
    if (ssti_slot_drop_entry(arena, ssti_held_offset(arena, held))) {
        ssti_held_release(arena, held);
    }
    /* Else the entry stays taken and holds the object until we are dead and swept by
     * somebody who knows its kind. */
}

void
ssti_slots_settle(struct sst_arena *arena)
{
    for (uint32_t i = 0; i < SSTI_SLOT_CLASSES; i++) {
        lock(arena, &arena->control->classes[i]);
        unlock(&arena->control->classes[i]);
    }
}

uint64_t
ssti_slots_live(struct sst_arena *arena)
{
    uint64_t live = 0;

    for (uint32_t i = 0; i < SSTI_SLOT_CLASSES; i++) {
        live += ssti_load_rlx(&arena->control->classes[i].live);
    }
    return live;
}

uint64_t
ssti_slots_bytes(struct sst_arena *arena)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < SSTI_SLOT_CLASSES; i++) {
        bytes += ssti_load_rlx(&arena->control->classes[i].bump);
    }
    return bytes;
}
