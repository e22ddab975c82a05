/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_SHARE_H
#define SSTPY_SHARE_H

/* share(): plain objects in shared memory, and views that read them there. What the
 * files share_*.c have in common; docs/internals/share.rst explains it. */

#include "share_format.h"
#include "state.h"

/* ---- The memory of a share ---- */

/* One share, as this process has it open. Views keep a reference; it never changes. */
typedef struct {
    PyObject_HEAD
    struct sstpy_state *state;
    struct sst_parcel *parcel; /* owned */
    struct share_span span;
    uint64_t root; /* a word */
    uint64_t seed;
} ShareObject;

/* RuntimeError: what was read is not a share as share() writes it. Returns NULL. */
void *sstpy_share_damaged(void);

/* ---- Building (share_build.c, share_write.c) ---- */

/* A table from non-zero numbers (addresses, offsets) to numbers. */
struct share_map {
    struct share_map_entry {
        uint64_t key, value;
    } *entries;
    uint64_t count, capacity; /* a power of two, or 0 */
};

/* The value of a key, or NULL. Valid until the next insertion. */
uint64_t *sstpy_share_map_find(const struct share_map *map, uint64_t key);
/* -1 with MemoryError set. The key must not be there. */
int sstpy_share_map_insert(struct share_map *map, uint64_t key, uint64_t value);
void sstpy_share_map_fini(struct share_map *map);

/* Memory that grows by pieces that stay where they are. */
struct share_writer {
    struct share_piece *first, *last;
    uint64_t size; /* of all that was allocated: the next offset */
};

/* `size` bytes at the next offset; not zeroed. NULL with MemoryError set. */
void *sstpy_share_writer_alloc(struct share_writer *writer, uint64_t size,
                               uint64_t *offset);
/* Copy all pieces to `to`, freeing each. Needs no GIL. */
void sstpy_share_writer_drain(struct share_writer *writer, unsigned char *to);
void sstpy_share_writer_fini(struct share_writer *writer);

/* A new share of a container, bytes or array; not sealed memory yet made into one.
 * NULL with an exception set: TypeError names the path to what cannot be shared. May
 * run Python code (registered functions for arrays). */
PyObject *sstpy_share_build(struct sstpy_state *state, PyObject *obj);

/* A share over a new parcel of that size, zeroed header; share_seal makes it readable.
 */
ShareObject *sstpy_share_create(struct sstpy_state *state, uint64_t size);
unsigned char *sstpy_share_memory(const ShareObject *share);
/* After the bytes were written: 0, or -1 with an exception set. */
int sstpy_share_seal(ShareObject *share);

/* ---- Hashes (share_hash.c) ---- */

/* A number that is the same for objects that are equal as keys, in every process. -1
 * with TypeError set for what cannot be a key. */
int sstpy_share_hash(struct sstpy_state *state, uint64_t seed, PyObject *obj,
                     uint64_t *out);

/* ---- Reading (share_read.c) ---- */

/* One element of a column: a word, or a 64-bit integer. */
struct share_cell {
    uint64_t bits;
    bool is_int64;
};

/* What a word stands for: a plain object, or a view of a container. */
PyObject *sstpy_share_object(ShareObject *share, uint64_t word);

static inline PyObject *
sstpy_share_cell_object(ShareObject *share, struct share_cell cell)
{
    return cell.is_int64 ? PyLong_FromLongLong((long long)cell.bits)
                         : sstpy_share_object(share, cell.bits);
}

/* The first word of the record that a word names, and where it is: 0 when it names
 * none, or lies outside. */
uint64_t sstpy_share_head(const ShareObject *share, uint64_t word, uint64_t *offset);

/* Leaves alone: NULL with an exception set when the record is damaged. */
PyObject *sstpy_share_leaf(ShareObject *share, uint64_t offset, uint64_t head);

/* What is looked for, prepared: most comparisons then make no object. */
struct share_needle {
    PyObject *obj; /* borrowed */
    const void *data;
    uint64_t length;
    int64_t number;
    unsigned width; /* of str; 0: not a str */
    bool is_number;
    bool has_hash;
    uint32_t hash; /* upper half, with has_hash */
};

void sstpy_share_needle_init(struct share_needle *needle, PyObject *obj);
/* 1, 0, or -1 with an exception set. */
int sstpy_share_matches(ShareObject *share, struct share_cell cell,
                        const struct share_needle *needle);

