/* SPDX-License-Identifier: MIT */
#ifndef SSTI_OS_OS_STREAM_H
#define SSTI_OS_OS_STREAM_H

/* Bytes through any descriptor: a part of the porting contract (os.h) of its own. */

#include <stdbool.h>
#include <stdint.h>

/* Bytes moved, at least one; 0 at the end of the stream; SST_ETIMEDOUT, SST_EINTR,
 * -errno. On a blocking descriptor the deadline counts until bytes can move. */
int64_t ssti_os_stream_read(int fd, void *data, uint64_t size, int64_t deadline_ns);
int64_t ssti_os_stream_write(int fd, const void *data, uint64_t size,
                             int64_t deadline_ns);
/* 0 when readable, at its end, or broken; SST_ETIMEDOUT, SST_EINTR, SST_EBADF. */
int ssti_os_stream_poll(int fd, int64_t deadline_ns);
/* Did the last segment of a TCP connection come from the CPU that this thread runs on?
 * Over the loopback that is where the peer ran. False where nobody knows. */
bool ssti_os_stream_shares_cpu(int fd);
/* 0 or -errno; closed in any case. */
int ssti_os_stream_close(int fd);

#endif
