/* SPDX-License-Identifier: MIT */

/* Messages over streams that bring functions of their own to move their bytes. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "os/os.h"
#include "ring/stream.h"
#include "runner.h"
#include "sidestep/sidestep.h"

enum {
    TAPE_SIZE = 1 << 20,
    LONG = 100000,
};

/* What was written and is to be read; in portions, and with interruptions. */
struct tape {
    uint8_t bytes[TAPE_SIZE];
    uint64_t written;
    uint64_t read;
    uint64_t portion;
    unsigned calls;
    unsigned writes;
    uint64_t first; /* size of what the first write brought */
};

static int64_t
move(struct tape *tape, uint64_t size, uint64_t left)
{
    const uint64_t most = size < tape->portion ? size : tape->portion;

    if (++tape->calls % 3 == 0) {
        return SST_EINTR;
    }
    return (int64_t)(most < left ? most : left);
}

static int64_t
tape_read(void *context, void *data, uint64_t size, int64_t deadline_ns)
{
    struct tape *const tape = context;
    const int64_t moved = move(tape, size, tape->written - tape->read);

    (void)deadline_ns;
    if (moved > 0) {
        memcpy(data, tape->bytes + tape->read, (size_t)moved);
        tape->read += (uint64_t)moved;
    }
    return moved;
}

static int64_t
tape_write(void *context, const void *data, uint64_t size, int64_t deadline_ns)
{
    struct tape *const tape = context;
    const int64_t moved = move(tape, size, TAPE_SIZE - tape->written);

    (void)deadline_ns;
    if (tape->writes == 0) {
        tape->first = size;
    }
    tape->writes++;
    if (moved > 0) {
        memcpy(tape->bytes + tape->written, data, (size_t)moved);
        tape->written += (uint64_t)moved;
    }
    return moved;
}

static void
send_all(const struct sst_stream_io *io, const void *data, uint64_t size)
{
    struct sst_stream_progress progress = {.io = io};
    int rc = SST_EINTR;

    while (rc == SST_EINTR) {
        rc = sst_stream_send(-1, &progress, data, size, SST_FOREVER);
    }
    check_int(rc, ==, 0);
}

static void
expect_message(const struct sst_stream_io *io, const void *data, uint64_t size)
{
    struct sst_stream_progress progress = {.io = io};
    uint8_t *const got = malloc(size + 1);
    int rc = SST_EINTR;

    while (rc == SST_EINTR) {
        rc = sst_stream_recv_size(-1, &progress, SST_FOREVER);
    }
    check_int(rc, ==, 0);
    check_int((int64_t)progress.size, ==, (int64_t)size);
    rc = SST_EINTR;
    while (rc == SST_EINTR) {
        rc = sst_stream_recv(-1, &progress, got, SST_FOREVER);
    }
    check_int(rc, ==, 0);
    check_int(memcmp(got, data, size), ==, 0);
    free(got);
}

static void
try_portions_of(uint64_t portion)
{
    static const uint64_t sizes[] = {0, 1, SSTI_STREAM_JOINED_MAX,
                                     SSTI_STREAM_JOINED_MAX + 1, LONG};
    struct tape *const tape = calloc(1, sizeof(*tape));
    uint8_t *const data = malloc(LONG);
    const struct sst_stream_io io = {tape_read, tape_write, tape};

    check(tape != NULL && data != NULL);
    tape->portion = portion;
    for (uint32_t i = 0; i < LONG; i++) {
        data[i] = (uint8_t)(i * 31);
    }
    for (uint32_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        send_all(&io, data, sizes[i]);
    }
    for (uint32_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        expect_message(&io, data, sizes[i]);
    }
    check_int((int64_t)tape->read, ==, (int64_t)tape->written);
    free(data);
    free(tape);
}

TEST(bytes_in_portions)
{
    try_portions_of(1000);
    try_portions_of(16384);
    try_portions_of(TAPE_SIZE);
}

TEST(bytes_one_at_a_time)
{
    try_portions_of(1);
}

TEST(the_header_comes_with_the_beginning)
{
    struct tape *const tape = calloc(1, sizeof(*tape));
    uint8_t *const data = calloc(1, LONG);
    const struct sst_stream_io io = {tape_read, tape_write, tape};

    check(tape != NULL && data != NULL);
    tape->portion = TAPE_SIZE;
    send_all(&io, data, LONG);
    check_int((int64_t)tape->first, >, SSTI_STREAM_HEADER_LONG);
    free(data);
    free(tape);
}

TEST(the_end_before_a_message_and_inside_one)
{
    struct tape *const tape = calloc(1, sizeof(*tape));
    const struct sst_stream_io io = {tape_read, tape_write, tape};
    struct sst_stream_progress progress = {.io = &io};

    check(tape != NULL);
    tape->portion = TAPE_SIZE;
    check_int(sst_stream_recv_size(-1, &progress, SST_FOREVER), ==, SST_EOF);
    tape->written = 2;
    tape->calls = 0;
    progress = (struct sst_stream_progress){.io = &io};
    check_int(sst_stream_recv_size(-1, &progress, SST_FOREVER), ==, SST_EPIPE);
    free(tape);
}

/* A peer whose messages come when so many looks have found nothing. */
struct peer {
    uint32_t looks_before; /* UINT32_MAX: only to who waits */
    uint32_t looks;
    uint32_t waits;
};

static int64_t
peer_read(void *context, void *data, uint64_t size, int64_t deadline_ns)
{
    struct peer *const peer = context;

    if (deadline_ns == SST_NOW && peer->looks++ < peer->looks_before) {
        return SST_ETIMEDOUT;
    }
    peer->waits += deadline_ns == SST_NOW ? 0 : 1;
    memset(data, 0, (size_t)size); /* an empty message */
    return (int64_t)size;
}

static void
receive_empty(struct peer *peer, struct sst_stream_look *look)
{
    const struct sst_stream_io io = {peer_read, tape_write, peer};
    struct sst_stream_progress progress = {.io = &io, .look = look};

    check_int(sst_stream_recv_size(-1, &progress, SST_FOREVER), ==, 0);
    check_int((int64_t)progress.size, ==, 0);
}

TEST(a_slow_peer_is_not_looked_for)
{
    struct peer peer = {.looks_before = UINT32_MAX};
    struct sst_stream_look look = {0};
    uint32_t looks;

    for (int i = 0; i < 16; i++) {
        receive_empty(&peer, &look);
    }
    looks = peer.looks;
    for (int i = 0; i < 15; i++) { /* until it is tried again */
        receive_empty(&peer, &look);
    }
    check_int((int64_t)peer.looks, ==, (int64_t)looks);
    check_int((int64_t)look.found, ==, 0);
    check_int((int64_t)peer.waits, ==, 31);
}

TEST(a_quick_peer_is_not_slept_for)
{
    struct sst_stream_look look = {0};

    for (int i = 0; i < 100; i++) {
        struct peer peer = {.looks_before = 2};
        receive_empty(&peer, &look);
    }
    /* But on one CPU, and unless this thread was off it all the time. */
    check_int((int64_t)look.found, <=, (int64_t)look.looks);
    if (ssti_os_cpu_affinity() > 1) {
        check_int((int64_t)look.found, >, 0);
    }
}
