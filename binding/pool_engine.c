/* SPDX-License-Identifier: MIT */

/* PoolEngine: the owner's side of a pool of processes.
 *
 * The core has the tasks and the crew of workers; what a worker is, is Python's: a
 * Process object of the pool's context, or of a subclass. So the crew's back end calls
 * the methods of `hooks`:
 *
 *     start(seat) -> process     not_rebuilt(error) -> exception    start_feeder()
 *     fd(process) -> int         lost(...) -> exception
 *     exit_code(process)         stuck() -> exception
 *     signal(process, number)    note(tag, pid, object)
 *     ended(process, code, had_task)    is_over(process) -> bool
 *
 * The crew's thread has a Python thread state from its beginning to its end, and the
 * GIL only inside a callback. The crew holds a lock of its own while it calls back; so
 * whoever calls a function of the crew that may take this lock lets go of the GIL.
 *
 * Pool and crew are closed by release(), or when the last call that uses them ends; and
 * that waits for the crew's thread, which may have callbacks in hand. */

#include "pool_engine.h"

#include "args.h"
#include "compat.h"
#include "errors.h"
#include "wait.h"

/* ---- The crew's callbacks, without the GIL ---- */

static void
crew_thread(void *context, bool begins)
{
    EngineObject *const self = context;

    if (begins) {
        self->crew_gil = PyGILState_Ensure();
        self->crew_thread = PyThread_get_thread_ident();
        self->crew_state = PyEval_SaveThread();
        return;
    }
    PyEval_RestoreThread(self->crew_state);
    self->crew_state = NULL;
    self->crew_thread = 0;
    PyGILState_Release(self->crew_gil);
}

static int
crew_start(void *context, uint64_t seat, void **worker)
{
    EngineObject *const self = context;
    const PyGILState_STATE gil = PyGILState_Ensure();
    int rc = SST_EAGAIN;

    if (!self->stopped) {
        PyObject *const process =
            PyObject_CallMethod(self->hooks, "start", "K", (unsigned long long)seat);
        if (process != NULL) {
            *worker = process;
            rc = 0;
        }
        else {
            Py_XSETREF(self->start_error, sstpy_take_exception());
        }
    }
    PyGILState_Release(gil);
    return rc;
}

/* The int that hooks.method(process) gives, `missing` for None or an exception. */
static int
crew_ask(EngineObject *self, const char *method, void *worker, int missing)
{
    PyObject *const value =
        PyObject_CallMethod(self->hooks, method, "O", (PyObject *)worker);
    int number = missing;

    if (value == NULL) {
        PyErr_WriteUnraisable((PyObject *)self);
        return missing;
    }
    if (value != Py_None) {
        number = (int)PyLong_AsLong(value);
        if (number == -1 && PyErr_Occurred()) {
            PyErr_WriteUnraisable((PyObject *)self);
            number = missing;
        }
    }
    Py_DECREF(value);
    return number;
}

static int
crew_fd(void *context, void *worker)
{
    const PyGILState_STATE gil = PyGILState_Ensure();
    const int fd = crew_ask(context, "fd", worker, SST_EBADF);

    PyGILState_Release(gil);
    return fd;
}

static int
crew_exit_code(void *context, void *worker, int *code)
{
    const PyGILState_STATE gil = PyGILState_Ensure();

    *code = crew_ask(context, "exit_code", worker, INT_MIN);
    PyGILState_Release(gil);
    return *code == INT_MIN ? SST_EAGAIN : 0;
}

static int
crew_signal(void *context, void *worker, int number)
{
    EngineObject *const self = context;
    const PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *const done =
        PyObject_CallMethod(self->hooks, "signal", "Oi", (PyObject *)worker, number);

    if (done == NULL) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(done);
    PyGILState_Release(gil);
    return 0;
}

static bool
crew_is_over(void *context, uint64_t seat, void *worker)
{
    EngineObject *const self = context;
    const PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *const over =
        PyObject_CallMethod(self->hooks, "is_over", "O", (PyObject *)worker);
    const bool is_over = over == Py_True;

    (void)seat;
    if (over == NULL) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(over);
    PyGILState_Release(gil);
    return is_over;
}

