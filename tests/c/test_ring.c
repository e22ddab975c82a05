/* SPDX-License-Identifier: MIT */

/* Rings from the inside: circles, growth and shrinking against a model, and shared
 * memory that somebody has scribbled over. Names that begin with "threads" start no
 * process. */

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "peers.h"
#include "ring/chunk.h"
#include "ring/record.h"
#include "ring/ring.h"
#include "shm/arena.h"
#include "shm/layout.h"

static struct sst_queue *queue;
static struct sst_queue_shm *shm;

static struct sst_arena *
open_queue(void)
{
    struct sst_arena *const arena = arena_open();
    struct sst_handle handle;

    check_ok(sst_queue_create(arena, NULL, &queue, NULL));
    sst_queue_handle(queue, &handle);
    shm = ssti_arena_ptr(arena, handle.offset, sizeof *shm);
    check_ptr(shm, !=, NULL);
    return arena;
}

static void
close_queue(struct sst_arena *arena)
{
    queue = sst_queue_close(queue);
    arena_close(arena);
}

static struct sst_chunk_shm *
first_chunk(struct sst_arena *arena)
{
    return ssti_arena_ptr(arena, ssti_load_rlx(&shm->ring.get_chunk),
                          sizeof(struct sst_chunk_shm));
}

/* ---- Records ---- */

static _Alignas(64) uint8_t memory[sizeof(struct sst_chunk_shm) + 256];

static struct sst_chunk_shm *
small_chunk(void)
{
    struct sst_chunk_shm *const chunk = (struct sst_chunk_shm *)(void *)memory;

    memset(memory, 0, sizeof memory);
    ssti_chunk_format(chunk, 256);
    return chunk;
}

TEST(threads_a_record_is_read_where_it_lies)
{
    struct sst_chunk_shm *const chunk = small_chunk();
    struct ssti_record record;

    ssti_store_rlx(ssti_record_header(chunk, 16),
                   ssti_record_word(SSTI_RECORD_INLINE, 20));
    check_int(ssti_record_read(chunk, 256, 16, 48, &record), ==, 0);
    check_int(record.kind, ==, SSTI_RECORD_INLINE);
    check_int(record.size, ==, 20);
    check_int(record.at, ==, 24);
    check_int(record.next, ==, 48);
    check_int(ssti_record_read(chunk, 256, 48, 48, &record), ==, SSTI_RING_EMPTY);
}

TEST(threads_a_skip_leads_to_the_next_lap)
{
    struct sst_chunk_shm *const chunk = small_chunk();
    struct ssti_record record;

    ssti_store_rlx(ssti_record_header(chunk, 240),
                   ssti_record_word(SSTI_RECORD_SKIP, 16));
    ssti_store_rlx(ssti_record_header(chunk, 0),
                   ssti_record_word(SSTI_RECORD_INLINE, 8));
    check_int(ssti_record_read(chunk, 256, 240, SSTI_CURSOR_LAP | 16, &record), ==, 0);
    check_int(record.at, ==, 8);
    check_int(record.next, ==, SSTI_CURSOR_LAP | 16);
}

TEST(threads_the_last_record_of_a_lap_ends_at_its_end)
{
    struct sst_chunk_shm *const chunk = small_chunk();
    struct ssti_record record;

    ssti_store_rlx(ssti_record_header(chunk, 240),
                   ssti_record_word(SSTI_RECORD_INLINE, 8));
    check_int(ssti_record_read(chunk, 256, SSTI_CURSOR_LAP | 240, 0, &record), ==, 0);
    check_int(record.next, ==, 0);
}

TEST(threads_a_record_that_cannot_be_is_refused)
{
    static const struct {
        uint32_t kind, size, cursor, limit;
    } cases[] = {
        {SSTI_RECORD_INLINE, 41, 16, 64},         /* beyond the limit */
        {SSTI_RECORD_INLINE, 0xffffffff, 16, 64}, /* beyond anything */
        {SSTI_RECORD_EXTENT, 8, 16, 64},          /* too short to name an extent */
        {SSTI_RECORD_SKIP, 240, 16, 64},          /* a skip before the limit */
        {SSTI_RECORD_SKIP, 100, 16, SSTI_CURSOR_LAP | 8}, /* not up to the end */
        {4, 8, 16, 64},                                   /* no kind */
        {0, 0, 16, 64},
        {SSTI_RECORD_INLINE, 8, 16, 256}, /* limits and cursors out of range */
        {SSTI_RECORD_INLINE, 8, 16, 63},
        {SSTI_RECORD_INLINE, 8, 64, 16},
        {SSTI_RECORD_INLINE, 8, 12, 64},
        {SSTI_RECORD_INLINE, 8, 4096, 64},
    };
    struct sst_chunk_shm *const chunk = small_chunk();
    struct ssti_record record;

    for (uint32_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ssti_store_rlx(ssti_record_header(chunk, 16),
                       (uint64_t)cases[i].kind << 32 | cases[i].size);
        check_status(ssti_record_read(chunk, 256, cases[i].cursor, cases[i].limit,
                                      &record),
                     SST_ECORRUPT);
    }
}

