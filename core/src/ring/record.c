/* SPDX-License-Identifier: MIT */

/* Reading records. Everything here came from shared memory: a header is copied once,
 * and nothing is followed that does not lie between the cursors and inside the chunk.
 *
 * Death table: writes no shared memory. */

#include "ring/record.h"

#include <stdint.h>

#include "base/atomic.h"
#include "ring/chunk.h"
#include "ring/ring.h"
#include "shm/layout.h"
#include "sidestep/sidestep.h"

/* May a record of this kind have so many bytes of payload? */
static bool
is_sane(uint32_t kind, uint32_t payload)
{
    switch (kind) {
    case SSTI_RECORD_INLINE:
        return payload <= SSTI_RING_INLINE_MAX;
    case SSTI_RECORD_EXTENT:
        return payload == SSTI_RECORD_EXTENT_SIZE;
    case SSTI_RECORD_SLOT:
        return payload == SSTI_RECORD_SLOT_SIZE;
    default:
        return false;
    }
}

int
ssti_record_read(struct sst_chunk_shm *chunk, uint32_t size, uint32_t cursor,
                 uint32_t limit, struct ssti_record *out)
{
    /* Twice at most: a skip is followed by a record. */
    for (int i = 0; i < 2; i++) {
        const uint32_t at = ssti_cursor_place(cursor);
        const uint32_t end =
            ssti_cursor_same_lap(cursor, limit) ? ssti_cursor_place(limit) : size;

        if (cursor == limit) {
            return SSTI_RING_EMPTY;
        }
        if (!ssti_cursor_is_sane(cursor, size) || !ssti_cursor_is_sane(limit, size) ||
            at >= end) {
            return SST_ECORRUPT;
        }

        const uint64_t header = ssti_load_rlx(ssti_record_header(chunk, at));
        const uint32_t kind = (uint32_t)(header >> 32);
        const uint32_t payload = (uint32_t)header;

        if (kind == SSTI_RECORD_SKIP) {
            if (payload != size - at || end != size) {
                return SST_ECORRUPT;
            }
            cursor = ssti_cursor_at(cursor, size, size);
            continue;
        }
        if (!is_sane(kind, payload) || ssti_record_length(payload) > end - at) {
            return SST_ECORRUPT;
        }
        *out = (struct ssti_record){
            .kind = kind,
            .size = payload,
            .at = at + SSTI_RECORD_HEADER_SIZE,
            .next = ssti_cursor_at(cursor, at + ssti_record_length(payload), size),
        };
        return 0;
    }
    return SST_ECORRUPT;
}

int
ssti_record_count(struct sst_chunk_shm *chunk, uint32_t size, uint32_t cursor,
                  uint32_t limit, uint64_t *count, uint64_t *bytes)
{
    struct ssti_record record;
    uint32_t left = size; /* a chunk holds no more records: a loop of them is damage */
    int rc;

    while ((rc = ssti_record_read(chunk, size, cursor, limit, &record)) == 0) {
        uint64_t named[2] = {0, record.size};

        if (left < ssti_record_length(record.size)) {
            return SST_ECORRUPT;
        }
        left -= ssti_record_length(record.size);
        if (record.kind != SSTI_RECORD_INLINE) {
            ssti_copy_out(named, ssti_chunk_data(chunk, record.at), sizeof named);
        }
        *count += 1;
        *bytes += named[1];
        cursor = record.next;
    }
    return rc == SSTI_RING_EMPTY ? 0 : rc;
}