static void
crew_close(void *context, void *worker)
{
    const PyGILState_STATE gil = PyGILState_Ensure();

    (void)context;
    Py_DECREF((PyObject *)worker);
    PyGILState_Release(gil);
}

static void
crew_on_end(void *context, uint64_t seat, void *worker, int code, bool had_task)
{
    EngineObject *const self = context;
    const PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *const done =
        PyObject_CallMethod(self->hooks, "ended", "OiO", (PyObject *)worker, code,
                            had_task ? Py_True : Py_False);

    (void)seat;
    if (done == NULL) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(done);
    PyGILState_Release(gil);
}

static void
crew_on_results(void *context)
{
    EngineObject *const self = context;
    const PyGILState_STATE gil = PyGILState_Ensure();

    if (!self->over) {
        sstpy_engine_take_now(self);
    }
    PyGILState_Release(gil);
}

static void
crew_on_stuck(void *context)
{
    EngineObject *const self = context;
    const PyGILState_STATE gil = PyGILState_Ensure();

    if (!self->over && !self->stuck) {
        /* What workers told before they ended comes first, by whoever leads. */
        self->stuck = true;
        if (sst_pool_lead(self->pool, &(const uint32_t){0}, SST_NOW) == 1) {
            sstpy_engine_take_now(self);
            sst_pool_follow(self->pool);
        }
        else {
            sst_pool_nudge(self->pool);
        }
    }
    PyGILState_Release(gil);
}

/* ---- Life ---- */

static PyObject *
engine_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    struct sstpy_state *const state = sstpy_state_of(type);
    EngineObject *const self =
        state != NULL ? (EngineObject *)PyType_GenericAlloc(type, 0) : NULL;

    if (self != NULL) {
        self->jobs.state = state;
        self->jobs.drive = sstpy_engine_drive;
        self->jobs.taken = sstpy_feed_taken;
        self->jobs.unfeed = sstpy_feed_free;
        self->epoch = self->jobs.epoch = sstpy_fork_epoch();
    }
    return (PyObject *)self;
}

static int
engine_create(EngineObject *self, unsigned int workers, unsigned int task_max,
              int soft_signal, int64_t look_ns)
{
    static const struct sst_crew_backend backend = {
        .size_of = sizeof(backend),
        .start = crew_start,
        .fd = crew_fd,
        .exit_code = crew_exit_code,
        .signal = crew_signal,
        .close = crew_close,
    };
    const struct sst_pool_options pool_options = {
        .size_of = sizeof(pool_options),
        /* Those who leave keep their seats until they have ended. */
        .seat_max = SST_POOL_SEATS_MAX,
    };
    const struct sst_crew_options crew_options = {
        .size_of = sizeof(crew_options),
        .worker_count = workers,
        .task_max = task_max,
        .soft_signal = soft_signal,
        .backend = &backend,
        .context = self,
        .on_results = crew_on_results,
        .on_end = crew_on_end,
        .on_stuck = crew_on_stuck,
        .on_thread = crew_thread,
        .is_over = crew_is_over,
        .look_ns = look_ns,
    };
    struct sst_error err = {0};
    struct sst_arena *const arena = sstpy_begin(self->jobs.state, self->pool);

    if (arena == NULL) {
        return -1;
    }

    int rc = sst_pool_create(arena, &pool_options, &self->pool, &err);
    if (rc == 0) {
        rc = sst_crew_create(self->pool, &crew_options, &self->crew, &err);
        if (rc < 0) {
            self->pool = sst_pool_close(self->pool);
        }
    }
    return rc < 0 ? sstpy_fail(self->jobs.state, rc, &err) : 0;
}

static int
engine_init(PyObject *obj, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"hooks",       "workers",  "task_max",
                            "soft_signal", "interval", NULL};
    EngineObject *const self = (EngineObject *)obj;
    PyObject *hooks = NULL;
    unsigned int workers = 1;
    unsigned int task_max = 0;
    PyObject *interval = Py_None;
    int64_t look_ns = SSTPY_FOREVER;
    int soft_signal = 0;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OI|IiO:PoolEngine", names, &hooks,
                                     &workers, &task_max, &soft_signal, &interval) ||
        sstpy_to_duration(interval, &look_ns) < 0) {
        return -1;
    }
    if (workers < 1 || workers > SST_POOL_SEATS_MAX / 2) {
        PyErr_Format(PyExc_ValueError, "the number of workers is 1 to %d",
                     SST_POOL_SEATS_MAX / 2);
        return -1;
    }
    Py_XSETREF(self->hooks, Py_NewRef(hooks));
    self->worker_count = workers;
    return engine_create(self, workers, task_max, soft_signal,
                         look_ns == SSTPY_FOREVER ? 0 : look_ns);
}

