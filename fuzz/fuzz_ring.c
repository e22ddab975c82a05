/* SPDX-License-Identifier: MIT */

/* A peer that scribbles over a queue and a parcel in shared memory.
 *
 * The input is a list of steps: some write bytes into the ring's words, its first
 * chunk, the parcel or the words of what it holds; the others use the queue and the
 * parcel. Whatever the answers are, nothing crashes and nothing waits. The leaf and the
 * slots' headers are left alone: a peer that writes to these can stop others, which is
 * what one arena being one trust domain means. */

#include <string.h>

#include "fuzz.h"
#include "ring/queue.h"
#include "ring/ring.h"
#include "shm/arena.h"
#include "shm/layout.h"
#include "sidestep/sidestep.h"

enum {
    STEP_MAX = 64,
    LARGE = 10000, /* a message that gets an extent */
    RECORDS = 256, /* bytes of the chunk that are scribbled over */
};

struct world {
    struct sst_arena *arena;
    struct sst_event *event;
    struct sst_queue *queue;
    struct sst_parcel *parcel;
    struct sst_queue_shm *shm;
    struct sst_parcel_shm *parcel_shm;
    void *chunk; /* where they were before anybody scribbled */
    void *words;
    struct sst_handle queue_handle;
    struct sst_handle parcel_handle;
};

static const uint8_t large[LARGE];

/* ---- The world ---- */

static void
world_put(struct world *world)
{
    struct sst_parcel *parcel = NULL;

    fuzz_expect(sst_queue_put(world->queue, "abc", 3, SST_NOW) == 0);
    fuzz_expect(sst_queue_put(world->queue, large, LARGE, SST_NOW) == 0);
    fuzz_expect(sst_parcel_attach(world->arena, &world->parcel_handle, &parcel, NULL) ==
                0);
    fuzz_expect(sst_queue_put_parcel(world->queue, &parcel, SST_NOW) == 0);
    fuzz_expect(sst_queue_put(world->queue, "longer", 7, SST_NOW) == 0);
}

static void
world_open(struct world *world)
{
    const struct sst_arena_options options = {
        .size_of = sizeof(options),
        .process_max = 16,
        .size = UINT64_C(1) << 30,
        .budget = UINT64_C(1) << 26,
    };
    struct sst_handle event;

    fuzz_expect(sst_arena_create(&options, &world->arena, NULL) == 0);
    fuzz_expect(sst_event_create(world->arena, &world->event, NULL) == 0);
    fuzz_expect(sst_queue_create(world->arena, NULL, &world->queue, NULL) == 0);
    fuzz_expect(sst_parcel_create(world->arena, 100, 2, &world->parcel, NULL) == 0);
    sst_event_handle(world->event, &event);
    sst_queue_handle(world->queue, &world->queue_handle);
    sst_parcel_handle(world->parcel, &world->parcel_handle);
    fuzz_expect(sst_parcel_hold(world->parcel, &event, NULL) == 0);
    world->shm =
        ssti_arena_ptr(world->arena, world->queue_handle.offset, sizeof(*world->shm));
    world->parcel_shm = ssti_arena_ptr(world->arena, world->parcel_handle.offset,
                                       sizeof(*world->parcel_shm));
    fuzz_expect(world->shm != NULL && world->parcel_shm != NULL);
    world_put(world);
    world->chunk =
        ssti_arena_ptr(world->arena, ssti_load_rlx(&world->shm->ring.get_chunk),
                       sizeof(struct sst_chunk_shm) + RECORDS);
    world->words =
        ssti_arena_ptr(world->arena, ssti_load_rlx(&world->parcel_shm->words),
                       2 * sizeof(uint64_t));
    fuzz_expect(world->chunk != NULL && world->words != NULL);
}

static void
world_close(struct world *world)
{
    (void)sst_parcel_close(world->parcel);
    (void)sst_queue_close(world->queue);
    (void)sst_event_close(world->event);
    (void)sst_arena_detach(world->arena);
}

/* ---- Scribbling ---- */

static void
scribble(struct fuzz_input *input, void *memory, size_t size)
{
    uint8_t *const bytes = memory;
    const size_t offset = fuzz_byte(input) | (size_t)fuzz_byte(input) << 8;
    const size_t count = 1 + fuzz_byte(input) % 8;

    for (size_t i = 0; i < count; i++) {
        if (offset % size + i < size) {
            bytes[offset % size + i] = fuzz_byte(input);
        }
    }
}

