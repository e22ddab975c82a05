/* SPDX-License-Identifier: MIT */

/* The heap: extents apart, whole, recycled, given back, moved and shared. */

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/atomic.h"
#include "runner.h"
#include "shm/heap.h"
#include "shm/view.h"
#include "sidestep/sidestep.h"

static struct sst_arena *
make(void)
{
    struct sst_arena *arena = NULL;

    check_ok(sst_arena_create(NULL, &arena, NULL));
    return arena;
}

static uint64_t
unit_state(struct sst_arena *arena, uint64_t unit)
{
    const struct sst_unit_shm *const block =
        ssti_arena_ptr(arena, arena->map.units + unit * sizeof(struct sst_unit_shm),
                       sizeof *block);

    check(block != NULL);
    return block->state;
}

/* Walk all blocks: they tile the heap up to its mark, and the sums agree with them. */
static void
check_heap(struct sst_arena *arena)
{
    const struct sst_heap_shm *const heap = &arena->control->heap;
    uint64_t used = 0;
    uint64_t warm = 0;
    uint64_t unit = 0;

    while (unit < heap->high) {
        const uint64_t state = unit_state(arena, unit);
        const uint64_t size = UINT64_C(1) << (state & SSTI_UNIT_ORDER);

        check((state & SSTI_UNIT_KIND) != 0);
        check_int(unit % size, ==, 0);
        used += (state & SSTI_UNIT_KIND) == SSTI_UNIT_USED ? size : 0;
        warm += (state & SSTI_UNIT_KIND) == SSTI_UNIT_WARM ? size : 0;
        unit += size;
    }
    check_int(unit, ==, heap->high);
    check_int(used, ==, heap->used);
    check_int(warm, ==, heap->warm);
}

/* Kilobytes of memory behind the arena. */
static uint64_t
resident(struct sst_arena *arena)
{
    struct stat status;

    check_int(fstat(sst_arena_fd(arena), &status), ==, 0);
    return (uint64_t)status.st_blocks / 2;
}

TEST(extents_have_their_size_and_alignment)
{
    struct sst_arena *arena = make();

    for (uint64_t size = 1; size <= UINT64_C(1) << 36; size = size * 3 + 1) {
        uint64_t offset = 0;
        uint32_t held = 0;
        uint64_t got;

        /* A size beyond what the machine has is refused, and said why. */
        if (size > UINT64_C(1) << 30) {
            struct sst_error err = {0};

            if (ssti_extent_create(arena, size, &held, &offset, &err) != 0) {
                check_int(err.status, ==, SST_ELIMIT);
                check(strstr(err.text, "bytes are needed") != NULL);
                continue;
            }
        }
        else {
            check_ok(ssti_extent_create(arena, size, &held, &offset, NULL));
        }
        got = ssti_extent_size(arena, offset);
        check_int(got, >=, size);
        check(got == 4096 || got < 2 * size);
        check_int((offset - arena->map.heap) % got, ==, 0);
        check_int(ssti_extent_size(arena, offset + 4096), ==, 0);
        check_int(ssti_extent_size(arena, offset + 1), ==, 0);
        ssti_extent_drop(arena, held);
        check_int(ssti_extent_size(arena, offset), ==, 0);
        check_heap(arena);
    }
    check_int(ssti_extent_size(arena, 0), ==, 0);
    check_int(ssti_extent_size(arena, UINT64_MAX), ==, 0);
    sst_arena_detach(arena);
}

TEST(extents_are_apart)
{
    enum {
        COUNT = 400
    };
    struct sst_arena *arena = make();
    uint64_t offsets[COUNT] = {0};
    uint32_t held[COUNT];
    unsigned seed = 3;

    for (int step = 0; step < 40000; step++) {
        const unsigned i = (unsigned)rand_r(&seed) % COUNT;
        uint64_t *data;

        if (offsets[i] == 0) {
            const uint64_t size = UINT64_C(1) << (rand_r(&seed) % 20);

            check_ok(ssti_extent_create(arena, size, &held[i], &offsets[i], NULL));
            data = ssti_arena_ptr(arena, offsets[i], 4096);
            data[0] = offsets[i];
            data[511] = (uint64_t)step;
            data =
                ssti_arena_ptr(arena,
                               offsets[i] + ssti_extent_size(arena, offsets[i]) - 8, 8);
            data[0] = offsets[i];
        }
        else {
            data = ssti_arena_ptr(arena, offsets[i], 4096);
            check_int(data[0], ==, offsets[i]);
            data =
                ssti_arena_ptr(arena,
                               offsets[i] + ssti_extent_size(arena, offsets[i]) - 8, 8);
            check_int(data[0], ==, offsets[i]);
            ssti_extent_drop(arena, held[i]);
            offsets[i] = 0;
        }
    }
    check_heap(arena);
    for (int i = 0; i < COUNT; i++) {
        if (offsets[i] != 0) {
            ssti_extent_drop(arena, held[i]);
        }
    }
    check_heap(arena);
    check_int(arena->control->heap.used, ==, 0);
    sst_arena_detach(arena);
}

