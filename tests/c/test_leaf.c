/* SPDX-License-Identifier: MIT */

/* Leaf locks between real processes. That no interleaving loses a sleeper is the
 * simulation's to show (tests/sim); here the real kernel is asked whether it does what
 * that assumes. */

#include <linux/futex.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/atomic.h"
#include "os/os.h"
#include "os/self.h"
#include "runner.h"
#include "shm/view.h"
#include "sidestep/sidestep.h"

/* What the processes of a test share: a leaf and what it guards. */
struct shared {
    struct sst_slot_shm slot;
    struct sst_leaf_shm leaf;
    _Atomic uint64_t items; /* guarded by leaf; -1: inside a section */
    _Atomic uint64_t taken;
    _Atomic uint64_t repaired;
    _Atomic uint32_t stop;
};

struct world {
    struct sst_arena *arena;
    struct shared *shared;
    uint32_t held;
};

static struct world
make(void)
{
    static const struct ssti_kind_ops ops = {.layout = 0};
    struct world world;
    uint64_t offset;

    check_ok(sst_arena_create(NULL, &world.arena, NULL));
    ssti_kind_register(SST_KIND_EVENT, &ops);
    check_ok(ssti_slot_create(world.arena, SST_KIND_EVENT, sizeof *world.shared,
                              &world.held, &offset, NULL));
    world.shared = ssti_arena_ptr(world.arena, offset, sizeof *world.shared);
    return world;
}

static void
end(struct world *world)
{
    ssti_slot_drop(world->arena, world->held);
    sst_arena_detach(world->arena);
}

static void
lock(struct world *world)
{
    struct shared *const shared = world->shared;

    while (ssti_leaf_lock(world->arena, &shared->leaf) != 0) {
        ssti_fetch_add(&shared->repaired, 1);
        ssti_leaf_unlock(&shared->leaf, SSTI_LEAF_ALL, SSTI_LEAF_EVERYBODY);
    }
}

static void
unlock(struct world *world)
{
    const uint32_t wake = ssti_load_rlx(&world->shared->items) > 0 ? SSTI_LEAF_A : 0;

    ssti_leaf_unlock(&world->shared->leaf, wake, 1);
}

TEST(a_leaf_is_free_at_first_and_carries_its_owner)
{
    struct world world = make();
    struct sst_leaf_shm *const leaf = &world.shared->leaf;

    check_ok(ssti_leaf_lock(world.arena, leaf));
    check_int(ssti_load_rlx(&leaf->word), ==, getpid());
    check_ptr(*ssti_self()->pending, !=, NULL);
    ssti_leaf_unlock(leaf, 0, 0);
    check_int(ssti_load_rlx(&leaf->word), ==, 0);
    check_ptr(*ssti_self()->pending, ==, NULL);
    end(&world);
}

static void
count_up(void *arg)
{
    struct world *const world = arg;

    for (int i = 0; i < 50000; i++) {
        lock(world);
        ssti_store_rlx(&world->shared->taken, ssti_load_rlx(&world->shared->taken) + 1);
        unlock(world);
    }
}

TEST(one_at_a_time)
{
    struct world world = make();
    pid_t pids[4];

    for (int i = 0; i < 4; i++) {
        pids[i] = test_fork(count_up, &world);
    }
    for (int i = 0; i < 4; i++) {
        test_join(pids[i]);
    }
    check_int(world.shared->taken, ==, 200000);
    check_int(world.shared->leaf.contenders, ==, 0);
    end(&world);
}

static void
die_holding(void *arg)
{
    struct world *const world = arg;

    lock(world);
    kill(getpid(), SIGKILL);
}

TEST(the_next_owner_hears_of_the_death)
{
    struct world world = make();

    for (int i = 0; i < 20; i++) {
        test_join_killed(test_fork(die_holding, &world), SIGKILL);
        check_status(ssti_leaf_lock(world.arena, &world.shared->leaf), SST_EOWNERDEAD);
        ssti_leaf_unlock(&world.shared->leaf, SSTI_LEAF_ALL, SSTI_LEAF_EVERYBODY);
        check_ok(ssti_leaf_lock(world.arena, &world.shared->leaf));
        ssti_leaf_unlock(&world.shared->leaf, 0, 0);
    }
    end(&world);
}

/* ---- Waiting ---- */

static int
wait_for_items(struct world *world, int64_t deadline_ns)
{
    struct shared *const shared = world->shared;
    int rc = 0;

    lock(world);
    while (ssti_load_rlx(&shared->items) == 0 && rc != SST_ETIMEDOUT) {
        const struct ssti_leaf_sleep sleep = {
            .class = SSTI_LEAF_A,
            .deadline_ns = deadline_ns,
        };

        rc = ssti_leaf_wait(world->arena, &shared->leaf, &sleep);
        if (rc == SST_EOWNERDEAD) {
            ssti_fetch_add(&shared->repaired, 1);
            ssti_leaf_unlock(&shared->leaf, SSTI_LEAF_ALL, SSTI_LEAF_EVERYBODY);
            lock(world);
        }
    }
    if (ssti_load_rlx(&shared->items) > 0) {
        rc = 0;
        ssti_store_rlx(&shared->items, ssti_load_rlx(&shared->items) - 1);
        ssti_store_rlx(&shared->taken, ssti_load_rlx(&shared->taken) + 1);
    }
    unlock(world);
    return rc;
}

TEST(a_wait_ends_at_its_deadline)
{
    struct world world = make();

    check_status(wait_for_items(&world, SST_NOW), SST_ETIMEDOUT);
    check_status(wait_for_items(&world, sst_deadline_after(2000000)), SST_ETIMEDOUT);
    check_int(world.shared->leaf.waiting[0], ==, 0);
    end(&world);
}

