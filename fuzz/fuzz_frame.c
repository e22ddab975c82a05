/* SPDX-License-Identifier: MIT */

/* A client that sends anything at all, in pieces of any size, to a server
 * (core/src/net/frame.c).
 *
 * The first byte is the limit, in units of 1 KiB; then come pieces: a byte says how
 * long, and that many bytes follow. What came out is compared with what the sizes in
 * the stream say, and memory with what has come. */

#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "fuzz.h"
#include "net/frame.h"
#include "sidestep/sidestep.h"

enum {
    KIB = 1024,
    ROOM_FIRST = 64 * 1024,
};

/* The stream as it was sent, to compare with. */
struct sent {
    uint8_t data[1 << 17];
    uint64_t end;
    uint64_t at; /* where the next frame begins */
};

static void
check_frame(struct sent *sent, const uint8_t *data, uint64_t size, uint64_t limit)
{
    uint8_t header[SSTI_STREAM_HEADER_LONG];
    uint64_t said = 0;
    uint64_t header_size = SSTI_STREAM_HEADER_SHORT;

    fuzz_expect(size <= limit);
    if (ssti_stream_header_get(sent->data + sent->at, header_size, &said) ==
        SST_EAGAIN) {
        header_size = SSTI_STREAM_HEADER_LONG;
        fuzz_any(ssti_stream_header_get(sent->data + sent->at, header_size, &said));
    }
    fuzz_expect(said == size && sent->at + header_size + size <= sent->end);
    fuzz_expect(size == 0 ||
                memcmp(sent->data + sent->at + header_size, data, size) == 0);
    if (header_size == SSTI_STREAM_HEADER_SHORT) {
        fuzz_expect(ssti_stream_header_put(header, size) == header_size);
        fuzz_expect(memcmp(header, sent->data + sent->at, header_size) == 0);
    }
    sent->at += header_size + size;
}

/* True while the connection would be kept. */
static bool
send_piece(struct ssti_frame *frame, struct sent *sent, struct fuzz_input *input,
           uint64_t size, uint64_t limit)
{
    while (size > 0 && fuzz_more(input)) {
        void *place;
        uint64_t room;
        uint64_t taken;

        if (ssti_frame_place(frame, limit, &place, &room) != 0) {
            return false;
        }
        fuzz_expect(room > 0);
        fuzz_expect(frame->room <= ROOM_FIRST || frame->room <= 2 * frame->have);

        taken = ssti_min(ssti_min(room, size), (uint64_t)(input->end - input->at));
        if (taken > sizeof(sent->data) - sent->end) {
            return false;
        }
        memcpy(place, input->at, taken);
        memcpy(sent->data + sent->end, input->at, taken);
        sent->end += taken;
        input->at += taken;
        size -= taken;
        if (ssti_frame_came(frame, taken)) {
            uint64_t whole;
            uint8_t *const data = ssti_frame_take(frame, &whole);

            check_frame(sent, data, whole, limit);
            (void)ssti_free(data);
        }
    }
    return true;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct sent sent;
    struct fuzz_input input = {data, data + size};
    struct ssti_frame frame = {0};
    const uint64_t limit = (uint64_t)fuzz_byte(&input) * KIB;

    sent.end = 0;
    sent.at = 0;
    while (fuzz_more(&input)) {
        const uint64_t piece = (uint64_t)fuzz_byte(&input) + 1;

        if (!send_piece(&frame, &sent, &input, piece, limit)) {
            break;
        }
    }
    ssti_frame_drop(&frame);
    fuzz_expect(ssti_alloc_live() == 0);
    return 0;
}
