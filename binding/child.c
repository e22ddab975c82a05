/* SPDX-License-Identifier: MIT */

/* Child: the starter's view of one process. python/sidestep/popen_fork.py and its
 * siblings put the stdlib's shape around it. fork() runs between the interpreter's own
 * hooks: PyOS_BeforeFork in front, PyOS_AfterFork_Child or _Parent behind. */

#include "args.h"
#include "compat.h"
#include "errors.h"
#include "process.h"
#include "state.h"
#include "wait.h"

typedef struct {
    PyObject_HEAD
    struct sstpy_state *state;
    struct sst_process *process; /* NULL once closed; guarded by the GIL */
    int users; /* threads inside the core with it; guarded by the GIL */
} ChildObject;

/* The process of the core, or NULL with ValueError set. */
static struct sst_process *
process_of(const ChildObject *self)
{
    if (self->process == NULL) {
        PyErr_SetString(PyExc_ValueError, "process object is closed");
    }
    return self->process;
}

static int
child_init(PyObject *obj, PyObject *args, PyObject *kwargs)
{
    static const char *const names[] = {"die_with_parent", "packets"};
    static const struct sstpy_signature signature = SSTPY_SIGNATURE("Child", 0, names);
    ChildObject *const self = (ChildObject *)obj;
    struct sst_error err = {0};
    PyObject *given[2];
    bool die = false;
    bool packets = false;

    if (sstpy_parse_tuple(&signature, args, kwargs, given) < 0 ||
        sstpy_to_bool(given[0], false, &die) < 0 ||
        sstpy_to_bool(given[1], false, &packets) < 0) {
        return -1;
    }
    if (self->process != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "initialised already");
        return -1;
    }

    struct sst_arena *const arena = sstpy_arena(self->state);
    if (arena == NULL) {
        return -1;
    }

    const struct sst_process_options options = {
        .size_of = sizeof(options),
        .die_with_parent = die,
        .packets = packets,
    };
    const int rc = sst_process_new(arena, &options, &self->process, &err);
    return rc < 0 ? sstpy_fail(self->state, rc, &err) : 0;
}

static PyObject *
child_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    struct sstpy_state *const state = sstpy_state_of(type);
    ChildObject *const self =
        state != NULL ? (ChildObject *)PyType_GenericAlloc(type, 0) : NULL;

    if (self != NULL) {
        self->state = state;
    }
    return (PyObject *)self;
}

static void
child_dealloc(PyObject *obj)
{
    ChildObject *const self = (ChildObject *)obj;

    PyObject_GC_UnTrack(obj);
    self->process = sst_process_close(self->process);
    sstpy_free(obj);
}

PyDoc_STRVAR(
    child_close_doc,
    "close($self, /)\n--\n\n"
    "Give up the object. A child that runs goes on, and is reaped when it ends.");

static PyObject *
child_close(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    ChildObject *const self = (ChildObject *)obj;

    if (self->users > 0) {
        PyErr_SetString(PyExc_RuntimeError, "another thread waits for the process");
        return NULL;
    }
    self->process = sst_process_close(self->process);
    Py_RETURN_NONE;
}

/* os.fork() says the same since 3.12. A warning that is made an error is not one here:
 * the child exists already. */
#if PY_VERSION_HEX >= 0x030c0000
static void
warn_about_threads(void)
{
    if (sst_process_threads() > 1 &&
        PyErr_WarnFormat(PyExc_DeprecationWarning, 1,
                         "This process (pid=%d) is multi-threaded, use of %s() "
                         "may lead to deadlocks in the child.",
                         sst_process_self(), "fork") < 0) {
        PyErr_WriteUnraisable(NULL);
    }
}
#else
static void
warn_about_threads(void)
{
}
#endif

/* A child of an interpreter that is being taken apart could not run anything. */
#if PY_VERSION_HEX >= 0x030d0000
static int
check_not_finalizing(void)
{
    if (Py_IsFinalizing()) {
        PyErr_SetString(PyExc_PythonFinalizationError,
                        "can't fork at interpreter shutdown");
        return -1;
    }
    return 0;
}
#else
static int
check_not_finalizing(void)
{
    return 0;
}
#endif

PyDoc_STRVAR(child_fork_doc, "fork($self, /)\n--\n\n"
                             "Fork. True in the child, False in the parent.");

