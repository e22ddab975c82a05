/* SPDX-License-Identifier: MIT */

/* A model of shm/arena.h and shm/waits.h for the simulation.
 *
 * What the core's algorithms write through the contract and others may see half done is
 * in the shared buffer and goes step by step: life words, wait records, held entries,
 * ties, presence words. What the real arena guards by protocols of its own (its
 * allocator, the slots' counts, the sweeper's claim) happens here in one step each,
 * with the outcome the header promises: a dead process's table is undone exactly once,
 * by one sweeper at a time, and a sweeper that dies leaves the rest to the next. */

#include <linux/futex.h>
#include <sidestep/sidestep.h>
#include <string.h>

#include "shm/arena.h"
#include "shm/layout.h"
#include "shm/leaf.h"
#include "shm/waits.h"
#include "sim.h"
#include "sim_shm.h"

struct registered {
    _Atomic uint32_t life;
    _Atomic uint32_t generation;
    struct sst_wait_shm waits[SIM_WAITS];
    _Atomic uint64_t held[SIM_HELD]; /* an extent, or 0 */
    _Atomic uint64_t tied[SIM_HELD];
    _Atomic uint64_t presence_object[SIM_PRESENCE];
    _Atomic int64_t presence[SIM_PRESENCE];
};

/* What only the owner, or the sweeper, knows. */
struct private_part {
    int process; /* -1: free */
    uint32_t pid;
    int sweeper; /* the process that undoes it; -1 */
    bool wait_taken[SIM_WAITS];
    bool held_taken[SIM_HELD];
    uint64_t held_slot[SIM_HELD]; /* a slot's offset, or 0 */
    bool dropping[SIM_HELD];
};

struct slot {
    uint64_t offset;
    uint32_t kind, generation;
    int count;
    bool live;
};

struct extent {
    uint64_t offset, size;
    bool live;
};

struct sst_arena {
    int process;
};

struct sim_shm_state sim_shm;

static struct registered *registry;
static struct private_part parts[SIM_REGISTRY];
static struct slot slots[SIM_SLOTS];
static struct extent extents[SIM_EXTENTS];
static struct sst_arena arenas[SIM_PROCESSES];
static const struct ssti_kind_ops *kinds[SST_KIND_COUNT];

static uint64_t
offset_of(const void *address)
{
    return (uint64_t)((const uint8_t *)address - sim_buffer);
}

void
sim_shm_reset(void)
{
    registry = sim_memory(sizeof(struct registered) * SIM_REGISTRY, 64);
    sim_name(registry, sizeof(struct registered) * SIM_REGISTRY, "registry");
    memset(slots, 0, sizeof(slots));
    memset(extents, 0, sizeof(extents));
    memset(parts, 0, sizeof(parts));
    for (int i = 0; i < SIM_REGISTRY; i++) {
        parts[i].process = -1;
        parts[i].sweeper = -1;
    }
    memset(&sim_shm, 0, sizeof(sim_shm));
    sim_shm.waits_per_process = SIM_WAITS;
}

struct sst_arena *
sim_arena_of(int process)
{
    arenas[process].process = process;
    return &arenas[process];
}

struct sst_arena *
sim_arena(void)
{
    return sim_arena_of(sim.current->process);
}

/* ---- Registry ---- */

void
sim_shm_enter(int process)
{
    for (int i = 0; i < SIM_REGISTRY; i++) {
        if (parts[i].process >= 0) {
            continue;
        }
        memset(&parts[i], 0, sizeof(parts[i]));
        parts[i].process = process;
        parts[i].sweeper = -1;
        atomic_fetch_add(&registry[i].generation, 1);
        parts[i].pid = sim_shm_pid(process);
        atomic_store(&registry[i].life, parts[i].pid | FUTEX_WAITERS);
        sim.processes[process].slot = i;
        return;
    }
    sim_fail("the simulated registry is full");
}

