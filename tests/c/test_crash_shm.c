/* SPDX-License-Identifier: MIT */

/* shm/ under fire: a process is killed at every crash point of this directory in turn,
 * at its first pass, its second and so on, while it does a bit of everything. After
 * each death the survivor finds everything as if the dead process had never been. */

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/atomic.h"
#include "base/crashpoint.h"
#include "runner.h"
#include "shm/heap.h"
#include "shm/view.h"
#include "sidestep/sidestep.h"

#ifndef SST_CRASHPOINTS

TEST(killed_at_every_point)
{
    test_skip("built without crash points");
}

#else

/* A point that is added must be added here too, and be reached. */
static const char *const points[] = {
    "block_destroyed",
    "block_sized",
    "child_unstamped",
    "entry_undone",
    "fork_copying",
    "fork_prepared",
    "getting_up",
    "gift_held",
    "heap_applied",
    "heap_half_applied",
    "heap_high_raised",
    "heap_high_unraised",
    "heap_intent_signed",
    "heap_intent_unsigned",
    "heap_merged",
    "heap_punched",
    "heap_rebuilt",
    "heap_split_unseen",
    "held_high_raised",
    "leaf_announced",
    "leaf_counted",
    "leaf_intent_signed",
    "leaf_intent_unsigned",
    "leaf_released",
    "leaf_taken",
    "leaving",
    "parcel_destroyed",
    "parcel_held",
    "parcel_hold_dropped",
    "parcel_made",
    "parcel_sized",
    "parcel_words_cleared",
    "presence_made",
    "presence_told",
    "seat_alive",
    "seat_freed",
    "seat_kept",
    "seat_prepared",
    "seat_reserved",
    "seat_stamped",
    "settled",
    "slot_applied",
    "slot_destroyed",
    "slot_dying",
    "slot_half_applied",
    "slot_intent_signed",
    "slot_intent_unsigned",
    "slot_word_shared",
    "slot_zeroed",
    "sweep_claimed",
    "sweep_claiming",
    "sweep_finishing",
    "unwatching",
    "wait_record_claimed",
    "wait_record_forgotten",
};

enum {
    POINTS = sizeof points / sizeof *points,
};

struct crash {
    struct sst_arena *arena;
    const char *point;
    uint64_t nth;
    struct sst_handle shared;
};

static struct sst_leaf_shm *
leaf_at(struct sst_arena *arena, uint64_t offset)
{
    return (struct sst_leaf_shm *)(void *)((char *)ssti_arena_ptr(arena, offset, 256) +
                                           64);
}

static void
sleep_on(struct sst_arena *arena, struct sst_leaf_shm *leaf, int64_t duration_ns)
{
    const struct ssti_leaf_sleep sleep = {
        .class = SSTI_LEAF_B,
        .wake = SSTI_LEAF_A,
        .count = 1,
        .deadline_ns = sst_deadline_after(duration_ns),
    };

    (void)ssti_leaf_lock(arena, leaf);
    (void)ssti_leaf_wait(arena, leaf, &sleep);
    ssti_leaf_unlock(leaf, SSTI_LEAF_ALL, 1);
}

/* A grandchild that dies in a certain way, and who sweeps it. */
static void
lose_child(struct sst_arena *arena, struct sst_leaf_shm *leaf, int way)
{
    const pid_t pid = fork();

    check_int(pid, >=, 0);
    if (pid == 0) {
        uint64_t offset;
        uint32_t held;

        if (way == 0) {
            sleep_on(arena, leaf, 20000000000);
        }
        if (way == 1) {
            ssti_crashpoint_arm("heap_intent_signed", 1);
            check_ok(ssti_extent_create(arena, 5000, &held, &offset, NULL));
        }
        if (way == 2) {
            check_ok(ssti_proc_reserve(arena, &offset));
        }
        kill(getpid(), SIGKILL);
    }
    if (way == 0) {
        eventually(waitpid(pid, NULL, WNOHANG) == pid || test_is_asleep(pid));
        kill(pid, SIGKILL);
    }
    (void)waitpid(pid, NULL, 0);
    (void)ssti_proc_sweep(arena);
}

static void
make_and_drop(struct sst_arena *arena)
{
    for (uint64_t size = 10; size < 3 << 20; size *= 20) {
        struct sst_block *block = NULL;

        check_ok(sst_block_create(arena, size, &block, NULL));
        sst_block_close(block);
    }
}

