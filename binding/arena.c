/* SPDX-License-Identifier: MIT */

/* The default arena of the process, and handles.
 *
 * There is one arena per tree of processes. It is made at the first object or the first
 * start of a process, whichever comes first; a forked child has its parent's, a spawned
 * one is given the descriptor and attaches before anything else. Hence one variable of
 * the process and not of a module: importing _core twice must not split the tree. It is
 * guarded by the GIL and never detached: the kernel takes it back with the process. */

#include <pthread.h>
#include <string.h>

#include "args.h"
#include "compat.h"
#include "errors.h"
#include "sidestep/sidestep.h"
#include "state.h"

static struct sst_arena *default_arena; /* guarded by the GIL */
static unsigned long fork_epoch; /* written only by the atfork handler of a child */

static void
fork_epoch_advance(void)
{
    fork_epoch++;
}

unsigned long
sstpy_fork_epoch(void)
{
    return fork_epoch;
}

struct sst_arena *
sstpy_arena(struct sstpy_state *state)
{
    if (default_arena == NULL) {
        struct sst_error err = {0};
        const int rc = sst_arena_create(NULL, &default_arena, &err);
        if (rc < 0) {
            default_arena = NULL;
            sstpy_raise(state, rc, &err);
        }
    }
    return default_arena;
}

struct sst_arena *
sstpy_arena_peek(void)
{
    return default_arena;
}

int
sstpy_arena_set(struct sst_arena *arena)
{
    if (default_arena != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this process has an arena already");
        return -1;
    }
    default_arena = arena;
    return 0;
}

bool
sstpy_arena_exists(void)
{
    return default_arena != NULL;
}

void
sstpy_fork_child(void)
{
    fork_epoch_advance();
}

PyObject *
sstpy_handle_new(const struct sst_handle *handle)
{
    return PyBytes_FromStringAndSize((const char *)handle, sizeof(*handle));
}

int
sstpy_handle_parse(PyObject *obj, struct sst_handle *out)
{
    char *data = NULL;
    Py_ssize_t size = 0;

    if (!PyBytes_Check(obj)) {
        PyErr_Format(PyExc_TypeError, "a handle is bytes, not %s",
                     Py_TYPE(obj)->tp_name);
        return -1;
    }
    if (PyBytes_AsStringAndSize(obj, &data, &size) < 0) {
        return -1;
    }
    if (size != (Py_ssize_t)sizeof(*out)) {
        PyErr_Format(PyExc_ValueError, "a handle has %zu bytes, not %zd", sizeof(*out),
                     size);
        return -1;
    }
    memcpy(out, data, sizeof(*out));
    return 0;
}

PyDoc_STRVAR(arena_fd_doc,
             "arena_fd($module, /)\n--\n\n"
             "The descriptor of the arena, which is made if there is none. "
             "It belongs to the arena.");

static PyObject *
core_arena_fd(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    const struct sst_arena *const arena = sstpy_arena(sstpy_module_state(module));

    return arena != NULL ? PyLong_FromLong(sst_arena_fd(arena)) : NULL;
}

PyDoc_STRVAR(arena_id_doc,
             "arena_id($module, /)\n--\n\n"
             "The number of the arena, the same in every process that has "
             "it open.");

static PyObject *
core_arena_id(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    const struct sst_arena *const arena = sstpy_arena(sstpy_module_state(module));

    return arena != NULL ? PyLong_FromUnsignedLongLong(sst_arena_id(arena)) : NULL;
}

PyDoc_STRVAR(
    arena_attach_doc,
    "arena_attach($module, fd, /)\n--\n\n"
    "Join the arena behind a descriptor, which is duplicated.\n\n"
    "For processes that were not forked; before any object is made. RuntimeError "
    "when this process has another arena already.");

static PyObject *
core_arena_attach(PyObject *module, PyObject *arg)
{
    struct sstpy_state *const state = sstpy_module_state(module);
    struct sst_arena *arena = NULL;
    struct sst_error err = {0};
    int fd = 0;

    if (sstpy_to_int(arg, 0, &fd) < 0) {
        return NULL;
    }
    if (default_arena != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this process has an arena already");
        return NULL;
    }

    const int rc = sst_arena_attach(fd, &arena, &err);
    if (rc < 0) {
        return sstpy_raise(state, rc, &err);
    }
    default_arena = arena;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    arena_statistics_doc,
    "arena_statistics($module, /)\n--\n\n"
    "What the arena holds: size, budget and used in bytes; the number of slots, "
    "extents, processes attached, dead processes swept, windows mapped and holds "
    "of this process.");

static PyObject *
core_arena_statistics(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    struct sstpy_state *const state = sstpy_module_state(module);
    struct sst_arena *const arena = sstpy_arena(state);
    struct sst_arena_statistics s = {0};

    if (arena == NULL) {
        return NULL;
    }

    const int rc = sst_arena_statistics(arena, &s);
    if (rc < 0) {
        return sstpy_raise(state, rc, NULL);
    }
    return Py_BuildValue(
        "{s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K}", "size", (unsigned long long)s.size,
        "budget", (unsigned long long)s.budget, "used", (unsigned long long)s.used,
        "slots", (unsigned long long)s.slots, "extents", (unsigned long long)s.extents,
        "processes", (unsigned long long)s.processes, "swept",
        (unsigned long long)s.swept, "windows", (unsigned long long)s.windows, "held",
        (unsigned long long)s.held);
}

PyDoc_STRVAR(arena_sweep_doc,
             "arena_sweep($module, /)\n--\n\n"
             "Undo what dead processes held. Returns their number. The "
             "core does this by itself where it matters.");

static PyObject *
core_arena_sweep(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    struct sstpy_state *const state = sstpy_module_state(module);
    struct sst_arena *const arena = sstpy_arena(state);

    if (arena == NULL) {
        return NULL;
    }

    const int rc = sst_arena_sweep(arena);
    return rc < 0 ? sstpy_raise(state, rc, NULL) : PyLong_FromLong(rc);
}

PyMethodDef sstpy_arena_methods[] = {
    {"arena_fd", core_arena_fd, METH_NOARGS, arena_fd_doc},
    {"arena_id", core_arena_id, METH_NOARGS, arena_id_doc},
    {"arena_attach", core_arena_attach, METH_O, arena_attach_doc},
    {"arena_statistics", core_arena_statistics, METH_NOARGS, arena_statistics_doc},
    {"arena_sweep", core_arena_sweep, METH_NOARGS, arena_sweep_doc},
    {NULL, NULL, 0, NULL},
};

int
sstpy_arena_exec(PyObject *Py_UNUSED(module), struct sstpy_state *Py_UNUSED(state))
{
    static bool registered; /* once per process, guarded by the GIL */

    if (!registered) {
        if (pthread_atfork(NULL, NULL, fork_epoch_advance) != 0) {
            PyErr_NoMemory();
            return -1;
        }
        sst_view_defer_signals(); /* Python's handlers run at PyErr_CheckSignals() */
        registered = true;
    }
    return 0;
}
