/* SPDX-License-Identifier: MIT */

/* Mapping an arena by windows.
 *
 * The file is far larger than what any process should map, so it is mapped in windows
 * of 64 MiB (less under a small RLIMIT_AS), each when first touched, and then kept
 * until the arena is detached: addresses stay good without counting users, and looking
 * one up is a load. Slots and extents are aligned to their size, so one that is no
 * larger than a window lies within a window. A larger one gets a mapping of its own.
 * Those are cached too, for mapping and first touch cost as much as copying the bytes;
 * the ones nobody uses are unmapped, oldest first, when they are many or together
 * large.
 *
 * After a fork the child has all of it at the same addresses (MAP_SHARED).
 *
 * Death table: this file writes no shared memory; mappings go with their process. */

#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "os/os.h"
#include "shm/view.h"

enum {
    LARGE_IDLE_MAX = 32,
};

#define LARGE_IDLE_BYTES (UINT64_C(1) << 30)

static uint64_t
window_size(const struct sst_arena *arena)
{
    return UINT64_C(1) << arena->window_shift;
}

int
ssti_windows_init(struct sst_arena *arena)
{
    const uint64_t addresses = ssti_os_address_space_max();
    uint64_t size = arena->map.window_max;

    /* A dozen windows are in use from the start: let them take a part of the
     * addresses. */
    while (size > SSTI_WINDOW_MIN && size > addresses / 128) {
        size /= 2;
    }
    arena->window_shift = ssti_log2_above(size);
    arena->windows =
        ssti_alloc((arena->map.size >> arena->window_shift) * sizeof *arena->windows);
    arena->mapped = ssti_alloc(SSTI_WINDOWS_MAX * sizeof *arena->mapped);
    if (arena->windows == NULL || arena->mapped == NULL) {
        return SST_ENOMEM;
    }
    ssti_local_init(&arena->map_lock);
    return 0;
}

void
ssti_windows_fini(struct sst_arena *arena)
{
    for (uint32_t i = 0; i < ssti_load_rlx(&arena->mapped_count); i++) {
        ssti_os_memory_unmap(arena->mapped[i].address, window_size(arena));
    }
    for (uint32_t i = 0; i < arena->large_count; i++) {
        ssti_os_memory_unmap(arena->large[i].address, arena->large[i].size);
    }
    arena->windows = ssti_free(arena->windows);
    arena->mapped = ssti_free(arena->mapped);
    arena->large = ssti_free(arena->large);
}

bool
ssti_arena_has_fd(const struct sst_arena *arena)
{
    struct ssti_os_file now;

    return ssti_os_file_look(arena->fd, &now) == 0 &&
           now.device == arena->file.device && now.number == arena->file.number;
}

/* Programs that become daemons close every descriptor they can count to, ours too. */
static int
map_range(struct sst_arena *arena, uint64_t offset, uint64_t size, void **out)
{
    if (ssti_arena_has_fd(arena)) {
        return ssti_os_memory_map(arena->fd, offset, size, out);
    }
    return arena->header != NULL
               ? ssti_os_memory_map_again(arena->header, offset, size, out)
               : SST_EBADF;
}

static char *
map_window(struct sst_arena *arena, uint64_t number)
{
    void *address = NULL;
    uint32_t count;

    ssti_local_lock(&arena->map_lock);
    address = ssti_load_acq(&arena->windows[number]);
    count = ssti_load_rlx(&arena->mapped_count);
    if (address == NULL && count < SSTI_WINDOWS_MAX &&
        map_range(arena, number << arena->window_shift, window_size(arena), &address) ==
            0) {
        arena->mapped[count].offset = number << arena->window_shift;
        arena->mapped[count].address = address;
        ssti_store_rel(&arena->mapped_count,
                       count + 1); /* pairs: ssti_windows_offset */
        ssti_store_rel(&arena->windows[number], (char *)address); /* pairs: arena_ptr */
    }
    ssti_local_unlock(&arena->map_lock);
    return address;
}

uint64_t
ssti_windows_offset(const struct sst_arena *arena, const void *address)
{
    const uint32_t count = ssti_load_acq(&arena->mapped_count);

    for (uint32_t i = 0; i < count; i++) {
        const uint64_t distance =
            (uint64_t)((uintptr_t)address - (uintptr_t)arena->mapped[i].address);

        if (distance < window_size(arena)) {
            return arena->mapped[i].offset + distance;
        }
    }
    return 0;
}

/* ---- Large ranges; the caller holds map_lock ---- */

static bool
covers(const struct ssti_large *large, uint64_t offset, uint64_t size)
{
    return offset >= large->offset && offset - large->offset <= large->size &&
           size <= large->size - (offset - large->offset);
}

/* A pinned one first, so that what a block has pinned is what its unpin finds. */
static struct ssti_large *
find_large(struct sst_arena *arena, uint64_t offset, uint64_t size)
{
    struct ssti_large *found = NULL;

    for (uint32_t i = 0; i < arena->large_count; i++) {
        struct ssti_large *const large = &arena->large[i];

        if (covers(large, offset, size) && (found == NULL || found->pins == 0)) {
            found = large;
        }
    }
    return found;
}