/* The plain object that a word stands for, all of it (share_copy.c). */
PyObject *sstpy_share_copy(ShareObject *share, uint64_t word);
/* The same of a part of a list or tuple. */
PyObject *sstpy_share_copy_slice(PyObject *view);

/* ---- Views ---- */

/* What every view begins with. */
struct share_view {
    PyObject_HEAD
    ShareObject *share; /* owned */
    uint64_t word;
};

typedef struct {
    struct share_view view;
    const unsigned char *items; /* 8 bytes each */
    Py_ssize_t start, step;     /* a slice of them */
    Py_ssize_t count;
    bool is_int64;
    bool is_tuple;
} SequenceView;

typedef struct {
    struct share_view view;
    struct share_table table;
    bool is_dict;
} TableView;

typedef struct {
    struct share_view view;
    const void *data;
    Py_ssize_t size; /* bytes */
    Py_ssize_t item_size;
    char *format;     /* owned */
    Py_ssize_t *dims; /* owned: shape, strides */
    int dim_count;
    bool is_fortran;
    uint64_t meta;
} ArrayView;

/* A view of the record at `offset`, of the kind in `head`. */
PyObject *sstpy_share_sequence(ShareObject *share, uint64_t word, uint64_t offset,
                               uint64_t head);
PyObject *sstpy_share_table(ShareObject *share, uint64_t word, uint64_t offset,
                            uint64_t head);
PyObject *sstpy_share_array_view(ShareObject *share, uint64_t word, uint64_t offset,
                                 uint64_t head);
/* What the registered function makes of that view. */
PyObject *sstpy_share_array(ShareObject *share, uint64_t word, uint64_t offset,
                            uint64_t head);
/* Also of bytes, which are no view elsewhere. */
PyObject *sstpy_share_bytes(ShareObject *share, uint64_t word, uint64_t offset,
                            uint64_t head);

struct share_cell sstpy_share_sequence_cell(const SequenceView *view, Py_ssize_t index);
/* Key or element, and value, of an entry. */
struct share_cell sstpy_share_table_cell(const struct share_table *table,
                                         uint64_t index, unsigned column);

bool sstpy_share_is_sequence(const struct sstpy_state *state, PyObject *obj);
bool sstpy_share_is_table(const struct sstpy_state *state, PyObject *obj);
/* Of any kind. */
bool sstpy_share_is_view(const struct sstpy_state *state, PyObject *obj);

enum share_iterate {
    SHARE_ITERATE_ITEMS, /* elements, or keys */
    SHARE_ITERATE_VALUES,
    SHARE_ITERATE_PAIRS,
};

/* An iterator over a sequence or table view. */
PyObject *sstpy_share_iterator(PyObject *view, enum share_iterate what, bool reversed);

#define SSTPY_SHARE_VIEW_FLAGS                                \
    (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | \
     Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_BASETYPE)

/* In a table of methods, behind the name of one that would change the object. */
#define SSTPY_SHARE_FROZEN                                 \
    (PyCFunction)(void (*)(void)) sstpy_share_view_frozen, \
        METH_VARARGS | METH_KEYWORDS, sstpy_share_frozen_doc

/* Methods of all views. */
PyObject *sstpy_share_view_reference(PyObject *view, PyObject *ignored);
PyObject *sstpy_share_view_self(PyObject *view, PyObject *ignored);
PyObject *sstpy_share_view_frozen(PyObject *view, PyObject *args, PyObject *kwargs);
int sstpy_share_view_frozen_item(PyObject *view, PyObject *key, PyObject *value);
void sstpy_share_view_dealloc(PyObject *view);
PyObject *sstpy_share_view_statistics(PyObject *view, PyObject *ignored);

extern const char sstpy_share_reference_doc[];
extern const char sstpy_share_frozen_doc[];
extern const char sstpy_share_copy_doc[];
extern const char sstpy_share_statistics_doc[];

int sstpy_share_sequence_exec(PyObject *module, struct sstpy_state *state);
int sstpy_share_table_exec(PyObject *module, struct sstpy_state *state);
int sstpy_share_array_exec(PyObject *module, struct sstpy_state *state);
int sstpy_share_iterator_exec(PyObject *module, struct sstpy_state *state);

#endif