/* Three extents come and go, and then a period is over. */
static void
pass_a_period(struct sst_arena *arena, uint64_t size)
{
    uint64_t offset[3];
    uint32_t held[3];

    for (int i = 0; i < 3; i++) {
        check_ok(ssti_extent_create(arena, size, &held[i], &offset[i], NULL));
    }
    for (int i = 0; i < 3; i++) {
        arena->control->heap.idle_since = i < 2 ? (uint64_t)test_now_ns() : 0;
        ssti_extent_drop(arena, held[i]);
    }
}

TEST(idle_pages_go_back)
{
    struct sst_arena *arena = make();
    const uint64_t size = 64 << 20;

    for (int i = 0; i < 10; i++) { /* all of it is needed in each */
        pass_a_period(arena, size);
        check_int(arena->control->heap.warm, ==, 3 * size / SSTI_UNIT);
    }
    for (int i = 0; i < 20; i++) { /* a little is */
        pass_a_period(arena, 5000);
    }
    check_int(arena->control->heap.warm, <=, (32 << 20) / SSTI_UNIT);
    check_int(arena->control->heap.warm, >, 0);
    check_heap(arena);
    sst_arena_detach(arena);
}

TEST(pages_are_recycled_within_a_bound)
{
    struct sst_arena *arena = make();
    uint64_t first = 0;
    uint64_t offset;
    uint32_t held;

    for (int round = 0; round < 5; round++) {
        check_ok(ssti_extent_create(arena, 16 << 20, &held, &offset, NULL));
        first = first == 0 ? offset : first;
        check_int(offset, ==, first);
        memset(ssti_arena_ptr(arena, offset, 16 << 20), 1, 16 << 20);
        ssti_extent_drop(arena, held);
    }
    check_int(resident(arena), >=, 16 << 10);
    check_int(resident(arena), <, 20 << 10);
    check_int(arena->control->heap.warm, ==, (16 << 20) / SSTI_UNIT);

    ssti_heap_trim(arena, 4 << 20);
    check_int(arena->control->heap.warm, <=, (4 << 20) / SSTI_UNIT);
    check_int(resident(arena), <, 6 << 10);
    ssti_heap_trim(arena, 0);
    check_int(arena->control->heap.warm, ==, 0);
    check_int(resident(arena), <, 1 << 10);
    check_heap(arena);
    sst_arena_detach(arena);
}

TEST(beyond_the_bound_pages_are_given_back)
{
    struct sst_arena *arena = make();
    uint64_t offset;
    uint32_t held[8];

    for (int i = 0; i < 8; i++) {
        check_ok(ssti_extent_create(arena, 64 << 20, &held[i], &offset, NULL));
        for (uint64_t at = 0; at < 64 << 20; at += 4096) {
            *(char *)ssti_arena_ptr(arena, offset + at, 1) = 1;
        }
    }
    check_int(resident(arena), >=, 512 << 10);
    for (int i = 0; i < 8; i++) {
        ssti_extent_drop(arena, held[i]);
    }
    check_int(resident(arena), <=, 260 << 10);
    check_heap(arena);
    sst_arena_detach(arena);
}

TEST(zeroed_extents_are_zero_though_recycled)
{
    struct sst_arena *arena = make();

    for (int round = 0; round < 4; round++) {
        for (uint64_t size = 5000; size < 9 << 20; size *= 7) {
            uint64_t offset;
            uint32_t held;
            char *data;

            check_ok(ssti_extent_create_zeroed(arena, size, &held, &offset, NULL));
            data = ssti_arena_ptr(arena, offset, size);
            for (uint64_t i = 0; i < size; i++) {
                check_int(data[i], ==, 0);
            }
            memset(data, 'x', size);
            ssti_extent_drop(arena, held);
        }
        if (round == 2) {
            ssti_heap_trim(arena, 0);
        }
    }
    sst_arena_detach(arena);
}

/* ---- Words that name extents ---- */

TEST(an_extent_moves_into_a_word_and_is_freed_there)
{
    static const struct ssti_kind_ops ops = {.layout = 0};
    struct sst_arena *arena = make();
    _Atomic uint64_t *word;
    uint64_t slot;
    uint64_t offset;
    uint64_t second;
    uint32_t slot_held;
    uint32_t held;

    ssti_kind_register(SST_KIND_EVENT, &ops);
    check_ok(ssti_slot_create(arena, SST_KIND_EVENT, 128, &slot_held, &slot, NULL));
    word = ssti_arena_ptr(arena, slot + 64, 8);
    check_ok(ssti_extent_create(arena, 5000, &held, &offset, NULL));
    ssti_extent_give(arena, held, slot + 64);
    check_int(*word, ==, offset);
    check_int(ssti_extent_size(arena, offset), ==, 8192);
    check_ok(ssti_extent_create(arena, 5000, &held, &second, NULL));
    check(second != offset);

    ssti_extent_free_at(arena, slot + 64, 7);
    check_int(*word, ==, 7);
    check_int(ssti_extent_size(arena, offset), ==, 0);
    ssti_extent_free_at(arena, slot + 64, 0); /* names none: nothing happens */
    check_int(*word, ==, 7);
    ssti_extent_drop(arena, held);
    check_int(arena->control->heap.extents, ==, 0);
    ssti_slot_drop(arena, slot_held);
    sst_arena_detach(arena);
}

