/* SPDX-License-Identifier: MIT */

/* What a child does about itself, and the zygote's loop. The zygote copies itself
 * without at-fork handlers; the interpreter's hooks and the binding's own are run here.
 */

#include "process.h"

#include <limits.h>

#include "args.h"
#include "compat.h"
#include "errors.h"
#include "state.h"
#include "wait.h"

/* ---- In a child ---- */

PyDoc_STRVAR(
    process_adopt_doc,
    "process_adopt($module, arena_fd, id, tether, parent_pid, die_with_parent, "
    "/)\n--\n\n"
    "In a spawned program: join the arena in the place that the starter gave us.");

static PyObject *
process_adopt(PyObject *module, PyObject *args)
{
    struct sstpy_state *const state = sstpy_module_state(module);
    struct sst_origin origin = {.size_of = sizeof(origin)};
    struct sst_arena *arena = NULL;
    struct sst_error err = {0};
    unsigned long long id = 0;
    int die = 0;

    if (!PyArg_ParseTuple(args, "iKiip:process_adopt", &origin.arena_fd, &id,
                          &origin.tether, &origin.parent_pid, &die)) {
        return NULL;
    }
    if (sstpy_arena_exists()) {
        PyErr_SetString(PyExc_RuntimeError, "this process has an arena already");
        return NULL;
    }
    origin.id = id;
    origin.die_with_parent = (uint32_t)die;

    const int rc = sst_process_adopt(&origin, &arena, &err);
    if (rc < 0) {
        return sstpy_raise(state, rc, &err);
    }
    if (sstpy_arena_set(arena) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    process_settle_doc,
    "process_settle($module, /)\n--\n\n"
    "The objects that came with the job are open: the starter's holds can go.");

static PyObject *
process_settle(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    struct sst_arena *const arena = sstpy_arena(sstpy_module_state(module));

    if (arena == NULL) {
        return NULL;
    }
    sst_process_settle(arena);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(process_exit_doc, "process_exit($module, code, /)\n--\n\n"
                               "Be done, and end: no Python code runs after this.");

static PyObject *
process_exit(PyObject *module, PyObject *arg)
{
    int overflow = 0;
    const long code = PyLong_AsLongAndOverflow(arg, &overflow);

    if (code == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (overflow != 0 || code < INT_MIN || code > INT_MAX) {
        PyErr_SetString(PyExc_OverflowError, "exit code out of range");
        return NULL;
    }

    struct sst_arena *arena = NULL;

    if (sstpy_arena_exists()) {
        arena = sstpy_arena(sstpy_module_state(module));
    }
    sst_process_exit(arena, (int)code);
}

PyDoc_STRVAR(
    process_watch_parent_doc,
    "process_watch_parent($module, pid, /)\n--\n\n"
    "A new descriptor that is readable once our parent, of that pid, has ended.");

static PyObject *
process_watch_parent(PyObject *module, PyObject *arg)
{
    struct sstpy_state *const state = sstpy_module_state(module);
    struct sst_arena *const arena = sstpy_arena_exists() ? sstpy_arena(state) : NULL;
    int pid = 0;

    if (sstpy_to_int(arg, 0, &pid) < 0) {
        return NULL;
    }

    const int rc = sst_process_watch_parent(arena, pid);
    return rc < 0 ? sstpy_raise(state, rc, NULL) : PyLong_FromLong(rc);
}

static int
wait_fd_call(void *context, int64_t deadline_ns)
{
    const int *const fd = context;

    return sst_process_wait_fd(*fd, deadline_ns);
}

PyDoc_STRVAR(
    process_wait_fd_doc,
    "process_wait_fd($module, fd, timeout=None, /)\n--\n\n"
    "Wait until a descriptor is readable. False when it was not within `timeout` "
    "seconds.");

static PyObject *
process_wait_fd(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t duration_ns = 0;
    int fd = 0;

    if (nargs < 1 || nargs > 2) {
        PyErr_SetString(PyExc_TypeError, "process_wait_fd() takes fd and timeout");
        return NULL;
    }
    if (sstpy_to_int(args[0], 0, &fd) < 0 ||
        sstpy_to_duration(nargs > 1 ? args[1] : NULL, &duration_ns) < 0) {
        return NULL;
    }

    const int rc = sstpy_wait(wait_fd_call, &fd, duration_ns);
    if (rc < 0 && rc != SST_ETIMEDOUT) {
        return sstpy_raise(sstpy_module_state(module), rc, NULL);
    }
    return PyBool_FromLong(rc > 0);
}

PyDoc_STRVAR(process_reap_doc, "process_reap($module, /)\n--\n\n"
                               "Reap the children that are done and gone; how many.");

static PyObject *
process_reap(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(sst_process_reap());
}

PyDoc_STRVAR(
    cpu_count_doc,
    "cpu_count($module, /)\n--\n\n"
    "CPUs this process may use at a time: the least of the machine's, the affinity "
    "mask's and the quotas of its control groups.");

static PyObject *
core_cpu_count(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(sst_cpu_count());
}

/* ---- Zygote ---- */

static int
next_call(void *context, int64_t deadline_ns)
{
    return sst_zygote_next(context, deadline_ns);
}

static PyObject *
fds_to_tuple(const int32_t *fds, uint32_t count)
{
    PyObject *const tuple = PyTuple_New(count);

    for (uint32_t i = 0; tuple != NULL && i < count; i++) {
        PyObject *const fd = PyLong_FromLong(fds[i]);

        if (fd == NULL) {
            Py_DECREF(tuple);
            return NULL;
        }
        PyTuple_SET_ITEM(tuple, i, fd);
    }
    return tuple;
}

/* Returns what sst_zygote_make does; in the child everything is as after os.fork(). */
static int
make_child(struct sst_zygote *zygote)
{
    PyOS_BeforeFork();

    const int rc = sst_zygote_make(zygote);

    if (rc == SST_CHILD) {
        sstpy_fork_child();
        PyOS_AfterFork_Child();
    }
    else {
        PyOS_AfterFork_Parent();
    }
    return rc;
}

struct ready_call {
    struct sst_zygote *zygote;
    struct sst_zygote_job job;
};

static int
ready_call(void *context, int64_t Py_UNUSED(deadline_ns))
{
    struct ready_call *const call = context;

    return sst_zygote_ready(call->zygote, &call->job);
}

/* Bytes, or None where there is no memory that they could be in. */
static PyObject *
bytes_or_none(const void *data, uint64_t size)
{
    if (data == NULL) {
        Py_RETURN_NONE;
    }
    return PyBytes_FromStringAndSize(data, (Py_ssize_t)size);
}

/* In the zygote: let it become what the setup says, if that is a new one. Where it
 * cannot, a child that gets the setup with its job says why. */
static void
settle(struct sst_zygote *zygote, PyObject *function)
{
    uint64_t size = 0;
    const char *const setup = sst_zygote_setup(zygote, &size);

    if (setup == NULL) {
        return;
    }

    PyObject *const done =
        PyObject_CallFunction(function, "y#", setup, (Py_ssize_t)size);

    if (done == NULL) {
        PyErr_Clear();
        sst_zygote_setup_failed(zygote);
    }
    Py_XDECREF(done);
}

/* In a child: prepare, say that we are ready, and wait for the job. */
static PyObject *
be_child(struct sstpy_state *state, struct sst_zygote *zygote, PyObject *function)
{
    struct ready_call call = {.zygote = zygote};
    PyObject *const prepared = PyObject_CallNoArgs(function);

    if (prepared == NULL) {
        return NULL;
    }
    Py_DECREF(prepared);

    const int rc = sstpy_wait_until(ready_call, &call, SST_FOREVER);

    if (rc == SST_EOF) {
        Py_RETURN_FALSE;
    }
    if (rc < 0) {
        return sstpy_raise(state, rc, NULL);
    }
    return Py_BuildValue("Ny#N", bytes_or_none(call.job.setup, call.job.setup_size),
                         (const char *)call.job.data, (Py_ssize_t)call.job.size,
                         fds_to_tuple(call.job.fds, call.job.fd_count));
}

PyDoc_STRVAR(
    zygote_serve_doc,
    "zygote_serve($module, tether, settle, prepare, /)\n--\n\n"
    "Make children for the owner until it is gone: None then. `settle` is called with "
    "the setup of the owner's jobs, whenever there is a new one; when it raises, the "
    "setup comes with the jobs. In each child, which "
    "first calls `prepare`: the setup of its job, if it is another, the job, and the "
    "descriptors that came with it, or False when there is none for it.");

static PyObject *
zygote_serve(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    struct sstpy_state *const state = sstpy_module_state(module);
    struct sst_arena *const arena = sstpy_arena(state);
    struct sst_zygote *zygote = NULL;
    struct sst_error err = {0};
    PyObject *result = NULL;
    int tether = 0;
    int rc;

    if (nargs != 3) {
        PyErr_SetString(PyExc_TypeError,
                        "zygote_serve() takes a tether and two functions");
        return NULL;
    }
    if (arena == NULL || sstpy_to_int(args[0], 0, &tether) < 0) {
        return NULL;
    }
    rc = sst_zygote_open(arena, tether, &zygote, &err);
    while (rc == 0) {
        rc = sstpy_wait_until(next_call, zygote, SST_FOREVER);
        if (rc == 0) {
            settle(zygote, args[1]);
            rc = make_child(zygote);
        }
    }
    if (rc == SST_CHILD) {
        result = be_child(state, zygote, args[2]);
    }
    else if (rc == SST_EOF) {
        result = Py_NewRef(Py_None);
    }
    else {
        sstpy_raise(state, rc, &err);
    }
    zygote = sst_zygote_close(zygote);
    return result;
}

PyDoc_STRVAR(keep_forever_doc,
             "keep_forever($module, objects, /)\n--\n\n"
             "Count no more references to the classes, functions, modules and code "
             "in a list, and to those that these refer to. How many there were.");

static PyObject *
keep_forever(PyObject *Py_UNUSED(module), PyObject *arg)
{
    if (!PyList_CheckExact(arg)) {
        PyErr_SetString(PyExc_TypeError, "keep_forever() takes a list");
        return NULL;
    }
    return PyLong_FromSsize_t(sstpy_keep_forever(arg));
}

PyMethodDef sstpy_process_methods[] = {
    {"process_adopt", process_adopt, METH_VARARGS, process_adopt_doc},
    {"process_settle", process_settle, METH_NOARGS, process_settle_doc},
    {"process_exit", process_exit, METH_O, process_exit_doc},
    {"process_watch_parent", process_watch_parent, METH_O, process_watch_parent_doc},
    {"process_wait_fd", (PyCFunction)(void (*)(void))process_wait_fd, METH_FASTCALL,
     process_wait_fd_doc},
    {"process_reap", process_reap, METH_NOARGS, process_reap_doc},
    {"zygote_serve", (PyCFunction)(void (*)(void))zygote_serve, METH_FASTCALL,
     zygote_serve_doc},
    {"keep_forever", keep_forever, METH_O, keep_forever_doc},
    {"cpu_count", core_cpu_count, METH_NOARGS, cpu_count_doc},
    {NULL, NULL, 0, NULL},
};

int
sstpy_process_exec(PyObject *module, struct sstpy_state *Py_UNUSED(state))
{
    PyTypeObject *type = NULL;
    const int rc = sstpy_type_add(module, &sstpy_child_spec, &type);

    /* The module has it; objects find the state through the module. */
    Py_XDECREF(type);
    return rc;
}