/* With the GIL; nobody else uses pool and crew. */
static void
engine_close_core(EngineObject *self)
{
    struct sst_crew *const crew = self->crew;

    self->crew = NULL;
    self->pins++; /* the pool is still used */
    Py_BEGIN_ALLOW_THREADS(void)
    sst_crew_close(crew);
    Py_END_ALLOW_THREADS
    /* What workers told last, if the crew's thread did not come to it any more. */
    sstpy_engine_take_now(self);
    self->pins--;
    if (self->pins > 0) {
        return; /* another thread came meanwhile; its unpin closes the pool */
    }

    struct sst_pool *const pool = self->pool;

    self->pool = NULL;
    Py_BEGIN_ALLOW_THREADS(void)
    (void)sst_pool_close(pool);
    Py_END_ALLOW_THREADS
    sstpy_functions_fini(self);
    sstpy_tasks_fini(self);
}

static bool
is_crew_thread(const EngineObject *self)
{
    return self->crew_thread == PyThread_get_thread_ident();
}

void
sstpy_engine_pin(EngineObject *self)
{
    self->pins += is_crew_thread(self) ? 0 : 1;
}

void
sstpy_engine_unpin(EngineObject *self)
{
    if (is_crew_thread(self)) {
        return;
    }
    self->pins--;
    if (self->pins == 0 && self->over && self->pool != NULL) {
        engine_close_core(self);
    }
}

static int
engine_traverse(PyObject *obj, visitproc visit, void *arg)
{
    const EngineObject *const self = (EngineObject *)obj;

    Py_VISIT(self->hooks);
    Py_VISIT(self->broken);
    Py_VISIT(self->start_error);
    return sstpy_jobs_traverse(obj, visit, arg);
}

static int
engine_clear(PyObject *obj)
{
    EngineObject *const self = (EngineObject *)obj;

    Py_CLEAR(self->hooks);
    Py_CLEAR(self->broken);
    Py_CLEAR(self->start_error);
    return sstpy_jobs_clear(obj);
}

/* Before anything is cleared: to end workers that are left takes the hooks. */
static void
engine_finalize(PyObject *obj)
{
    EngineObject *const self = (EngineObject *)obj;
    PyObject *const error = PyErr_Occurred() ? sstpy_take_exception() : NULL;

    self->over = self->stopped = true;
    if (self->pool != NULL && sstpy_engine_is_ours(self)) {
        engine_close_core(self);
    }
    if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
}

static void
engine_dealloc(PyObject *obj)
{
    EngineObject *const self = (EngineObject *)obj;

    if (PyObject_CallFinalizerFromDealloc(obj) < 0) {
        return; /* a hook has kept it */
    }
    PyObject_GC_UnTrack(obj);
    if (self->jobs.weakrefs != NULL) {
        PyObject_ClearWeakRefs(obj);
    }
    (void)engine_clear(obj);
    if (self->feeder != NULL) {
        PyThread_free_lock(self->feeder);
    }
    PyMem_Free(self->tasks);
    sstpy_free(obj);
}

/* ---- Methods ---- */

static int
engine_open(EngineObject *self)
{
    if (self->pool == NULL || self->over || !sstpy_engine_is_ours(self)) {
        PyErr_SetString(PyExc_ValueError, "Pool not running");
        return -1;
    }
    return 0;
}

PyDoc_STRVAR(engine_fill_doc,
             "fill($self, /)\n--\n\n"
             "Start the workers that are wanted. Raises what the start of one raised.");

static PyObject *
engine_fill(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    EngineObject *const self = (EngineObject *)obj;
    int rc = 0;

    if (engine_open(self) < 0) {
        return NULL;
    }
    Py_CLEAR(self->start_error);
    sstpy_engine_pin(self);
    Py_BEGIN_ALLOW_THREADS
    rc = sst_crew_fill(self->crew);
    Py_END_ALLOW_THREADS
    sstpy_engine_unpin(self);
    if (self->start_error != NULL) {
        PyObject *const error = self->start_error;
        self->start_error = NULL;
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
        return NULL;
    }
    return rc < 0 ? sstpy_raise(self->jobs.state, rc, NULL) : PyLong_FromLong(rc);
}