uint32_t
sim_shm_pid(int process)
{
    for (int i = 0; i < SIM_THREADS; i++) {
        if (sim.threads[i].process == process && sim.threads[i].number == 0 &&
            sim.threads[i].state != SIM_UNUSED) {
            return sim.threads[i].self.tid;
        }
    }
    return 0;
}

_Atomic uint32_t *
sim_shm_life(int process)
{
    const int slot = sim.processes[process].slot;

    return slot < 0 ? NULL : &registry[slot].life;
}

static int
slot_of(const struct sst_arena *arena)
{
    return sim.processes[arena->process].slot;
}

uint64_t
ssti_proc_self(struct sst_arena *arena)
{
    const int slot = slot_of(arena);

    return (uint64_t)atomic_load(&registry[slot].generation) << 32 |
           (uint32_t)(slot + 1);
}

/* The process with this identity if it has not been swept yet; else -1. */
static int
process_of(uint64_t proc)
{
    const uint32_t index = (uint32_t)proc - 1;

    if (index >= SIM_REGISTRY || parts[index].process < 0 ||
        atomic_load(&registry[index].generation) != (uint32_t)(proc >> 32)) {
        return -1;
    }
    return parts[index].process;
}

bool
ssti_proc_alive(struct sst_arena *arena, uint64_t proc)
{
    int process;

    (void)arena;
    sim_step();
    process = process_of(proc);
    return process >= 0 && !sim.processes[process].dead;
}

_Atomic uint32_t *
ssti_proc_life(struct sst_arena *arena, uint64_t proc, uint32_t *value)
{
    int process;

    (void)arena;
    sim_step();
    process = process_of(proc);
    if (process < 0 || sim.processes[process].dead) {
        return NULL;
    }
    *value = parts[(uint32_t)proc - 1].pid | FUTEX_WAITERS;
    return sim_shm_life(process);
}

int64_t
ssti_proc_patience(struct sst_arena *arena, uint64_t proc, int64_t deadline_ns)
{
    const int process = process_of(proc);
    const bool told =
        process >= 0 && (ssti_load_acq(sim_shm_life(process)) & FUTEX_TID_MASK) != 0;
    const int64_t until_ns = sim.now_ns + (told ? SIM_PATIENCE_NS : SIM_SLICE_NS);

    (void)arena;
    return deadline_ns < until_ns ? deadline_ns : until_ns;
}

/* ---- Wait records ---- */

struct sst_wait_shm *
ssti_waits_take(struct sst_arena *arena, _Atomic uint32_t *leaf_word, uint32_t class)
{
    const int slot = slot_of(arena);

    for (uint32_t i = 0; i < sim_shm.waits_per_process; i++) {
        struct sst_wait_shm *const record = &registry[slot].waits[i];

        if (parts[slot].wait_taken[i]) {
            continue;
        }
        parts[slot].wait_taken[i] = true;
        sim_check(ssti_load_rlx(&record->state) == SSTI_WAIT_FREE);
        ssti_store_rlx(&record->leaf, offset_of(leaf_word));
        ssti_store_rlx(&record->class, class);
        return record;
    }
    sim_shm.waits_refused++;
    return NULL;
}

static void
check_record(const struct sst_wait_shm *record)
{
    sim_check(offset_of(record) >= offset_of(registry) &&
              offset_of(record) < offset_of(registry + SIM_REGISTRY));
}

void
ssti_waits_give(struct sst_arena *arena, struct sst_wait_shm *record)
{
    const int slot = slot_of(arena);

    check_record(record);
    sim_fence(); /* a lock or read-modify-write of the process's own */
    parts[slot].wait_taken[record - registry[slot].waits] = false;
}

uint64_t
ssti_waits_offset(struct sst_arena *arena, const struct sst_wait_shm *record)
{
    (void)arena;
    check_record(record);
    return offset_of(record);
}

struct sst_wait_shm *
ssti_waits_at(struct sst_arena *arena, uint64_t offset)
{
    struct sst_wait_shm *const record = (void *)(sim_buffer + offset);

    (void)arena;
    check_record(record);
    return record;
}

