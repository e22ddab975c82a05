/* SPDX-License-Identifier: MIT */

/* Servers: messages, limits, deadlines, those who are slow, dead or hostile, and many.
 * Names that begin with "threads" start no process. */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/alloc.h"
#include "os/os.h"
#include "peers.h"

static struct sst_server *server;
static int listener;
static struct sockaddr_un address;
static socklen_t address_size;

static const int64_t SHORT_NS = 30000000;

/* ---- What the tests are made of ---- */

static int
listen_anywhere(int backlog)
{
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sa_family_t family = AF_UNIX;

    check_int(fd, >=, 0);
    address.sun_family = family;
    check_int(bind(fd, (struct sockaddr *)&address, sizeof(family)), ==, 0);
    address_size = sizeof(address);
    check_int(getsockname(fd, (struct sockaddr *)&address, &address_size), ==, 0);
    check_int(listen(fd, backlog), ==, 0);
    return fd;
}

static void
open_server(struct sst_server_options options)
{
    options.size_of = sizeof(options);
    check_ok(sst_server_open(&options, &server, NULL));
    listener = listen_anywhere(4096);
    check_ok(sst_server_listen(server, listener));
}

static void
close_server(void)
{
    server = sst_server_close(server);
    check_int(ssti_alloc_live(), ==, 0);
}

static int
dial(void)
{
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    check_int(fd, >=, 0);
    check_int(connect(fd, (struct sockaddr *)&address, address_size), ==, 0);
    return fd;
}

static struct sst_server_event
take(enum sst_server_what what)
{
    struct sst_server_event event;

    check_status(sst_server_take(server, &event, soon()), 0);
    if (event.what != what) {
        test_fail(__FILE__, __LINE__, "event %d (%s), not %d", (int)event.what,
                  test_status_name(event.status), (int)what);
    }
    return event;
}

static void
take_nothing(void)
{
    struct sst_server_event event;

    check_status(sst_server_take(server, &event, SST_NOW), SST_ETIMEDOUT);
}

static uint64_t
let_in(int *fd)
{
    struct sst_server_event event;

    *fd = dial();
    event = take(SST_SERVER_OPENED);
    check_ok(sst_server_greet(server, event.connection));
    return event.connection;
}

static void
write_all(int fd, const void *data, size_t size)
{
    check_int(send(fd, data, size, MSG_NOSIGNAL), ==, (ssize_t)size);
}

static void
say(int fd, const char *text)
{
    struct sst_stream_progress progress = {0};

    check_ok(sst_stream_send(fd, &progress, text, strlen(text), soon()));
}

static void
expect_text(int fd, const char *text)
{
    struct sst_stream_progress progress = {0};
    char data[100] = {0};

    check_status(sst_stream_recv_size(fd, &progress, soon()), 0);
    check_int(progress.size, ==, strlen(text));
    check_status(sst_stream_recv(fd, &progress, data, soon()), 0);
    check_str(data, text);
}

static void
expect_end(int fd)
{
    char byte;
    const ssize_t rc = recv(fd, &byte, 1, 0);

    check(rc == 0 || (rc < 0 && errno == ECONNRESET));
    (void)close(fd);
}

static void
take_text(uint64_t connection, const char *text)
{
    const struct sst_server_event event = take(SST_SERVER_MESSAGE);

    check_int(event.connection, ==, connection);
    check_int(event.size, ==, strlen(text));
    check_mem(event.data, text, event.size);
    sst_server_free(event.data);
}

static void
take_end(uint64_t connection, int status)
{
    const struct sst_server_event event = take(SST_SERVER_ENDED);

    check_int(event.connection, ==, connection);
    check_status(event.status, status);
}

/* ---- Messages ---- */

