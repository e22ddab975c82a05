/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_CODEC_H
#define SSTPY_CODEC_H

/* Objects to messages and back. docs/internals/messages.rst has the format. */

#include <stdbool.h>

#include "copy.h"
#include "state.h"

/* Payloads up to here are copied behind their tag; larger ones travel as a slice. */
#define SSTPY_ENCODED_SMALL 247

/* A message that is ready to be put: nothing of Python runs between here and the
 * commit. */
struct sstpy_encoded {
    struct sst_parcel *parcel;               /* or NULL: the slices */
    struct sst_slice slices[SST_SLICES_MAX]; /* tag, payload; or all in the first */
    uint32_t count;                          /* of slices */
    uint64_t size;                           /* of all slices */
    struct sstpy_nest_scratch *nest;         /* of a nest's payload, or NULL */
    PyObject *owner;                         /* of any other, or NULL */
    Py_buffer view; /* on the payload; view.obj is NULL without one */
    unsigned char small[SSTPY_ENCODED_SMALL + 1];
};

/* Encode an object. May run Python code (reducers). 0, SSTPY_RAISED, or a status of the
 * core when there is no memory for it; unless 0 there is nothing to release. */
int sstpy_encode(struct sstpy_state *state, PyObject *obj, struct sstpy_encoded *out);

/* Encode raw bytes as a message of their own kind: what Connection.send_bytes sends.
 * Borrows `data` until released. 0 or SSTPY_RAISED, by a signal handler. */
int sstpy_encode_raw(struct sstpy_state *state, const void *data, uint64_t size,
                     struct sstpy_encoded *out);

/* A message that is what it is: borrows `data` until released. */
void sstpy_encode_whole(const void *data, uint64_t size, struct sstpy_encoded *out);

void sstpy_encoded_release(struct sstpy_encoded *encoded);

/* Put it, or send it; the parcel, if it is one, is the queue's then. Without the GIL or
 * with it: returns what the core does. */
static inline int
sstpy_encoded_put(struct sstpy_encoded *encoded, struct sst_queue *queue,
                  int64_t deadline_ns)
{
    if (encoded->count == 1) {
        return sst_queue_put(queue, encoded->slices->data, encoded->slices->size,
                             deadline_ns);
    }
    if (encoded->parcel != NULL) {
        return sst_queue_put_parcel(queue, &encoded->parcel, deadline_ns);
    }
    return sst_queue_put_slices(queue, encoded->slices, encoded->count, deadline_ns);
}

static inline int
sstpy_encoded_send(struct sstpy_encoded *encoded, struct sst_pipe *pipe,
                   int64_t deadline_ns)
{
    if (encoded->count == 1) {
        return sst_pipe_send(pipe, encoded->slices->data, encoded->slices->size,
                             deadline_ns);
    }
    if (encoded->parcel != NULL) {
        return sst_pipe_send_parcel(pipe, &encoded->parcel, deadline_ns);
    }
    return sst_pipe_send_slices(pipe, encoded->slices, encoded->count, deadline_ns);
}

/* The object in a message, which is freed in any case. NULL with an exception set. */
PyObject *sstpy_decode(struct sstpy_state *state, struct sst_message *message);

/* The same, and what a signal handler raises meanwhile does not cost the object: it is
 * held (interrupt.h). */
PyObject *sstpy_decode_whole(struct sstpy_state *state, struct sst_message *message);

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