static PyObject *
child_fork(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    ChildObject *const self = (ChildObject *)obj;
    struct sst_error err = {0};

    if (process_of(self) == NULL || check_not_finalizing() < 0 ||
        PySys_Audit("os.fork", NULL) < 0) {
        return NULL;
    }
    PyOS_BeforeFork();

    const int rc = sst_process_fork(self->process, &err);

    if (rc == SST_CHILD) {
        PyOS_AfterFork_Child();
        Py_RETURN_TRUE;
    }
    PyOS_AfterFork_Parent();
    if (rc < 0) {
        return sstpy_raise(self->state, rc, &err);
    }
    warn_about_threads();
    Py_RETURN_FALSE;
}

/* Descriptors from a sequence of ints: a block to free, NULL with an exception set. */
static int *
fds_new(PyObject *obj, uint32_t *count)
{
    PyObject *const tuple = PySequence_Tuple(obj);

    if (tuple == NULL) {
        return NULL;
    }

    const Py_ssize_t size = PyTuple_GET_SIZE(tuple);
    int *fds = PyMem_New(int, size > 0 ? size : 1);

    if (fds == NULL) {
        PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; fds != NULL && i < size; i++) {
        if (sstpy_to_int(PyTuple_GET_ITEM(tuple, i), 0, &fds[i]) < 0) {
            PyMem_Free(fds);
            fds = NULL;
        }
    }
    Py_DECREF(tuple);
    *count = (uint32_t)size;
    return fds;
}

/* A NULL-terminated vector of borrowed strings from a tuple of bytes. */
static char **
strings_new(PyObject *tuple)
{
    if (!PyTuple_Check(tuple)) {
        PyErr_SetString(PyExc_TypeError, "a tuple of bytes is needed");
        return NULL;
    }

    const Py_ssize_t size = PyTuple_GET_SIZE(tuple);
    char **const strings = PyMem_New(char *, size + 1);

    if (strings == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t i = 0; i < size; i++) {
        strings[i] = PyBytes_AsString(PyTuple_GET_ITEM(tuple, i));
        if (strings[i] == NULL) {
            PyMem_Free(strings);
            return NULL;
        }
    }
    strings[size] = NULL;
    return strings;
}

static int
spawn(ChildObject *self, PyObject *path, PyObject *argv, PyObject *fds,
      struct sst_error *err)
{
    struct sst_program program = {.size_of = sizeof(program)};
    int rc = SSTPY_RAISED;

    program.path = PyBytes_AsString(path);
    program.argv = program.path != NULL ? strings_new(argv) : NULL;
    program.fds = program.argv != NULL ? fds_new(fds, &program.fd_count) : NULL;
    if (program.fds != NULL) {
        rc = sst_process_spawn(self->process, &program, err);
    }
    PyMem_Free((void *)program.argv);
    PyMem_Free((void *)program.fds);
    return rc;
}

PyDoc_STRVAR(
    child_spawn_doc,
    "spawn($self, path, argv, fds=(), /)\n--\n\n"
    "Start a program (bytes) with these arguments (a tuple of bytes). It gets the "
    "standard streams, the tether, the arena and these descriptors.");

static PyObject *
child_spawn(PyObject *obj, PyObject *const *args, Py_ssize_t nargs)
{
    ChildObject *const self = (ChildObject *)obj;
    struct sst_error err = {0};

    if (nargs != 3) {
        PyErr_SetString(PyExc_TypeError, "spawn() takes path, argv and fds");
        return NULL;
    }
    if (process_of(self) == NULL) {
        return NULL;
    }

    const int rc = spawn(self, args[0], args[1], args[2], &err);
    if (rc < 0) {
        return sstpy_raise(self->state, rc, &err);
    }
    Py_RETURN_NONE;
}

struct start_call {
    struct sst_process *zygote;
    struct sst_process *process;
    struct sst_job job;
    struct sst_error err;
};

static int
start_call(void *context, int64_t Py_UNUSED(deadline_ns))
{
    struct start_call *const call = context;

    return sst_zygote_start(call->zygote, call->process, &call->job, &call->err);
}

