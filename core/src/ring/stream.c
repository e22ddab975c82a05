/* SPDX-License-Identifier: MIT */

/* The framing of Python's multiprocessing over a byte stream.
 *
 *   0        4                    length < 2 GiB
 *   | length | payload ... |
 *
 *   0        4        12
 *   | -1     | length | payload ... |
 *
 * All big endian. A small payload goes out together with its header, in one write: two
 * writes on TCP wait for each other (Nagle), and an empty second one would report a
 * closed peer that has read all it wanted. It is the stdlib's rule, with the stdlib's
 * threshold.
 *
 * Nothing here is in shared memory. A process that dies inside a message leaves half of
 * it in the stream: the reader gets SST_EPIPE, as from the stdlib "got end of file
 * during message". */

#include "ring/stream.h"

#include <stdint.h>
#include <string.h>

#include "os/os_stream.h"
#include "sidestep/sidestep.h"
#include "sync/spin.h"

enum {
    LOOK_NS = 60000, /* half a wake-up there and back, and what a peer does between */
};

static void
put_big_endian(uint8_t *out, uint64_t value, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++) {
        out[i] = (uint8_t)(value >> (8 * (size - 1 - i)));
    }
}

static uint64_t
get_big_endian(const uint8_t *in, uint32_t size)
{
    uint64_t value = 0;

    for (uint32_t i = 0; i < size; i++) {
        value = value << 8 | in[i];
    }
    return value;
}

uint8_t
ssti_stream_header_put(uint8_t header[SSTI_STREAM_HEADER_LONG], uint64_t size)
{
    if (size <= SSTI_STREAM_SHORT_MAX) {
        put_big_endian(header, size, SSTI_STREAM_HEADER_SHORT);
        return SSTI_STREAM_HEADER_SHORT;
    }
    put_big_endian(header, UINT32_MAX, SSTI_STREAM_HEADER_SHORT);
    put_big_endian(header + SSTI_STREAM_HEADER_SHORT, size,
                   SSTI_STREAM_HEADER_LONG - SSTI_STREAM_HEADER_SHORT);
    return SSTI_STREAM_HEADER_LONG;
}

int
ssti_stream_header_get(const uint8_t *header, uint64_t have, uint64_t *size)
{
    uint64_t length;

    if (have < SSTI_STREAM_HEADER_SHORT) {
        return SST_EAGAIN;
    }
    length = get_big_endian(header, SSTI_STREAM_HEADER_SHORT);
    if (length <= SSTI_STREAM_SHORT_MAX) {
        *size = length;
        return 0;
    }
    if (length != UINT32_MAX) {
        return SST_EMSGSIZE;
    }
    if (have < SSTI_STREAM_HEADER_LONG) {
        return SST_EAGAIN;
    }
    *size = get_big_endian(header + SSTI_STREAM_HEADER_SHORT,
                           SSTI_STREAM_HEADER_LONG - SSTI_STREAM_HEADER_SHORT);
    return 0;
}

static void
stream_begin(struct sst_stream_progress *progress, uint64_t size)
{
    progress->size = size;
    progress->done = 0;
    progress->header_size = ssti_stream_header_put(progress->header, size);
}

/* Write data[0..size) of which `progress->done - before` bytes are out. */
static int
stream_write(int fd, struct sst_stream_progress *progress, const uint8_t *data,
             uint64_t before, uint64_t size, int64_t deadline_ns)
{
    while (progress->done < before + size) {
        const uint64_t at = progress->done - before;
        const struct sst_stream_io *const io = progress->io;
        const int64_t moved =
            io != NULL ? io->write(io->context, data + at, size - at, deadline_ns)
                       : ssti_os_stream_write(fd, data + at, size - at, deadline_ns);
        if (moved < 0) {
            return (int)moved;
        }
        progress->done += (uint64_t)moved;
    }
    return 0;
}

/* The header and `size` bytes of the payload, in one write. */
static int
stream_send_joined(int fd, struct sst_stream_progress *progress, const void *data,
                   uint64_t size, int64_t deadline_ns)
{
    uint8_t joined[SSTI_STREAM_HEADER_LONG + SSTI_STREAM_JOINED_MAX];

    memcpy(joined, progress->header, progress->header_size);
    if (size > 0) {
        memcpy(joined + progress->header_size, data, size);
    }
    return stream_write(fd, progress, joined, 0, progress->header_size + size,
                        deadline_ns);
}

