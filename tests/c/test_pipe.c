/* SPDX-License-Identifier: MIT */

/* Pipes: messages both ways, ends of file, full rings, ends in several hands, and
 * deaths. Names that begin with "threads" start no process. */

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "peers.h"

enum {
    GO,     /* words: the child is there */
    RESULT, /* what a child's call returned, less one, so that 0 means not yet */
    TIME,   /* when */
    SENT,
    TAKEN,
};

static struct sst_pipe *pipes[2];

static struct sst_arena *
open_pipe(bool duplex)
{
    struct sst_arena *const arena = arena_open();

    check_ok(sst_pipe_create(arena, duplex, &pipes[0], &pipes[1], NULL));
    return arena;
}

static void
close_end(int end)
{
    pipes[end] = sst_pipe_close(pipes[end]);
}

static void
close_pipe(struct sst_arena *arena)
{
    close_end(0);
    close_end(1);
    arena_close(arena);
}

static void
send_number(int end, int64_t number)
{
    check_status(sst_pipe_send(pipes[end], &number, sizeof number, soon()), 0);
}

static int64_t
recv_number(int end)
{
    struct sst_message message;
    int64_t number;

    check_status(sst_pipe_recv(pipes[end], &message, soon()), 0);
    check_int(message.size, ==, sizeof number);
    memcpy(&number, message.data, sizeof number);
    sst_message_free(&message);
    return number;
}

static bool
is_readable(int fd, int timeout_ms)
{
    struct pollfd item = {.fd = fd, .events = POLLIN};

    return poll(&item, 1, timeout_ms) == 1;
}

/* ---- One process ---- */

TEST(threads_messages_go_both_ways)
{
    struct sst_arena *const arena = open_pipe(true);
    struct sst_message message;

    check(sst_pipe_is_readable(pipes[0]) && sst_pipe_is_writable(pipes[0]));
    check(sst_pipe_is_readable(pipes[1]) && sst_pipe_is_writable(pipes[1]));
    for (int64_t i = 0; i < 100; i++) {
        send_number(0, i);
        send_number(1, -i);
    }
    for (int64_t i = 0; i < 100; i++) {
        check_int(recv_number(0), ==, -i);
        check_int(recv_number(1), ==, i);
    }
    check_status(sst_pipe_recv(pipes[0], &message, SST_NOW), SST_ETIMEDOUT);
    check_status(sst_pipe_recv(pipes[1], &message, in_ms(5)), SST_ETIMEDOUT);
    close_pipe(arena);
}

TEST(threads_a_one_way_pipe_goes_one_way)
{
    struct sst_arena *const arena = open_pipe(false);
    struct sst_message message;

    check(sst_pipe_is_readable(pipes[0]) && !sst_pipe_is_writable(pipes[0]));
    check(!sst_pipe_is_readable(pipes[1]) && sst_pipe_is_writable(pipes[1]));
    send_number(1, 3);
    check_int(recv_number(0), ==, 3);
    check_status(sst_pipe_send(pipes[0], "x", 1, SST_NOW), SST_EINVAL);
    check_status(sst_pipe_recv(pipes[1], &message, SST_NOW), SST_EINVAL);
    check_status(sst_pipe_poll(pipes[1], SST_NOW), SST_EINVAL);
    close_pipe(arena);
}

TEST(threads_poll_takes_nothing)
{
    struct sst_arena *const arena = open_pipe(true);

    check_int(sst_pipe_poll(pipes[1], SST_NOW), ==, 0);
    check_int(sst_pipe_poll(pipes[1], in_ms(5)), ==, 0);
    send_number(0, 1);
    check_int(sst_pipe_poll(pipes[1], SST_NOW), ==, 1);
    check_int(sst_pipe_poll(pipes[1], SST_FOREVER), ==, 1);
    check_int(recv_number(1), ==, 1);
    check_int(sst_pipe_poll(pipes[1], SST_NOW), ==, 0);
    close_end(0);
    check_int(sst_pipe_poll(pipes[1], SST_NOW), ==, 1); /* end of file */
    close_pipe(arena);
}

