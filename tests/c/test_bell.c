/* SPDX-License-Identifier: MIT */

/* Doorbells: the descriptor of a queue. Names that begin with "threads" start no
 * process. */

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "peers.h"
#include "shm/layout.h"

enum {
    GO,     /* words: the child is there */
    RESULT, /* messages the children got */
    ROUND,  /* what they are to wait for */
};

static struct sst_queue *queue;

static struct sst_arena *
open_queue(void)
{
    struct sst_arena *const arena = arena_open();

    check_ok(sst_queue_create(arena, NULL, &queue, NULL));
    return arena;
}

static void
close_queue(struct sst_arena *arena)
{
    queue = sst_queue_close(queue);
    arena_close(arena);
}

static void
put(int64_t number)
{
    check_status(sst_queue_put(queue, &number, sizeof number, soon()), 0);
}

static int
try_get(int64_t *number)
{
    struct sst_message message;
    const int rc = sst_queue_get(queue, &message, SST_NOW);

    if (rc == 0) {
        memcpy(number, message.data, sizeof *number);
        sst_message_free(&message);
    }
    return rc;
}

static bool
is_readable(int fd, int timeout_ms)
{
    struct pollfd item = {.fd = fd, .events = POLLIN};

    return poll(&item, 1, timeout_ms) == 1;
}

TEST(threads_the_descriptor_is_made_once)
{
    struct sst_arena *const arena = open_queue();
    const int fd = sst_queue_fd(queue, NULL);

    check_int(fd, >=, 0);
    check_int(sst_queue_fd(queue, NULL), ==, fd);
    check(!is_readable(fd, 0));
    close_queue(arena);
}

TEST(threads_a_put_rings_and_an_empty_get_drains)
{
    struct sst_arena *const arena = open_queue();
    const int fd = sst_queue_fd(queue, NULL);
    int64_t number;

    for (int64_t i = 0; i < 10; i++) {
        put(2 * i);
        check(is_readable(fd, 0));
        put(2 * i + 1);
        check_status(try_get(&number), 0);
        check_int(number, ==, 2 * i);
        check(is_readable(fd, 0)); /* another is there */
        check_status(try_get(&number), 0);
        check_int(number, ==, 2 * i + 1);
        check_status(try_get(&number), SST_ETIMEDOUT);
        check(!is_readable(fd, 0));
    }
    close_queue(arena);
}

TEST(threads_drain_says_whether_to_look_again)
{
    struct sst_arena *const arena = open_queue();
    const int fd = sst_queue_fd(queue, NULL);
    int64_t number;

    check_int(sst_queue_fd_drain(queue), ==, 0);
    put(1);
    check_int(sst_queue_fd_drain(queue), ==, 1);
    check(is_readable(fd, 0));
    check_status(try_get(&number), 0);
    check_int(sst_queue_fd_drain(queue), ==, 0);
    check(!is_readable(fd, 0));
    close_queue(arena);
}

TEST(threads_a_poll_that_finds_nothing_drains)
{
    struct sst_arena *const arena = open_queue();
    const int fd = sst_queue_fd(queue, NULL);
    int64_t number;

    put(1);
    check_status(try_get(&number), 0);
    check(is_readable(fd, 0));
    check_int(sst_queue_poll(queue, SST_NOW), ==, 0);
    check(!is_readable(fd, 0));
    close_queue(arena);
}

TEST(threads_it_is_readable_at_once_when_something_is_there)
{
    struct sst_arena *const arena = open_queue();

    put(1);
    check(is_readable(sst_queue_fd(queue, NULL), 0));
    close_queue(arena);
}

TEST(threads_shutdown_rings)
{
    struct sst_arena *const arena = open_queue();
    const int fd = sst_queue_fd(queue, NULL);

    sst_queue_shutdown(queue, false);
    check(is_readable(fd, 0));
    check_int(sst_queue_fd_drain(queue), ==, 1); /* it stays so */
    check(is_readable(fd, 0));
    close_queue(arena);
}

TEST(threads_the_list_has_an_end)
{
    struct sst_arena *const arena = open_queue();
    struct sst_queue *views[SSTI_QUEUE_BELLS + 1];
    struct sst_error err = {0};
    struct sst_handle handle;

    sst_queue_handle(queue, &handle);
    for (int i = 0; i <= SSTI_QUEUE_BELLS; i++) {
        check_ok(sst_queue_attach(arena, &handle, &views[i], NULL));
        if (i < SSTI_QUEUE_BELLS) {
            check_ok(sst_queue_fd(views[i], NULL));
        }
    }
    check_status(sst_queue_fd(views[SSTI_QUEUE_BELLS], &err), SST_ELIMIT);
    check_int(err.status, ==, SST_ELIMIT);
    put(1);
    for (int i = 0; i < SSTI_QUEUE_BELLS; i++) {
        check(is_readable(sst_queue_fd(views[i], NULL), 0));
    }
    views[3] = sst_queue_close(views[3]);
    check_ok(sst_queue_fd(views[SSTI_QUEUE_BELLS], NULL));
    for (int i = 0; i <= SSTI_QUEUE_BELLS; i++) {
        views[i] = sst_queue_close(views[i]);
    }
    close_queue(arena);
}

/* Who cannot ring does not put: the message would be overslept. */
static void
put_without_descriptors(void *arg)
{
    struct rlimit none = {0};
    int64_t number = 1;

    (void)arg;
    check_int(getrlimit(RLIMIT_NOFILE, &none), ==, 0);
    none.rlim_cur = 0;
    check_int(setrlimit(RLIMIT_NOFILE, &none), ==, 0);
    check_status(sst_queue_put(queue, &number, sizeof number, SST_NOW), SST_EMFILE);
}

