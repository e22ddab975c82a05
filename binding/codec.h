/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_CODEC_H
#define SSTPY_CODEC_H

/* Objects to messages and back. docs/internals/messages.rst has the format. */

#include <stdbool.h>

#include "state.h"

/* Payloads up to here are copied behind their tag; larger ones travel as a slice. */
#define SSTPY_ENCODED_SMALL 247

/* Above this many bytes a copy is worth letting other threads run. */
#define SSTPY_DETACH_SIZE (64 * 1024)

/* A message that is ready to be put: nothing of Python runs between here and the
 * commit. */
struct sstpy_encoded {
    struct sst_slice slices[SST_SLICES_MAX]; /* tag, payload; or all in the first */
    uint32_t count;                          /* of slices */
    uint64_t size;                           /* of all slices */
    struct sstpy_nest_scratch *nest;         /* of a nest's payload, or NULL */
    PyObject *owner;                         /* of any other, or NULL */
    Py_buffer view; /* on the payload; view.obj is NULL without one */
    unsigned char small[SSTPY_ENCODED_SMALL + 1];
};

/* Encode an object. May run Python code (reducers). -1 with an exception set, and then
 * nothing to release. */
int sstpy_encode(struct sstpy_state *state, PyObject *obj, struct sstpy_encoded *out);

/* Encode raw bytes as a message of their own kind: what Connection.send_bytes sends.
 * Borrows `data` until released. */
void sstpy_encode_raw(const void *data, uint64_t size, struct sstpy_encoded *out);

void sstpy_encoded_release(struct sstpy_encoded *encoded);

/* The object in a message, which is freed in any case. NULL with an exception set. */
PyObject *sstpy_decode(struct sstpy_state *state, struct sst_message *message);

/* The bytes that the stdlib's recv_bytes would give: raw bytes as they are, objects as
 * their pickle. Takes the message as sstpy_decode. `size_max` < 0: any; otherwise a
 * longer one gives NULL without an exception. */
PyObject *sstpy_decode_bytes(struct sstpy_state *state, struct sst_message *message,
                             int64_t size_max);

/* A bytes object with a copy of `size` bytes, made without the GIL when large. */
PyObject *sstpy_copy_bytes(const void *data, uint64_t size);

/* The bytes that the stdlib's recv_bytes would give, when they lie in the message as
 * they are: then they are the message's, and the caller frees it. */
bool sstpy_message_bytes(const struct sst_message *message, const void **data,
                         uint64_t *size);

#endif
