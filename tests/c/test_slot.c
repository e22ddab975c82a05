/* SPDX-License-Identifier: MIT */

/* Slots: making, holding, dropping, and being killed at every step of it. */

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/crashpoint.h"
#include "runner.h"
#include "shm/heap.h"
#include "shm/view.h"
#include "sidestep/sidestep.h"

static _Atomic int destroyed;

static void
count_destroyed(struct sst_arena *arena, void *object)
{
    (void)arena;
    (void)object;
    destroyed++;
}

static struct sst_arena *
make(void)
{
    static const struct ssti_kind_ops ops = {.layout = 0x51,
                                             .destroy = count_destroyed};
    struct sst_arena *arena = NULL;

    check_ok(sst_arena_create(NULL, &arena, NULL));
    ssti_kind_register(SST_KIND_EVENT, &ops);
    return arena;
}

static uint64_t
live(struct sst_arena *arena)
{
    return ssti_slots_live(arena);
}

static struct sst_handle
handle_of(struct sst_arena *arena, uint64_t offset)
{
    const struct sst_slot_shm *const slot = ssti_arena_ptr(arena, offset, 128);

    return (struct sst_handle){
        .arena = sst_arena_id(arena),
        .offset = offset,
        .generation = slot->generation,
        .kind = slot->kind,
    };
}

TEST(a_slot_is_zeroed_aligned_and_counted)
{
    struct sst_arena *arena = make();

    for (int round = 0; round < 2; round++) {
        for (uint32_t size = 1; size <= 4096; size += 93) {
            uint64_t offset = 0;
            uint32_t held = 0;
            char *slot;

            check_ok(
                ssti_slot_create(arena, SST_KIND_EVENT, size, &held, &offset, NULL));
            check_int(offset % 128, ==, 0);
            slot = ssti_arena_ptr(arena, offset, size);
            for (uint32_t i = sizeof(struct sst_slot_shm); i < size; i++) {
                check_int(slot[i], ==, 0);
                slot[i] = 'x';
            }
            check_int(live(arena), ==, 1);
            ssti_slot_drop(arena, held);
            check_int(live(arena), ==, 0);
        }
    }
    check_int(destroyed, ==, 2 * 45);
    sst_arena_detach(arena);
}

TEST(no_slot_is_larger_than_a_page)
{
    struct sst_arena *arena = make();
    uint64_t offset;
    uint32_t held;

    check_status(ssti_slot_create(arena, SST_KIND_EVENT, 4097, &held, &offset, NULL),
                 SST_EINVAL);
    sst_arena_detach(arena);
}

TEST(the_last_hold_destroys)
{
    struct sst_arena *arena = make();
    struct sst_handle handle;
    uint64_t offset;
    uint32_t held[3];

    check_ok(ssti_slot_create(arena, SST_KIND_EVENT, 200, &held[0], &offset, NULL));
    handle = handle_of(arena, offset);
    check_ok(ssti_slot_hold(arena, &handle, &held[1], NULL));
    check_ok(ssti_slot_hold(arena, &handle, &held[2], NULL));
    ssti_slot_drop(arena, held[1]);
    ssti_slot_drop(arena, held[0]);
    check_int(destroyed, ==, 0);
    ssti_slot_drop(arena, held[2]);
    check_int(destroyed, ==, 1);
    check_status(ssti_slot_hold(arena, &handle, &held[0], NULL), SST_ESTALE);
    /* The slot is used again, and the old handle stays stale. */
    check_ok(ssti_slot_create(arena, SST_KIND_EVENT, 200, &held[0], &offset, NULL));
    check_int(offset, ==, handle.offset);
    check_status(ssti_slot_hold(arena, &handle, &held[1], NULL), SST_ESTALE);
    ssti_slot_drop(arena, held[0]);
    sst_arena_detach(arena);
}

TEST(another_layout_is_refused)
{
    struct sst_arena *arena = make();
    struct sst_error err = {0};
    struct sst_handle handle;
    uint64_t offset;
    uint32_t held;
    uint32_t second;

    check_ok(ssti_slot_create(arena, SST_KIND_EVENT, 200, &held, &offset, NULL));
    handle = handle_of(arena, offset);
    ((struct sst_slot_shm *)ssti_arena_ptr(arena, offset, 200))->layout = 0x52;
    check_status(ssti_slot_hold(arena, &handle, &second, &err), SST_ELAYOUT);
    check_str(err.text, "the object's layout is 00000052, ours is 00000051");
    ssti_slot_drop(arena, held);
    sst_arena_detach(arena);
}