struct sst_leaf_shm *
ssti_waits_leaf(struct sst_arena *arena, const struct sst_wait_shm *record)
{
    (void)arena;
    return (void *)(sim_buffer + ssti_load_rlx(&record->leaf));
}

/* ---- Slots ---- */

void
ssti_kind_register(enum sst_kind kind, const struct ssti_kind_ops *ops)
{
    kinds[kind] = ops;
}

bool
ssti_arena_has(const struct sst_arena *arena, uint64_t offset, uint64_t size)
{
    (void)arena;
    return offset != 0 && offset + size <= SIM_BUFFER_SIZE;
}

void *
ssti_arena_ptr(struct sst_arena *arena, uint64_t offset, uint64_t size)
{
    return ssti_arena_has(arena, offset, size) ? sim_buffer + offset : NULL;
}

uint64_t
sst_arena_id(const struct sst_arena *arena)
{
    (void)arena;
    return 1;
}

int
ssti_held_reserve(struct sst_arena *arena, uint32_t *held)
{
    struct private_part *const part = &parts[slot_of(arena)];

    sim_step();
    for (uint32_t i = 0; i < SIM_HELD; i++) {
        if (!part->held_taken[i]) {
            part->held_taken[i] = true;
            part->held_slot[i] = 0;
            part->dropping[i] = false;
            *held = i;
            return 0;
        }
    }
    return SST_ELIMIT;
}

void
ssti_held_release(struct sst_arena *arena, uint32_t held)
{
    const int slot = slot_of(arena);

    sim_step();
    sim_drain_all(sim.current);
    sim_check(atomic_load(&registry[slot].held[held]) == 0);
    atomic_store(&registry[slot].tied[held], 0);
    parts[slot].held_taken[held] = false;
}

/* The word of the slot's header that objects look at. */
static void
set_state(const struct slot *slot, uint32_t state)
{
    memcpy(sim_buffer + slot->offset + offsetof(struct sst_slot_shm, state), &state,
           sizeof(state));
}

int
ssti_slot_create(struct sst_arena *arena, enum sst_kind kind, uint32_t size,
                 uint32_t *held, uint64_t *offset, struct sst_error *err)
{
    struct slot *slot = NULL;

    (void)err;
    for (int i = 0; i < SIM_SLOTS && slot == NULL; i++) {
        slot = slots[i].live ? NULL : &slots[i];
    }
    if (slot == NULL || ssti_held_reserve(arena, held) != 0) {
        return SST_ELIMIT;
    }
    slot->offset = offset_of(sim_memory(size, 128));
    slot->kind = kind;
    slot->generation++;
    slot->count = 1;
    slot->live = true;
    sim_name(sim_buffer + slot->offset, size, "object");
    memcpy(sim_buffer + slot->offset, &slot->generation, sizeof(slot->generation));
    set_state(slot, SSTI_SLOT_LIVE);
    parts[slot_of(arena)].held_slot[*held] = slot->offset;
    *offset = slot->offset;
    return 0;
}

static struct slot *
slot_at(uint64_t offset)
{
    for (int i = 0; i < SIM_SLOTS; i++) {
        if (slots[i].live && slots[i].offset == offset) {
            return &slots[i];
        }
    }
    return NULL;
}

int
ssti_slot_hold(struct sst_arena *arena, const struct sst_handle *handle, uint32_t *held,
               struct sst_error *err)
{
    struct slot *slot;

    (void)err;
    if (ssti_held_reserve(arena, held) != 0) {
        return SST_ELIMIT;
    }
    slot = slot_at(handle->offset);
    if (slot == NULL || slot->count == 0 || slot->generation != handle->generation) {
        ssti_held_release(arena, *held);
        return SST_ESTALE;
    }
    slot->count++;
    parts[slot_of(arena)].held_slot[*held] = slot->offset;
    return 0;
}

/* May be begun by a process that dies in the kind's destroy, and be finished by a
 * sweeper. */