/* ---- Against a model ---- */

enum {
    MODEL_MAX = 4096,
};

static uint32_t
pick_size(uint32_t *seed)
{
    switch (rand_r(seed) % 16) {
    case 0:
        return 4000 + (uint32_t)rand_r(seed) % 200; /* around the longest inline */
    case 1:
        return (uint32_t)rand_r(seed) % 30000;
    case 2:
        return 0;
    default:
        return (uint32_t)rand_r(seed) % 300;
    }
}

TEST(threads_the_ring_agrees_with_a_model)
{
    static uint32_t sizes[MODEL_MAX];
    static uint8_t data[30000];
    struct sst_arena *const arena = open_queue();
    struct sst_message message;
    uint32_t seed = 17;
    uint64_t put = 0;
    uint64_t got = 0;

    for (int phase = 0; phase < 60; phase++) {
        const int bias = 20 + 60 * (phase % 2); /* grow, then shrink */

        for (int step = 0; step < 2000; step++) {
            if (rand_r(&seed) % 100 >= bias && put - got < MODEL_MAX) {
                const uint32_t size = pick_size(&seed);

                memset(data, (int)(put & 0xff), size);
                check_status(sst_queue_put(queue, data, size, SST_NOW), 0);
                sizes[put++ % MODEL_MAX] = size;
            }
            else if (put != got) {
                const uint32_t size = sizes[got % MODEL_MAX];

                check_status(sst_queue_get(queue, &message, SST_NOW), 0);
                check_int(message.size, ==, size);
                memset(data, (int)(got & 0xff), size);
                check_mem(message.data, data, size);
                sst_message_free(&message);
                got++;
            }
            else {
                check_status(sst_queue_get(queue, &message, SST_NOW), SST_ETIMEDOUT);
            }
            check_int(sst_queue_count(queue), ==, put - got);
        }
    }
    close_queue(arena);
}

/* One that is never long used a single small chunk, for ever round and round. */
TEST(threads_a_short_queue_stays_in_one_chunk)
{
    struct sst_arena_statistics statistics;
    struct sst_arena *const arena = open_queue();
    struct sst_message message;
    static uint8_t data[1000];

    for (uint32_t i = 0; i < 20000; i++) {
        check_status(sst_queue_put(queue, data, i % 1000, SST_NOW), 0);
        if (i >= 5) {
            check_status(sst_queue_get(queue, &message, SST_NOW), 0);
            check_int(message.size, ==, (i - 5) % 1000);
            sst_message_free(&message);
        }
    }
    check_ok(sst_arena_statistics(arena, &statistics));
    check_int(statistics.extents, ==, 1);
    check_int(ssti_load_rlx(&first_chunk(arena)->size), ==,
              SSTI_RING_CHUNK_MIN - sizeof(struct sst_chunk_shm));
    close_queue(arena);
}

/* ---- Limits and signals ---- */

TEST(threads_a_put_beyond_the_budget_fails_and_harms_nothing)
{
    const struct sst_arena_options options = {
        .size_of = sizeof options,
        .budget = 8 << 20,
    };
    const uint64_t size = 1 << 20;
    uint8_t *const data = calloc(1, size);
    struct sst_message message;
    struct sst_arena *arena;
    uint64_t count = 0;
    int rc;

    check_ptr(data, !=, NULL);
    check_ok(sst_arena_create(&options, &arena, NULL));
    check_ok(sst_queue_create(arena, NULL, &queue, NULL));
    while ((rc = sst_queue_put(queue, data, size, SST_FOREVER)) == 0) {
        count++;
        check_int(count, <, 16);
    }
    check_status(rc, SST_ELIMIT);
    check_int(count, >, 2);
    check_int(sst_queue_count(queue), ==, count);
    check_int(sst_queue_bytes(queue), ==, count * size);
    check_status(sst_queue_get(queue, &message, SST_NOW), 0);
    sst_message_free(&message);
    check_status(sst_queue_put(queue, data, size, SST_FOREVER), 0);
    queue = sst_queue_close(queue);
    check_ptr(sst_arena_detach(arena), ==, NULL);
    free(data);
}

/* The first words of the page that a test shares with its children. */
enum {
    GO,
    RESULT, /* less one, so that 0 means not yet */
};

static void
interrupted(int signal)
{
    (void)signal;
}

static void
get_with_a_handler(void *arg)
{
    const struct sigaction action = {.sa_handler = interrupted};
    struct sst_message message;

    (void)arg;
    check_int(sigaction(SIGUSR1, &action, NULL), ==, 0);
    word_set(GO, 1);
    word_set(RESULT, sst_queue_get(queue, &message, SST_FOREVER) - 1);
    check_status(sst_queue_get(queue, &message, soon()), 0);
    sst_message_free(&message);
}