TEST(threads_end_of_file_comes_after_the_last_message)
{
    struct sst_arena *const arena = open_pipe(true);
    struct sst_message message;

    send_number(0, 1);
    send_number(0, 2);
    close_end(0);
    check_int(recv_number(1), ==, 1);
    check_int(recv_number(1), ==, 2);
    check_status(sst_pipe_recv(pipes[1], &message, SST_NOW), SST_EOF);
    check_status(sst_pipe_recv(pipes[1], &message, SST_FOREVER), SST_EOF);
    close_pipe(arena);
}

TEST(threads_what_was_not_read_is_counted)
{
    struct sst_arena *const arena = open_pipe(true);

    check_int(sst_pipe_unread(pipes[0]), ==, 0);
    send_number(0, 1);
    send_number(0, 2);
    send_number(1, 3);
    check_int(sst_pipe_unread(pipes[0]), ==, 2);
    check_int(sst_pipe_unread(pipes[1]), ==, 1);
    check_int(recv_number(1), ==, 1);
    check_int(sst_pipe_unread(pipes[0]), ==, 1);
    close_end(1);
    check_int(sst_pipe_unread(pipes[0]), ==, 1);
    close_pipe(arena);
}

TEST(threads_nobody_to_read_shows_at_once)
{
    struct sst_arena *const arena = open_pipe(true);

    send_number(0, 1);
    close_end(1);
    check_status(sst_pipe_send(pipes[0], "x", 1, SST_FOREVER), SST_EPIPE);
    close_pipe(arena);
}

TEST(threads_a_quarter_of_a_megabyte_fits_each_way)
{
    struct sst_arena *const arena = open_pipe(true);
    static uint8_t data[4096];

    for (int i = 0; i < 64; i++) {
        check_status(sst_pipe_send(pipes[0], data, sizeof data, SST_NOW), 0);
        check_status(sst_pipe_send(pipes[1], data, sizeof data, SST_NOW), 0);
    }
    for (int i = 0; sst_pipe_send(pipes[0], data, sizeof data, SST_NOW) == 0; i++) {
        check_int(i, <, 64); /* much more does not */
    }
    check_status(sst_pipe_send(pipes[0], data, sizeof data, in_ms(5)), SST_ETIMEDOUT);
    close_pipe(arena);
}

TEST(threads_empty_messages_fill_a_pipe_too)
{
    struct sst_arena *const arena = open_pipe(false);
    struct sst_message message;
    int sent = 0;

    while (sst_pipe_send(pipes[1], NULL, 0, SST_NOW) == 0) {
        sent++;
        check_int(sent, <, 100000);
    }
    check_int(sent, >, 278); /* as many as the stdlib's takes */
    for (int i = 0; i < sent; i++) {
        check_status(sst_pipe_recv(pipes[0], &message, SST_NOW), 0);
        check_int(message.size, ==, 0);
        sst_message_free(&message);
    }
    check_status(sst_pipe_recv(pipes[0], &message, SST_NOW), SST_ETIMEDOUT);
    close_pipe(arena);
}

TEST(threads_a_message_beyond_the_capacity_goes_alone)
{
    struct sst_arena *const arena = open_pipe(true);
    const uint64_t size = 5 << 20;
    uint8_t *const data = calloc(1, size);
    struct sst_message message;

    check_ptr(data, !=, NULL);
    data[size - 1] = 77;
    check_status(sst_pipe_send(pipes[0], data, size, SST_NOW), 0);
    check_status(sst_pipe_send(pipes[0], data, 1, SST_NOW), SST_ETIMEDOUT);
    check_status(sst_pipe_recv(pipes[1], &message, SST_NOW), 0);
    check_int(message.size, ==, size);
    check_int(((const uint8_t *)message.data)[size - 1], ==, 77);
    sst_message_free(&message);
    check_status(sst_pipe_send(pipes[0], data, 1, SST_NOW), 0);
    free(data);
    close_pipe(arena);
}

