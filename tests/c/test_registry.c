/* SPDX-License-Identifier: MIT */

/* Members of an arena: seats, forks, deaths and what is undone after them. */

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/os.h"
#include "runner.h"
#include "shm/view.h"
#include "sidestep/sidestep.h"

static struct sst_arena *
make(void)
{
    struct sst_arena *arena = NULL;

    check_ok(sst_arena_create(NULL, &arena, NULL));
    return arena;
}

static struct sst_arena_statistics
statistics(struct sst_arena *arena)
{
    struct sst_arena_statistics now;

    check_ok(sst_arena_statistics(arena, &now));
    return now;
}

/* Seats that are not free. */
static int
seats_taken(struct sst_arena *arena)
{
    int taken = 0;

    for (uint32_t i = 0; i < arena->map.process_max; i++) {
        taken += ssti_load_acq(&ssti_proc_seat(arena, i)->state) != SSTI_PROCESS_FREE;
    }
    return taken;
}

/* Everything is as a single member that holds nothing leaves it. */
static void
check_clean(struct sst_arena *arena)
{
    eventually(sst_arena_sweep(arena) >= 0 && seats_taken(arena) == 1);
    check_int(statistics(arena).slots, ==, 0);
    check_int(statistics(arena).extents, ==, 0);
    check_int(statistics(arena).held, ==, 0);
}

/* ---- Forks ---- */

struct family {
    struct sst_arena *arena;
    struct sst_block *block;
    uint64_t parent;
    int ready; /* descriptor that says so */
    int go;
};

static void
tell(int fd)
{
    check_int(write(fd, "x", 1), ==, 1);
}

static void
hear(int fd)
{
    char byte;

    check_int(read(fd, &byte, 1), ==, 1);
}

static void
be_a_member(void *arg)
{
    const struct family *const family = arg;
    const uint64_t self = ssti_proc_self(family->arena);

    check(self != 0);
    check(self != family->parent);
    check(ssti_proc_alive(family->arena, self));
    check(ssti_proc_alive(family->arena, family->parent));
    check_int(statistics(family->arena).held, ==, 1);
    check_int(statistics(family->arena).processes, ==, 2);
}

TEST(a_forked_child_is_a_member)
{
    struct family family = {.arena = make()};

    family.parent = ssti_proc_self(family.arena);
    check_ok(sst_block_create(family.arena, 10, &family.block, NULL));
    test_join(test_fork(be_a_member, &family));
    family.block = sst_block_close(family.block);
    check_clean(family.arena);
    sst_arena_detach(family.arena);
}

static void
outlive_the_parents_hold(void *arg)
{
    const struct family *const family = arg;

    hear(family->go);
    check_str((char *)sst_block_data(family->block), "still here");
}

TEST(what_a_child_inherits_outlives_the_parents_hold)
{
    struct family family = {.arena = make()};
    struct sst_handle handle;
    struct sst_block *none = NULL;
    int fds[2];
    pid_t pid;

    check(pipe(fds) == 0);
    family.go = fds[0];
    check_ok(sst_block_create(family.arena, 5000, &family.block, NULL));
    sst_block_handle(family.block, &handle);
    strcpy(sst_block_data(family.block), "still here");
    pid = test_fork(outlive_the_parents_hold, &family);
    family.block = sst_block_close(family.block);
    check_int(statistics(family.arena).slots, ==, 1);
    tell(fds[1]);
    test_join(pid);
    check_clean(family.arena);
    check_status(sst_block_attach(family.arena, &handle, &none, NULL), SST_ESTALE);
    close(fds[0]);
    close(fds[1]);
    sst_arena_detach(family.arena);
}

/* Generations of children that make, inherit and drop things, and die in all ways. */
static void
breed(struct sst_arena *arena, int depth, unsigned seed)
{
    struct sst_block *blocks[8] = {NULL};
    pid_t pids[3];

    for (int i = 0; i < 8; i++) {
        check_ok(sst_block_create(arena, 1U << (rand_r(&seed) % 18), &blocks[i], NULL));
    }
    for (int i = 0; depth > 0 && i < 3; i++) {
        pids[i] = fork();
        check_int(pids[i], >=, 0);
        if (pids[i] == 0) {
            breed(arena, depth - 1, seed + (unsigned)i * 17);
            for (int k = 0; k < 8; k += 2) {
                sst_block_close(blocks[k]);
            }
            if (rand_r(&seed) % 2 == 0) {
                kill(getpid(), SIGKILL);
            }
            _exit(0);
        }
        blocks[i] = sst_block_close(blocks[i]);
    }
    for (int i = 0; depth > 0 && i < 3; i++) {
        check_int(waitpid(pids[i], NULL, 0), ==, pids[i]);
    }
    for (int i = 0; i < 8; i++) {
        sst_block_close(blocks[i]);
    }
}