TEST(a_signal_ends_a_wait)
{
    struct sst_arena *const arena = open_queue();
    pid_t child = test_fork(get_with_a_handler, NULL);

    eventually(word(GO) == 1 && test_is_asleep(child));
    (void)kill(child, SIGUSR1);
    eventually(word(RESULT) != 0);
    check_int(word(RESULT), ==, SST_EINTR - 1);
    check_status(sst_queue_put(queue, "x", 1, SST_NOW), 0);
    test_join(child);
    close_queue(arena);
}

/* ---- Damage ---- */

static void
expect_corrupt(void)
{
    struct sst_message message;

    check_status(sst_queue_get(queue, &message, SST_NOW), SST_ECORRUPT);
    check_status(sst_queue_put(queue, "x", 1, SST_NOW), SST_ECORRUPT);
    check_status(sst_queue_get(queue, &message, SST_FOREVER), SST_ECORRUPT);
}

TEST(threads_wild_cursors_are_not_followed)
{
    static const uint32_t wild[] = {1, 0x7fffffff, 0xffffffff, SSTI_RING_CHUNK_MIN,
                                    SSTI_CURSOR_LAP | 16384};

    for (uint32_t i = 0; i < 2 * sizeof wild / sizeof *wild; i++) {
        struct sst_arena *const arena = open_queue();
        _Atomic uint32_t *const cursor =
            i % 2 == 0 ? &shm->ring.put_cursor : &shm->ring.get_cursor;

        check_status(sst_queue_put(queue, "abc", 3, SST_NOW), 0);
        ssti_store_rlx(cursor, wild[i / 2]);
        expect_corrupt();
        close_queue(arena);
    }
}

TEST(threads_wild_chunks_are_not_followed)
{
    for (int i = 0; i < 4; i++) {
        struct sst_arena *const arena = open_queue();
        struct sst_queue *same;
        struct sst_handle handle;

        check_status(sst_queue_put(queue, "abc", 3, SST_NOW), 0);
        if (i == 0) {
            ssti_store_rlx(&shm->ring.put_chunk, UINT64_C(1) << 62);
        }
        else if (i == 1) {
            ssti_store_rlx(&shm->ring.get_chunk, 4096);
        }
        else if (i == 2) {
            ssti_store_rlx(&first_chunk(arena)->size, 0xfffffff8);
        }
        else {
            ssti_store_rlx(&shm->ring.get_chunk, 0);
        }
        sst_queue_handle(queue, &handle);
        check_ok(sst_queue_attach(arena, &handle, &same,
                                  NULL)); /* it knows no address yet */
        queue = sst_queue_close(queue);
        queue = same;
        expect_corrupt();
        close_queue(arena);
    }
}

TEST(threads_wild_extents_are_not_followed)
{
    static const uint64_t wild[][2] = {
        {0, 10000}, {1, 10000}, {4096, UINT64_MAX}, {UINT64_C(1) << 50, 10000}, {8, 8},
    };

    for (uint32_t i = 0; i < sizeof wild / sizeof *wild; i++) {
        struct sst_arena *const arena = open_queue();
        struct sst_message message;
        static const uint8_t data[10000];

        check_status(sst_queue_put(queue, data, sizeof data, SST_NOW), 0);
        memcpy(ssti_chunk_data(first_chunk(arena), 8), wild[i], sizeof wild[i]);
        check_status(sst_queue_get(queue, &message, SST_NOW), SST_ECORRUPT);
        close_queue(arena);
    }
}

/* Anything may be anywhere: no crash and no endless loop, whatever the answers are. */
static void
scribble_and_use(void *arg)
{
    uint32_t seed = *(const uint32_t *)arg;
    static const uint8_t data[6000];
    uint8_t *const bytes = (uint8_t *)&shm->ring;
    struct sst_message message;

    for (int i = 0; i < 3; i++) {
        bytes[(uint32_t)rand_r(&seed) % offsetof(struct sst_ring_shm, byte_max)] =
            (uint8_t)rand_r(&seed);
    }
    for (int i = 0; i < 200; i++) {
        if (rand_r(&seed) % 2 == 0) {
            (void)!sst_queue_put(queue, data, (uint64_t)rand_r(&seed) % sizeof data,
                                 SST_NOW);
        }
        else if (sst_queue_get(queue, &message, SST_NOW) == 0) {
            sst_message_free(&message);
        }
    }
}

TEST(a_wild_writer_crashes_nobody)
{
    for (uint32_t seed = 0; seed < 300; seed++) {
        struct sst_arena *const arena = open_queue();
        static const uint8_t data[6000];

        for (uint32_t i = 0; i < seed % 40; i++) {
            check_status(sst_queue_put(queue, data, i * 150, SST_NOW), 0);
        }
        test_join(test_fork(scribble_and_use, &seed));
        close_queue(arena);
    }
}