PyDoc_STRVAR(engine_resize_doc, "resize($self, workers, /)\n--\n\n"
                                "Have so many workers from now on.");

static PyObject *
engine_resize(PyObject *obj, PyObject *arg)
{
    EngineObject *const self = (EngineObject *)obj;
    const long workers = PyLong_AsLong(arg);
    int rc = 0;

    if ((workers == -1 && PyErr_Occurred()) || engine_open(self) < 0) {
        return NULL;
    }
    if (workers < 1 || workers > SST_POOL_SEATS_MAX / 2) {
        PyErr_SetString(PyExc_ValueError, "Number of processes must be at least 1");
        return NULL;
    }
    self->worker_count = (uint32_t)workers;
    sstpy_engine_pin(self);
    Py_BEGIN_ALLOW_THREADS
    rc = sst_crew_resize(self->crew, (uint32_t)workers);
    Py_END_ALLOW_THREADS
    sstpy_engine_unpin(self);
    if (rc < 0) {
        return sstpy_raise(self->jobs.state, rc, NULL);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(engine_close_doc, "close($self, /)\n--\n\n"
                               "Take no more calls; workers leave when all are done.");

static PyObject *
engine_close(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    EngineObject *const self = (EngineObject *)obj;

    self->closing = true;
    if (sstpy_engine_is_ours(self)) {
        sstpy_engine_shut_if_done(self);
        if (self->pool != NULL && sstpy_engine_wake(self) < 0) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(engine_stop_doc,
             "stop($self, signal, error, /)\n--\n\n"
             "Take no more calls, drop the tasks that wait, send all workers the "
             "signal; what is unfinished gets the exception.");

static PyObject *
engine_stop(PyObject *obj, PyObject *args)
{
    EngineObject *const self = (EngineObject *)obj;
    PyObject *error = NULL;
    int number = 0;

    if (!PyArg_ParseTuple(args, "iO!:stop", &number, PyExc_BaseException, &error)) {
        return NULL;
    }
    if (self->pool == NULL || self->over || !sstpy_engine_is_ours(self)) {
        Py_RETURN_NONE;
    }
    self->closing = self->shut = self->stopped = true;
    sstpy_engine_pin(self);
    Py_BEGIN_ALLOW_THREADS
    sst_pool_shutdown(self->pool, true);
    Py_END_ALLOW_THREADS
    /* Before the signals: no result is to say that its worker was killed. */
    sstpy_engine_break(self, error);
    Py_BEGIN_ALLOW_THREADS
    sst_crew_terminate(self->crew, number);
    Py_END_ALLOW_THREADS
    if (self->feeder_runs && !self->feeder_called) {
        self->feeder_called = true;
        PyThread_release_lock(self->feeder);
    }
    sstpy_engine_unpin(self);
    Py_RETURN_NONE;
}

static int
engine_call_join(void *context, int64_t deadline_ns)
{
    return sst_crew_join(context, deadline_ns);
}

PyDoc_STRVAR(engine_join_doc,
             "join($self, timeout=None, /)\n--\n\n"
             "Wait until no worker is left, after close or stop; False: in vain.");

static PyObject *
engine_join(PyObject *obj, PyObject *const *args, Py_ssize_t nargs)
{
    EngineObject *const self = (EngineObject *)obj;
    int64_t duration_ns = SSTPY_FOREVER;

    if (nargs > 1) {
        PyErr_SetString(PyExc_TypeError, "join() takes 1 argument");
        return NULL;
    }
    if (nargs == 1 && sstpy_to_duration(args[0], &duration_ns) < 0) {
        return NULL;
    }
    if (self->pool == NULL || self->over || !sstpy_engine_is_ours(self)) {
        Py_RETURN_TRUE;
    }
    sstpy_engine_pin(self);
    const int rc =
        sstpy_wait_until(engine_call_join, self->crew, sstpy_deadline(duration_ns));
    sstpy_engine_unpin(self);
    if (rc == SST_ETIMEDOUT) {
        Py_RETURN_FALSE;
    }
    if (rc < 0) {
        return sstpy_raise(self->jobs.state, rc, NULL);
    }
    Py_RETURN_TRUE;
}

PyDoc_STRVAR(engine_settle_doc, "settle($self, timeout=None, /)\n--\n\n"
                                "Wait until every result is finished; False: in vain.");

static PyObject *
engine_settle(PyObject *obj, PyObject *const *args, Py_ssize_t nargs)
{
    EngineObject *const self = (EngineObject *)obj;
    int64_t duration_ns = SSTPY_FOREVER;

    if (nargs > 1) {
        PyErr_SetString(PyExc_TypeError, "settle() takes 1 argument");
        return NULL;
    }
    if (nargs == 1 && sstpy_to_duration(args[0], &duration_ns) < 0) {
        return NULL;
    }

    const int64_t deadline_ns = sstpy_deadline(duration_ns);
    while (self->jobs.count > 0 && self->pool != NULL && sstpy_engine_is_ours(self)) {
        const int rc = sstpy_engine_drive(&self->jobs, &self->jobs.empty, deadline_ns);
        if (rc < 0) {
            return NULL;
        }
        if (rc == 0) {
            return PyBool_FromLong(self->jobs.count == 0);
        }
    }
    Py_RETURN_TRUE;
}

PyDoc_STRVAR(engine_take_doc, "take($self, /)\n--\n\n"
                              "Hand out what is there, without waiting.");

static PyObject *
engine_take(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    EngineObject *const self = (EngineObject *)obj;
    struct sst_pool *const pool = self->pool;

    if (pool != NULL && !self->over && sstpy_engine_is_ours(self) &&
        !is_crew_thread(self)) {
        sstpy_engine_pin(self);
        if (sst_pool_lead(pool, &(const uint32_t){0}, SST_NOW) == 1) {
            sstpy_engine_take_now(self);
            sst_pool_follow(pool);
        }
        sstpy_engine_unpin(self);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(engine_tidy_doc, "tidy($self, /)\n--\n\n"
                              "Forget the workers that have ended.");

static PyObject *
engine_tidy(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    EngineObject *const self = (EngineObject *)obj;

    if (self->pool != NULL && !self->over && sstpy_engine_is_ours(self) &&
        !is_crew_thread(self)) {
        sstpy_engine_pin(self);
        Py_BEGIN_ALLOW_THREADS
        sst_crew_tidy(self->crew);
        Py_END_ALLOW_THREADS
        sstpy_engine_unpin(self);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(engine_release_doc,
             "release($self, /)\n--\n\n"
             "Give up pool and crew; workers that are left are killed. Not on the "
             "crew's own thread.");

static PyObject *
engine_release(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    EngineObject *const self = (EngineObject *)obj;

    if (self->pool != NULL && sstpy_engine_is_ours(self)) {
        self->over = true;
        sstpy_engine_pin(self);
        sstpy_engine_unpin(self);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(engine_on_crew_doc,
             "on_crew_thread($self, /)\n--\n\n"
             "Whether this is the thread that looks after workers.");

static PyObject *
engine_on_crew(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(is_crew_thread((const EngineObject *)obj));
}

PyDoc_STRVAR(engine_statistics_doc, "statistics($self, /)\n--\n\n"
                                    "Counters of tasks and workers.");

static PyObject *
engine_statistics(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    EngineObject *const self = (EngineObject *)obj;
    struct sst_pool_statistics s = {0};

    if (self->pool != NULL && sstpy_engine_is_ours(self)) {
        sst_pool_statistics(self->pool, &s);
    }
    return Py_BuildValue(
        "{s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:d,s:I,s:I}", "submitted",
        (unsigned long long)s.submitted, "queued", (unsigned long long)s.queued,
        "taken", (unsigned long long)s.taken, "done", (unsigned long long)s.done,
        "failed", (unsigned long long)s.failed, "lost", (unsigned long long)s.lost,
        "cancelled", (unsigned long long)s.cancelled, "busy", (double)s.busy_ns / 1e9,
        "workers", (unsigned int)s.seats, "idle", (unsigned int)s.idle);
}

static PyObject *
engine_handle(PyObject *obj, void *Py_UNUSED(closure))
{
    EngineObject *const self = (EngineObject *)obj;
    struct sst_handle handle;

    if (engine_open(self) < 0) {
        return NULL;
    }
    sst_pool_handle(self->pool, &handle);
    return sstpy_handle_new(&handle);
}

PyDoc_STRVAR(engine_apply_doc,
             "apply($self, type, pool, func, args, kwds, callback, error_callback, "
             "timeout, soft_timeout, priority, retries, /)\n--\n\nOne call.");
PyDoc_STRVAR(
    engine_map_doc,
    "map($self, type, pool, kind, func, iterable, star, chunksize, buffersize, "
    "callback, error_callback, timeout, soft_timeout, priority, retries, "
    "/)\n--\n\nOne call for each item.");
PyDoc_STRVAR(engine_cancel_doc,
             "cancel($self, result, error, kill, /)\n--\n\n"
             "Give a result up, what runs of it as well if asked to kill. Whether "
             "there was anything to give up.");
PyDoc_STRVAR(engine_running_doc, "is_running($self, result, /)\n--\n\n"
                                 "Whether a worker has the call in hand.");
PyDoc_STRVAR(engine_feed_doc,
             "feed_foreign($self, /)\n--\n\n"
             "Pull the users' iterators until they are at their ends.");

#define FASTCALL(function) (PyCFunction)(void (*)(void))(function), METH_FASTCALL

static PyMethodDef engine_methods[] = {
    {"apply", FASTCALL(sstpy_engine_apply), engine_apply_doc},
    {"map", FASTCALL(sstpy_engine_map), engine_map_doc},
    {"cancel", FASTCALL(sstpy_engine_cancel), engine_cancel_doc},
    {"is_running", sstpy_engine_is_running, METH_O, engine_running_doc},
    {"feed_foreign", sstpy_engine_feed_foreign, METH_NOARGS, engine_feed_doc},
    {"fill", engine_fill, METH_NOARGS, engine_fill_doc},
    {"resize", engine_resize, METH_O, engine_resize_doc},
    {"close", engine_close, METH_NOARGS, engine_close_doc},
    {"stop", engine_stop, METH_VARARGS, engine_stop_doc},
    {"join", FASTCALL(engine_join), engine_join_doc},
    {"settle", FASTCALL(engine_settle), engine_settle_doc},
    {"take", engine_take, METH_NOARGS, engine_take_doc},
    {"tidy", engine_tidy, METH_NOARGS, engine_tidy_doc},
    {"release", engine_release, METH_NOARGS, engine_release_doc},
    {"on_crew_thread", engine_on_crew, METH_NOARGS, engine_on_crew_doc},
    {"statistics", engine_statistics, METH_NOARGS, engine_statistics_doc},
    {NULL, NULL, 0, NULL},
};

static PyObject *
engine_broken(PyObject *obj, void *Py_UNUSED(closure))
{
    PyObject *const broken = ((EngineObject *)obj)->broken;

    return Py_NewRef(broken != NULL ? broken : Py_None);
}

static PyGetSetDef engine_getset[] = {
    {"broken", engine_broken, NULL, "The exception that every call gets, or None.",
     NULL},
    {"handle", engine_handle, NULL, "By which workers attach.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot engine_slots[] = {
    {Py_tp_doc, "The owner's side of a pool of processes."},
    {Py_tp_new, engine_new},
    {Py_tp_init, engine_init},
    {Py_tp_finalize, engine_finalize},
    {Py_tp_dealloc, engine_dealloc},
    {Py_tp_traverse, engine_traverse},
    {Py_tp_clear, engine_clear},
    {Py_tp_methods, engine_methods},
    {Py_tp_getset, engine_getset},
    {0, NULL},
};

static PyType_Spec engine_spec = {
    .name = "sidestep._core.PoolEngine",
    .basicsize = sizeof(EngineObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = engine_slots,
};

int
sstpy_pool_engine_exec(PyObject *module, struct sstpy_state *state)
{
    PyObject *const type = PyType_FromModuleAndSpec(module, &engine_spec,
                                                    (PyObject *)state->pool_jobs_type);

    if (type == NULL) {
        return -1;
    }
    state->pool_engine_type = (PyTypeObject *)type;
    return PyModule_AddType(module, state->pool_engine_type);
}
