/* SPDX-License-Identifier: MIT */
#ifndef SSTI_NET_FRAME_H
#define SSTI_NET_FRAME_H

/* One message on its way in, cut out of a stream byte by byte: frame.c has the essay.
 * */

#include <stdbool.h>
#include <stdint.h>

#include "ring/stream.h"

struct ssti_frame {
    uint64_t have; /* bytes that have come, header included; 0: nothing has begun */
    uint64_t size; /* of the payload, once the header is whole */
    uint64_t room; /* bytes at `data` */
    uint8_t *data;
    uint8_t header_size; /* 0: not whole yet */
    uint8_t header[SSTI_STREAM_HEADER_LONG];
};

/* Where the next bytes belong, and how many of them at most: never one behind the
 * frame. 0; SST_EMSGSIZE: it is longer than size_max, or its length is negative;
 * SST_ENOMEM. */
int ssti_frame_place(struct ssti_frame *frame, uint64_t size_max, void **out,
                     uint64_t *size);
/* So many have come there. True: the frame is whole. */
bool ssti_frame_came(struct ssti_frame *frame, uint64_t size);
/* The payload of a whole frame, which is the caller's to free (NULL if it is empty).
 * The next one begins. */
void *ssti_frame_take(struct ssti_frame *frame, uint64_t *size);
/* Give up what has come. */
void ssti_frame_drop(struct ssti_frame *frame);

#endif