TEST(a_storm_of_forks_leaves_nothing)
{
    struct sst_arena *arena = make();

    breed(arena, 3, 42);
    check_clean(arena);
    sst_arena_detach(arena);
}

static _Atomic int storm_is_over;

static void *
make_and_drop(void *arg)
{
    while (!storm_is_over) {
        struct sst_block *block = NULL;

        check_ok(sst_block_create(arg, 3000 + (uint64_t)rand() % 9000, &block, NULL));
        sst_block_close(block);
    }
    return NULL;
}

/* gcc 12's sanitizers leave their own allocator locked in a child of several
 * threads. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
static const bool can_fork_among_threads = false;
#else
static const bool can_fork_among_threads = true;
#endif

TEST(forks_while_other_threads_make_and_drop)
{
    struct sst_arena *arena;
    pthread_t threads[3];

    if (!can_fork_among_threads) {
        test_skip("the sanitizer does not survive it");
    }
    arena = make();
    for (int i = 0; i < 3; i++) {
        check_int(pthread_create(&threads[i], NULL, make_and_drop, arena), ==, 0);
    }
    for (int i = 0; i < 300; i++) {
        const pid_t pid = fork();

        check_int(pid, >=, 0);
        if (pid == 0) {
            struct sst_block *block = NULL;

            check_ok(sst_block_create(arena, 100, &block, NULL));
            sst_block_close(block);
            _exit(0);
        }
        test_join(pid);
    }
    storm_is_over = 1;
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
    }
    check_clean(arena);
    sst_arena_detach(arena);
}

/* ---- Deaths ---- */

static void
work_for_ever(void *arg)
{
    struct family *const family = arg;
    unsigned seed = (unsigned)getpid();
    struct sst_block *blocks[16] = {NULL};

    tell(family->ready);
    for (;;) {
        const unsigned i = (unsigned)rand_r(&seed) % 16;

        if (blocks[i] != NULL) {
            blocks[i] = sst_block_close(blocks[i]);
        }
        else {
            check_ok(sst_block_create(family->arena, 1U << (rand_r(&seed) % 20),
                                      &blocks[i], NULL));
        }
    }
}

TEST(random_kills_leave_nothing)
{
    struct family family = {.arena = make()};
    unsigned seed = 7;
    int fds[2];

    check(pipe(fds) == 0);
    family.ready = fds[1];
    for (int round = 0; round < 40; round++) {
        pid_t pids[3];

        for (int i = 0; i < 3; i++) {
            pids[i] = test_fork(work_for_ever, &family);
            hear(fds[0]);
        }
        for (unsigned k = (unsigned)rand_r(&seed) % 8; k > 0; k--) {
            test_nap();
        }
        for (int i = 0; i < 3; i++) {
            kill(pids[i], SIGKILL);
        }
        for (int i = 0; i < 3; i++) {
            check_int(waitpid(pids[i], NULL, 0), ==, pids[i]);
        }
        check_clean(family.arena);
    }
    close(fds[0]);
    close(fds[1]);
    sst_arena_detach(family.arena);
}

/* Sweepers that are killed while they sweep are swept themselves. */
static void
sweep_for_ever(void *arg)
{
    struct family *const family = arg;

    tell(family->ready);
    for (;;) {
        (void)sst_arena_sweep(family->arena);
    }
}

TEST(killed_sweepers_are_replaced)
{
    struct family family = {.arena = make()};
    int fds[2];

    check(pipe(fds) == 0);
    family.ready = fds[1];
    for (int round = 0; round < 40; round++) {
        pid_t pids[4];

        for (int i = 0; i < 4; i++) {
            pids[i] = test_fork(i < 2 ? work_for_ever : sweep_for_ever, &family);
            hear(fds[0]);
        }
        for (int i = 0; i < 4; i++) {
            test_nap();
            kill(pids[i], SIGKILL);
            check_int(waitpid(pids[i], NULL, 0), ==, pids[i]);
        }
        check_clean(family.arena);
    }
    close(fds[0]);
    close(fds[1]);
    sst_arena_detach(family.arena);
}

static void
stay(void *arg)
{
    struct family *const family = arg;

    tell(family->ready);
    for (;;) {
        pause();
    }
}

