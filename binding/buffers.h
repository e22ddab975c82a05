/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_BUFFERS_H
#define SSTPY_BUFFERS_H

/* Messages whose large buffers lie beside their pickle, in shared memory.
 * docs/internals/messages.rst has the format. */

#include <stdbool.h>

#include "codec.h"
#include "state.h"

/* The first byte of such a message. */
#define SSTPY_TAG_BUFFERS 'B'

/* The head of the message, and then a row for each buffer. Little endian. */
struct sstpy_buffers_head {
    uint8_t tag;
    uint8_t zero[3];
    uint32_t count;       /* of buffers */
    uint64_t pickle_size; /* of the bytes behind the rows */
};

enum {
    SSTPY_ROW_READONLY = 1,
};

struct sstpy_buffers_row {
    uint32_t flags;
    uint32_t parcel; /* 0: this message; n: the one held in place n - 1 */
    uint64_t offset; /* of the buffer there */
    uint64_t size;
};

_Static_assert(sizeof(struct sstpy_buffers_head) == 16, "the format");
_Static_assert(sizeof(struct sstpy_buffers_row) == 24, "the format");

/* ---- buffers.c ---- */

/* Buffers up to here cost less inside the pickle than beside it. */
#define SSTPY_BUFFER_MIN 4096

/* One that a pickler put aside. */
struct sstpy_buffer {
    Py_buffer view;           /* held until the message is made */
    struct sst_handle handle; /* of the sealed parcel it lies in; kind 0: of none */
    uint64_t offset;          /* there */
};

/* The callback of the pickler, which collects them. */
struct sstpy_collector {
    PyObject_HEAD
    struct sstpy_state *state;
    struct sstpy_buffer *buffers;
    uint32_t count;
    uint32_t room;
    bool closed; /* the pickler is through: nothing more is taken */
};

struct sstpy_collector *sstpy_collector_new(struct sstpy_state *state);

/* Forget what was collected. May run Python code. */
void sstpy_collector_clear(struct sstpy_collector *collector);

/* Take no more. What was collected is released when it is deallocated. */
void sstpy_collector_close(struct sstpy_collector *collector);

/* Make the message of a pickle, the buffers that were put aside, and a parcel that
 * holds what travels along (NULL: nothing; closed in any case): in out->parcel, or as
 * slices when there is no memory for a parcel. 0, SSTPY_RAISED, or a status of the
 * core. */
int sstpy_buffers_encode(struct sstpy_state *state, PyObject *pickled,
                         struct sstpy_collector *collector, struct sst_parcel *held,
                         struct sstpy_encoded *out);

/* ---- buffers_open.c ---- */

/* A message as an object that owns it: `size` bytes of it from `offset` as a buffer.
 * The message is empty afterwards. */
PyObject *sstpy_message_take(struct sstpy_state *state, struct sst_message *message,
                             uint64_t offset, uint64_t size);

/* The object in a message of this kind. Takes what it needs of the message, as
 * sstpy_decode. `again` as of sstpy_unpickle_whole. NULL with an exception set. */
PyObject *sstpy_buffers_decode(struct sstpy_state *state, struct sst_message *message,
                               bool again);

int sstpy_buffers_exec(PyObject *module, struct sstpy_state *state);
int sstpy_buffers_open_exec(PyObject *module, struct sstpy_state *state);

#endif