TEST(who_cannot_ring_does_not_put)
{
    struct sst_arena *const arena = open_queue();
    const int fd = sst_queue_fd(queue, NULL);

    test_join(test_fork(put_without_descriptors, NULL));
    check_int(sst_queue_count(queue), ==, 0);
    check(!is_readable(fd, 0));
    put(2);
    check(is_readable(fd, 0));
    close_queue(arena);
}

static void
put_in_child(void *arg)
{
    (void)arg;
    put(5);
}

TEST(another_process_rings)
{
    struct sst_arena *const arena = open_queue();
    const int fd = sst_queue_fd(queue, NULL);
    int64_t number;

    for (int i = 0; i < 5; i++) {
        pid_t child = test_fork(put_in_child, NULL);

        check(is_readable(fd, 20000));
        check_status(try_get(&number), 0);
        check_int(number, ==, 5);
        check_status(try_get(&number), SST_ETIMEDOUT);
        check(!is_readable(fd, 0));
        test_join(child);
    }
    close_queue(arena);
}

static void
poll_own_bell(void *arg)
{
    const int parent_fd = *(const int *)arg;
    struct sockaddr_storage mine, parents;
    socklen_t mine_size = sizeof mine;
    socklen_t parents_size = sizeof parents;
    const int kept = dup(parent_fd); /* sst_queue_fd closes our copy of it */
    const int fd = sst_queue_fd(queue, NULL);
    int64_t number;

    check_ok(fd);
    check_int(getsockname(fd, (struct sockaddr *)&mine, &mine_size), ==, 0);
    check_int(getsockname(kept, (struct sockaddr *)&parents, &parents_size), ==, 0);
    check(mine_size != parents_size || memcmp(&mine, &parents, mine_size) != 0);
    (void)close(kept);
    word_set(GO, 1);
    check(is_readable(fd, 20000));
    check_status(try_get(&number), 0);
    check_status(try_get(&number), SST_ETIMEDOUT);
    check(!is_readable(fd, 0));
    queue = sst_queue_close(queue);
}

TEST(a_child_has_a_bell_of_its_own)
{
    struct sst_arena *const arena = open_queue();
    int fd = sst_queue_fd(queue, NULL);
    pid_t child = test_fork(poll_own_bell, &fd);
    int64_t number;

    eventually(word(GO) == 1);
    put(1);
    test_join(child);
    check(is_readable(fd, 0)); /* once, with nothing there: the child was faster */
    check_status(try_get(&number), SST_ETIMEDOUT);
    check(!is_readable(fd, 0));
    put(2);
    check(is_readable(fd, 0));
    close_queue(arena);
}

static void
ask_and_linger(void *arg)
{
    (void)arg;
    check_ok(sst_queue_fd(queue, NULL));
    word_add(GO, 1);
    linger();
}

TEST(the_dead_make_room_in_the_list)
{
    struct sst_arena *const arena = open_queue();
    pid_t askers[SSTI_QUEUE_BELLS];
    int64_t number;

    for (int i = 0; i < SSTI_QUEUE_BELLS; i++) {
        askers[i] = test_fork(ask_and_linger, NULL);
    }
    eventually(word(GO) == SSTI_QUEUE_BELLS);
    check_status(sst_queue_fd(queue, NULL), SST_ELIMIT);
    for (int i = 0; i < SSTI_QUEUE_BELLS; i++) {
        test_kill(askers[i]);
    }
    put(1); /* to nobody */
    check(is_readable(sst_queue_fd(queue, NULL), 0));
    check_status(try_get(&number), 0);
    close_queue(arena);
}

/* Several processes poll; each message is taken by one of them, and none is
 * overslept. */
static void
poll_and_get(void *arg)
{
    const int fd = sst_queue_fd(queue, NULL);
    int64_t number;

    (void)arg;
    check_ok(fd);
    word_add(GO, 1);
    for (;;) {
        check(is_readable(fd, 20000));
        if (try_get(&number) == 0) {
            if (number == 0) {
                return;
            }
            word_add(RESULT, 1);
        }
    }
}

TEST(pollers_share_the_messages)
{
    struct sst_arena *const arena = open_queue();
    pid_t pollers[3];

    for (int i = 0; i < 3; i++) {
        pollers[i] = test_fork(poll_and_get, NULL);
    }
    eventually(word(GO) == 3);
    for (int i = 1; i <= 3000; i++) {
        put(i);
        if (i % 100 == 0) {
            eventually(word(RESULT) == i); /* from sleep again */
        }
    }
    for (int i = 0; i < 3; i++) {
        put(0);
    }
    for (int i = 0; i < 3; i++) {
        test_join(pollers[i]);
    }
    check_int(word(RESULT), ==, 3000);
    close_queue(arena);
}

static void
put_for_ever(void *arg)
{
    (void)arg;
    for (;;) {
        put(1);
        eventually(sst_queue_count(queue) < 3);
    }
}

TEST(killed_ringers_lose_nothing)
{
    struct sst_arena *const arena = open_queue();
    pid_t ringer = test_fork(put_for_ever, NULL);
    pid_t poller = test_fork(poll_and_get, NULL);
    uint32_t seed = 4;

    for (int i = 0; i < 100; i++) {
        const int64_t before = word(RESULT);

        for (volatile int spin = rand_r(&seed) % 100000; spin > 0; spin--) {
        }
        test_kill(ringer);
        /* What it had published is got, though nobody will ring again for it. */
        eventually(sst_queue_count(queue) == 0);
        ringer = test_fork(put_for_ever, NULL);
        eventually(word(RESULT) > before);
    }
    test_kill(ringer);
    eventually(sst_queue_count(queue) == 0);
    put(0);
    test_join(poller);
    close_queue(arena);
}
