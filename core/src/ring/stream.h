/* SPDX-License-Identifier: MIT */
#ifndef SSTI_RING_STREAM_H
#define SSTI_RING_STREAM_H

#include <stdint.h>

/* Messages over byte streams. The functions are public: see sst_stream_* in sidestep.h.
 * */

enum {
    SSTI_STREAM_HEADER_SHORT = 4,       /* a length below 2 GiB */
    SSTI_STREAM_HEADER_LONG = 12,       /* -1, then the length in 8 bytes */
    SSTI_STREAM_SHORT_MAX = 0x7fffffff, /* the longest payload with a short header */
    SSTI_STREAM_JOINED_MAX = 16384, /* header and payload go in one write up to here */
};

/* The header of a message of so many bytes; its size. */
uint8_t ssti_stream_header_put(uint8_t header[SSTI_STREAM_HEADER_LONG], uint64_t size);
/* The other way round, of the `have` bytes that have come: 0 and the size;
 * SST_EAGAIN: there are more of it to come; SST_EMSGSIZE: the length is negative. */
int ssti_stream_header_get(const uint8_t *header, uint64_t have, uint64_t *size);

#endif
