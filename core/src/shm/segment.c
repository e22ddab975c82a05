/* SPDX-License-Identifier: MIT */

/* The arena as a whole: making it, joining it, leaving it.
 *
 * Whoever joins believes nothing: the file must be a memory file that cannot shrink, of
 * the size its first page says; magic, version and layout hash must be ours; the map is
 * computed from size and number of seats rather than read; and the process must be in
 * the creator's name space of process ids, because lock words hold thread ids.
 *
 * Death table
 *   creator dies while making     nobody else has the descriptor yet: the kernel frees
 *                                 it all
 *   a member dies                 registry.c, sweep.c
 *   a member dies while leaving   the same; what it has undone is undone
 *
 * docs/internals/memory.rst. */

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "base/alloc.h"
#include "base/atomic.h"
#include "base/bits.h"
#include "base/crashpoint.h"
#include "base/status.h"
#include "os/life.h"
#include "os/os.h"
#include "os/self.h"
#include "shm/view.h"

bool
ssti_arena_has(const struct sst_arena *arena, uint64_t offset, uint64_t size)
{
    return offset < arena->map.size && size <= arena->map.size - offset;
}

_Atomic uint64_t *
ssti_arena_word(struct sst_arena *arena, uint64_t offset)
{
    if (offset % sizeof(uint64_t) != 0 || offset < arena->map.seats) {
        return NULL;
    }
    return ssti_arena_ptr(arena, offset, sizeof(uint64_t));
}

/* ---- The local side ---- */

static struct sst_arena *
view_free(struct sst_arena *arena)
{
    ssti_ledger_fini(arena);
    if (arena->windows != NULL && arena->mapped != NULL) {
        ssti_windows_fini(arena);
    }
    arena->windows = ssti_free(arena->windows);
    arena->mapped = ssti_free(arena->mapped);
    ssti_held_fini(arena);
    arena->waits_taken = ssti_free(arena->waits_taken);
    arena->beyond_us = ssti_free(arena->beyond_us);
    if (ssti_arena_has_fd(arena)) {
        arena->fd = ssti_os_close(arena->fd);
    }
    return ssti_free(arena);
}

/* A view of the file behind `fd`, which it takes, laid out by the map. */
static int
view_new(int fd, const struct ssti_geometry *map, struct sst_arena **out)
{
    struct sst_arena *arena = ssti_alloc(sizeof *arena);
    char *first;
    int rc = SST_ENOMEM;

    if (arena == NULL) {
        ssti_os_close(fd);
        return SST_ENOMEM;
    }
    arena->fd = fd;
    (void)ssti_os_file_look(fd, &arena->file); /* a descriptor that was just made */
    arena->map = *map;
    ssti_local_init(&arena->presence_lock);
    ssti_ledger_init(arena);
    arena->waits_taken = ssti_alloc(SSTI_AREA_WAITS);
    arena->beyond_us = ssti_alloc(map->process_max * sizeof *arena->beyond_us);
    if (arena->waits_taken == NULL || arena->beyond_us == NULL) {
        goto fail;
    }
    rc = ssti_held_init(arena);
    if (rc == 0) {
        rc = ssti_windows_init(arena);
    }
    if (rc != 0) {
        goto fail;
    }
    first = ssti_arena_ptr(arena, 0, map->seats);
    if (first == NULL) {
        rc = SST_ENOMEM;
        goto fail;
    }
    arena->header = (struct sst_header_shm *)(void *)first;
    arena->control = (struct sst_control_shm *)(void *)(first + SSTI_CONTROL_OFFSET);
    *out = arena;
    return 0;

fail:
    view_free(arena);
    return rc;
}

/* ---- Sitting down and getting up ---- */

static int
sit_down(struct sst_arena *arena, uint64_t proc)
{
    const uint32_t index = ssti_proc_index(proc);
    int rc;

    arena->seat = ssti_proc_seat(arena, index);
    arena->area = ssti_proc_area(arena, index);
    if (arena->seat == NULL || arena->area == NULL) {
        return SST_ENOMEM;
    }
    rc = ssti_fork_register(arena);
    if (rc != 0) {
        return rc;
    }
    rc = ssti_proc_stamp(arena, proc);
    if (rc != 0) {
        ssti_fork_unregister(arena);
        return rc;
    }
    arena->proc = proc;
    return 0;
}