TEST(a_death_wakes_who_sleeps_on_the_life_word)
{
    struct family family = {.arena = make()};
    int fds[2];

    check(pipe(fds) == 0);
    family.ready = fds[1];
    for (int round = 0; round < 20; round++) {
        const pid_t pid = test_fork(stay, &family);
        _Atomic uint32_t *word;
        uint64_t child = 0;
        uint32_t value = 0;
        int64_t killed;

        hear(fds[0]);
        child = ssti_proc_last_child(family.arena);
        check(ssti_proc_alive(family.arena, child));
        word = ssti_proc_life(family.arena, child, &value);
        check(word != NULL);
        check_int(ssti_proc_patience(family.arena, child, SST_FOREVER), >,
                  test_now_ns() + 500000000);
        kill(pid, SIGKILL);
        killed = test_now_ns();
        while (ssti_os_futex_wait(word, value, sst_deadline_after(10000000000)) ==
               SST_EINTR) {
        }
        eventually(!ssti_proc_alive(family.arena, child));
        check_int(test_now_ns() - killed, <, 50000000 * test_slowness());
        check_ptr(ssti_proc_life(family.arena, child, &value), ==, NULL);
        check_int(waitpid(pid, NULL, 0), ==, pid);
        check_clean(family.arena);
        check(!ssti_proc_alive(family.arena, child));
    }
    close(fds[0]);
    close(fds[1]);
    sst_arena_detach(family.arena);
}

static void *
outlive_the_main_thread(void *arg)
{
    struct family *const family = arg;

    for (;;) {
        struct ssti_os_process now;

        check_ok(ssti_os_process_look(getpid(), &now));
        if (now.is_exiting) {
            break;
        }
        test_nap();
    }
    tell(family->ready);
    hear(family->go);
    check_str((char *)sst_block_data(family->block), "mine");
    _exit(0);
}

static void
end_the_main_thread(void *arg)
{
    pthread_t thread;

    check_int(pthread_create(&thread, NULL, outlive_the_main_thread, arg), ==, 0);
    pthread_exit(NULL);
}

TEST(a_process_whose_main_thread_ended_is_alive)
{
    struct family family = {.arena = make()};
    uint64_t child;
    int ready[2];
    int go[2];
    pid_t pid;

    check(pipe(ready) == 0);
    check(pipe(go) == 0);
    family.ready = ready[1];
    family.go = go[0];
    check_ok(sst_block_create(family.arena, 10, &family.block, NULL));
    strcpy(sst_block_data(family.block), "mine");
    pid = test_fork(end_the_main_thread, &family);
    child = ssti_proc_last_child(family.arena);
    family.block = sst_block_close(family.block);
    hear(ready[0]);
    check(ssti_proc_alive(family.arena, child));
    check_int(sst_arena_sweep(family.arena), ==, 0);
    check_int(ssti_proc_patience(family.arena, child, SST_FOREVER), <,
              test_now_ns() + 100000000);
    check_int(statistics(family.arena).slots, ==, 1);
    tell(go[1]);
    test_join(pid);
    check_clean(family.arena);
    for (int i = 0; i < 2; i++) {
        close(ready[i]);
        close(go[i]);
    }
    sst_arena_detach(family.arena);
}

static void
become_another_program(void *arg)
{
    (void)arg;
    execl("/bin/sleep", "sleep", "100", (char *)NULL);
    _exit(127);
}

TEST(exec_counts_as_death)
{
    struct family family = {.arena = make()};
    uint64_t child;
    pid_t pid;

    check_ok(sst_block_create(family.arena, 10, &family.block, NULL));
    pid = test_fork(become_another_program, &family);
    child = ssti_proc_last_child(family.arena);
    eventually(!ssti_proc_alive(family.arena, child));
    family.block = sst_block_close(family.block);
    check_clean(family.arena);
    test_kill(pid);
    sst_arena_detach(family.arena);
}

/* ---- Leaving, and seats for children ---- */

static void
leave_with_seven(void *arg)
{
    struct family *const family = arg;

    ssti_proc_leave(family->arena, 7);
    hear(family->go); /* done is seen while the process is still there */
}