static bool
is_idle(const struct ssti_large *large)
{
    return large->pins == 0 && !large->is_in_use;
}

/* Unmap idle ranges, oldest first, until so many and so much are left at most. */
static void
evict_to(struct sst_arena *arena, uint32_t count_max, uint64_t bytes_max)
{
    for (;;) {
        struct ssti_large *oldest = NULL;
        uint64_t bytes = 0;
        uint32_t count = 0;

        for (uint32_t i = 0; i < arena->large_count; i++) {
            struct ssti_large *const large = &arena->large[i];

            if (is_idle(large)) {
                count++;
                bytes += large->size;
                oldest = oldest == NULL || large->use < oldest->use ? large : oldest;
            }
        }
        if (count == 0 || (count <= count_max && bytes <= bytes_max)) {
            return;
        }
        ssti_os_memory_unmap(oldest->address, oldest->size);
        *oldest = arena->large[--arena->large_count];
    }
}

static void
evict(struct sst_arena *arena)
{
    evict_to(arena, LARGE_IDLE_MAX, LARGE_IDLE_BYTES);
}

void
ssti_windows_shed(struct sst_arena *arena)
{
    ssti_local_lock(&arena->map_lock);
    evict_to(arena, 0, 0);
    ssti_local_unlock(&arena->map_lock);
}

static struct ssti_large *
map_large(struct sst_arena *arena, uint64_t offset, uint64_t size)
{
    struct ssti_large *large = arena->large;
    void *address;

    if (arena->large_count == arena->large_room) {
        const uint32_t room = arena->large_room * 2 + 16;

        large = ssti_realloc(large, room * sizeof *large);
        if (large == NULL) {
            return NULL;
        }
        arena->large = large;
        arena->large_room = room;
    }
    if (map_range(arena, offset, size, &address) != 0) {
        evict_to(arena, 0, 0); /* it may be they that leave no room */
        if (map_range(arena, offset, size, &address) != 0) {
            return NULL;
        }
    }
    large = &arena->large[arena->large_count++];
    *large = (struct ssti_large){.offset = offset, .size = size, .address = address};
    return large;
}

static void *
open_large(struct sst_arena *arena, uint64_t offset, uint64_t size, bool is_pinned)
{
    const uint64_t page = ssti_os_page_size();
    const uint64_t start = offset & ~(page - 1);
    const uint64_t end = ssti_round_up(offset + size, page);
    struct ssti_large *large;
    void *address = NULL;

    ssti_local_lock(&arena->map_lock);
    large = find_large(arena, offset, size);
    if (large == NULL) {
        large = map_large(arena, start, end - start);
    }
    if (large != NULL) {
        large->use = ++arena->large_uses;
        large->pins += is_pinned;
        large->is_in_use |= !is_pinned;
        address = large->address + (offset - large->offset);
    }
    ssti_local_unlock(&arena->map_lock);
    return address;
}

static bool
is_within_window(const struct sst_arena *arena, uint64_t offset, uint64_t size)
{
    const uint64_t last = size != 0 ? offset + size - 1 : offset;

    return offset >> arena->window_shift == last >> arena->window_shift;
}

void *
ssti_arena_ptr(struct sst_arena *arena, uint64_t offset, uint64_t size)
{
    char *window;

    if (!ssti_arena_has(arena, offset, size)) {
        return NULL;
    }
    if (!is_within_window(arena, offset, size)) {
        return open_large(arena, offset, size, false);
    }
    window = ssti_load_acq(&arena->windows[offset >> arena->window_shift]);
    if (window == NULL) {
        window = map_window(arena, offset >> arena->window_shift);
    }
    return window != NULL ? window + (offset & (window_size(arena) - 1)) : NULL;
}

void *
ssti_arena_pin(struct sst_arena *arena, uint64_t offset, uint64_t size)
{
    if (!ssti_arena_has(arena, offset, size)) {
        return NULL;
    }
    if (is_within_window(arena, offset, size)) {
        return ssti_arena_ptr(arena, offset, size);
    }
    return open_large(arena, offset, size, true);
}

void
ssti_arena_unpin(struct sst_arena *arena, uint64_t offset, uint64_t size)
{
    if (is_within_window(arena, offset, size)) {
        return;
    }
    ssti_local_lock(&arena->map_lock);
    for (uint32_t i = 0; i < arena->large_count; i++) {
        struct ssti_large *const large = &arena->large[i];

        if (large->pins > 0 && covers(large, offset, size)) {
            large->pins--;
            break;
        }
    }
    evict(arena);
    ssti_local_unlock(&arena->map_lock);
}

void
ssti_arena_unmap_large(struct sst_arena *arena, uint64_t offset)
{
    bool any = false;

    ssti_local_lock(&arena->map_lock);
    for (uint32_t i = 0; i < arena->large_count; i++) {
        struct ssti_large *const large = &arena->large[i];

        if (offset >= large->offset && offset - large->offset < large->size) {
            large->is_in_use = false;
            any = true;
        }
    }
    if (any) {
        evict(arena);
    }
    ssti_local_unlock(&arena->map_lock);
}