/* Join as a new member, or in the seat that a parent has reserved. */
static int
join(struct sst_arena *arena, uint64_t reserved, struct sst_error *err)
{
    uint64_t proc = reserved;
    int rc = 0;

    ssti_kinds_init();
    ssti_block_register();
    if (reserved == 0) {
        rc = ssti_proc_seat_reserve(arena, false, &proc);
    }
    if (rc != 0) {
        return ssti_error_set(err, rc, "all %" PRIu32 " seats of the arena are taken",
                              arena->map.process_max);
    }
    rc = sit_down(arena, proc);
    if (rc != 0) {
        if (reserved == 0) {
            ssti_proc_free_seat(arena, proc); /* nobody else knows of it */
        }
        return ssti_error_set(err, rc, "the seat in the arena could not be taken");
    }
    ssti_ledger_join(arena);
    return 0;
}

/* Give the seat back. False when its memory must stay, because the life words are in
 * the list of another thread than the calling one. */
static bool
get_up(struct sst_arena *arena)
{
    const uint64_t proc = arena->proc;

    ssti_proc_undo(arena);
    if (!ssti_life_is_ours(arena->seat->life)) {
        return false;
    }
    ssti_store_rel(&arena->seat->life_word,
                   0); /* no word is no news; a free one is death */
    SST_CRASHPOINT(getting_up);
    ssti_life_stop(arena->seat->life);
    ssti_life_stop(arena->seat->life_parent);
    ssti_store_rel(&arena->seat->done, 1);
    (void)ssti_os_futex_wake(&arena->seat->done, INT32_MAX);
    ssti_proc_give_seat(arena, proc);
    return true;
}

/* ---- Create ---- */

static int
write_header(struct sst_arena *arena, uint64_t budget)
{
    struct sst_header_shm *const header = arena->header;
    uint64_t id = 0;

    while (id == 0) {
        const int rc = ssti_os_random(&id, sizeof id);

        if (rc != 0) {
            return rc;
        }
    }
    arena->id = id;
    ssti_store_rlx(&header->version, SST_ARENA_VERSION);
    ssti_store_rlx(&header->layout, ssti_layout_hash());
    ssti_store_rlx(&header->size, arena->map.size);
    ssti_store_rlx(&header->id, id);
    ssti_store_rlx(&header->process_max, arena->map.process_max);
    ssti_store_rlx(&header->creator_pid, (uint32_t)ssti_os_pid());
    ssti_store_rlx(&header->creator_born, ssti_os_boot_ticks());
    ssti_store_rlx(&header->pid_space, ssti_os_pid_space());
    ssti_store_rlx(&header->budget, budget);
    ssti_store_rel(&header->magic, SST_ARENA_MAGIC);
    return 0;
}

static uint64_t
choose_size(uint64_t asked)
{
    const uint64_t addresses = ssti_os_address_space_max();
    uint64_t size = asked != 0 ? asked : SSTI_ARENA_SIZE_DEFAULT;

    if (asked == 0 && addresses < SSTI_ARENA_SIZE_DEFAULT / 8) {
        size = addresses * 8; /* what can be mapped decides */
    }
    size = ssti_min(ssti_max(size, SSTI_ARENA_SIZE_MIN), SSTI_ARENA_SIZE_MAX);
    return UINT64_C(1) << ssti_log2_above(size);
}

/* What the caller knows of the options; the rest is 0. */
static struct sst_arena_options
complete(const struct sst_arena_options *options)
{
    struct sst_arena_options all = {0};

    if (options != NULL) {
        const uint64_t size = options->size_of != 0 ? options->size_of : sizeof all;

        memcpy(&all, options, ssti_min(size, sizeof all));
    }
    return all;
}