TEST(threads_a_message_and_its_answer)
{
    struct sst_server_event event;
    int fd;

    open_server((struct sst_server_options){0});
    fd = dial();
    event = take(SST_SERVER_OPENED);
    check(event.peer_is_known);
    check_int(event.peer_pid, ==, getpid());
    check_int(event.peer_uid, ==, getuid());
    check_ok(sst_server_greet(server, event.connection));
    say(fd, "hello");
    take_text(event.connection, "hello");
    check_status(sst_server_send(server, event.connection, "world", 5), 0);
    expect_text(fd, "world");
    check_status(sst_server_send(server, event.connection, NULL, 0), 0);
    expect_text(fd, "");
    say(fd, "");
    take_text(event.connection, "");
    (void)close(fd);
    take_end(event.connection, SST_EPIPE); /* it was owed an answer */
    check_status(sst_server_send(server, event.connection, "x", 1), SST_ESTALE);
    check_status(sst_server_greet(server, event.connection), SST_ESTALE);
    check_status(sst_server_finish(server, event.connection), SST_ESTALE);
    check_status(sst_server_end(server, event.connection), SST_ESTALE);
    check_status(sst_server_release(server, event.connection), SST_ESTALE);
    close_server();
}

TEST(threads_messages_are_answered_one_at_a_time)
{
    struct sst_server_statistics statistics;
    uint64_t connection;
    int fd;

    open_server((struct sst_server_options){0});
    connection = let_in(&fd);
    say(fd, "one");
    say(fd, "two");
    say(fd, "three");
    take_text(connection, "one");
    take_nothing();
    sst_server_statistics(server, &statistics);
    check_int(statistics.at_work, ==, 1);
    check_status(sst_server_send(server, connection, "1", 1), 0);
    take_text(connection, "two");
    take_nothing();
    check_ok(sst_server_greet(server, connection)); /* wants no answer */
    take_text(connection, "three");
    check_status(sst_server_send(server, connection, "3", 1), 0);
    expect_text(fd, "1");
    expect_text(fd, "3");
    (void)close(fd);
    take_end(connection, SST_EOF);
    close_server();
}

TEST(threads_one_byte_at_a_time)
{
    uint64_t connection;
    int fd;

    open_server((struct sst_server_options){0});
    connection = let_in(&fd);
    for (int i = 0; i < 3; i++) {
        write_all(fd, "\0\0\0\3abc" + i, 1);
        take_nothing();
    }
    write_all(fd, "\3", 1);
    take_nothing();
    write_all(fd, "ab", 2);
    take_nothing();
    write_all(fd, "c", 1);
    take_text(connection, "abc");
    (void)close(fd);
    take_end(connection, SST_EPIPE);
    close_server();
}

TEST(threads_a_message_that_is_cut_off)
{
    uint64_t connection;
    int fd;

    open_server((struct sst_server_options){0});
    connection = let_in(&fd);
    write_all(fd, "\0\0\0\3ab", 6);
    (void)close(fd);
    take_end(connection, SST_EPIPE);
    connection = let_in(&fd);
    write_all(fd, "\0\0", 2);
    (void)close(fd);
    take_end(connection, SST_EPIPE);
    close_server();
}

TEST(threads_messages_that_are_too_long)
{
    struct sst_server_event event;
    uint64_t connection;
    int fd;

    open_server((struct sst_server_options){.message_size_max = 1000});
    fd = dial();
    event = take(SST_SERVER_OPENED);
    write_all(fd, "\0\0\1\1", 4); /* one more than a half open one may send */
    take_end(event.connection, SST_EMSGSIZE);
    expect_end(fd);
    connection = let_in(&fd);
    write_all(fd, "\0\0\3\xe9", 4);
    take_end(connection, SST_EMSGSIZE);
    expect_end(fd);
    connection = let_in(&fd);
    write_all(fd, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 12);
    take_end(connection, SST_EMSGSIZE);
    expect_end(fd);
    connection = let_in(&fd);
    write_all(fd, "\x80\0\0\0", 4);
    take_end(connection, SST_EMSGSIZE);
    expect_end(fd);
    close_server();
}

