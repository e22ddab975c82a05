/* SPDX-License-Identifier: MIT */

#include "shm/geometry.h"

#include <stddef.h>

#include "base/bits.h"

enum {
    SEATS_OFFSET = 64 * 1024,
    AREA_SIZE_MIN = 512 * 1024,
    AREAS_SHARE = 8,   /* at most this part of the arena is held tables, */
    SLOTS_SHARE = 128, /* and this part slots of one class */
};

#define AREA_SIZE_MAX (UINT64_C(8) << 20)
#define SLOT_SPAN_MAX (UINT64_C(8) << 30)

_Static_assert(SSTI_CONTROL_OFFSET + sizeof(struct sst_control_shm) <= SEATS_OFFSET,
               "the control pages end before the seats");
_Static_assert(0 + SSTI_AREA_HELD_OFFSET < 0 + AREA_SIZE_MIN,
               "an area has room for a held table");
_Static_assert((uint64_t)SSTI_UNIT << (SSTI_ORDERS - 1) >= SSTI_ARENA_SIZE_MAX,
               "an order for every extent");
_Static_assert(SSTI_SLOT_SIZE_MIN << (SSTI_SLOT_CLASSES - 1) == SSTI_SLOT_SIZE_MAX,
               "classes of slots");

void
ssti_geometry_compute(struct ssti_geometry *map, uint64_t size, uint32_t process_max)
{
    uint64_t end;

    map->size = size;
    map->area_size = AREA_SIZE_MAX;
    while (map->area_size > AREA_SIZE_MIN &&
           map->area_size * process_max > size / AREAS_SHARE) {
        map->area_size /= 2;
    }
    while (process_max > SSTI_PROCESS_MIN &&
           map->area_size * process_max > size / AREAS_SHARE) {
        process_max /= 2;
    }
    map->process_max = process_max;
    map->held_max = (uint32_t)((map->area_size - SSTI_AREA_HELD_OFFSET) /
                               sizeof(struct sst_held_shm));

    map->seats = SEATS_OFFSET;
    end = map->seats + (uint64_t)process_max * sizeof(struct sst_process_shm);
    map->areas = ssti_round_up(end, map->area_size);
    map->slots = map->areas + process_max * map->area_size;
    map->slot_span = ssti_min(ssti_power_below(size / SLOTS_SHARE), SLOT_SPAN_MAX);
    map->units = map->slots + SSTI_SLOT_CLASSES * map->slot_span;
    end = map->units + size / SSTI_UNIT * sizeof(struct sst_unit_shm);
    map->window_max = ssti_min(ssti_power_below(size / 8), SSTI_WINDOW_DEFAULT);
    map->heap = ssti_round_up(end, map->window_max);
    map->unit_count = (size - map->heap) / SSTI_UNIT;
}

uint32_t
ssti_layout_hash(void)
{
    return SSTI_LAYOUT_HASH(
        SST_ARENA_VERSION, SEATS_OFFSET, AREA_SIZE_MIN, AREA_SIZE_MAX, SLOT_SPAN_MAX,
        AREAS_SHARE, SLOTS_SHARE, SSTI_UNIT, SSTI_ORDERS, SSTI_SLOT_CLASSES,
        SSTI_AREA_WAITS, SSTI_AREA_PRESENCES, SSTI_WINDOW_DEFAULT,
        sizeof(struct sst_leaf_shm), sizeof(struct sst_wait_shm),
        sizeof(struct sst_header_shm), sizeof(struct sst_slot_shm),
        sizeof(struct sst_class_shm), offsetof(struct sst_class_shm, intent_slot),
        sizeof(struct sst_unit_shm), sizeof(struct sst_heap_shm),
        offsetof(struct sst_heap_shm, intent_unit), offsetof(struct sst_heap_shm, list),
        sizeof(struct sst_process_shm), offsetof(struct sst_process_shm, life),
        offsetof(struct sst_process_shm, done), sizeof(struct sst_registry_shm),
        sizeof(struct sst_held_shm), sizeof(struct sst_presence_shm),
        sizeof(struct sst_control_shm), offsetof(struct sst_control_shm, heap),
        offsetof(struct sst_control_shm, classes), sizeof(struct sst_block_shm));
}