TEST(threads_slices_make_one_message)
{
    const struct sst_slice slices[2] = {{"head", 4}, {"tail", 4}};
    struct sst_arena *const arena = open_pipe(true);
    struct sst_message message;

    check_status(sst_pipe_send_slices(pipes[1], slices, 2, SST_NOW), 0);
    check_status(sst_pipe_recv(pipes[0], &message, SST_NOW), 0);
    check_int(message.size, ==, 8);
    check_mem(message.data, "headtail", 8);
    sst_message_free(&message);
    close_pipe(arena);
}

TEST(threads_the_descriptor_follows_the_messages)
{
    struct sst_arena *const arena = open_pipe(true);
    struct sst_message message;
    int fd;

    send_number(0, 1); /* before anybody asked */
    fd = sst_pipe_fd(pipes[1]);
    check_int(fd, ==, sst_pipe_socket(pipes[1]));
    for (int64_t i = 1; i < 20; i++) {
        check(is_readable(fd, 10000));
        check_int(recv_number(1), ==, i);
        check_status(sst_pipe_recv(pipes[1], &message, SST_NOW), SST_ETIMEDOUT);
        check(!is_readable(fd, 0));
        send_number(0, i + 1);
        send_number(0, i + 1);
        check(is_readable(fd, 0));
        check_int(recv_number(1), ==, i + 1);
        check(is_readable(fd, 0));
    }
    close_end(0);
    check(is_readable(fd, 0));
    close_pipe(arena);
}

TEST(threads_nothing_is_left_of_a_pipe)
{
    struct sst_arena_statistics before, after;
    struct sst_arena *const arena = arena_open();
    static uint8_t data[9000];

    check_ok(sst_arena_statistics(arena, &before));
    check_ok(sst_pipe_create(arena, true, &pipes[0], &pipes[1], NULL));
    for (int i = 0; i < 10; i++) {
        check_status(sst_pipe_send(pipes[0], data, sizeof data, SST_NOW), 0);
        check_status(sst_pipe_send(pipes[1], data, 100, SST_NOW), 0);
    }
    close_end(1);
    close_end(0);
    check_ok(sst_arena_statistics(arena, &after));
    check_int(after.slots, ==, before.slots);
    check_int(after.extents, ==, before.extents);
    arena_close(arena);
}

TEST(threads_an_end_can_be_attached_again)
{
    struct sst_arena *const arena = open_pipe(true);
    struct sst_handle handle;
    struct sst_pipe *same = NULL;
    struct sst_message message;
    int end;

    sst_pipe_handle(pipes[0], &handle, &end);
    check_int(end, ==, 0);
    check_ok(sst_pipe_attach(arena, &handle, end, dup(sst_pipe_socket(pipes[0])), &same,
                             NULL));
    close_end(0);
    send_number(1, 9); /* still open */
    pipes[0] = same;
    check_int(recv_number(0), ==, 9);
    check_status(sst_pipe_recv(pipes[1], &message, SST_NOW), SST_ETIMEDOUT);
    close_end(0);
    check_status(sst_pipe_send(pipes[1], "x", 1, SST_NOW), SST_EPIPE);
    check_status(sst_pipe_recv(pipes[1], &message, SST_NOW), SST_EOF);
    check_status(sst_pipe_attach(arena, &handle, 0, -1, &same, NULL), SST_ESTALE);
    check_status(sst_pipe_attach(arena, &handle, 2, -1, &same, NULL), SST_EINVAL);
    close_end(1);
    check_status(sst_pipe_attach(arena, &handle, 1, -1, &same, NULL), SST_ESTALE);
    check_ptr(sst_pipe_close(NULL), ==, NULL);
    arena_close(arena);
}

static void *
flood(void *arg)
{
    const int end = *(const int *)arg;
    static const uint8_t data[3000];

    for (int i = 0; i < 2000; i++) {
        check_status(sst_pipe_send(pipes[end], data, sizeof data, soon()), 0);
    }
    return NULL;
}

static void *
drink(void *arg)
{
    const int end = *(const int *)arg;
    struct sst_message message;

    for (int i = 0; i < 2000; i++) {
        check_status(sst_pipe_recv(pipes[end], &message, soon()), 0);
        check_int(message.size, ==, 3000);
        sst_message_free(&message);
    }
    return NULL;
}

/* Both directions are full most of the time, and senders and receivers share each
 * end. */
