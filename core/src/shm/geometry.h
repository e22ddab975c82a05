/* SPDX-License-Identifier: MIT */
#ifndef SSTI_SHM_GEOMETRY_H
#define SSTI_SHM_GEOMETRY_H

/* The map of an arena follows from two numbers, its size and the number of seats, so
 * that whoever attaches computes it and believes no offset. docs/internals/memory.rst
 * draws it. */

#include <stdint.h>

#include "shm/layout.h"

struct ssti_geometry {
    uint64_t size;
    uint32_t process_max;
    uint32_t held_max; /* entries of a held table */
    uint64_t seats;    /* offsets from here on */
    uint64_t areas;
    uint64_t area_size;
    uint64_t slots;     /* range of the first class, */
    uint64_t slot_span; /* each as large as this */
    uint64_t units;
    uint64_t heap;
    uint64_t unit_count;
    uint64_t window_max; /* extents are not split by windows up to this size */
};

#define SSTI_ARENA_SIZE_MIN     (UINT64_C(32) << 20)
#define SSTI_ARENA_SIZE_MAX     (UINT64_C(8) << 40)
#define SSTI_ARENA_SIZE_DEFAULT (UINT64_C(1) << 40)
#define SSTI_PROCESS_MAX        4096
#define SSTI_PROCESS_MIN        8
#define SSTI_WINDOW_DEFAULT     (UINT64_C(64) << 20)
#define SSTI_WINDOW_MIN         (UINT64_C(1) << 20)

/* `size` a power of two within the bounds; seats may come out fewer than asked for. */
void ssti_geometry_compute(struct ssti_geometry *map, uint64_t size,
                           uint32_t process_max);

/* A hash over every struct of an arena, its constants included. */
uint32_t ssti_layout_hash(void);

#endif