static void
take_one(void *arg)
{
    check_ok(wait_for_items(arg, sst_deadline_after(20000000000)));
}

TEST(a_wake_reaches_as_many_as_it_says)
{
    struct world world = make();
    pid_t pids[5];

    for (int i = 0; i < 5; i++) {
        pids[i] = test_fork(take_one, &world);
    }
    for (int i = 0; i < 5; i++) {
        eventually(test_is_asleep(pids[i]));
    }
    check_int(world.shared->leaf.waiting[0], ==, 5);
    lock(&world);
    ssti_store_rlx(&world.shared->items, 3);
    ssti_leaf_unlock(&world.shared->leaf, SSTI_LEAF_A, 3);
    eventually(ssti_load_acq(&world.shared->taken) == 3);
    lock(&world);
    ssti_store_rlx(&world.shared->items, 2);
    unlock(&world); /* wakes one, who wakes the next for the same reason */
    for (int i = 0; i < 5; i++) {
        test_join(pids[i]);
    }
    check_int(world.shared->leaf.waiting[0], ==, 0);
    end(&world);
}

/* ---- Deaths among sleepers ---- */

static void
produce(void *arg)
{
    struct world *const world = arg;

    while (ssti_load_acq(&world->shared->stop) == 0) {
        lock(world);
        if (ssti_load_rlx(&world->shared->items) < 4) {
            ssti_store_rlx(&world->shared->items,
                           ssti_load_rlx(&world->shared->items) + 1);
        }
        unlock(world);
    }
}

static void
consume(void *arg)
{
    struct world *const world = arg;

    while (ssti_load_acq(&world->shared->stop) == 0) {
        (void)wait_for_items(world, sst_deadline_after(20000000000));
    }
}

/* Producers and consumers die at random and are replaced; the rest must go on
 * taking. */
static void
stress(int rounds)
{
    struct world world = make();
    unsigned seed = 5;
    pid_t pids[5];

    for (int i = 0; i < 5; i++) {
        pids[i] = test_fork(i < 2 ? produce : consume, &world);
    }
    for (int round = 0; round < rounds; round++) {
        const int i = rand_r(&seed) % 5;
        uint64_t before;

        for (int nap = rand_r(&seed) % 4; nap > 0; nap--) {
            test_nap();
        }
        test_kill(pids[i]);
        (void)sst_arena_sweep(world.arena);
        before = ssti_load_acq(&world.shared->taken);
        eventually(ssti_load_acq(&world.shared->taken) > before);
        pids[i] = test_fork(i < 2 ? produce : consume, &world);
    }
    ssti_store_rel(&world.shared->stop, 1);
    lock(&world);
    ssti_store_rlx(&world.shared->items, 100);
    ssti_leaf_unlock(&world.shared->leaf, SSTI_LEAF_ALL, SSTI_LEAF_EVERYBODY);
    for (int i = 0; i < 5; i++) {
        test_join(pids[i]);
    }
    eventually(sst_arena_sweep(world.arena) >= 0 &&
               ssti_load_acq(&world.shared->leaf.waiting[0]) == 0);
    end(&world);
}

TEST(survivors_go_on_while_others_are_killed)
{
    stress(150);
}

TEST(survivors_go_on_where_the_kernel_tells_of_no_death)
{
    static const struct ssti_os_kernel blind = {.has_waitv = false,
                                                .sees_deaths = false};

    ssti_os_kernel_pretend(&blind);
    stress(20);
}

static void
sleep_for_ever(void *arg)
{
    (void)wait_for_items(arg, SST_FOREVER);
}

TEST(a_dead_sleeper_is_taken_out_of_the_count)
{
    struct world world = make();
    pid_t pids[3];

    for (int i = 0; i < 3; i++) {
        pids[i] = test_fork(sleep_for_ever, &world);
    }
    for (int i = 0; i < 3; i++) {
        eventually(test_is_asleep(pids[i]));
    }
    check_int(world.shared->leaf.waiting[0], ==, 3);
    for (int i = 0; i < 3; i++) {
        test_kill(pids[i]);
    }
    eventually(sst_arena_sweep(world.arena) >= 0 && world.shared->leaf.waiting[0] == 0);
    end(&world);
}

/* The life word of whom one waits for ends a wait at once. */
static void
hold_on(void *arg)
{
    (void)arg;
    for (;;) {
        pause();
    }
}

TEST(a_life_word_ends_a_wait)
{
    struct world world = make();

    for (int round = 0; round < 10; round++) {
        const pid_t pid = test_fork(hold_on, NULL);
        const uint64_t child = ssti_proc_last_child(world.arena);
        struct ssti_leaf_sleep sleep = {.class = SSTI_LEAF_B,
                                        .deadline_ns = SST_FOREVER};
        int64_t killed;

        eventually(ssti_proc_find(world.arena, child) != NULL &&
                   ssti_proc_find(world.arena, child)->life_word != 0 &&
                   ssti_proc_find(world.arena, child)->state == SSTI_PROCESS_LIVE);
        sleep.life = ssti_proc_life(world.arena, child, &sleep.life_value);
        check(sleep.life != NULL);
        lock(&world);
        kill(pid, SIGKILL);
        killed = test_now_ns();
        check_ok(ssti_leaf_wait(world.arena, &world.shared->leaf, &sleep));
        unlock(&world);
        eventually(!ssti_proc_alive(world.arena, child));
        check_int(test_now_ns() - killed, <, 50000000 * test_slowness());
        check_int(waitpid(pid, NULL, 0), ==, pid);
    }
    end(&world);
}
