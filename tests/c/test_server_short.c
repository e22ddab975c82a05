/* SPDX-License-Identifier: MIT */

/* A server in a process that has no descriptors left: who waits for one does not wait
 * for ever, and those that are connected do not notice. */

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "os/os.h"
#include "peers.h"

enum {
    CLIENTS = 5,
    ROOM = 2,
};

static struct sst_server *server;
static struct sockaddr_un address = {.sun_family = AF_UNIX};
static socklen_t address_size = sizeof address;

static void
open_server(void)
{
    const struct sst_server_options options = {.size_of = sizeof options};
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    check_ok(sst_server_open(&options, &server, NULL));
    check_int(bind(fd, (struct sockaddr *)&address, sizeof address.sun_family), ==, 0);
    check_int(getsockname(fd, (struct sockaddr *)&address, &address_size), ==, 0);
    check_int(listen(fd, CLIENTS), ==, 0);
    check_ok(sst_server_listen(server, fd));
}

static uint64_t
greet(int fd)
{
    struct sst_server_event event;

    check_int(connect(fd, (struct sockaddr *)&address, address_size), ==, 0);
    check_ok(sst_server_take(server, &event, soon()));
    check_int(event.what, ==, SST_SERVER_OPENED);
    check_ok(sst_server_greet(server, event.connection));
    return event.connection;
}

static uint64_t
refused(void)
{
    struct sst_server_statistics statistics;

    sst_server_statistics(server, &statistics);
    return statistics.refused;
}

TEST(threads_who_waits_in_vain_is_turned_away)
{
    struct sst_server_event event;
    uint64_t greeted[ROOM];
    int fds[CLIENTS];
    char byte;

    open_server();
    for (int i = 0; i < CLIENTS; i++) {
        fds[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        check_int(fds[i], >=, 0);
    }
    leave_descriptors(ROOM);
    for (int i = 0; i < ROOM; i++) {
        greeted[i] = greet(fds[i]);
    }
    for (int i = ROOM; i < CLIENTS - 1; i++) {
        check_int(connect(fds[i], (struct sockaddr *)&address, address_size), ==, 0);
    }
    for (const int64_t end_ns = soon();
         refused() < CLIENTS - 1 - ROOM && ssti_os_now_ns() < end_ns;) {
        check_status(sst_server_take(server, &event, SST_NOW), SST_ETIMEDOUT);
        (void)usleep(1000);
    }
    for (int i = ROOM; i < CLIENTS - 1; i++) {
        check_int(recv(fds[i], &byte, 1, MSG_DONTWAIT), ==, 0);
    }
    check_int(send(fds[0], "\0\0\0\1x", 5, 0), ==, 5);
    check_ok(sst_server_take(server, &event, soon()));
    check_int(event.what, ==, SST_SERVER_MESSAGE);
    check_int(event.connection, ==, greeted[0]);
    sst_server_free(event.data);

    /* Once there is one again the next is let in. */
    check_ok(sst_server_end(server, greeted[1]));
    check_ok(sst_server_take(server, &event, soon()));
    check_int(event.what, ==, SST_SERVER_ENDED);
    (void)greet(fds[CLIENTS - 1]);
    server = sst_server_close(server);
    for (int i = 0; i < CLIENTS; i++) {
        (void)close(fds[i]);
    }
}
