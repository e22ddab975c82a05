/* SPDX-License-Identifier: MIT */

/* Messages cut out of a byte stream whose sender may be anybody.
 *
 * The reader asks where the next bytes belong, puts there what it has, and says how
 * many they were; so the bytes of a frame are copied once, by the kernel, and none is
 * read that belongs to the next frame. The format is that of ring/stream.c.
 *
 *   header      4 bytes, and 8 more if they say so; here in the struct
 *   payload     its size is compared with the limit, then memory is allocated: FIRST
 *               bytes at most, and twice as much whenever that is full, up to the size
 *
 * So memory follows the bytes that have come: a length alone costs its sender more than
 * us. Not shared between processes: the death table is empty. */

#include "net/frame.h"

#include "base/alloc.h"
#include "base/bits.h"
#include "sidestep/sidestep.h"

enum {
    FIRST = 64 * 1024,
};

static int
grow(struct ssti_frame *frame)
{
    const uint64_t wanted = frame->room == 0 ? FIRST : frame->room * 2;
    const uint64_t room = ssti_min(wanted, frame->size);
    uint8_t *const data =
        room <= SIZE_MAX ? ssti_realloc(frame->data, (size_t)room) : NULL;

    if (data == NULL) {
        return SST_ENOMEM;
    }
    frame->data = data;
    frame->room = room;
    return 0;
}

int
ssti_frame_place(struct ssti_frame *frame, uint64_t size_max, void **out,
                 uint64_t *size)
{
    uint64_t done;
    int rc;

    if (frame->header_size == 0) {
        const uint64_t whole = frame->have < SSTI_STREAM_HEADER_SHORT
                                   ? SSTI_STREAM_HEADER_SHORT
                                   : SSTI_STREAM_HEADER_LONG;

        rc = ssti_stream_header_get(frame->header, frame->have, &frame->size);
        if (rc == SST_EAGAIN) {
            *out = frame->header + frame->have;
            *size = whole - frame->have;
            return 0;
        }
        if (rc != 0 || frame->size > size_max) {
            return SST_EMSGSIZE;
        }
        frame->header_size = (uint8_t)frame->have;
    }

    done = frame->have - frame->header_size;
    rc = done == frame->room && done < frame->size ? grow(frame) : 0;
    if (rc != 0) {
        return rc;
    }
    *out = frame->data + done;
    *size = frame->room - done;
    return 0;
}

bool
ssti_frame_came(struct ssti_frame *frame, uint64_t size)
{
    uint64_t payload;

    frame->have += size;
    if (frame->header_size != 0) {
        return frame->have == frame->header_size + frame->size;
    }
    /* An empty one is whole with its header. */
    if (ssti_stream_header_get(frame->header, frame->have, &payload) == 0 &&
        payload == 0) {
        frame->size = 0;
        frame->header_size = (uint8_t)frame->have;
        return true;
    }
    return false;
}

void *
ssti_frame_take(struct ssti_frame *frame, uint64_t *size)
{
    void *const data = frame->data;

    *size = frame->size;
    *frame = (struct ssti_frame){0};
    return data;
}

void
ssti_frame_drop(struct ssti_frame *frame)
{
    (void)ssti_free(frame->data);
    *frame = (struct ssti_frame){0};
}