/* A peer dies with a redo record of its own making, and the next owner of the leaf
 * finds it. Nobody else reads that. */
static void
die(struct world *world, struct fuzz_input *input)
{
    const struct ssti_ring_section section = ssti_queue_section(world->queue);
    struct sst_ring_shm *const ring = &world->shm->ring;
    const size_t begin = offsetof(struct sst_ring_shm, intent);

    section.lock(section.object);
    for (int i = 1 + fuzz_byte(input) % 4; i > 0; i--) {
        scribble(input, (uint8_t *)ring + begin, sizeof(*ring) - begin);
    }
    ssti_ring_repair_locked(&world->queue->ring);
    section.unlock(section.object);
}

static void
scribble_somewhere(struct world *world, struct fuzz_input *input)
{
    struct sst_parcel_shm *const parcel = world->parcel_shm;

    switch (fuzz_byte(input) % 5) {
    case 0:
        scribble(input, &world->shm->ring, offsetof(struct sst_ring_shm, intent));
        break;
    case 1:
        scribble(input, world->chunk, sizeof(struct sst_chunk_shm) + RECORDS);
        break;
    case 2:
        scribble(input, &parcel->size,
                 sizeof(*parcel) - offsetof(struct sst_parcel_shm, size));
        break;
    case 3:
        scribble(input, world->words, 2 * sizeof(uint64_t));
        break;
    default:
        die(world, input);
        break;
    }
}

/* ---- Using ---- */

static uint8_t
look(const void *data, uint64_t size)
{
    const uint8_t *const bytes = data;

    return size > 0 ? (uint8_t)(bytes[0] ^ bytes[size / 2] ^ bytes[size - 1]) : 0;
}

static void
look_at_parcel(struct sst_parcel *parcel)
{
    struct sst_handle handle;
    uint32_t count = sst_parcel_count(parcel);

    (void)look(sst_parcel_data(parcel), sst_parcel_size(parcel));
    fuzz_expect(count <= 1 << 20);
    for (uint32_t i = 0; i < count && i < 4; i++) {
        fuzz_any(sst_parcel_handle_at(parcel, i, &handle));
    }
}

static void
take(struct sst_queue *queue)
{
    struct sst_message message;

    if (sst_queue_get(queue, &message, SST_NOW) < 0) {
        return;
    }
    (void)look(message.data, message.size);
    if (sst_message_parcel(&message) != NULL) {
        look_at_parcel(sst_message_parcel(&message));
    }
    sst_message_free(&message);
}

/* As a process does that has never seen it. */
static void
take_anew(struct world *world)
{
    struct sst_queue *other = NULL;

    if (sst_queue_attach(world->arena, &world->queue_handle, &other, NULL) == 0) {
        take(other);
        (void)sst_queue_close(other);
    }
}

static void
attach_parcel(struct world *world)
{
    struct sst_parcel *other = NULL;

    if (sst_parcel_attach(world->arena, &world->parcel_handle, &other, NULL) == 0) {
        look_at_parcel(other);
        fuzz_any(sst_queue_put_parcel(world->queue, &other, SST_NOW));
        if (other != NULL) {
            (void)sst_parcel_close(other);
        }
    }
}

static void
use(struct world *world, struct fuzz_input *input)
{
    switch (fuzz_byte(input) % 7) {
    case 0:
        take(world->queue);
        break;
    case 1:
        fuzz_any(sst_queue_put(world->queue, "again", 5, SST_NOW));
        break;
    case 2:
        fuzz_any(sst_queue_put(world->queue, large, LARGE, SST_NOW));
        break;
    case 3:
        take_anew(world);
        break;
    case 4:
        attach_parcel(world);
        break;
    case 5:
        fuzz_any(sst_queue_poll(world->queue, SST_NOW));
        (void)sst_queue_count(world->queue);
        break;
    default:
        look_at_parcel(world->parcel);
        break;
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, data + size};
    struct world world;

    world_open(&world);
    for (int i = 0; i < STEP_MAX && fuzz_more(&input); i++) {
        if (fuzz_byte(&input) % 2 == 0) {
            scribble_somewhere(&world, &input);
        }
        else {
            use(&world, &input);
        }
    }
    for (int i = 0; i < 8; i++) {
        take(world.queue);
    }
    world_close(&world);
    return 0;
}
