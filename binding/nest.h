/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_NEST_H
#define SSTPY_NEST_H

/* Our own codec for plain nests: exact built-in containers of exact built-in objects.
 * docs/internals/messages.rst has the format and the rule of identity. */

#include <stdint.h>

#include "state.h"

/* A nest that was encoded, behind the message's tag. */
struct sstpy_nest {
    struct sst_slice *slices; /* SST_SLICES_MAX of the caller's, to be filled */
    uint32_t count;           /* of slices */
    uint64_t size;            /* of all slices */
    struct sstpy_nest_scratch *scratch; /* where they lie, to be released */
};

/* Encode `obj`, the first byte being `tag`.
 *
 * Returns 1, and `out` is to be released after the put; 0 when it is not a nest, or one
 * that pickle must do, and there is nothing to release; -1 with an exception set.
 * Runs no Python code and allocates no Python object, so no collection starts. */
int sstpy_nest_encode(struct sstpy_state *state, PyObject *obj, unsigned char tag,
                      struct sstpy_nest *out);

/* After the put. NULL is nothing. */
void sstpy_nest_release(struct sstpy_nest_scratch *scratch);

/* The object whose nest lies in `size` bytes behind the tag. ValueError when they are
 * none, whatever they are and also while somebody else writes to them. Runs no Python
 * code of its own, but allocates, so a collection may. */
PyObject *sstpy_nest_decode(struct sstpy_state *state, const void *data, uint64_t size);

/* When the module goes. */
void sstpy_nest_spare_free(struct sstpy_nest_spare *spare);
void sstpy_nest_names_free(struct sstpy_nest_names *names);

#endif
