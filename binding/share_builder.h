/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_SHARE_BUILDER_H
#define SSTPY_SHARE_BUILDER_H

/* What share_build.c (containers) and share_put.c (leaves) have in common. */

#include "share.h"

#define FAR_SIZE (UINT64_C(64) * 1024) /* bytes from here on lie behind everything */

/* A container that is being written. */
struct frame {
    PyObject *obj;      /* owned */
    PyObject *iterator; /* owned: of a set */
    PyObject *key;      /* owned: of a dict's entry whose value comes next */
    PyObject *value;    /* owned: the same */
    enum share_kind kind;
    Py_ssize_t index, count;
    Py_ssize_t position; /* in a dict */
    uint64_t *cells;     /* where elements go */
    unsigned char *slots;
};

/* Bytes that are copied at the end. */
struct far {
    PyObject *owner;  /* owned, or NULL with a view */
    Py_buffer view;   /* view.obj is NULL without one */
    const void *data; /* unless the view has strides */
    bool is_strided;
    uint64_t size;
    uint64_t *place; /* of its offset, in its record */
};

struct builder {
    struct sstpy_state *state;
    struct share_writer writer;
    struct share_map memo; /* address -> word */
    struct frame *frames;
    size_t frame_count, frame_room;
    struct far *fars;
    size_t far_count, far_room;
    uint64_t seed;
};

/* Make room for one more in an array of structs. */
void *sstpy_share_grow(void *array, size_t count, size_t *room, size_t size);

/* A str, bytes or number: its word, and its record if it needs one. -1 with an
 * exception set. */
int sstpy_share_memo_find(const struct builder *builder, PyObject *obj, uint64_t *word,
                          unsigned *flags);
int sstpy_share_memo_add(struct builder *builder, PyObject *obj, uint64_t word,
                         unsigned flags);
int sstpy_share_far_add(struct builder *builder, struct far far);
int sstpy_share_put_str(struct builder *builder, PyObject *obj, uint64_t *word);
int sstpy_share_put_bytes(struct builder *builder, PyObject *obj, uint64_t *word);
uint64_t *sstpy_share_small_record(struct builder *builder, enum share_kind kind,
                                   unsigned flags, uint64_t count, uint64_t size,
                                   uint64_t *word);
int sstpy_share_put_int(struct builder *builder, PyObject *obj, uint64_t *word);
int sstpy_share_put_float(struct builder *builder, PyObject *obj, uint64_t *word);
int sstpy_share_put_complex(struct builder *builder, PyObject *obj, uint64_t *word);

#endif