TEST(many_slots_are_apart_and_all_come_back)
{
    enum {
        COUNT = 20000
    };
    struct sst_arena *arena = make();
    static uint32_t held[COUNT];
    static uint64_t offsets[COUNT];

    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < COUNT; i++) {
            uint64_t *slot;

            check_ok(ssti_slot_create(arena, SST_KIND_EVENT, 128U << (i % 3), &held[i],
                                      &offsets[i], NULL));
            slot = ssti_arena_ptr(arena, offsets[i], 128);
            check_int(slot[8], ==, 0);
            slot[8] = (uint64_t)i + 1;
        }
        for (int i = 0; i < COUNT; i++) {
            const uint64_t *const slot = ssti_arena_ptr(arena, offsets[i], 128);

            check_int(slot[8], ==, i + 1);
            ssti_slot_drop(arena, held[i]);
        }
        check_int(live(arena), ==, 0);
        check_int(ssti_slots_bytes(arena), <=, COUNT * 300);
    }
    sst_arena_detach(arena);
}

TEST(held_entries_run_out_with_a_status)
{
    const struct sst_arena_options options = {.size_of = sizeof options,
                                              .size = 32 << 20,
                                              .process_max = 8};
    struct sst_arena *arena = NULL;
    struct sst_handle handle;
    struct sst_error err = {0};
    uint64_t offset;
    uint32_t held;
    uint32_t made = 1;
    int rc;

    check_ok(sst_arena_create(&options, &arena, NULL));
    check_ok(ssti_slot_create(arena, SST_KIND_BLOCK, 128, &held, &offset, NULL));
    handle = handle_of(arena, offset);
    while ((rc = ssti_slot_hold(arena, &handle, &held, &err)) == 0) {
        made++;
    }
    check_status(rc, SST_ELIMIT);
    check_int(made, ==, arena->map.held_max);
    while (made-- > 0) {
        ssti_slot_drop(arena, made);
    }
    check_int(live(arena), ==, 0);
    sst_arena_detach(arena);
}

TEST(slots_run_out_with_a_status)
{
    const struct sst_arena_options options = {.size_of = sizeof options,
                                              .size = 32 << 20,
                                              .process_max = 8};
    struct sst_arena *arena = NULL;
    struct sst_error err = {0};
    uint64_t offset;
    uint32_t held;
    int made = 0;

    check_ok(sst_arena_create(&options, &arena, NULL));
    while (ssti_slot_create(arena, SST_KIND_BLOCK, 4096, &held, &offset, &err) == 0) {
        made++;
    }
    check_int(made, ==, arena->map.slot_span / 4096);
    check_int(err.status, ==, SST_ELIMIT);
    check_ok(ssti_slot_create(arena, SST_KIND_BLOCK, 128, &held, &offset, &err));
    sst_arena_detach(arena);
}

TEST(no_memory_is_a_status)
{
    struct sst_arena *arena = NULL;
    struct sst_block *block = NULL;
    const size_t before = ssti_alloc_live();
    int rc = SST_ENOMEM;

    for (uint64_t nth = 1; rc != 0; nth++) {
        check_int(nth, <, 30);
        ssti_alloc_fail(nth, 0);
        rc = sst_arena_create(NULL, &arena, NULL);
        if (rc != 0) {
            check_status(rc, SST_ENOMEM);
            check_int(ssti_alloc_live(), ==, before);
        }
    }
    rc = SST_ENOMEM;
    for (uint64_t nth = 1; rc != 0; nth++) {
        check_int(nth, <, 30);
        ssti_alloc_fail(nth, 0);
        rc = sst_block_create(arena, (uint64_t)100 << 20, &block, NULL);
        if (rc != 0) {
            check_status(rc, SST_ENOMEM);
            check_int(live(arena), ==, 0);
        }
    }
    ssti_alloc_fail(0, 0);
    sst_block_close(block);
    sst_arena_detach(arena);
    check_int(ssti_alloc_live(), ==, before);
}
