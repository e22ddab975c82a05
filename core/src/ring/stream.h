/* SPDX-License-Identifier: MIT */
#ifndef SSTI_RING_STREAM_H
#define SSTI_RING_STREAM_H

/* Messages over byte streams. The functions are public: see sst_stream_* in sidestep.h.
 * */

enum {
    SSTI_STREAM_HEADER_SHORT = 4,       /* a length below 2 GiB */
    SSTI_STREAM_HEADER_LONG = 12,       /* -1, then the length in 8 bytes */
    SSTI_STREAM_SHORT_MAX = 0x7fffffff, /* the longest payload with a short header */
    SSTI_STREAM_JOINED_MAX = 16384, /* header and payload go in one write up to here */
};

#endif