/* Parcels that hold each other, their words in the slot and in the extent. */
static void
make_parcels(struct sst_arena *arena, const struct sst_handle *shared)
{
    struct sst_parcel *inner = NULL;
    struct sst_parcel *outer = NULL;
    struct sst_handle handle;

    check_ok(sst_parcel_create(arena, 100, 3, &inner, NULL));
    check_ok(sst_parcel_hold(inner, shared, NULL));
    sst_parcel_handle(inner, &handle);
    check_ok(sst_parcel_create(arena, 9000, 600, &outer, NULL));
    check_ok(sst_parcel_hold(outer, shared, NULL));
    check_ok(sst_parcel_hold(outer, &handle, NULL));
    sst_parcel_close(inner);
    sst_parcel_close(outer);
}

/* A bit of everything that writes shared memory. */
static void
do_all(void *arg)
{
    const struct crash *const crash = arg;
    struct sst_arena *const arena = crash->arena;
    struct sst_block *block = NULL;
    struct sst_arena *second = NULL;
    uint64_t seat;
    uint64_t offset;
    uint32_t held;
    pid_t pid;

    ssti_crashpoint_arm(crash->point, crash->nth);
    check_ok(sst_arena_attach(sst_arena_fd(arena), &second, NULL));
    make_and_drop(arena);
    make_parcels(arena, &crash->shared);
    check_ok(sst_block_create(second, 100000, &block, NULL));
    sst_arena_detach(second);
    check_ok(sst_block_attach(arena, &crash->shared, &block, NULL));
    check_ok(ssti_slot_create(arena, SST_KIND_BLOCK, 300, &held, &offset, NULL));
    *ssti_presence(arena, offset) = 1;
    ssti_held_tie(arena, held, offset);
    sleep_on(arena, leaf_at(arena, offset), 1000);
    for (int way = 0; way < 3; way++) {
        lose_child(arena, leaf_at(arena, offset), way);
    }
    check_ok(ssti_extent_create(arena, 5000, &held, &offset, NULL));
    ssti_extent_inherit(arena, held);
    check_ok(ssti_proc_reserve(arena, &seat));
    check_ok(ssti_proc_hold_for(arena, seat, &crash->shared));
    ssti_proc_watch_next_fork();
    pid = fork();
    check_int(pid, >=, 0);
    if (pid == 0) {
        ssti_proc_leave(arena, 3);
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    (void)ssti_proc_sweep(arena);
    ssti_heap_trim(arena, 0);
    ssti_proc_abandon(arena, seat);
    ssti_proc_leave(arena, 0);
}

static int
seats_taken(struct sst_arena *arena)
{
    int taken = 0;

    for (uint32_t i = 0; i < ssti_load_acq(&arena->control->registry.high); i++) {
        struct sst_process_shm *const seat = ssti_proc_seat(arena, i);

        /* A seat that was never stamped is swept after a grace: have it over with. */
        if (seat->state == SSTI_PROCESS_UNBORN && seat->pid == 0) {
            seat->born = 1;
        }
        taken += seat->state != SSTI_PROCESS_FREE;
    }
    return taken;
}

static void
check_survivor(struct sst_arena *arena)
{
    struct sst_arena_statistics now;

    eventually(sst_arena_sweep(arena) >= 0 && seats_taken(arena) == 1);
    for (int i = 0; i < 2; i++) {
        check_ok(sst_arena_statistics(arena, &now));
        check_int(now.slots, ==, 1);
        check_int(now.extents, ==, 1);
        check_int(now.held, ==, 1);
        make_and_drop(arena);
    }
}

/* True when a process that did everything was killed at the nth pass of the point. */
static bool
crash_at(const char *point, uint64_t nth)
{
    struct crash crash = {.point = point, .nth = nth};
    struct sst_block *block = NULL;
    pid_t pid;
    int status;

    check_ok(sst_arena_create(NULL, &crash.arena, NULL));
    check_ok(sst_block_create(crash.arena, 50000, &block, NULL));
    sst_block_handle(block, &crash.shared);
    pid = test_fork(do_all, &crash);
    check_int(waitpid(pid, &status, 0), ==, pid);
    if (!WIFSIGNALED(status) && (!WIFEXITED(status) || WEXITSTATUS(status) != 0)) {
        test_fail(__FILE__, __LINE__, "%s, pass %d: status %x", point, (int)nth,
                  status);
    }
    check_survivor(crash.arena);
    sst_block_close(block);
    sst_arena_detach(crash.arena);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

TEST(killed_at_every_point)
{
    for (uint32_t i = 0; i < POINTS; i++) {
        uint64_t passes = 0;

        for (uint64_t nth = 1; nth < 100; nth += nth < 10 ? 1 : 7) {
            if (!crash_at(points[i], nth)) {
                break;
            }
            passes++;
        }
        /* The one that only a child of the victim passes. */
        if (passes == 0 && strcmp(points[i], "child_unstamped") != 0) {
            test_fail(__FILE__, __LINE__, "%s was never reached", points[i]);
        }
    }
}

#endif
