/* SPDX-License-Identifier: MIT */

/* Encrypted connections (binding/tls_*.c): whatever a stranger sends to a listener, and
 * whatever the two ends of a connection do.
 *
 *   'r' bytes      a stranger sends the bytes and hangs up
 *   's' steps      two ends, a byte each step: who (bit 0), what (bits 1 to 3), how
 *                  much (bits 4 to 7)
 *
 * What one end has written the other reads, unless a step put bytes of its own between.
 * After each input a good client gets in. */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fuzz.h"
#include "tls.h"
#include "tls_relay.h"
#include "transport.h"

enum {
    TIMEOUT_MS = 20000,
    STEPS_MAX = 60,
    FORKS_MAX = 4,          /* of an input: with a sanitizer one may take 0.2 s */
    UNREAD_MAX = 48 * 1024, /* what fits on the way, so that no end waits for itself */
};

enum step {
    STEP_WRITE,
    STEP_WRITE_MORE,
    STEP_READ,
    STEP_POLL,
    STEP_MAKE_PLAIN,
    STEP_INJECT,
    STEP_FORK,
    STEP_PRIVATE,
};

static const char key[] = "a key of thirty-two bytes at the least";
static SSL_CTX *client_context;
static struct sockaddr_in address;
static int arrivals = -1;

struct end {
    struct sstpy_transport *transport;
    int fd;
    uint64_t written;
    uint64_t read;
};

struct pair {
    struct end ends[2];
    uint32_t forks;
    bool is_broken; /* bytes were put in between: errors are right */
};

static SSL_CTX *
context_new(bool server)
{
    SSL_CTX *const context =
        sstpy_tls_context_with_key(server, key, sizeof key - 1, "fuzz", 4);

    fuzz_expect(context != NULL);
    return context;
}

/* The fuzzer's clock is a signal, which is not to fail what it interrupts. */
static void
restart_calls(void)
{
    struct sigaction action;

    fuzz_expect(sigaction(SIGALRM, NULL, &action) == 0);
    action.sa_flags |= SA_RESTART;
    fuzz_expect(sigaction(SIGALRM, &action, NULL) == 0);
}

static void
set_up(void)
{
    socklen_t size = sizeof address;
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    restart_calls();
    fuzz_expect(sstpy_tls_setup() == 0);
    client_context = context_new(false);
    SSL_CTX *const server_context = context_new(true);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    fuzz_expect(bind(fd, (struct sockaddr *)&address, size) == 0);
    fuzz_expect(listen(fd, 64) == 0);
    fuzz_expect(getsockname(fd, (struct sockaddr *)&address, &size) == 0);
    arrivals = sstpy_tls_listen(fd, server_context, TIMEOUT_MS, 16);
    fuzz_expect(arrivals >= 0);
    SSL_CTX_free(server_context);
}