TEST(threads_floods_cross)
{
    struct sst_arena *const arena = open_pipe(true);
    int ends[2] = {0, 1};
    pthread_t thread[4];

    for (int end = 0; end < 2; end++) {
        check_int(pthread_create(&thread[end], NULL, flood, &ends[end]), ==, 0);
        check_int(pthread_create(&thread[2 + end], NULL, drink, &ends[end]), ==, 0);
    }
    for (int i = 0; i < 4; i++) {
        check_int(pthread_join(thread[i], NULL), ==, 0);
    }
    close_pipe(arena);
}

/* ---- Several processes ---- */

static void
echo(void *arg)
{
    struct sst_message message;
    int rc;

    (void)arg;
    close_end(0);
    while ((rc = sst_pipe_recv(pipes[1], &message, soon())) == 0) {
        check_status(sst_pipe_send(pipes[1], message.data, message.size, soon()), 0);
        sst_message_free(&message);
    }
    check_status(rc, SST_EOF);
    close_end(1);
}

TEST(round_trips)
{
    struct sst_arena *const arena = open_pipe(true);
    pid_t child = test_fork(echo, NULL);

    close_end(1);
    for (int64_t i = 0; i < 20000; i++) {
        send_number(0, i);
        check_int(recv_number(0), ==, i);
    }
    close_end(0);
    test_join(child);
    arena_close(arena);
}

static void
send_all(void *arg)
{
    const int64_t count = *(const int64_t *)arg;

    close_end(0);
    for (int64_t i = 0; i < count; i++) {
        send_number(1, i);
    }
    close_end(1);
}

TEST(a_flow_ends_with_its_sender)
{
    struct sst_arena *const arena = open_pipe(false);
    int64_t count = 100000;
    struct sst_message message;
    pid_t child = test_fork(send_all, &count);

    close_end(1);
    for (int64_t i = 0; i < count; i++) {
        check_int(recv_number(0), ==, i);
    }
    check_status(sst_pipe_recv(pipes[0], &message, soon()), SST_EOF);
    test_join(child);
    close_pipe(arena);
}

TEST(a_child_that_sent_little_may_exit_first)
{
    struct sst_arena *const arena = open_pipe(false);
    int64_t count = 300;
    struct sst_message message;

    test_join(test_fork(send_all, &count));
    close_end(1);
    for (int64_t i = 0; i < count; i++) {
        check_int(recv_number(0), ==, i);
    }
    check_status(sst_pipe_recv(pipes[0], &message, SST_NOW), SST_EOF);
    close_pipe(arena);
}

static void
recv_and_tell(void *arg)
{
    struct sst_message message;
    int rc;

    (void)arg;
    close_end(1);
    word_set(GO, 1);
    rc = sst_pipe_recv(pipes[0], &message, SST_FOREVER);
    word_set(TIME, test_now_ns());
    word_set(RESULT, rc - 1);
}

static void
hold(void *arg)
{
    (void)arg;
    close_end(0);
    word_add(GO, 1);
    linger();
}

TEST(a_killed_sender_is_an_end_of_file)
{
    struct sst_arena *const arena = open_pipe(false);
    pid_t sender = test_fork(hold, NULL);
    pid_t receiver;
    int64_t start;

    eventually(word(GO) == 1);
    word_set(GO, 0);
    receiver = test_fork(recv_and_tell, NULL);
    close_end(1);
    eventually(word(GO) == 1 && test_is_asleep(receiver));
    start = test_now_ns();
    test_kill(sender);
    test_join(receiver);
    check_int(word(RESULT), ==, SST_EOF - 1);
    check_int(word(TIME) - start, <, DEATH_SHOWS_NS * test_slowness());
    close_pipe(arena);
}

TEST(a_sibling_that_keeps_the_end_defers_the_end_of_file)
{
    struct sst_arena *const arena = open_pipe(false);
    struct sst_message message;
    pid_t first = test_fork(hold, NULL);
    pid_t second = test_fork(hold, NULL);

    close_end(1);
    eventually(word(GO) == 2);
    test_kill(first);
    (void)sst_arena_sweep(arena);
    check_status(sst_pipe_recv(pipes[0], &message, in_ms(30)), SST_ETIMEDOUT);
    test_kill(second);
    check_status(sst_pipe_recv(pipes[0], &message, soon()), SST_EOF);
    close_pipe(arena);
}

