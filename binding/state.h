/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_STATE_H
#define SSTPY_STATE_H

/* The state of one import of sidestep._core, and how to find it. Objects keep a
 * borrowed pointer to it: their type keeps the module alive. */

#include <stdbool.h>

#include "compat.h"
#include "sidestep/sidestep.h"

/* Buffers of the nest codec that nobody uses now (nest_encode.c). */
struct sstpy_nest_spare {
    struct sstpy_nest_scratch *first;
    int count;
};

/* Keys that messages had, to be had again (nest_decode.c). */
enum {
    SSTPY_NEST_NAMES = 256
};
struct sstpy_nest_names {
    uint64_t pass; /* the number of the last message decoded */
    bool is_used;  /* by a message that is being decoded */
    struct sstpy_nest_name {
        PyObject *text; /* ASCII, owned; or NULL */
        uint64_t pass;  /* the last message that has it */
        uint64_t first; /* its first characters and its last, see there */
        uint64_t last;
        size_t length; /* 0 = none */
    } name[SSTPY_NEST_NAMES];
};

/* The types behind share(), in the order in which Python registers its own. */
enum sstpy_share_type {
    SSTPY_SHARE_ROOT,
    SSTPY_SHARE_ITERATOR,
    SSTPY_SHARE_LIST,
    SSTPY_SHARE_TUPLE,
    SSTPY_SHARE_DICT,
    SSTPY_SHARE_SET,
    SSTPY_SHARE_FROZENSET,
    SSTPY_SHARE_ARRAY,
    SSTPY_SHARE_BYTES,
    SSTPY_SHARE_TYPES,
};

struct sstpy_state {
    /* exceptions */
    PyObject *owner_died;
    PyObject *shut_down;
    PyObject *full;
    PyObject *empty;
    PyObject *broken_barrier;
    PyObject *buffer_too_short; /* registered by Python, see set_exceptions */
    /* pickling, registered by Python, see set_pickler */
    PyObject *dumps;
    PyObject *loads;
    PyObject *scratch; /* a bytearray that nobody uses now, see connection_recv.c */
    struct sstpy_nest_spare nest_spare;
    struct sstpy_nest_names nest_names;
    /* types */
    PyTypeObject *semlock_type;
    PyTypeObject *condition_type;
    PyTypeObject *event_type;
    PyTypeObject *barrier_type;
    PyTypeObject *queue_type;
    PyTypeObject *connection_type;
    PyTypeObject *block_type;
    PyTypeObject *message_type;
    PyTypeObject *pool_result_type;
    PyTypeObject *pool_iterator_type;
    PyTypeObject *pool_jobs_type;
    PyTypeObject *pool_engine_type;
    PyTypeObject *pool_worker_type;
    /* registered by Python, see set_pool */
    PyObject *pool_timeout;
    PyObject *pool_pack;
    PyTypeObject *pickle_file_type;
    PyTypeObject *share_types[SSTPY_SHARE_TYPES];
    /* registered by Python, see share_setup */
    PyObject *share_describe;
    PyObject *share_restore;
    PyTypeObject *collector_type;
    PyTypeObject *parcel_type;
    PyTypeObject *view_type;
    PyTypeObject *named_type;
    PyTypeObject *server_type;
    /* interned names */
    PyObject *str_attach;
    PyObject *str_closed_error;
    PyObject *str_put_failed;
    PyObject *str_received;
    PyObject *str_count;
};

extern struct PyModuleDef sstpy_module;

/* The state behind a type or one of its subclasses; NULL with TypeError set. */
struct sstpy_state *sstpy_state_of(PyTypeObject *type);

static inline struct sstpy_state *
sstpy_module_state(PyObject *module)
{
    return (struct sstpy_state *)PyModule_GetState(module);
}

/* ---- arena.c ---- */

/* The arena of this tree of processes, made at first use. NULL with an exception set.
 * */
struct sst_arena *sstpy_arena(struct sstpy_state *state);

/* Make an arena that was opened in another way (sst_process_adopt) the default one,
 * which takes it over. -1 with RuntimeError set when there is one already. */
int sstpy_arena_set(struct sst_arena *arena);

/* The default arena if it was made, else NULL without an exception. */
struct sst_arena *sstpy_arena_peek(void);

bool sstpy_arena_exists(void);

/* Handles travel as opaque bytes. */
PyObject *sstpy_handle_new(const struct sst_handle *handle);
int sstpy_handle_parse(PyObject *obj, struct sst_handle *out);

/* Grows by one in each forked child: what is counted per process starts again when it
 * changed. */
unsigned long sstpy_fork_epoch(void);

/* In a child that was cloned without at-fork handlers: what ours does. */
void sstpy_fork_child(void);

extern PyMethodDef sstpy_arena_methods[];
int sstpy_arena_exec(PyObject *module, struct sstpy_state *state);

/* ---- one per group of types ---- */

int sstpy_semlock_exec(PyObject *module, struct sstpy_state *state);
int sstpy_condition_exec(PyObject *module, struct sstpy_state *state);
int sstpy_event_exec(PyObject *module, struct sstpy_state *state);
int sstpy_barrier_exec(PyObject *module, struct sstpy_state *state);
int sstpy_queue_exec(PyObject *module, struct sstpy_state *state);
int sstpy_connection_exec(PyObject *module, struct sstpy_state *state);
int sstpy_block_exec(PyObject *module, struct sstpy_state *state);
int sstpy_server_exec(PyObject *module, struct sstpy_state *state);

extern PyMethodDef sstpy_connection_methods[];

extern PyMethodDef sstpy_named_methods[];
int sstpy_named_exec(PyObject *module, struct sstpy_state *state);

extern PyMethodDef sstpy_share_methods[];
int sstpy_share_exec(PyObject *module, struct sstpy_state *state);
int sstpy_share_traverse(const struct sstpy_state *state, visitproc visit, void *arg);
void sstpy_share_clear(struct sstpy_state *state);

/* Every object begins like this. */
struct sstpy_object {
    PyObject_HEAD
    struct sstpy_state *state;
};

/* tp_new of every type: an empty object. The shared one behind it is made by tp_init or
 * named by _attach(), so that subclasses may have arguments of their own. */
PyObject *sstpy_new(PyTypeObject *type, PyObject *args, PyObject *kwargs);

/* The default arena for an object that is to be filled, `core` being what it has so
 * far. NULL with an exception set, also when it is filled already. */
struct sst_arena *sstpy_begin(struct sstpy_state *state, const void *core);

/* A method was called before __init__. Sets ValueError, returns NULL. */
void *sstpy_raise_empty(PyObject *self);

/* from_handle of every type: an empty object and its _attach(handle). */
PyObject *sstpy_from_handle(PyObject *cls, PyObject *handle);

/* Make a type from its spec, add it to the module unless its name starts with an
 * underscore, and store it. */
int sstpy_type_add(PyObject *module, PyType_Spec *spec, PyTypeObject **out);

/* tp_traverse of types whose objects refer to nothing but their type. */
int sstpy_traverse_type(PyObject *self, visitproc visit, void *arg);

/* The last lines of every deallocator. */
void sstpy_free(PyObject *self);

#endif
