/* SPDX-License-Identifier: MIT */

#include "pool_items.h"

#include <string.h>

/* Above this many, the ring is given back when it is empty. */
#define ITEMS_KEEP 1024

void
sstpy_items_init(struct sstpy_items *items)
{
    memset(items, 0, sizeof(*items));
    items->length = UINT64_MAX;
}

static struct sstpy_item *
item_at(const struct sstpy_items *items, uint64_t position)
{
    return &items->ring[position & (items->capacity - 1)];
}

void
sstpy_items_fini(struct sstpy_items *items)
{
    for (uint64_t at = items->head; at < items->tail; at++) {
        Py_CLEAR(item_at(items, at)->value);
    }
    items->tail = items->head;
    PyMem_Free(items->ring);
    items->ring = NULL;
    items->capacity = 0;
}

int
sstpy_items_traverse(struct sstpy_items *items, visitproc visit, void *arg)
{
    for (uint64_t at = items->head; at < items->tail; at++) {
        Py_VISIT(item_at(items, at)->value);
    }
    return 0;
}

int
sstpy_items_reserve(struct sstpy_items *items, uint64_t last)
{
    uint64_t capacity = items->capacity > 0 ? items->capacity : 8;

    while (last - items->head >= capacity) {
        capacity *= 2;
    }
    if (capacity == items->capacity) {
        return 0;
    }

    struct sstpy_item *const ring = PyMem_Calloc(capacity, sizeof(*ring));
    if (ring == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (uint64_t at = items->head; at < items->tail; at++) {
        ring[at & (capacity - 1)] = *item_at(items, at);
    }
    PyMem_Free(items->ring);
    items->ring = ring;
    items->capacity = capacity;
    return 0;
}

void
sstpy_items_set(struct sstpy_items *items, uint64_t position, bool ok, PyObject *value,
                uint32_t skip)
{
    struct sstpy_item *const item = item_at(items, position);

    item->value = value;
    item->ok = ok;
    item->skip = skip;
    if (position >= items->tail) {
        items->tail = position + 1;
    }
}

bool
sstpy_items_ready(const struct sstpy_items *items)
{
    return items->head < items->tail && item_at(items, items->head)->value != NULL;
}

bool
sstpy_items_at_end(const struct sstpy_items *items)
{
    return items->head >= items->length;
}

PyObject *
sstpy_items_take(struct sstpy_items *items, bool *ok)
{
    struct sstpy_item *const item = item_at(items, items->head);
    PyObject *const value = item->value;
    const uint64_t next = items->head + 1 + item->skip;

    *ok = item->ok;
    memset(item, 0, sizeof(*item));
    items->head = next;
    if (items->tail < next) {
        items->tail = next;
    }
    if (items->head == items->tail && items->capacity > ITEMS_KEEP) {
        sstpy_items_fini(items);
    }
    return value;
}