TEST(a_watched_child_leaves_its_exit_code)
{
    struct family family = {.arena = make()};
    _Atomic uint32_t *done;
    int32_t code = 0;
    uint64_t child;
    int fds[2];
    pid_t pid;

    check(pipe(fds) == 0);
    family.go = fds[0];
    check_ok(sst_block_create(family.arena, 10, &family.block, NULL));
    ssti_proc_watch_next_fork();
    pid = test_fork(leave_with_seven, &family);
    child = ssti_proc_last_child(family.arena);
    done = ssti_proc_done(family.arena, child, &code);
    check(done != NULL);
    while (ssti_load_acq(done) == 0) {
        (void)ssti_os_futex_wait(done, 0, sst_deadline_after(10000000000));
    }
    check(ssti_proc_done(family.arena, child, &code) == done);
    check_int(code, ==, 7);
    check(!ssti_proc_alive(family.arena, child));
    tell(fds[1]);
    test_join(pid);
    sst_arena_sweep(family.arena);
    eventually(sst_arena_sweep(family.arena) >= 0 &&
               ssti_load_acq(&ssti_proc_find(family.arena, child)->state) ==
                   SSTI_PROCESS_DONE);
    check(ssti_proc_done(family.arena, child, &code) == done);
    check_int(code, ==, 7);
    ssti_proc_release(family.arena, child);
    check_ptr(ssti_proc_done(family.arena, child, &code), ==, NULL);
    sst_block_close(family.block);
    check_clean(family.arena);
    close(fds[0]);
    close(fds[1]);
    sst_arena_detach(family.arena);
}

TEST(a_reserved_seat_holds_gifts)
{
    struct sst_arena *arena = make();
    struct sst_arena *child = NULL;
    struct sst_block *block = NULL;
    struct sst_block *same = NULL;
    struct sst_handle handle;
    uint64_t proc = 0;
    uint32_t held[3];

    check_ok(sst_block_create(arena, 10, &block, NULL));
    sst_block_handle(block, &handle);
    check_ok(ssti_proc_reserve(arena, &proc));
    check_ok(ssti_proc_hold_for(arena, proc, &handle));
    check_ok(ssti_proc_hold_for(arena, proc, &handle));
    block = sst_block_close(block);
    check_int(statistics(arena).slots, ==, 1);

    check_ok(ssti_arena_attach_as(sst_arena_fd(arena), proc, &child, NULL));
    check_int(ssti_proc_self(child), ==, proc);
    check_ok(sst_block_attach(child, &handle, &same, NULL));
    ssti_proc_drop_gifts(child);
    check_int(statistics(child).held, ==, 1);
    for (int i = 0; i < 3; i++) {
        check_ok(ssti_held_reserve(child, &held[i]));
    }
    check(held[0] != held[1] && held[1] != held[2] && held[0] != held[2]);
    for (int i = 0; i < 3; i++) {
        ssti_held_release(child, held[i]);
    }
    check_int(statistics(arena).slots, ==, 1);
    same = sst_block_close(same);
    check_int(statistics(arena).slots, ==, 0);
    check_status(ssti_arena_attach_as(sst_arena_fd(arena), proc, &child, NULL),
                 SST_ESTALE);
    sst_arena_detach(child);
    ssti_proc_release(arena, proc);
    check_clean(arena);
    sst_arena_detach(arena);
}

TEST(an_abandoned_seat_gives_its_gifts_back)
{
    struct sst_arena *arena = make();
    struct sst_block *block = NULL;
    struct sst_handle handle;
    uint64_t proc = 0;

    check_ok(sst_block_create(arena, 10000, &block, NULL));
    sst_block_handle(block, &handle);
    check_ok(ssti_proc_reserve(arena, &proc));
    check_ok(ssti_proc_hold_for(arena, proc, &handle));
    block = sst_block_close(block);
    check_int(statistics(arena).slots, ==, 1);
    ssti_proc_abandon(arena, proc);
    check_clean(arena);
    check_status(ssti_proc_hold_for(arena, proc, &handle), SST_ESTALE);
    sst_arena_detach(arena);
}

TEST(seats_run_out_and_come_back)
{
    const struct sst_arena_options options = {.size_of = sizeof options,
                                              .process_max = 8};
    struct sst_arena *views[8] = {NULL};
    struct sst_arena *more = NULL;
    struct sst_error err = {0};
    uint64_t proc;

    check_ok(sst_arena_create(&options, &views[0], NULL));
    for (int i = 1; i < 8; i++) {
        check_ok(sst_arena_attach(sst_arena_fd(views[0]), &views[i], NULL));
    }
    check_status(sst_arena_attach(sst_arena_fd(views[0]), &more, &err), SST_ELIMIT);
    check(strstr(err.text, "8 seats") != NULL);
    check_status(ssti_proc_reserve(views[0], &proc), SST_ELIMIT);
    sst_arena_detach(views[3]);
    check_ok(sst_arena_attach(sst_arena_fd(views[0]), &views[3], NULL));
    for (int i = 7; i >= 0; i--) {
        sst_arena_detach(views[i]);
    }
}