TEST(threads_no_memory_ends_one_connection)
{
    uint64_t connection;
    uint64_t other;
    int fd;
    int other_fd;

    open_server((struct sst_server_options){0});
    other = let_in(&other_fd);
    connection = let_in(&fd);
    write_all(fd, "\0\0\0\3", 4);
    ssti_alloc_fail(1, 0);
    take_end(connection, SST_ENOMEM);
    expect_end(fd);

    fd = dial();
    ssti_alloc_fail(1, 0);
    take_nothing();
    expect_end(fd); /* accepted, and closed at once */
    say(other_fd, "still here");
    take_text(other, "still here");
    (void)close(other_fd);
    take_end(other, SST_EPIPE);
    close_server();
}

/* ---- Those who do not read ---- */

enum {
    LARGE = 8 << 20
};

TEST(threads_who_does_not_read_is_not_read)
{
    struct sst_server_statistics statistics;
    struct sst_server_event event;
    struct sst_stream_progress progress = {0};
    uint8_t *const data = malloc(LARGE);
    uint64_t connection;
    uint64_t other;
    int fd;
    int other_fd;

    open_server((struct sst_server_options){0});
    connection = let_in(&fd);
    other = let_in(&other_fd);
    say(fd, "want much");
    say(fd, "want more");
    take_text(connection, "want much");
    bytes_fill(data, LARGE);
    check_status(sst_server_send(server, connection, data, LARGE), 1);
    memset(data, 0, LARGE);
    take_nothing();
    say(other_fd, "hello");
    take_text(other, "hello"); /* it hurts nobody else */
    sst_server_statistics(server, &statistics);
    check_int(statistics.moving, ==, 1);

    check_status(sst_stream_recv_size(fd, &progress, soon()), 0);
    check_int(progress.size, ==, LARGE);
    while (progress.done < progress.size + progress.header_size) {
        const ssize_t got = recv(fd, data + (progress.done - progress.header_size),
                                 LARGE, MSG_DONTWAIT);
        if (got > 0) {
            progress.done += (uint64_t)got;
        }
        if (sst_server_take(server, &event, SST_NOW) == 0) {
            break; /* the next message: it has all */
        }
    }
    if (progress.done < progress.size + progress.header_size) {
        check_status(sst_stream_recv(fd, &progress, data, soon()), 0);
    }
    else {
        event = take(SST_SERVER_MESSAGE);
    }
    bytes_check(data, LARGE);
    check_int(event.connection, ==, connection);
    check_mem(event.data, "want more", 9);
    sst_server_free(event.data);
    free(data);
    (void)close(fd);
    take_end(connection, SST_EPIPE);
    (void)close(other_fd);
    take_end(other, SST_EPIPE);
    close_server();
}

TEST(threads_what_nobody_got_is_told)
{
    uint8_t *const data = calloc(1, LARGE);
    struct sst_server_event event;
    uint64_t connection;
    int fd;

    open_server((struct sst_server_options){0});
    for (int much = 0; much < 2; much++) {
        connection = let_in(&fd);
        say(fd, "want it");
        take_text(connection, "want it");
        check_status(sst_server_send(server, connection, data, much ? LARGE : 5), much);
        (void)close(fd);
        event = take(SST_SERVER_ENDED);
        check_status(event.status, much ? SST_EPIPE : -ECONNRESET);
        check_int(event.size, >, 0);
        check_int(event.size, <, much ? LARGE : 2);
    }
    free(data);
    close_server();
}

TEST(threads_an_answer_that_stalls)
{
    uint8_t *const data = calloc(1, LARGE);
    uint64_t connection;
    int fd;

    open_server((struct sst_server_options){.stall_ns = SHORT_NS});
    connection = let_in(&fd);
    say(fd, "want much");
    take_text(connection, "want much");
    check_status(sst_server_send(server, connection, data, LARGE), 1);
    take_end(connection, SST_ETIMEDOUT);
    free(data);
    (void)close(fd);
    close_server();
}