static void
close_and_exit(void *arg)
{
    (void)arg;
    close_end(0);
    close_end(1);
}

TEST(a_child_that_closes_its_copies_closes_nobody_elses)
{
    struct sst_arena *const arena = open_pipe(true);

    test_join(test_fork(close_and_exit, NULL));
    send_number(0, 1);
    check_int(recv_number(1), ==, 1);
    close_pipe(arena);
}

static void
hold_reader(void *arg)
{
    (void)arg;
    close_end(1);
    word_set(GO, 1);
    linger();
}

TEST(a_killed_reader_is_noticed_before_the_pipe_is_full)
{
    struct sst_arena *const arena = open_pipe(false);
    pid_t reader = test_fork(hold_reader, NULL);
    int64_t number = 0;
    int sent = 0;

    close_end(0);
    eventually(word(GO) == 1);
    test_kill(reader);
    while (sst_pipe_send(pipes[1], &number, sizeof number, SST_FOREVER) == 0) {
        sent++;
        check_int(sent, <, 200);
    }
    check_status(sst_pipe_send(pipes[1], &number, sizeof number, SST_FOREVER),
                 SST_EPIPE);
    close_pipe(arena);
}

TEST(a_swept_reader_is_gone_at_once)
{
    struct sst_arena *const arena = open_pipe(false);
    pid_t reader = test_fork(hold_reader, NULL);

    close_end(0);
    eventually(word(GO) == 1);
    test_kill(reader);
    (void)sst_arena_sweep(arena);
    check_status(sst_pipe_send(pipes[1], "x", 1, SST_FOREVER), SST_EPIPE);
    close_pipe(arena);
}

static void
fill_and_tell(void *arg)
{
    static const uint8_t data[4096];
    int rc;

    (void)arg;
    close_end(0);
    while ((rc = sst_pipe_send(pipes[1], data, sizeof data, SST_NOW)) == 0) {
    }
    check_status(rc, SST_ETIMEDOUT);
    word_set(GO, 1);
    rc = sst_pipe_send(pipes[1], data, sizeof data, SST_FOREVER);
    word_set(TIME, test_now_ns());
    word_set(RESULT, rc - 1);
}

TEST(a_sleeping_sender_is_woken_by_room)
{
    struct sst_arena *const arena = open_pipe(false);
    struct sst_message message;
    pid_t sender = test_fork(fill_and_tell, NULL);

    eventually(word(GO) == 1 && test_is_asleep(sender));
    check_int(word(RESULT), ==, 0);
    check_status(sst_pipe_recv(pipes[0], &message, SST_NOW), 0);
    sst_message_free(&message);
    test_join(sender);
    check_int(word(RESULT), ==, -1);
    close_pipe(arena);
}

static void
a_reader_dies(bool duplex)
{
    struct sst_arena *const arena = open_pipe(duplex);
    pid_t reader = test_fork(hold_reader, NULL);
    pid_t sender;
    int64_t start;

    eventually(word(GO) == 1);
    word_set(GO, 0);
    sender = test_fork(fill_and_tell, NULL);
    close_end(0);
    eventually(word(GO) == 1 && test_is_asleep(sender));
    start = test_now_ns();
    test_kill(reader);
    test_join(sender);
    check_int(word(RESULT), ==, SST_EPIPE - 1);
    check_int(word(TIME) - start, <, DEATH_SHOWS_NS * test_slowness());
    close_pipe(arena);
}

TEST(a_sleeping_sender_learns_that_its_reader_died)
{
    a_reader_dies(false);
}

TEST(a_sleeping_sender_of_a_duplex_pipe_learns_it_too)
{
    a_reader_dies(true);
}

/* The descriptor of an end travels, here over a socket as a program would send it. */
static int
pass(int through, int fd)
{
    char control[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec part = {.iov_base = "x", .iov_len = 1};
    struct msghdr message = {
        .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = control,
        .msg_controllen = sizeof control,
    };
    struct cmsghdr *const head = CMSG_FIRSTHDR(&message);

    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(head), &fd, sizeof fd);
    return (int)sendmsg(through, &message, 0);
}