int
sst_arena_create(const struct sst_arena_options *options, struct sst_arena **out,
                 struct sst_error *err)
{
    const struct sst_arena_options chosen = complete(options);
    uint64_t size = choose_size(chosen.size);
    const uint64_t seats =
        chosen.process_max != 0 ? chosen.process_max : SSTI_PROCESS_MAX;
    struct ssti_geometry map;
    struct sst_arena *arena;
    int fd;
    int rc;

    if (seats > SSTI_PROCESS_MAX) {
        return ssti_error_set(err, SST_EINVAL, "at most %d processes",
                              SSTI_PROCESS_MAX);
    }
    fd = ssti_os_memory_create(&size, SSTI_ARENA_SIZE_MIN);
    if (fd < 0) {
        return ssti_error_set(err, fd,
                              "cannot make the shared memory of %" PRIu64 " bytes",
                              size);
    }
    ssti_geometry_compute(&map, size, (uint32_t)ssti_max(seats, SSTI_PROCESS_MIN));
    rc = view_new(fd, &map, &arena);
    if (rc != 0) {
        return ssti_error_set(err, rc, "cannot map the shared memory");
    }
    rc = write_header(arena, chosen.budget);
    if (rc == 0) {
        rc = join(arena, 0, err);
    }
    if (rc != 0) {
        view_free(arena);
        return rc;
    }
    ssti_ledger_collect(); /* what others have left; a look at a folder, mostly */
    *out = arena;
    return 0;
}

/* ---- Attach ---- */

/* Check a copy of the first page; a map from it. */
static int
check_header(const struct sst_header_shm *header, uint64_t file_size,
             struct ssti_geometry *map, struct sst_error *err)
{
    const uint32_t process_max = ssti_load_rlx(&header->process_max);
    const uint64_t space = ssti_load_rlx(&header->pid_space);

    if (ssti_load_acq(&header->magic) != SST_ARENA_MAGIC) {
        return ssti_error_set(err, SST_ECORRUPT, "this is no arena of sidestep");
    }
    if (ssti_load_rlx(&header->version) != SST_ARENA_VERSION ||
        ssti_load_rlx(&header->layout) != ssti_layout_hash()) {
        return ssti_error_set(err, SST_ELAYOUT,
                              "the arena's layout is %" PRIu32 "/%08" PRIx32
                              ", this library's %d/%08" PRIx32,
                              ssti_load_rlx(&header->version),
                              ssti_load_rlx(&header->layout), SST_ARENA_VERSION,
                              ssti_layout_hash());
    }
    if (ssti_load_rlx(&header->size) != file_size || !ssti_is_power_of_two(file_size) ||
        file_size < SSTI_ARENA_SIZE_MIN || file_size > SSTI_ARENA_SIZE_MAX ||
        ssti_load_rlx(&header->id) == 0) {
        return ssti_error_set(err, SST_ECORRUPT, "the arena's first page is damaged");
    }
    if (process_max < SSTI_PROCESS_MIN || process_max > SSTI_PROCESS_MAX) {
        return ssti_error_set(err, SST_ECORRUPT,
                              "the arena's number of seats is damaged");
    }
    ssti_geometry_compute(map, file_size, process_max);
    if (map->process_max != process_max) {
        return ssti_error_set(err, SST_ECORRUPT,
                              "the arena's number of seats is damaged");
    }
    if (space != 0 && ssti_os_pid_space() != 0 && space != ssti_os_pid_space()) {
        return ssti_error_set(err, SST_EPERM,
                              "the arena belongs to another name space of process ids");
    }
    return 0;
}

static int
read_map(int fd, struct ssti_geometry *map, struct sst_error *err)
{
    const uint64_t page = ssti_os_page_size();
    struct sst_header_shm copy;
    uint64_t size = 0;
    void *first;
    int rc = ssti_os_memory_inspect(fd, &size);

    if (rc != 0) {
        return ssti_error_set(err, rc, "the descriptor is no sealed shared memory");
    }
    if (size < page) {
        return ssti_error_set(err, SST_ECORRUPT, "%" PRIu64 " bytes are no arena",
                              size);
    }
    rc = ssti_os_memory_map(fd, 0, page, &first);
    if (rc != 0) {
        return ssti_error_set(err, rc, "the arena's first page cannot be mapped");
    }
    ssti_copy_out(&copy, first, sizeof copy);
    ssti_os_memory_unmap(first, page);
    return check_header(&copy, size, map, err);
}

