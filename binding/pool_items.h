/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_POOL_ITEMS_H
#define SSTPY_POOL_ITEMS_H

/* What an iterator over results has ready and has not given out: a ring of outcomes by
 * their position in the input, from the next one to be given out on. */

#include <stdbool.h>
#include <stdint.h>

#include "compat.h"

struct sstpy_item {
    PyObject *value; /* owned; NULL: no outcome yet */
    uint32_t skip;   /* positions behind this one that share its outcome */
    bool ok;
};

struct sstpy_items {
    struct sstpy_item *ring;
    uint64_t capacity; /* a power of two, or 0 */
    uint64_t head;     /* position of the next to be given out */
    uint64_t tail;     /* position behind the last that is here */
    uint64_t length;   /* of the input; UINT64_MAX while nobody knows */
};

void sstpy_items_init(struct sstpy_items *items);
void sstpy_items_fini(struct sstpy_items *items);
int sstpy_items_traverse(struct sstpy_items *items, visitproc visit, void *arg);

/* Room for position `last`. -1 with MemoryError. */
int sstpy_items_reserve(struct sstpy_items *items, uint64_t last);

/* The outcome of a position that there is room for. Steals the value. */
void sstpy_items_set(struct sstpy_items *items, uint64_t position, bool ok,
                     PyObject *value, uint32_t skip);

/* Is the next one here? */
bool sstpy_items_ready(const struct sstpy_items *items);

/* Have all been given out? */
bool sstpy_items_at_end(const struct sstpy_items *items);

/* Take the next one, which is ready: the reference is the caller's. */
PyObject *sstpy_items_take(struct sstpy_items *items, bool *ok);

#endif