static void
drop(struct sst_arena *arena, struct private_part *part, uint32_t held)
{
    struct slot *const slot = slot_at(part->held_slot[held]);

    sim_step();
    if (slot == NULL) {
        sim_check(part->dropping[held]);
    }
    else {
        if (!part->dropping[held]) {
            part->dropping[held] = true;
            slot->count--;
        }
        if (slot->count == 0) {
            set_state(slot, SSTI_SLOT_DYING);
            if (kinds[slot->kind] != NULL && kinds[slot->kind]->destroy != NULL) {
                kinds[slot->kind]->destroy(arena, sim_buffer + slot->offset);
            }
            sim_step();
            set_state(slot, SSTI_SLOT_FREE);
            slot->live = false;
        }
    }
    part->held_slot[held] = 0;
    part->held_taken[held] = false;
}

void
ssti_slot_drop(struct sst_arena *arena, uint32_t held)
{
    if (ssti_held_value(arena, held) != 0) {
        ssti_extent_drop(arena, held); /* a parcel: see sim_parcel.c */
        return;
    }
    drop(arena, &parts[slot_of(arena)], held);
}

/* ---- Extents ---- */

static struct extent *
extent_at(uint64_t offset)
{
    for (int i = 0; i < SIM_EXTENTS; i++) {
        if (extents[i].live && extents[i].offset == offset) {
            return &extents[i];
        }
    }
    return NULL;
}

int
ssti_extent_create(struct sst_arena *arena, uint64_t size, uint32_t *held,
                   uint64_t *offset, struct sst_error *err)
{
    uint64_t rounded = SIM_EXTENT_MIN;
    struct extent *extent = NULL;

    (void)err;
    while (rounded < size) {
        rounded *= 2;
    }
    if (sim_shm.extents_refuse || ssti_held_reserve(arena, held) != 0) {
        return SST_ELIMIT;
    }
    for (int i = 0; i < SIM_EXTENTS && extent == NULL; i++) {
        if (!extents[i].live && (extents[i].size == rounded || extents[i].size == 0)) {
            extent = &extents[i];
        }
    }
    if (extent == NULL) {
        sim_fail("too few simulated extents");
    }
    if (extent->size == 0) {
        extent->size = rounded;
        extent->offset = offset_of(sim_memory(rounded, SSTI_SLOT_SIZE_MIN));
        sim_name(sim_buffer + extent->offset, rounded, "extent");
    }
    extent->live = true;
    memset(sim_buffer + extent->offset, 0xa5, rounded); /* its content is undefined */
    atomic_store(&registry[slot_of(arena)].held[*held], extent->offset);
    *offset = extent->offset;
    return 0;
}

void
ssti_extent_free(struct sst_arena *arena, uint64_t offset)
{
    struct extent *const extent = extent_at(offset);

    (void)arena;
    sim_step();
    if (sim.current != NULL) {
        sim_drain_all(sim.current);
    }
    if (extent != NULL) {
        memset(sim_buffer + extent->offset, 0x5a, extent->size);
        extent->live = false;
    }
}

void
ssti_extent_drop(struct sst_arena *arena, uint32_t held)
{
    const int slot = slot_of(arena);

    sim_check(extent_at(ssti_held_value(arena, held) & ~(uint64_t)SSTI_HELD_FLAGS) !=
              NULL);
    ssti_extent_free_at(arena, ssti_held_offset(arena, held), 0);
    atomic_store(&registry[slot].tied[held], 0);
    parts[slot].held_taken[held] = false;
}

int
ssti_extent_create_zeroed(struct sst_arena *arena, uint64_t size, uint32_t *held,
                          uint64_t *offset, struct sst_error *err)
{
    const int rc = ssti_extent_create(arena, size, held, offset, err);

    if (rc == 0) {
        memset(sim_buffer + *offset, 0, extent_at(*offset)->size);
    }
    return rc;
}

void
ssti_extent_inherit(struct sst_arena *arena, uint32_t held)
{
    (void)arena;
    (void)held;
}