int
ssti_arena_attach_as(int fd, uint64_t proc, struct sst_arena **out,
                     struct sst_error *err)
{
    struct ssti_geometry map;
    struct sst_arena *arena;
    int own_fd;
    int rc;

    rc = read_map(fd, &map, err);
    if (rc != 0) {
        return rc;
    }
    own_fd = ssti_os_fd_duplicate(fd);
    if (own_fd < 0) {
        return ssti_error_set(err, own_fd,
                              "the arena's descriptor cannot be duplicated");
    }
    rc = view_new(own_fd, &map, &arena);
    if (rc != 0) {
        return ssti_error_set(err, rc, "cannot map the shared memory");
    }
    arena->id = ssti_load_rlx(&arena->header->id);
    rc = join(arena, proc, err);
    if (rc != 0) {
        view_free(arena);
        return rc;
    }
    if (proc != 0) {
        /* The parent's gifts are the first entries of our table: not free, and to be
         * given back like any other. */
        ssti_held_adopt(arena);
    }
    *out = arena;
    return 0;
}

int
sst_arena_attach(int fd, struct sst_arena **out, struct sst_error *err)
{
    return ssti_arena_attach_as(fd, 0, out, err);
}

/* ---- Detach, and what one may ask ---- */

struct sst_arena *
sst_arena_detach(struct sst_arena *arena)
{
    if (arena == NULL) {
        return NULL;
    }
    ssti_fork_unregister(arena);
    ssti_ledger_leave(arena, false);
    if (arena->proc != 0 && !get_up(arena)) {
        /* Another thread's list of locks leads through the seat: it must stay mapped,
         * and the seat ours, until that thread ends. */
        ssti_held_fini(arena);
        return NULL;
    }
    return view_free(arena);
}

int
sst_arena_fd(const struct sst_arena *arena)
{
    return ssti_arena_has_fd(arena) ? arena->fd : SST_EBADF;
}

uint64_t
sst_arena_id(const struct sst_arena *arena)
{
    return arena->id;
}

static uint64_t
count_held(struct sst_arena *arena)
{
    const uint32_t high = arena->proc != 0 ? ssti_load_rlx(&arena->seat->held_high) : 0;
    uint64_t count = 0;

    for (uint32_t i = 0; i < high; i++) {
        const struct sst_held_shm *const entry =
            ssti_held_at(arena, ssti_proc_index(arena->proc), i);

        count += entry != NULL && ssti_load_rlx(&entry->value) != 0;
    }
    return count;
}

static uint64_t
count_processes(struct sst_arena *arena)
{
    const uint32_t high = ssti_load_acq(&arena->control->registry.high);
    uint64_t count = 0;

    for (uint32_t i = 0; i < high && i < arena->map.process_max; i++) {
        const struct sst_process_shm *const seat = ssti_proc_seat(arena, i);

        count += seat != NULL && ssti_load_acq(&seat->state) == SSTI_PROCESS_LIVE;
    }
    return count;
}

int
sst_arena_statistics(struct sst_arena *arena, struct sst_arena_statistics *out)
{
    const struct sst_heap_shm *const heap = &arena->control->heap;

    *out = (struct sst_arena_statistics){
        .size = arena->map.size,
        .budget = ssti_load_rlx(&arena->header->budget),
        .used = ssti_load_rlx(&heap->used) * SSTI_UNIT + ssti_slots_bytes(arena),
        .slots = ssti_slots_live(arena),
        .extents = ssti_load_rlx(&heap->extents),
        .processes = count_processes(arena),
        .swept = ssti_load_rlx(&arena->control->registry.swept),
        .windows = ssti_load_rlx(&arena->mapped_count),
        .held = count_held(arena),
    };
    return 0;
}
