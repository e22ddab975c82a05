/* SPDX-License-Identifier: MIT */

/* Messages cut out of byte streams, in all the ways in which they may come. */

#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "net/frame.h"
#include "peers.h"

enum {
    LONG = 300000, /* grows three times */
};

static uint8_t stream[LONG + 100];

static uint64_t
put_frame(uint64_t at, uint64_t size)
{
    uint8_t header[SSTI_STREAM_HEADER_LONG];
    const uint8_t header_size = ssti_stream_header_put(header, size);

    memcpy(stream + at, header, header_size);
    bytes_fill(stream + at + header_size, size);
    return at + header_size + size;
}

/* Feed the stream in pieces of `step` bytes; the frames that come of it have the sizes
 * given. How much was asked for in all. */
static void
feed(uint64_t end, uint64_t step, const uint64_t *sizes, uint32_t count)
{
    struct ssti_frame frame = {0};
    uint64_t at = 0;
    uint32_t seen = 0;

    while (at < end) {
        void *place;
        uint64_t room;

        check_status(ssti_frame_place(&frame, LONG, &place, &room), 0);
        check_int(room, >, 0);

        const uint64_t piece = ssti_min(ssti_min(room, step), end - at);
        memcpy(place, stream + at, piece);
        at += piece;
        if (ssti_frame_came(&frame, piece)) {
            uint64_t size;
            void *const data = ssti_frame_take(&frame, &size);

            check_int(seen, <, count);
            check_int(size, ==, sizes[seen]);
            bytes_check(data, size);
            (void)ssti_free(data);
            seen++;
            check_int(frame.have, ==, 0);
        }
    }
    check_int(seen, ==, count);
    check_int(frame.have, ==, 0); /* nothing of a next one was read */
}

TEST(frames_come_in_pieces_of_any_size)
{
    static const uint64_t sizes[] = {0, 1, 3, 0, 255, 70000, 5};
    static const uint64_t steps[] = {1, 2, 3, 4, 5, 7, 64, 4096, LONG};
    uint64_t end = 0;

    for (uint32_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        end = put_frame(end, sizes[i]);
    }
    for (uint32_t i = 0; i < sizeof(steps) / sizeof(*steps); i++) {
        feed(end, steps[i], sizes, sizeof(sizes) / sizeof(*sizes));
    }
}

TEST(a_long_frame_grows_with_what_has_come)
{
    static const uint64_t sizes[] = {LONG};
    struct ssti_frame frame = {0};
    uint64_t at = 0;
    void *place;
    uint64_t room;
    const uint64_t end = put_frame(0, LONG);

    feed(end, 1000, sizes, 1);
    while (frame.have < SSTI_STREAM_HEADER_SHORT + 1) {
        check_status(ssti_frame_place(&frame, LONG, &place, &room), 0);
        memcpy(place, stream + at, 1);
        at++;
        check(!ssti_frame_came(&frame, 1));
    }
    check_int(frame.room, <=, 65536);
    ssti_frame_drop(&frame);
    check_int(ssti_alloc_live(), ==, 0);
}

/* What place() says when this header has come. */
static int
say_to(const void *header, uint64_t size, uint64_t size_max)
{
    struct ssti_frame frame = {0};
    void *place;
    uint64_t room;
    int rc;

    for (uint64_t at = 0; at < size; at++) {
        rc = ssti_frame_place(&frame, size_max, &place, &room);
        check_status(rc, 0);
        memcpy(place, (const char *)header + at, 1);
        check(!ssti_frame_came(&frame, 1));
    }
    check_int(ssti_alloc_live(), ==, 0); /* before the length was looked at */
    rc = ssti_frame_place(&frame, size_max, &place, &room);
    if (rc == 0 && frame.header_size != 0) {
        check_int(frame.room, <=, 65536);
    }
    ssti_frame_drop(&frame);
    return rc;
}

TEST(lengths_are_looked_at_before_anything_is_allocated)
{
    check_status(say_to("\0\0\1\0", 4, 256), 0);
    check_status(say_to("\0\0\1\1", 4, 256), SST_EMSGSIZE);
    check_status(say_to("\x7f\xff\xff\xff", 4, 256), SST_EMSGSIZE);
    check_status(say_to("\x7f\xff\xff\xff", 4, UINT64_C(1) << 40), 0);
    check_status(say_to("\xff\xff\xff\xfe", 4, 256), SST_EMSGSIZE);
    check_status(say_to("\x80\0\0\0", 4, UINT64_MAX), SST_EMSGSIZE);
    check_status(say_to("\xff\xff\xff\xff\0\0\0\0\0\0\0\1", 12, 256), 0);
    check_status(say_to("\xff\xff\xff\xff\0\0\1\0\0\0\0\0", 12, UINT64_C(1) << 39),
                 SST_EMSGSIZE);
    check_status(say_to("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 12,
                        UINT64_C(1) << 40),
                 SST_EMSGSIZE);
}

TEST(no_memory_is_a_status)
{
    struct ssti_frame frame = {0};
    void *place;
    uint64_t room;

    check_status(ssti_frame_place(&frame, 100, &place, &room), 0);
    memcpy(place, "\0\0\0\4", 4);
    check(!ssti_frame_came(&frame, 4));
    ssti_alloc_fail(1, 0);
    check_status(ssti_frame_place(&frame, 100, &place, &room), SST_ENOMEM);
    check_status(ssti_frame_place(&frame, 100, &place, &room), 0);
    check_int(room, ==, 4);
    ssti_frame_drop(&frame);
}