void *
ssti_arena_pin(struct sst_arena *arena, uint64_t offset, uint64_t size)
{
    return ssti_arena_ptr(arena, offset, size);
}

void
ssti_arena_unpin(struct sst_arena *arena, uint64_t offset, uint64_t size)
{
    (void)arena;
    (void)offset;
    (void)size;
}

void
ssti_arena_unmap_large(struct sst_arena *arena, uint64_t offset)
{
    (void)arena;
    (void)offset;
}

/* The word changes with the extent, in one step. */
void
ssti_extent_free_at(struct sst_arena *arena, uint64_t word_offset, uint64_t value)
{
    uint64_t offset;

    sim_fence();
    memcpy(&offset, sim_buffer + word_offset, sizeof(offset));
    if (offset != 0) {
        struct extent *const extent = extent_at(offset & ~(uint64_t)SSTI_HELD_FLAGS);

        sim_check(extent != NULL);
        memcpy(sim_buffer + word_offset, &value, sizeof(value));
        memset(sim_buffer + extent->offset, 0x5a, extent->size);
        extent->live = false;
    }
    (void)arena;
}

void
ssti_extent_give(struct sst_arena *arena, uint32_t held, uint64_t word_offset)
{
    const int slot = slot_of(arena);
    uint64_t offset;

    sim_fence();
    offset = atomic_load(&registry[slot].held[held]);
    memcpy(sim_buffer + word_offset, &offset, sizeof(offset));
    atomic_store(&registry[slot].held[held], 0);
    atomic_store(&registry[slot].tied[held], 0);
    parts[slot].held_taken[held] = false;
}

uint64_t
ssti_extent_size(struct sst_arena *arena, uint64_t offset)
{
    const struct extent *const extent = extent_at(offset);

    (void)arena;
    return extent == NULL ? 0 : extent->size;
}

uint64_t
ssti_held_value(struct sst_arena *arena, uint32_t held)
{
    return ssti_load_acq(&registry[slot_of(arena)].held[held]);
}

uint64_t
ssti_held_offset(struct sst_arena *arena, uint32_t held)
{
    return offset_of(&registry[slot_of(arena)].held[held]);
}

void
ssti_held_set(struct sst_arena *arena, uint64_t entry_offset, uint64_t extent)
{
    (void)arena;
    sim_check(entry_offset >= offset_of(registry) &&
              entry_offset < offset_of(registry + SIM_REGISTRY));
    ssti_store_rel((_Atomic uint64_t *)(void *)(sim_buffer + entry_offset), extent);
}

void
ssti_held_tie(struct sst_arena *arena, uint32_t held, uint64_t object_offset)
{
    ssti_store_rel(&registry[slot_of(arena)].tied[held], object_offset);
}

/* ---- Presence ---- */

_Atomic int64_t *
ssti_presence(struct sst_arena *arena, uint64_t object_offset)
{
    struct registered *const own = &registry[slot_of(arena)];

    sim_step();
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < SIM_PRESENCE; i++) {
            const uint64_t object = atomic_load(&own->presence_object[i]);

            if (object == object_offset) {
                return &own->presence[i];
            }
            if (pass == 1 && object == 0) {
                atomic_store(&own->presence[i], 0);
                atomic_store(&own->presence_object[i], object_offset);
                return &own->presence[i];
            }
        }
    }
    return NULL;
}

void
ssti_presence_forget(struct sst_arena *arena, uint64_t object_offset)
{
    struct registered *const own = &registry[slot_of(arena)];

    sim_step();
    for (int i = 0; i < SIM_PRESENCE; i++) {
        if (atomic_load(&own->presence_object[i]) == object_offset) {
            atomic_store(&own->presence_object[i], 0);
        }
    }
}

/* ---- Sweeping ---- */