PyDoc_STRVAR(child_start_doc,
             "start($self, child, setup, data, fds, /)\n--\n\n"
             "Have this zygote start another Child, which gets these bytes and "
             "descriptors; later children have the setup beforehand. BrokenPipeError: "
             "the zygote is dead; PermissionError: this "
             "process has changed its standing since it started the zygote.");

static int
start_child(ChildObject *self, ChildObject *child, const Py_buffer *setup,
            const Py_buffer *data, struct start_call *call)
{
    int rc;

    call->zygote = process_of(self);
    call->process = call->zygote != NULL ? process_of(child) : NULL;
    if (call->process == NULL) {
        return SSTPY_RAISED;
    }
    call->job.size_of = sizeof(call->job);
    call->job.data = data->buf;
    call->job.size = (uint64_t)data->len;
    call->job.setup = setup->buf;
    call->job.setup_size = (uint64_t)setup->len;
    self->users++;
    child->users++;
    rc = sstpy_wait_until(start_call, call, SST_FOREVER);
    self->users--;
    child->users--;
    return rc;
}

static PyObject *
child_start(PyObject *obj, PyObject *const *args, Py_ssize_t nargs)
{
    ChildObject *const self = (ChildObject *)obj;
    struct start_call call = {0};
    Py_buffer setup = {0};
    Py_buffer data = {0};
    int *fds = NULL;
    int rc = SSTPY_RAISED;

    if (nargs != 4 || !PyObject_TypeCheck(args[0], Py_TYPE(obj))) {
        PyErr_SetString(PyExc_TypeError,
                        "start() takes a Child, setup, data and descriptors");
        return NULL;
    }
    if (PyObject_GetBuffer(args[1], &setup, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    if (PyObject_GetBuffer(args[2], &data, PyBUF_SIMPLE) == 0) {
        fds = fds_new(args[3], &call.job.fd_count);
        call.job.fds = fds;
    }
    if (fds != NULL) {
        rc = start_child(self, (ChildObject *)args[0], &setup, &data, &call);
    }
    PyMem_Free(fds);
    PyBuffer_Release(&data);
    PyBuffer_Release(&setup);
    if (rc < 0) {
        return sstpy_raise(self->state, rc, &call.err);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(child_expect_doc,
             "expect($self, count, /)\n--\n\n"
             "As many starts follow: this zygote makes the children at once.");

static PyObject *
child_expect(PyObject *obj, PyObject *arg)
{
    const ChildObject *const self = (ChildObject *)obj;
    int count = 0;

    if (process_of(self) == NULL || sstpy_to_int(arg, 0, &count) < 0) {
        return NULL;
    }

    const int rc = sst_zygote_expect(self->process, (uint32_t)count);
    if (rc < 0) {
        return sstpy_raise(self->state, rc, NULL);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(child_refill_doc,
             "refill($self, /)\n--\n\n"
             "A start is over: this zygote makes the children that are missing.");

static PyObject *
child_refill(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    const ChildObject *const self = (ChildObject *)obj;

    if (process_of(self) == NULL) {
        return NULL;
    }

    const int rc = sst_zygote_refill(self->process);
    if (rc < 0) {
        return sstpy_raise(self->state, rc, NULL);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(child_statistics_doc,
             "statistics($self, /)\n--\n\n"
             "What this zygote does, as a dictionary of numbers.");

static PyObject *
child_statistics(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    const ChildObject *const self = (ChildObject *)obj;
    struct sst_zygote_statistics now = {.size_of = sizeof(now)};

    if (process_of(self) == NULL) {
        return NULL;
    }

    const int rc = sst_zygote_statistics(self->process, &now);
    if (rc < 0) {
        return sstpy_raise(self->state, rc, NULL);
    }
    return Py_BuildValue("{sisIsIsIsOsKsKsKsK}", "pid", now.pid, "warm", now.warm,
                         "coming", now.coming, "wanted", now.wanted, "is_sibling",
                         now.is_sibling ? Py_True : Py_False, "started",
                         (unsigned long long)now.started, "from_warm",
                         (unsigned long long)now.from_warm, "given_back",
                         (unsigned long long)now.given_back, "memory",
                         (unsigned long long)now.memory);
}

PyDoc_STRVAR(child_hold_doc,
             "hold($self, handle, /)\n--\n\n"
             "Keep an object for the child until it has it open itself.");

static PyObject *
child_hold(PyObject *obj, PyObject *arg)
{
    ChildObject *const self = (ChildObject *)obj;
    struct sst_handle handle;

    if (process_of(self) == NULL || sstpy_handle_parse(arg, &handle) < 0) {
        return NULL;
    }

    const int rc = sst_process_hold(self->process, &handle);
    if (rc < 0) {
        return sstpy_raise(self->state, rc, NULL);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(child_reserve_doc, "reserve($self, /)\n--\n\n"
                                "The number by which the child finds its place.");

static PyObject *
child_reserve(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    ChildObject *const self = (ChildObject *)obj;
    uint64_t id = 0;

    if (process_of(self) == NULL) {
        return NULL;
    }

    const int rc = sst_process_reserve(self->process, &id);
    if (rc < 0) {
        return sstpy_raise(self->state, rc, NULL);
    }
    return PyLong_FromUnsignedLongLong(id);
}

struct send_call {
    struct sst_process *process;
    Py_buffer buffer;
    uint64_t sent;
};

static int
send_call(void *context, int64_t Py_UNUSED(deadline_ns))
{
    struct send_call *const call = context;

    return sst_process_send(call->process, call->buffer.buf, (uint64_t)call->buffer.len,
                            &call->sent);
}

PyDoc_STRVAR(child_send_doc,
             "send($self, data, /)\n--\n\n"
             "Send bytes down the tether. False when the child has let go of it.");

static PyObject *
child_send(PyObject *obj, PyObject *arg)
{
    ChildObject *const self = (ChildObject *)obj;
    struct send_call call = {.process = process_of(self)};

    if (call.process == NULL ||
        PyObject_GetBuffer(arg, &call.buffer, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    self->users++;

    const int rc = sstpy_wait_until(send_call, &call, SST_FOREVER);

    self->users--;
    PyBuffer_Release(&call.buffer);
    if (rc == SST_EPIPE) {
        Py_RETURN_FALSE;
    }
    if (rc < 0) {
        return sstpy_raise(self->state, rc, NULL);
    }
    Py_RETURN_TRUE;
}

static PyObject *
exit_code(const ChildObject *self)
{
    int code = 0;
    const int rc = sst_process_exit_code(self->process, &code);

    if (rc == SST_EAGAIN) {
        Py_RETURN_NONE;
    }
    return rc < 0 ? sstpy_raise(self->state, rc, NULL) : PyLong_FromLong(code);
}

PyDoc_STRVAR(child_poll_doc, "poll($self, /)\n--\n\n"
                             "The exit code, -N for signal N, or None while it runs.");

static PyObject *
child_poll(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    const ChildObject *const self = (ChildObject *)obj;

    return process_of(self) != NULL ? exit_code(self) : NULL;
}

static int
join_call(void *context, int64_t deadline_ns)
{
    return sst_process_join(context, deadline_ns);
}

static int
join_gone_call(void *context, int64_t deadline_ns)
{
    return sst_process_join_gone(context, deadline_ns);
}

PyDoc_STRVAR(
    child_wait_doc,
    "wait($self, /, timeout=None, gone=False)\n--\n\n"
    "Wait until it is done (or gone). The exit code, None after `timeout` seconds.");

static PyObject *
child_wait(PyObject *obj, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"timeout", "gone"};
    static const struct sstpy_signature signature = SSTPY_SIGNATURE("wait", 0, names);
    ChildObject *const self = (ChildObject *)obj;
    PyObject *given[2];
    int64_t duration_ns = 0;
    bool gone = false;

    if (sstpy_parse(&signature, args, nargs, kwnames, given) < 0 ||
        sstpy_to_duration(given[0], &duration_ns) < 0 ||
        sstpy_to_bool(given[1], false, &gone) < 0 || process_of(self) == NULL) {
        return NULL;
    }
    self->users++;

    const int rc =
        sstpy_wait(gone ? join_gone_call : join_call, self->process, duration_ns);

    self->users--;
    if (rc == SST_ETIMEDOUT) {
        Py_RETURN_NONE;
    }
    return rc < 0 ? sstpy_raise(self->state, rc, NULL) : exit_code(self);
}

PyDoc_STRVAR(child_signal_doc, "signal($self, number, /)\n--\n\n"
                               "Send it a signal, unless it has ended.");

static PyObject *
child_signal(PyObject *obj, PyObject *arg)
{
    const ChildObject *const self = (ChildObject *)obj;
    int number = 0;

    if (process_of(self) == NULL || sstpy_to_int(arg, 0, &number) < 0) {
        return NULL;
    }

    const int rc = sst_process_signal(self->process, number);
    if (rc < 0) {
        return sstpy_raise(self->state, rc, NULL);
    }
    Py_RETURN_NONE;
}

static int
kill_tree_call(void *context, int64_t Py_UNUSED(deadline_ns))
{
    return sst_process_kill_tree(context);
}

PyDoc_STRVAR(child_kill_tree_doc,
             "kill_tree($self, /)\n--\n\n"
             "SIGKILL for it and for all it has started; for how many.");

static PyObject *
child_kill_tree(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    ChildObject *const self = (ChildObject *)obj;

    if (process_of(self) == NULL) {
        return NULL;
    }
    self->users++;

    const int rc = sstpy_wait_until(kill_tree_call, self->process, SST_FOREVER);

    self->users--;
    return rc < 0 ? sstpy_raise(self->state, rc, NULL) : PyLong_FromLong(rc);
}

static PyObject *
child_get_pid(PyObject *obj, void *Py_UNUSED(closure))
{
    const ChildObject *const self = (ChildObject *)obj;

    return process_of(self) != NULL ? PyLong_FromLong(sst_process_pid(self->process))
                                    : NULL;
}

static PyObject *
child_get_fd(PyObject *obj, void *Py_UNUSED(closure))
{
    const ChildObject *const self = (ChildObject *)obj;

    return process_of(self) != NULL ? PyLong_FromLong(sst_process_fd(self->process))
                                    : NULL;
}

static PyObject *
child_get_tether(PyObject *obj, void *Py_UNUSED(closure))
{
    const ChildObject *const self = (ChildObject *)obj;

    if (process_of(self) == NULL) {
        return NULL;
    }

    const int rc = sst_process_tether(self->process);
    return rc < -1 ? sstpy_raise(self->state, rc, NULL) : PyLong_FromLong(rc);
}

static PyMethodDef child_methods[] = {
    {"close", child_close, METH_NOARGS, child_close_doc},
    {"fork", child_fork, METH_NOARGS, child_fork_doc},
    {"spawn", (PyCFunction)(void (*)(void))child_spawn, METH_FASTCALL, child_spawn_doc},
    {"start", (PyCFunction)(void (*)(void))child_start, METH_FASTCALL, child_start_doc},
    {"expect", child_expect, METH_O, child_expect_doc},
    {"refill", child_refill, METH_NOARGS, child_refill_doc},
    {"statistics", child_statistics, METH_NOARGS, child_statistics_doc},
    {"hold", child_hold, METH_O, child_hold_doc},
    {"reserve", child_reserve, METH_NOARGS, child_reserve_doc},
    {"send", child_send, METH_O, child_send_doc},
    {"poll", child_poll, METH_NOARGS, child_poll_doc},
    {"wait", (PyCFunction)(void (*)(void))child_wait, METH_FASTCALL | METH_KEYWORDS,
     child_wait_doc},
    {"signal", child_signal, METH_O, child_signal_doc},
    {"kill_tree", child_kill_tree, METH_NOARGS, child_kill_tree_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef child_getset[] = {
    {"pid", child_get_pid, NULL, "The pid; 0 before the start.", NULL},
    {"fd", child_get_fd, NULL, "A descriptor that is readable once it is gone.", NULL},
    {"tether", child_get_tether, NULL,
     "The child's end of the tether, before the start.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(child_doc, "Child(die_with_parent=False, packets=False)\n--\n\n"
                        "A process of ours, from before its start until it is closed.");

static PyType_Slot child_slots[] = {
    {Py_tp_doc, (void *)child_doc},
    {Py_tp_new, child_new},
    {Py_tp_init, child_init},
    {Py_tp_dealloc, child_dealloc},
    {Py_tp_traverse, sstpy_traverse_type},
    {Py_tp_methods, child_methods},
    {Py_tp_getset, child_getset},
    {0, NULL},
};

PyType_Spec sstpy_child_spec = {
    .name = "sidestep._core.Child",
    .basicsize = sizeof(ChildObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = child_slots,
};