int
sst_stream_send(int fd, struct sst_stream_progress *progress, const void *data,
                uint64_t size, int64_t deadline_ns)
{
    if (progress->header_size == 0) {
        stream_begin(progress, size);
    }
    if (progress->size <= SSTI_STREAM_JOINED_MAX) {
        return stream_send_joined(fd, progress, data, progress->size, deadline_ns);
    }

    /* Where no descriptor is written to, a header alone costs as much as a message. */
    const uint64_t first =
        progress->io != NULL ? SSTI_STREAM_JOINED_MAX - SSTI_STREAM_HEADER_LONG : 0;
    if (progress->done < progress->header_size + first) {
        const int rc = stream_send_joined(fd, progress, data, first, deadline_ns);
        if (rc < 0) {
            return rc;
        }
    }
    return stream_write(fd, progress, data, progress->header_size, size, deadline_ns);
}

/* Have the transport try for a while before it may sleep. As its read; SST_ETIMEDOUT:
 * nothing came. */
static int64_t
stream_look(int fd, const struct sst_stream_progress *progress, uint8_t *data,
            uint64_t size)
{
    const struct sst_stream_io *const io = progress->io;
    struct sst_stream_look *const look = progress->look;
    struct ssti_spin spin = {{look->useless}};
    struct ssti_spin_run run;
    int64_t moved = SST_ETIMEDOUT;

    ssti_spin_begin_long(&run, &spin, LOOK_NS);
    if (run.budget_ns != 0) {
        moved = io->read(io->context, data, size, SST_NOW);
        if (moved != SST_ETIMEDOUT || ssti_os_stream_shares_cpu(fd)) {
            return moved; /* it was there, or cannot come while we look */
        }
        look->looks++;
    }
    while (moved == SST_ETIMEDOUT && ssti_spin_next(&run)) {
        moved = io->read(io->context, data, size, SST_NOW);
    }

    const bool found = moved != SST_ETIMEDOUT && !ssti_spin_is_late(&run);
    ssti_spin_end(&run, found);
    look->useless = ssti_load_rlx(&spin.useless[0]);
    look->found += found ? 1 : 0;
    return moved;
}

/* As read(2), of the descriptor or the transport. */
static int64_t
stream_read_some(int fd, const struct sst_stream_progress *progress, uint8_t *data,
                 uint64_t size, int64_t deadline_ns)
{
    const struct sst_stream_io *const io = progress->io;
    int64_t moved = SST_ETIMEDOUT;

    if (io == NULL) {
        return ssti_os_stream_read(fd, data, size, deadline_ns);
    }
    if (progress->look != NULL && deadline_ns != SST_NOW) {
        moved = stream_look(fd, progress, data, size);
    }
    return moved != SST_ETIMEDOUT ? moved
                                  : io->read(io->context, data, size, deadline_ns);
}

/* Read until `progress->done` is before + size. */
static int
stream_read(int fd, struct sst_stream_progress *progress, uint8_t *data,
            uint64_t before, uint64_t size, int64_t deadline_ns)
{
    while (progress->done < before + size) {
        const uint64_t at = progress->done - before;
        const int64_t moved =
            stream_read_some(fd, progress, data + at, size - at, deadline_ns);
        if (moved < 0) {
            return (int)moved;
        }
        if (moved == 0) {
            return at == 0 ? SST_EOF : SST_EPIPE;
        }
        progress->done += (uint64_t)moved;
    }
    return 0;
}

int
sst_stream_recv_size(int fd, struct sst_stream_progress *progress, int64_t deadline_ns)
{
    if (progress->header_size == 0) {
        progress->done = 0;
        progress->header_size = SSTI_STREAM_HEADER_SHORT;
    }

    int rc = stream_read(fd, progress, progress->header, 0, SSTI_STREAM_HEADER_SHORT,
                         deadline_ns);
    if (rc < 0) {
        return rc;
    }

    rc = ssti_stream_header_get(progress->header, SSTI_STREAM_HEADER_SHORT,
                                &progress->size);
    if (rc != SST_EAGAIN) {
        return rc;
    }

    progress->header_size = SSTI_STREAM_HEADER_LONG;
    rc = stream_read(fd, progress, progress->header + SSTI_STREAM_HEADER_SHORT,
                     SSTI_STREAM_HEADER_SHORT,
                     SSTI_STREAM_HEADER_LONG - SSTI_STREAM_HEADER_SHORT, deadline_ns);
    if (rc < 0) {
        return rc;
    }
    return ssti_stream_header_get(progress->header, SSTI_STREAM_HEADER_LONG,
                                  &progress->size);
}

int
sst_stream_recv(int fd, struct sst_stream_progress *progress, void *data,
                int64_t deadline_ns)
{
    return stream_read(fd, progress, data, progress->header_size, progress->size,
                       deadline_ns);
}

int
sst_stream_poll(int fd, int64_t deadline_ns)
{
    const int rc = ssti_os_stream_poll(fd, deadline_ns);

    if (rc == SST_ETIMEDOUT) {
        return 0;
    }
    return rc < 0 ? rc : 1;
}

int
sst_stream_close(int fd)
{
    return ssti_os_stream_close(fd);
}