static int
dial(void)
{
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    fuzz_expect(fd >= 0);
    fuzz_expect(connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
    return fd;
}

/* The next that has shown the key; those that have not are skipped. */
static struct end
arrive(void)
{
    struct sstpy_tls_arrival arrival;

    do {
        fuzz_expect(recv(arrivals, &arrival, sizeof arrival, 0) ==
                    (ssize_t)sizeof arrival);
    } while (arrival.fd < 0);

    struct end end = {.transport = sstpy_tls_take(arrival.fd), .fd = arrival.fd};
    fuzz_expect(end.transport != NULL);
    return end;
}

static void
connect_pair(struct pair *pair)
{
    char why[SSTPY_TLS_WHY_SIZE];
    struct end *const client = &pair->ends[0];

    memset(pair, 0, sizeof *pair);
    client->fd = dial();
    fuzz_expect(sstpy_tls_connect(client->fd, client_context, TIMEOUT_MS,
                                  &client->transport, why, sizeof why) == SSTPY_TLS_OK);
    pair->ends[1] = arrive();
}

static void
close_end(struct end *end)
{
    if (!end->transport->close(end->transport)) {
        (void)close(end->fd);
    }
}

/* ---- Steps ---- */

static uint8_t
byte_at(uint64_t position)
{
    return (uint8_t)(position * 131 + (position >> 8));
}

static void
write_some(struct pair *pair, uint32_t who, uint64_t size)
{
    static uint8_t data[UNREAD_MAX];
    struct end *const end = &pair->ends[who];
    const struct end *const other = &pair->ends[1 - who];
    const struct sst_stream_io *const io = &end->transport->io;

    if (pair->is_broken || end->written - other->read + size > UNREAD_MAX) {
        return;
    }
    for (uint64_t i = 0; i < size; i++) {
        data[i] = byte_at(end->written + i);
    }
    for (uint64_t done = 0; done < size;) {
        const int64_t moved =
            io->write(io->context, data + done, size - done, SST_FOREVER);
        if (moved == SST_EINTR) {
            continue;
        }
        fuzz_expect(moved > 0 && moved <= (int64_t)(size - done));
        done += (uint64_t)moved;
    }
    end->written += size;
}

static void
read_all(struct pair *pair, uint32_t who)
{
    uint8_t data[5000];
    struct end *const end = &pair->ends[who];
    const struct sst_stream_io *const io = &end->transport->io;
    const uint64_t written = pair->ends[1 - who].written;

    while (end->read < written) {
        const int64_t moved = io->read(io->context, data, sizeof data, SST_FOREVER);
        if (moved == SST_EINTR) {
            continue;
        }
        if (moved <= 0) {
            fuzz_expect(pair->is_broken);
            end->read = written;
            return;
        }
        for (int64_t i = 0; i < moved; i++) {
            fuzz_expect(data[i] == byte_at(end->read + (uint64_t)i));
        }
        end->read += (uint64_t)moved;
    }
    if (!pair->is_broken) {
        fuzz_expect(io->read(io->context, data, 1, SST_NOW) == SST_ETIMEDOUT);
    }
}

/* Bytes of nobody's, into the socket that is under an end: what its peer has not read
 * may be lost, and nothing else may come of it. */
static void
inject(struct pair *pair, uint32_t who, uint32_t size)
{
    static const char bytes[] = "\x17\x03\x03\x00\x05hello, what is this?";
    const struct end *const end = &pair->ends[who];

    if (pair->is_broken) {
        return;
    }
    if (sstpy_tls_is_direct(end->transport)) {
        pair->is_broken = true;
        (void)send(end->fd, bytes, size + 1, MSG_DONTWAIT | MSG_NOSIGNAL);
        (void)shutdown(end->fd, SHUT_WR);
    }
}

static void
fork_one(void)
{
    const pid_t pid = fork();

    fuzz_expect(pid >= 0);
    if (pid == 0) {
        _exit(0);
    }
    fuzz_expect(waitpid(pid, NULL, 0) == pid);
}

static void
take_step(struct pair *pair, uint8_t step)
{
    const uint32_t who = step & 1;
    const uint32_t amount = (uint32_t)(step >> 4) + 1;
    struct sstpy_transport *const transport = pair->ends[who].transport;

    switch ((enum step)(step >> 1 & 7)) {
    case STEP_WRITE:
        write_some(pair, who, amount);
        break;
    case STEP_WRITE_MORE:
        write_some(pair, who, (uint64_t)amount * 2500);
        break;
    case STEP_READ:
        read_all(pair, who);
        break;
    case STEP_POLL:
        if (pair->ends[1 - who].written > pair->ends[who].read) {
            int rc;

            do {
                rc = transport->poll(transport, SST_FOREVER);
            } while (rc == SST_EINTR);
            fuzz_expect(rc == 1);
        }
        break;
    case STEP_MAKE_PLAIN:
        fuzz_expect(transport->make_plain(transport) == 0);
        break;
    case STEP_INJECT:
        inject(pair, who, amount);
        break;
    case STEP_FORK:
        if (pair->forks++ < FORKS_MAX) {
            fork_one();
        }
        break;
    case STEP_PRIVATE:
        transport->keep_private(transport, SST_FOREVER);
        break;
    }
}

static void
act(const uint8_t *steps, size_t count)
{
    struct pair pair;

    connect_pair(&pair);
    for (size_t i = 0; i < count && i < STEPS_MAX; i++) {
        take_step(&pair, steps[i]);
    }
    if (!pair.is_broken) {
        read_all(&pair, 0);
        read_all(&pair, 1);
    }
    close_end(&pair.ends[count % 2]);
    close_end(&pair.ends[1 - count % 2]);
}

static void
intrude(const uint8_t *data, size_t size)
{
    char answer[512];
    const int fd = dial();

    (void)send(fd, data, size, MSG_NOSIGNAL);
    (void)shutdown(fd, SHUT_WR);
    while (recv(fd, answer, sizeof answer, 0) > 0) {
    }
    (void)close(fd);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct pair pair;

    if (arrivals < 0) {
        set_up();
    }
    if (size == 0) {
        return 0;
    }
    if (data[0] == 's') {
        act(data + 1, size - 1);
    }
    else {
        intrude(data + 1, size - 1);
    }

    connect_pair(&pair);
    write_some(&pair, 0, 100);
    read_all(&pair, 1);
    close_end(&pair.ends[0]);
    close_end(&pair.ends[1]);
    return 0;
}