static int
receive(int through)
{
    int fd = -1;
    char control[CMSG_SPACE(sizeof fd)];
    char byte;
    struct iovec part = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {
        .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = control,
        .msg_controllen = sizeof control,
    };

    check_int(recvmsg(through, &message, 0), ==, 1);
    check_ptr(CMSG_FIRSTHDR(&message), !=, NULL);
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    return fd;
}

struct gift {
    struct sst_arena *arena;
    struct sst_handle handle;
    int socket;
};

static void
attach_and_answer(void *arg)
{
    const struct gift *const gift = arg;
    struct sst_handle handle;
    struct sst_message message;
    struct sst_pipe *pipe;

    check_int(read(gift->socket, &handle, sizeof handle), ==, sizeof handle);
    check_ok(
        sst_pipe_attach(gift->arena, &handle, 1, receive(gift->socket), &pipe, NULL));
    check_status(sst_pipe_recv(pipe, &message, soon()), 0);
    check_status(sst_pipe_send(pipe, message.data, message.size, soon()), 0);
    sst_message_free(&message);
    check_status(sst_pipe_recv(pipe, &message, soon()), SST_EOF);
    check_ptr(sst_pipe_close(pipe), ==, NULL);
}

TEST(an_end_made_after_the_fork_can_be_handed_on)
{
    struct sst_arena *const arena = arena_open();
    struct gift gift = {.arena = arena};
    struct sst_handle handle;
    pid_t child;
    int sockets[2];
    int end;

    check_int(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), ==, 0);
    gift.socket = sockets[1];
    child = test_fork(attach_and_answer, &gift);
    check_ok(sst_pipe_create(arena, true, &pipes[0], &pipes[1], NULL));
    sst_pipe_handle(pipes[1], &handle, &end);
    check_int(end, ==, 1);
    check_int(write(sockets[0], &handle, sizeof handle), ==, sizeof handle);
    check_int(pass(sockets[0], sst_pipe_socket(pipes[1])), ==, 1);
    send_number(0, 11);
    check_int(recv_number(0), ==, 11);
    close_pipe(arena);
    test_join(child);
    (void)close(sockets[0]);
    (void)close(sockets[1]);
}

/* ---- Deaths at random ---- */

static void
send_for_ever(void *arg)
{
    static uint8_t data[9000];
    uint32_t seed = (uint32_t)getpid();

    (void)arg;
    for (;;) {
        const uint64_t size = rand_r(&seed) % 8 == 0 ? 9000 : 100;

        check_status(sst_pipe_send(pipes[1], data, size, SST_FOREVER), 0);
        word_add(SENT, 1);
    }
}

static void
recv_for_ever(void *arg)
{
    struct sst_message message;

    (void)arg;
    for (;;) {
        check_status(sst_pipe_recv(pipes[0], &message, SST_FOREVER), 0);
        sst_message_free(&message);
        word_add(TAKEN, 1);
    }
}

TEST(random_kills_stop_nobody)
{
    struct sst_arena *const arena = open_pipe(true);
    pid_t workers[4];
    uint32_t seed = 9;

    for (int i = 0; i < 4; i++) {
        workers[i] = test_fork(i < 2 ? send_for_ever : recv_for_ever, NULL);
    }
    for (int i = 0; i < 200; i++) {
        const int victim = rand_r(&seed) % 4;
        const int64_t before = word(TAKEN);

        for (volatile int spin = rand_r(&seed) % 100000; spin > 0; spin--) {
        }
        test_kill(workers[victim]);
        if (i % 10 == 0) {
            (void)sst_arena_sweep(arena);
        }
        eventually(word(TAKEN) > before + 10);
        workers[victim] = test_fork(victim < 2 ? send_for_ever : recv_for_ever, NULL);
    }
    for (int i = 0; i < 4; i++) {
        test_kill(workers[i]);
    }
    check_int(word(TAKEN), <=, word(SENT) + 200);
    close_pipe(arena);
}