TEST(threads_a_farewell_goes_out_before_the_end)
{
    uint8_t *const data = malloc(LARGE);
    struct sst_stream_progress progress = {0};
    struct sst_server_event event;
    uint64_t connection;
    bool has_ended = false;
    int fd;
    int rc = SST_ETIMEDOUT;

    open_server((struct sst_server_options){0});
    connection = let_in(&fd);
    bytes_fill(data, LARGE);
    check_status(sst_server_send(server, connection, data, LARGE), 1);
    memset(data, 0, LARGE);
    check_ok(sst_server_finish(server, connection));
    check_status(sst_server_send(server, connection, "more", 4), SST_ESTALE);
    check_status(sst_stream_recv_size(fd, &progress, soon()), 0);
    while (rc == SST_ETIMEDOUT) {
        rc = sst_stream_recv(fd, &progress, data, SST_NOW);
        if (!has_ended && sst_server_take(server, &event, SST_NOW) == 0) {
            check_int(event.what, ==, SST_SERVER_ENDED);
            check_status(event.status, SST_ECLOSED);
            has_ended = true;
        }
    }
    check_status(rc, 0);
    bytes_check(data, LARGE);
    if (!has_ended) {
        take_end(connection, SST_ECLOSED);
    }
    expect_end(fd);
    free(data);
    close_server();
}

/* ---- Those who say nothing ---- */

TEST(threads_half_open_ones_have_a_deadline)
{
    struct sst_server_event event;
    int fd;

    open_server((struct sst_server_options){.greeting_ns = SHORT_NS});
    fd = dial();
    event = take(SST_SERVER_OPENED);
    write_all(fd, "\0\0\0\3a", 5); /* that some of it has come does not move it */
    take_end(event.connection, SST_ETIMEDOUT);
    expect_end(fd);
    close_server();
}

TEST(threads_the_oldest_half_open_one_gives_way)
{
    struct sst_server_statistics statistics;
    uint64_t connections[4];
    int fds[4];

    open_server((struct sst_server_options){.half_open_max = 3});
    for (int i = 0; i < 4; i++) {
        fds[i] = dial();
        connections[i] = take(SST_SERVER_OPENED).connection;
    }
    take_end(connections[0], SST_ELIMIT);
    expect_end(fds[0]);
    sst_server_statistics(server, &statistics);
    check_int(statistics.half_open, ==, 3);
    check_int(statistics.displaced, ==, 1);
    check_int(statistics.connections, ==, 3);
    for (int i = 1; i < 4; i++) {
        (void)close(fds[i]);
        take_end(connections[i], SST_EOF);
    }
    close_server();
}

TEST(threads_a_message_that_stalls_and_one_who_is_quiet)
{
    uint64_t connection;
    int fd;

    open_server((struct sst_server_options){.stall_ns = SHORT_NS});
    connection = let_in(&fd);
    write_all(fd, "\0\0\0\3a", 5);
    take_end(connection, SST_ETIMEDOUT);
    expect_end(fd);
    close_server();

    open_server((struct sst_server_options){.idle_ns = SHORT_NS});
    connection = let_in(&fd);
    say(fd, "hello");
    take_text(connection, "hello");
    check_status(sst_server_send(server, connection, "", 0), 0);
    take_end(connection, SST_ETIMEDOUT);
    expect_text(fd, "");
    expect_end(fd);
    close_server();
}

/* ---- Limits ---- */

TEST(threads_one_connection_too_many)
{
    struct sst_server_statistics statistics;
    uint64_t connections[2];
    int fds[2];
    int fd;

    open_server((struct sst_server_options){.connections_max = 2});
    connections[0] = let_in(&fds[0]);
    connections[1] = let_in(&fds[1]);
    fd = dial();
    take_nothing();
    expect_end(fd);
    sst_server_statistics(server, &statistics);
    check_int(statistics.refused, ==, 1);
    (void)close(fds[0]);
    take_end(connections[0], SST_EOF);
    connections[0] = let_in(&fds[0]);
    check_status(sst_server_end(server, connections[0]), 0);
    take_end(connections[0], SST_ECLOSED);
    expect_end(fds[0]);
    check_status(sst_server_end(server, connections[1]), 0);
    take_end(connections[1], SST_ECLOSED);
    expect_end(fds[1]);
    close_server();
}