static void
be_no_member(void *arg)
{
    struct family *const family = arg;
    struct sst_block *block = NULL;

    check_int(ssti_proc_self(family->arena), ==, 0);
    check_status(sst_block_create(family->arena, 10, &block, NULL), SST_ELIMIT);
    sst_block_close(family->block); /* touches nothing shared */
    sst_arena_detach(family->arena);
}

TEST(a_child_without_a_seat_is_no_member)
{
    const struct sst_arena_options options = {.size_of = sizeof options,
                                              .process_max = 8};
    struct sst_arena *views[8] = {NULL};
    struct family family = {0};

    check_ok(sst_arena_create(&options, &views[0], NULL));
    for (int i = 1; i < 8; i++) {
        check_ok(sst_arena_attach(sst_arena_fd(views[0]), &views[i], NULL));
    }
    family.arena = views[0];
    check_ok(sst_block_create(family.arena, 10, &family.block, NULL));
    test_join(test_fork(be_no_member, &family));
    check_int(statistics(family.arena).slots, ==, 1);
    sst_block_close(family.block);
    for (int i = 7; i >= 0; i--) {
        sst_arena_detach(views[i]);
    }
}

/* ---- Presence ---- */

static _Atomic int64_t told;
static uint64_t told_object;

static void
note_presence(struct sst_arena *arena, void *object, int64_t value)
{
    told += value;
    told_object = ssti_windows_offset(arena, object);
}

static void
be_present(void *arg)
{
    struct family *const family = arg;
    _Atomic int64_t *word;
    uint32_t held;
    uint64_t mine;
    struct sst_handle handle;

    sst_block_handle(family->block, &handle);
    word = ssti_presence(family->arena, handle.offset);
    check(word != NULL);
    check_int(*word, ==, 0);
    *word += 5;
    check_ptr(ssti_presence(family->arena, handle.offset), ==, word);
    /* An object that goes before its record is told nothing, nor is who comes after
     * it. */
    check_ok(ssti_slot_create(family->arena, SST_KIND_EVENT, 128, &held, &mine, NULL));
    *ssti_presence(family->arena, mine) = 100;
    ssti_slot_drop(family->arena, held);
    /* One that is forgotten neither. */
    check_ok(ssti_slot_create(family->arena, SST_KIND_EVENT, 128, &held, &mine, NULL));
    *ssti_presence(family->arena, mine) = 1000;
    ssti_presence_forget(family->arena, mine);
    kill(getpid(), SIGKILL);
}

TEST(presence_is_told_after_death)
{
    static const struct ssti_kind_ops ops = {.presence_died = note_presence};
    struct family family = {.arena = make()};
    struct sst_handle handle;

    check_ok(sst_block_create(family.arena, 10, &family.block, NULL));
    ssti_kind_register(SST_KIND_EVENT, &ops);
    ssti_kind_register(SST_KIND_BLOCK, &ops);
    sst_block_handle(family.block, &handle);
    test_join_killed(test_fork(be_present, &family), SIGKILL);
    eventually(sst_arena_sweep(family.arena) >= 0 && told != 0);
    check_int(told, ==, 5);
    check_int(told_object, ==, handle.offset);
    sst_block_close(family.block);
    check_clean(family.arena);
    check_int(told, ==, 5);
    sst_arena_detach(family.arena);
}

TEST(presence_has_room_for_many_and_reuses_it)
{
    struct sst_arena *arena = make();
    struct sst_block *block = NULL;
    struct sst_handle handle;
    int made = 0;

    check_ok(sst_block_create(arena, 10, &block, NULL));
    sst_block_handle(block, &handle);
    for (uint64_t round = 0; round < 50; round++) {
        for (uint64_t i = 0; i < 3000; i++) {
            _Atomic int64_t *const word =
                ssti_presence(arena, handle.offset + (round * 1000 + i) * 128);

            check(word != NULL);
            check_int(*word, ==, 0);
            *word = (int64_t)i;
        }
        for (uint64_t i = 0; i < 3000; i++) {
            ssti_presence_forget(arena, handle.offset + (round * 1000 + i) * 128);
        }
    }
    while (ssti_presence(arena, handle.offset + (uint64_t)made * 128) != NULL) {
        made++;
    }
    check_int(made, ==, SSTI_AREA_PRESENCES);
    sst_block_close(block);
    sst_arena_detach(arena);
}