struct heir {
    struct sst_arena *arena;
    uint32_t held;
    uint32_t private_held;
    uint64_t offset;
};

static void
inherit(void *arg)
{
    struct heir *const heir = arg;

    ssti_extent_drop(heir->arena, heir->private_held); /* not ours: nothing happens */
    check_str((const char *)ssti_arena_ptr(heir->arena, heir->offset, 10), "shared");
    check_int(ssti_extent_size(heir->arena, heir->offset), !=, 0);
    ssti_extent_drop(heir->arena, heir->held);
}

TEST(a_child_inherits_a_share_where_asked)
{
    struct heir heir = {.arena = make()};
    uint64_t private_offset;

    check_ok(ssti_extent_create(heir.arena, 5000, &heir.held, &heir.offset, NULL));
    check_ok(ssti_extent_create(heir.arena, 5000, &heir.private_held, &private_offset,
                                NULL));
    ssti_extent_inherit(heir.arena, heir.held);
    strcpy(ssti_arena_ptr(heir.arena, heir.offset, 10), "shared");
    for (int i = 0; i < 3; i++) {
        test_join(test_fork(inherit, &heir));
        check_int(ssti_extent_size(heir.arena, private_offset), ==, 8192);
        check_int(ssti_extent_size(heir.arena, heir.offset), ==, 8192);
    }
    eventually(sst_arena_sweep(heir.arena) >= 0 &&
               heir.arena->control->heap.extents == 2);
    ssti_extent_drop(heir.arena, heir.private_held);
    ssti_extent_drop(heir.arena, heir.held);
    check_int(heir.arena->control->heap.extents, ==, 0);
    check_heap(heir.arena);
    sst_arena_detach(heir.arena);
}

/* ---- Several processes at once ---- */

static void
churn(void *arg)
{
    struct sst_arena *const arena = arg;
    unsigned seed = (unsigned)getpid();
    uint64_t offsets[32] = {0};
    uint32_t held[32];

    for (int step = 0; step < 20000; step++) {
        const unsigned i = (unsigned)rand_r(&seed) % 32;
        _Atomic uint64_t *word;

        if (offsets[i] == 0) {
            check_ok(ssti_extent_create(arena, UINT64_C(4096) << (rand_r(&seed) % 8),
                                        &held[i], &offsets[i], NULL));
            word = ssti_arena_ptr(arena, offsets[i], 8);
            ssti_store_rlx(word, (uint64_t)getpid() << 32 | i);
        }
        else {
            word = ssti_arena_ptr(arena, offsets[i], 8);
            check_int(ssti_load_rlx(word), ==, (uint64_t)getpid() << 32 | i);
            ssti_extent_drop(arena, held[i]);
            offsets[i] = 0;
        }
    }
}

TEST(processes_share_the_heap)
{
    struct sst_arena *arena = make();
    pid_t pids[4];

    for (int i = 0; i < 4; i++) {
        pids[i] = test_fork(churn, arena);
    }
    for (int i = 0; i < 4; i++) {
        test_join(pids[i]);
    }
    eventually(sst_arena_sweep(arena) >= 0 && arena->control->heap.extents == 0);
    check_heap(arena);
    sst_arena_detach(arena);
}

TEST(a_small_heap_is_used_up_and_comes_back)
{
    const struct sst_arena_options options = {.size_of = sizeof options,
                                              .size = 32 << 20,
                                              .process_max = 8};
    struct sst_arena *arena = NULL;
    static uint32_t held[10000];
    uint64_t offset;
    uint32_t count = 0;

    check_ok(sst_arena_create(&options, &arena, NULL));
    for (int round = 0; round < 3; round++) {
        struct sst_error err = {0};

        count = 0;
        while (ssti_extent_create(arena, 4096, &held[count], &offset, &err) == 0) {
            count++;
        }
        check_int(err.status, ==, SST_ELIMIT);
        check_int(count, ==, arena->map.unit_count);
        for (uint32_t i = 0; i < count; i++) {
            ssti_extent_drop(arena, held[i]);
        }
        check_heap(arena);
        check_ok(ssti_extent_create(arena, 16 << 20, &held[0], &offset, NULL));
        ssti_extent_drop(arena, held[0]);
    }
    sst_arena_detach(arena);
}