static void
connect_it(int fd)
{
    check_int(connect(fd, (struct sockaddr *)&address, address_size), ==, 0);
}

TEST(threads_descriptors_run_out)
{
    struct sst_server_statistics statistics;
    struct sst_server_event event;
    uint64_t greeted[2];
    uint64_t half_open;
    int fds[4];
    int spare;

    open_server((struct sst_server_options){0});
    for (int i = 0; i < 4; i++) {
        fds[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        check_int(fds[i], >=, 0);
    }
    leave_descriptors(2);
    connect_it(fds[0]);
    greeted[0] = take(SST_SERVER_OPENED).connection;
    check_ok(sst_server_greet(server, greeted[0]));
    connect_it(fds[1]);
    half_open = take(SST_SERVER_OPENED).connection;
    connect_it(fds[2]); /* nothing is left for it: the one who said nothing goes */
    take_end(half_open, SST_ELIMIT);
    expect_end(fds[1]);
    greeted[1] = take(SST_SERVER_OPENED).connection;
    check_ok(sst_server_greet(server, greeted[1]));

    spare = dup(0); /* the place of fds[1] */
    check_int(spare, >=, 0);
    connect_it(fds[3]); /* nobody can go: it waits in the backlog */
    check_status(sst_server_take(server, &event, in_ms(20)), SST_ETIMEDOUT);
    say(fds[0], "hello"); /* and the others do not notice */
    take_text(greeted[0], "hello");
    sst_server_statistics(server, &statistics);
    check_int(statistics.connections, ==, 2);
    check_status(sst_server_end(server, greeted[1]), 0);
    take_end(greeted[1], SST_ECLOSED);
    half_open = take(SST_SERVER_OPENED).connection;
    say(fds[3], "hi");
    take_text(half_open, "hi");
    (void)close(fds[0]);
    take_end(greeted[0], SST_EPIPE);
    (void)close(fds[2]);
    (void)close(fds[3]);
    take_end(half_open, SST_EPIPE);
    (void)close(spare);
    close_server();
}

enum {
    MANY = 4000
};

TEST(threads_thousands_of_connections)
{
    struct rlimit limit;
    struct sst_server_statistics statistics;
    int *const fds = calloc(MANY, sizeof(*fds));
    uint64_t *const connections = calloc(MANY, sizeof(*connections));

    check_int(getrlimit(RLIMIT_NOFILE, &limit), ==, 0);
    if (limit.rlim_max < 2 * MANY + 100) {
        free(fds);
        free(connections);
        test_skip("not as many descriptors");
    }
    limit.rlim_cur = limit.rlim_max;
    check_int(setrlimit(RLIMIT_NOFILE, &limit), ==, 0);
    open_server((struct sst_server_options){0});
    for (int i = 0; i < MANY; i++) {
        connections[i] = let_in(&fds[i]);
    }
    sst_server_statistics(server, &statistics);
    check_int(statistics.connections, ==, MANY);
    check_int(statistics.half_open, ==, 0);
    for (int i = MANY - 1; i >= 0; i -= 100) {
        say(fds[i], "one of many");
        take_text(connections[i], "one of many");
        check_status(sst_server_send(server, connections[i], "yes", 3), 0);
        expect_text(fds[i], "yes");
    }
    for (int i = 0; i < MANY; i++) {
        (void)close(fds[i]);
    }
    for (int i = 0; i < MANY; i++) {
        check_status(take(SST_SERVER_ENDED).status, SST_EOF);
    }
    sst_server_statistics(server, &statistics);
    check_int(statistics.connections, ==, 0);
    check_int(statistics.messages, ==, MANY / 100);
    free(fds);
    free(connections);
    close_server();
}

/* ---- Other threads ---- */

TEST(threads_a_connection_from_elsewhere_goes_there_again)
{
    uint64_t connection = 0;
    int pair[2];
    int fd;

    open_server((struct sst_server_options){0});
    check_ok(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
    check_ok(sst_server_add(server, pair[0], true, &connection));
    say(pair[1], "first");
    say(pair[1], "second");
    take_text(connection, "first");
    fd = sst_server_release(server, connection);
    check_int(fd, ==, pair[0]);
    expect_text(fd, "second"); /* nothing of it was read */
    take_nothing();
    check_status(sst_server_send(server, connection, "x", 1), SST_ESTALE);
    (void)close(fd);
    (void)close(pair[1]);
    close_server();
}

struct answerer {
    uint64_t connection;
    int count;
};

static void *
answer(void *context)
{
    const struct answerer *const who = context;

    check_status(sst_server_send(server, who->connection, "done", 4), 0);
    return NULL;
}

TEST(threads_others_answer_while_one_takes)
{
    struct answerer who = {0};
    pthread_t thread;
    uint64_t connection;
    int fd;

    open_server((struct sst_server_options){0});
    connection = let_in(&fd);
    who.connection = connection;
    for (int i = 0; i < 100; i++) {
        say(fd, "work");
        say(fd, "next"); /* reading was given up when the answer comes */
        take_text(connection, "work");
        check_int(pthread_create(&thread, NULL, answer, &who), ==, 0);
        take_text(connection, "next");
        check_int(pthread_join(thread, NULL), ==, 0);
        check_status(sst_server_send(server, connection, "and", 3), 0);
        expect_text(fd, "done");
        expect_text(fd, "and");
    }
    (void)close(fd);
    take_end(connection, SST_EOF);
    close_server();
}

static void *
end_it(void *context)
{
    const struct answerer *const who = context;

    check_status(sst_server_end(server, who->connection), 0);
    sst_server_wake(server);
    return NULL;
}

TEST(threads_the_taker_is_woken)
{
    struct answerer who = {0};
    pthread_t thread;
    int fd;

    open_server((struct sst_server_options){0});
    who.connection = let_in(&fd);
    check_int(pthread_create(&thread, NULL, end_it, &who), ==, 0);
    take_end(who.connection, SST_ECLOSED);
    (void)take(SST_SERVER_WOKEN);
    check_int(pthread_join(thread, NULL), ==, 0);
    take_nothing();
    expect_end(fd);
    close_server();
}

static void *
take_one(void *context)
{
    struct sst_server_event event;
    int rc;

    (void)context;
    do { /* the other thread may be looking whether we take */
        rc = sst_server_take(server, &event, soon());
    } while (rc == SST_EAGAIN);
    check_status(rc, 0);
    check_int(event.what, ==, SST_SERVER_WOKEN);
    return NULL;
}

TEST(threads_one_at_a_time_takes)
{
    struct sst_server_event event;
    pthread_t thread;

    open_server((struct sst_server_options){0});
    check_int(pthread_create(&thread, NULL, take_one, NULL), ==, 0);
    eventually(sst_server_take(server, &event, SST_NOW) == SST_EAGAIN);
    sst_server_wake(server);
    check_int(pthread_join(thread, NULL), ==, 0);
    close_server();
}

/* ---- Forks ---- */

static void
live_on(void *arg)
{
    struct sst_server_event event;
    const uint64_t connection = *(uint64_t *)arg;

    check_status(sst_server_take(server, &event, SST_NOW), SST_ESTALE);
    check_status(sst_server_send(server, connection, "x", 1), SST_ESTALE);
    check_ptr(sst_server_close(server), ==, NULL);
    linger();
}

TEST(a_child_keeps_no_client_waiting)
{
    uint64_t connection;
    pid_t pid;
    int fd;

    open_server((struct sst_server_options){0});
    connection = let_in(&fd);
    (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    pid = test_fork(live_on, &connection);
    say(fd, "hello");
    take_text(connection, "hello");
    check_status(sst_server_end(server, connection), 0);
    take_end(connection, SST_ECLOSED);
    expect_end(fd); /* though the child lives */
    test_kill(pid);
    close_server();
}
