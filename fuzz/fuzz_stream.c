/* SPDX-License-Identifier: MIT */

/* A peer that writes anything at all to a byte stream (core/src/ring/stream.c). */

#include <unistd.h>

#include "fuzz.h"
#include "sidestep/sidestep.h"

enum {
    PIPE_SIZE = 60000, /* what a pipe takes without a reader */
    SIZE_MAX_READ = 1 << 16,
};

/* One message. False when there is none, or none that a reader would want. */
static bool
receive(int fd, uint8_t *buffer)
{
    struct sst_stream_progress progress = {0};

    if (sst_stream_recv_size(fd, &progress, SST_NOW) < 0 ||
        progress.size > SIZE_MAX_READ) {
        return false;
    }

    const uint64_t size = progress.size;
    const int rc = sst_stream_recv(fd, &progress, buffer, SST_NOW);
    fuzz_expect(rc <= 0);
    fuzz_expect(rc < 0 || progress.size == size);
    return rc == 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t buffer[SIZE_MAX_READ];
    int ends[2];

    if (size > PIPE_SIZE || pipe(ends) < 0) {
        return 0;
    }
    fuzz_expect(write(ends[1], data, size) == (ssize_t)size);
    (void)close(ends[1]);

    size_t count = 0;
    while (receive(ends[0], buffer)) {
        count++;
    }
    fuzz_expect(count <= size / 4); /* each has a header */
    (void)sst_stream_close(ends[0]);
    return 0;
}
