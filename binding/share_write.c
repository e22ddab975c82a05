/* SPDX-License-Identifier: MIT */

/* What building a share needs of its own: memory that grows without moving, and a table
 * of what was seen. Neither is shared; a process that dies here leaves nothing. */

#include <stdlib.h>

#include "share.h"

/* ---- Map ---- */

static uint64_t
map_start(const struct share_map *map, uint64_t key)
{
    return (key * UINT64_C(0x9E3779B97F4A7C15) >> 20) & (map->capacity - 1);
}

static struct share_map_entry *
map_place(const struct share_map *map, uint64_t key)
{
    uint64_t at = map_start(map, key);

    while (map->entries[at].key != 0 && map->entries[at].key != key) {
        at = (at + 1) & (map->capacity - 1);
    }
    return &map->entries[at];
}

uint64_t *
sstpy_share_map_find(const struct share_map *map, uint64_t key)
{
    if (map->capacity == 0) {
        return NULL;
    }

    struct share_map_entry *const entry = map_place(map, key);
    return entry->key != 0 ? &entry->value : NULL;
}

static int
map_grow(struct share_map *map)
{
    struct share_map larger = {.capacity = map->capacity == 0 ? 64 : map->capacity * 2,
                               .count = map->count};

    larger.entries = PyMem_RawCalloc(larger.capacity, sizeof(*larger.entries));
    if (larger.entries == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (uint64_t i = 0; i < map->capacity; i++) {
        if (map->entries[i].key != 0) {
            *map_place(&larger, map->entries[i].key) = map->entries[i];
        }
    }
    PyMem_RawFree(map->entries);
    *map = larger;
    return 0;
}

int
sstpy_share_map_insert(struct share_map *map, uint64_t key, uint64_t value)
{
    if (map->count >= map->capacity / 2 && map_grow(map) < 0) {
        return -1;
    }
    *map_place(map, key) = (struct share_map_entry){key, value};
    map->count++;
    return 0;
}

void
sstpy_share_map_fini(struct share_map *map)
{
    PyMem_RawFree(map->entries);
    *map = (struct share_map){0};
}

/* ---- Writer ---- */

#define PIECE_SIZE (UINT64_C(1) << 20)

struct share_piece {
    struct share_piece *next;
    uint64_t used, size;
    unsigned char data[];
};

static int
writer_extend(struct share_writer *writer, uint64_t size)
{
    const uint64_t wanted = size > PIECE_SIZE ? size : PIECE_SIZE;
    struct share_piece *const piece =
        PyMem_RawMalloc(sizeof(struct share_piece) + (size_t)wanted);

    if (piece == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    *piece = (struct share_piece){.size = wanted};
    if (writer->last != NULL) {
        writer->last->next = piece;
    }
    else {
        writer->first = piece;
    }
    writer->last = piece;
    return 0;
}

void *
sstpy_share_writer_alloc(struct share_writer *writer, uint64_t size, uint64_t *offset)
{
    size = (size + 7) & ~UINT64_C(7);
    if (size > PY_SSIZE_T_MAX / 2 || writer->size > SHARE_LOW48 / 2) {
        return PyErr_NoMemory();
    }
    if ((writer->last == NULL || size > writer->last->size - writer->last->used) &&
        writer_extend(writer, size) < 0) {
        return NULL;
    }

    /* The rest of the piece before has no offset: pieces are joined by what is used. */
    void *const at = writer->last->data + writer->last->used;
    *offset = writer->size;
    writer->last->used += size;
    writer->size += size;
    return at;
}

void
sstpy_share_writer_drain(struct share_writer *writer, unsigned char *to)
{
    while (writer->first != NULL) {
        struct share_piece *const piece = writer->first;
        memcpy(to, piece->data, (size_t)piece->used);
        to += piece->used;
        writer->first = piece->next;
        PyMem_RawFree(piece);
    }
    writer->last = NULL;
}

void
sstpy_share_writer_fini(struct share_writer *writer)
{
    while (writer->first != NULL) {
        struct share_piece *const piece = writer->first;
        writer->first = piece->next;
        PyMem_RawFree(piece);
    }
    *writer = (struct share_writer){0};
}