static void
sweep_waits(struct sst_arena *arena, struct registered *dead)
{
    for (int i = 0; i < SIM_WAITS; i++) {
        const uint32_t state = ssti_load_acq(&dead->waits[i].state);

        if (state == SSTI_WAIT_MOVING &&
            ssti_load_rlx(&dead->waits[i].class) == SSTI_LEAF_CLASSES) {
            sim_shm.contenders_lost++;
        }
        if (state != SSTI_WAIT_FREE) {
            ssti_leaf_forget(arena, &dead->waits[i]);
        }
    }
}

static void
sweep_presence(struct sst_arena *arena, struct registered *dead)
{
    for (int i = 0; i < SIM_PRESENCE; i++) {
        const uint64_t object = ssti_load_acq(&dead->presence_object[i]);
        const int64_t value = ssti_load_acq(&dead->presence[i]);
        const struct slot *const slot = object == 0 ? NULL : slot_at(object);

        if (value != 0 && slot != NULL && kinds[slot->kind] != NULL &&
            kinds[slot->kind]->presence_died != NULL) {
            kinds[slot->kind]->presence_died(arena, sim_buffer + object, value);
        }
        sim_step();
        atomic_store(&dead->presence[i], 0);
        atomic_store(&dead->presence_object[i], 0);
    }
}

static void
settle_tied(struct sst_arena *arena, struct registered *dead)
{
    for (uint32_t i = 0; i < SIM_HELD; i++) {
        const uint64_t object = ssti_load_acq(&dead->tied[i]);
        const struct slot *const slot = object == 0 ? NULL : slot_at(object);

        if (slot != NULL && kinds[slot->kind]->settle != NULL) {
            kinds[slot->kind]->settle(arena, sim_buffer + object);
        }
        ssti_store_rel(&dead->tied[i], 0);
    }
}

static void
sweep_held(struct sst_arena *arena, struct registered *dead, struct private_part *part)
{
    for (uint32_t i = 0; i < SIM_HELD; i++) {
        if (ssti_load_acq(&dead->held[i]) != 0) {
            ssti_extent_free_at(arena, offset_of(&dead->held[i]), 0);
        }
        if (part->held_slot[i] != 0) {
            drop(arena, part, i);
        }
    }
}

/* Only a process of which the kernel has cleared up every thread is swept; that is what
 * the real sweeper asks a pidfd. */
static bool
claim(const struct sst_arena *arena, int index)
{
    struct private_part *const part = &parts[index];

    sim_step();
    if (part->process < 0 || !sim.processes[part->process].dead) {
        return false;
    }
    if (part->sweeper >= 0 && !sim.processes[part->sweeper].dead) {
        return false;
    }
    part->sweeper = arena->process;
    return true;
}

int
ssti_proc_sweep(struct sst_arena *arena)
{
    int swept = 0;

    for (int i = 0; i < SIM_REGISTRY; i++) {
        if (!claim(arena, i)) {
            continue;
        }
        sim_trace("sweeps p%d", parts[i].process);
        /* The kernel wakes only one of those who sleep on a life word. */
        (void)ssti_os_futex_wake(&registry[i].life, INT32_MAX);
        settle_tied(arena, &registry[i]);
        sweep_waits(arena, &registry[i]);
        sweep_presence(arena, &registry[i]);
        sweep_held(arena, &registry[i], &parts[i]);
        sim_step();
        sim_drain_all(sim.current);
        sim.processes[parts[i].process].slot = -1;
        parts[i].process = -1;
        parts[i].sweeper = -1;
        swept++;
    }
    return swept;
}

bool
sim_shm_is_live(const void *object)
{
    const struct slot *const slot = slot_at(offset_of(object));

    return slot != NULL && slot->count != 0;
}

int
sim_shm_live_slots(void)
{
    int count = 0;

    for (int i = 0; i < SIM_SLOTS; i++) {
        count += slots[i].live;
    }
    return count;
}

int
sim_shm_live_extents(void)
{
    int count = 0;

    for (int i = 0; i < SIM_EXTENTS; i++) {
        count += extents[i].live;
    }
    return count;
}
