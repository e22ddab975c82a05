/* SPDX-License-Identifier: MIT */

/* Tasks on their way in: the owner's table of tasks, functions that are sent once, and
 * single calls.
 *
 * An id that the core knows is the index of an entry and its generation, so that what
 * belongs to a task is found without a search, and an answer that nobody waits for any
 * more is seen to be one.
 *
 * A function is posted, and fetched by each worker at its first use, when that gives
 * the worker what pickling it anew would give: when it is a function, a builtin or a
 * class that its module knows by its name. Anything else (lambdas, bound methods,
 * partials, objects with __call__) may have changed since it was posted; it is posted
 * anew for each map, and travels inside the task in an apply. */

#include "args.h"
#include "compat.h"
#include "errors.h"
#include "pool_engine.h"

/* ---- Functions ---- */

/* The attribute of a module that a dotted name leads to; NULL without an exception. */
static PyObject *
find_by_name(PyObject *module_name, PyObject *qualname)
{
    PyObject *found = PyImport_GetModule(module_name);

    if (found == NULL) {
        PyErr_Clear();
        return NULL;
    }

    PyObject *const dot = PyUnicode_FromString(".");
    PyObject *const names = dot != NULL ? PyUnicode_Split(qualname, dot, -1) : NULL;
    Py_XDECREF(dot);
    for (Py_ssize_t i = 0; names != NULL && i < PyList_GET_SIZE(names); i++) {
        PyObject *const next = PyObject_GetAttr(found, PyList_GET_ITEM(names, i));
        Py_DECREF(found);
        found = next;
        if (found == NULL) {
            break;
        }
    }
    if (names == NULL) {
        Py_CLEAR(found);
    }
    Py_XDECREF(names);
    PyErr_Clear();
    return found;
}

static bool
is_known_by_name(PyObject *object)
{
    PyObject *module = NULL;
    PyObject *name = NULL;
    PyObject *found = NULL;

    if (!PyFunction_Check(object) && !PyCFunction_Check(object) &&
        !PyType_Check(object)) {
        return false;
    }
    module = PyObject_GetAttrString(object, "__module__");
    name = PyObject_GetAttrString(object, "__qualname__");
    if (module != NULL && name != NULL && PyUnicode_Check(module) &&
        PyUnicode_Check(name)) {
        found = find_by_name(module, name);
    }
    PyErr_Clear();
    Py_XDECREF(module);
    Py_XDECREF(name);
    Py_XDECREF(found);
    return found == object;
}

static void
function_free(EngineObject *self, struct sstpy_function *function)
{
    if (function->number != 0 && self->pool != NULL && sstpy_engine_is_ours(self)) {
        sst_pool_unpost(self->pool, function->number);
    }
    Py_CLEAR(function->object);
    PyMem_Free(function);
}

void
sstpy_function_release(EngineObject *self, struct sstpy_function *function)
{
    if (function == NULL) {
        return;
    }
    function->users--;
    if (function->users == 0 && !function->cached) {
        function_free(self, function);
    }
}

void
sstpy_functions_fini(EngineObject *self)
{
    for (int i = 0; i < SSTPY_POOL_FUNCTIONS; i++) {
        struct sstpy_function *const function = self->functions[i];

        self->functions[i] = NULL;
        if (function != NULL) {
            function->cached = false;
            if (function->users == 0) {
                function_free(self, function);
            }
        }
    }
}

/* 1 posted, 0 there is no room, -1 exception. */
static int
function_post(EngineObject *self, struct sstpy_function *function)
{
    struct sstpy_encoded encoded;
    int rc = sstpy_encode(self->jobs.state, function->object, &encoded);

    if (rc < 0) {
        return rc == SSTPY_RAISED ? -1 : 0;
    }
    if (self->pool == NULL) {
        rc = SST_ECLOSED; /* meanwhile */
    }
    else if (encoded.parcel != NULL) {
        rc = SST_ELIMIT; /* it holds shared objects: it travels with each task */
    }
    else {
        rc =
            sst_pool_post(self->pool, encoded.slices, encoded.count, &function->number);
    }
    sstpy_encoded_release(&encoded);
    return rc < 0 ? 0 : 1;
}

static void
cache(EngineObject *self, struct sstpy_function *function)
{
    struct sstpy_function *const oldest = self->functions[SSTPY_POOL_FUNCTIONS - 1];

    memmove(self->functions + 1, self->functions,
            (SSTPY_POOL_FUNCTIONS - 1) * sizeof(*self->functions));
    self->functions[0] = function;
    function->cached = true;
    if (oldest != NULL) {
        oldest->cached = false;
        if (oldest->users == 0) {
            function_free(self, oldest);
        }
    }
}

struct sstpy_function *
sstpy_function_use(EngineObject *self, PyObject *object, bool many)
{
    for (int i = 0; i < SSTPY_POOL_FUNCTIONS && self->functions[i] != NULL; i++) {
        if (self->functions[i]->object == object) {
            self->functions[i]->users++;
            return self->functions[i];
        }
    }

    const bool known = is_known_by_name(object);
    if (!known && !many) {
        return NULL;
    }

    struct sstpy_function *const function = PyMem_Calloc(1, sizeof(*function));
    if (function == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    function->object = Py_NewRef(object);
    function->users = 1;

    const int rc = function_post(self, function);
    if (rc < 0 || (rc == 0 && !many)) {
        function->number = 0;
        function_free(self, function);
        return NULL;
    }
    if (known && rc > 0) {
        cache(self, function);
    }
    return function;
}

/* ---- The table ---- */

static int
table_grow(EngineObject *self)
{
    const uint32_t old = self->task_capacity;
    const uint32_t capacity = old > 0 ? old + old / 2 : 64;
    struct sstpy_task *const tasks =
        PyMem_Realloc(self->tasks, capacity * sizeof(*tasks));

    if (tasks == NULL || capacity <= old) {
        PyErr_NoMemory();
        return -1;
    }
    self->tasks = tasks;
    self->task_capacity = capacity;
    return 0;
}

/* A free entry: one that was used, or the next that never was. */
static struct sstpy_task *
free_entry(EngineObject *self)
{
    if (self->task_free < self->task_used) {
        struct sstpy_task *const task = &self->tasks[self->task_free];

        self->task_free = (uint32_t)task->first;
        return task;
    }
    if (self->task_used >= self->task_capacity && table_grow(self) < 0) {
        return NULL;
    }

    struct sstpy_task *const task = &self->tasks[self->task_used++];
    self->task_free = self->task_used;
    task->generation = 1;
    return task;
}

uint64_t
sstpy_task_open(EngineObject *self, ResultObject *result, PyObject *args,
                struct sstpy_function *function)
{
    struct sstpy_task *const task = free_entry(self);

    if (task == NULL) {
        return UINT64_MAX;
    }
    task->result = (ResultObject *)Py_NewRef(result);
    task->args = Py_NewRef(args);
    task->function = function;
    task->first = 0;
    task->count = 1;
    task->retries = 0;
    task->mode = SSTPY_MODE_CALL;
    task->is_fed = 0;
    if (function != NULL) {
        function->users++;
    }
    self->outstanding++;
    return (uint64_t)task->generation << 32 | (uint32_t)(task - self->tasks);
}

struct sstpy_task *
sstpy_task_find(EngineObject *self, uint64_t id)
{
    const uint32_t index = (uint32_t)id;
    struct sstpy_task *const task =
        index < self->task_used ? &self->tasks[index] : NULL;

    return task != NULL && task->result != NULL && task->generation == id >> 32 ? task
                                                                                : NULL;
}

void
sstpy_task_close(EngineObject *self, struct sstpy_task *task)
{
    ResultObject *const result = task->result;
    PyObject *const args = task->args;

    task->result = NULL;
    task->args = NULL;
    task->generation = task->generation < INT32_MAX ? task->generation + 1 : 1;
    task->first = self->task_free;
    self->task_free = (uint32_t)(task - self->tasks);
    self->outstanding--;
    sstpy_function_release(self, task->function);
    task->function = NULL;
    Py_XDECREF(args);
    Py_DECREF(result);
}

void
sstpy_tasks_fini(EngineObject *self)
{
    for (uint32_t i = 0; i < self->task_used; i++) {
        if (self->tasks[i].result != NULL) {
            sstpy_task_close(self, &self->tasks[i]);
        }
    }
    PyMem_Free(self->tasks);
    self->tasks = NULL;
    self->task_capacity = self->task_used = self->task_free = 0;
}

/* ---- Submitting ---- */

int
sstpy_task_submit(EngineObject *self, uint64_t id,
                  const struct sstpy_pool_limits *limits)
{
    struct sstpy_encoded encoded;
    struct sstpy_task *task = sstpy_task_find(self, id);
    PyObject *const args = Py_NewRef(task->args);
    int rc = sstpy_encode(self->jobs.state, args, &encoded);

    Py_DECREF(args);
    if (rc < 0) {
        return rc;
    }
    task = sstpy_task_find(self, id); /* reducers ran: the table may have moved */
    if (task == NULL || self->pool == NULL) {
        sstpy_encoded_release(&encoded);
        return SST_ECLOSED;
    }

    const struct sst_pool_task core = {
        .id = id,
        .function = task->function != NULL ? task->function->number : 0,
        .tag = task->mode,
        .soft_ns = limits->soft_ns,
        .hard_ns = limits->hard_ns,
        .priority = limits->priority,
        .slice_count = encoded.parcel != NULL ? 0 : encoded.count,
        .slices = encoded.slices,
        .parcel = encoded.parcel != NULL ? &encoded.parcel : NULL,
    };
    do {
        rc = sst_pool_submit(self->pool, &core, SST_NOW);
    } while (rc == SST_EINTR);
    sstpy_encoded_release(&encoded);
    return rc;
}

int
sstpy_engine_wake(EngineObject *self)
{
    int rc = 0;

    if (self->crew == NULL) {
        return 0;
    }
    /* The crew's own thread pins nothing: it is waited for before the crew goes, but
     * self->crew may be taken away as soon as the GIL is. */
    struct sst_crew *const crew = self->crew;

    sstpy_engine_pin(self);
    Py_BEGIN_ALLOW_THREADS /* it may wait for the thread's end, which needs the GIL */
    rc = sst_crew_wake(crew);
    Py_END_ALLOW_THREADS
    sstpy_engine_unpin(self);

    const struct sst_error err = {
        .status = rc,
        .text = "cannot start the thread that looks after the workers",
    };

    return rc < 0 ? sstpy_fail(self->jobs.state, rc, &err) : 0;
}

/* The payload of a call. */
static PyObject *
pack_call(PyObject *func, PyObject *args, PyObject *kwds, bool posted, uint8_t *mode)
{
    const bool plain = kwds == NULL || kwds == Py_None ||
                       (PyDict_CheckExact(kwds) && PyDict_GET_SIZE(kwds) == 0);
    PyObject *packed = PySequence_Tuple(args);

    *mode = SSTPY_MODE_CALL;
    if (packed != NULL && !plain) {
        PyObject *const dict = PyDict_New();
        const int rc = dict != NULL ? PyDict_Update(dict, kwds) : -1;

        Py_SETREF(packed, rc == 0 ? PyTuple_Pack(2, packed, dict) : NULL);
        Py_XDECREF(dict);
        *mode = SSTPY_MODE_KEYWORDS;
    }
    if (packed != NULL && !posted) {
        Py_SETREF(packed, PyTuple_Pack(2, func, packed));
        *mode |= SSTPY_MODE_INLINE;
    }
    return packed;
}

/* It could not be submitted: the exception that is set, or that of the status, is its
 * outcome. One that is no Exception means the program: -1. */
static int
fail_call(EngineObject *self, uint64_t id, ResultObject *result, int rc)
{
    struct sstpy_task *const task = sstpy_task_find(self, id);

    if (rc != SSTPY_RAISED) {
        (void)sstpy_raise(self->jobs.state, rc, NULL);
    }

    const bool interrupted = !PyErr_ExceptionMatches(PyExc_Exception);
    PyObject *const error = sstpy_take_exception();
    if (task != NULL) {
        sstpy_task_close(self, task);
    }
    if (!interrupted) {
        return sstpy_result_deliver(result, 0, 1, true, false, error);
    }
    sstpy_result_abandon(result, error);
    PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    Py_DECREF(error);
    return -1;
}

static int
start_call(EngineObject *self, ResultObject *result, PyObject *func, PyObject *args,
           PyObject *kwds, const struct sstpy_pool_limits *limits)
{
    struct sstpy_function *const function = sstpy_function_use(self, func, false);
    uint8_t mode = 0;

    if (function == NULL && PyErr_Occurred()) {
        return fail_call(self, UINT64_MAX, result, SSTPY_RAISED);
    }

    PyObject *const packed = pack_call(func, args, kwds, function != NULL, &mode);
    const uint64_t id =
        packed != NULL ? sstpy_task_open(self, result, packed, function) : UINT64_MAX;
    Py_XDECREF(packed);
    sstpy_function_release(self, function);
    if (id == UINT64_MAX) {
        return fail_call(self, id, result, SSTPY_RAISED);
    }
    sstpy_task_find(self, id)->mode = mode;
    sstpy_task_find(self, id)->retries = (uint16_t)limits->retries;
    result->chunk = (uint32_t)id; /* the entry, for cancel() */

    const int rc = sstpy_task_submit(self, id, limits);
    if (rc < 0) {
        return fail_call(self, id, result, rc);
    }
    return sstpy_engine_wake(self);
}

int
sstpy_engine_limits(PyObject *const *given, struct sstpy_pool_limits *limits)
{
    Py_ssize_t priority = 0;
    Py_ssize_t retries = 0;
    int64_t soft_ns = SSTPY_FOREVER;
    int64_t hard_ns = SSTPY_FOREVER;

    if (sstpy_to_duration(given[0], &hard_ns) < 0 ||
        sstpy_to_duration(given[1], &soft_ns) < 0 ||
        sstpy_to_ssize(given[2], 1, &priority) < 0 ||
        sstpy_to_ssize(given[3], 0, &retries) < 0) {
        return -1;
    }
    if (priority < 0 || priority >= SST_POOL_PRIORITIES || retries < 0 ||
        retries > UINT16_MAX) {
        PyErr_SetString(PyExc_ValueError, "priority is 0, 1 or 2; retries up to 65535");
        return -1;
    }
    limits->hard_ns = hard_ns == SSTPY_FOREVER ? 0 : hard_ns > 0 ? hard_ns : 1;
    limits->soft_ns = soft_ns == SSTPY_FOREVER ? 0 : soft_ns > 0 ? soft_ns : 1;
    limits->priority = (uint32_t)priority;
    limits->retries = (uint32_t)retries;
    return 0;
}

/* ---- The methods ---- */

int
sstpy_engine_check(EngineObject *self)
{
    if (self->closing || self->pool == NULL || !sstpy_engine_is_ours(self)) {
        PyErr_SetString(PyExc_ValueError, "Pool not running");
        return -1;
    }
    return 0;
}

/* A call that may be run again keeps its limits where maps keep theirs. */
static int
keep_limits(ResultObject *result, const struct sstpy_pool_limits *limits)
{
    if (limits->retries == 0) {
        return 0;
    }

    struct sstpy_feed *const feed = PyMem_Calloc(1, sizeof(*feed));
    if (feed == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    feed->result = result;
    feed->limits = *limits;
    result->feed = feed;
    return 0;
}

PyObject *
sstpy_engine_apply(PyObject *obj, PyObject *const *args, Py_ssize_t nargs)
{
    EngineObject *const self = (EngineObject *)obj;
    struct sstpy_pool_limits limits = {0};

    if (nargs != 11) {
        PyErr_SetString(PyExc_TypeError, "apply() takes 11 arguments");
        return NULL;
    }
    if (sstpy_engine_check(self) < 0 || sstpy_engine_limits(args + 7, &limits) < 0) {
        return NULL;
    }

    ResultObject *const result =
        sstpy_result_new(args[0], &self->jobs, args[1], SSTPY_RESULT_APPLY, 1, args[5],
                         args[6]);
    if (result == NULL) {
        return NULL;
    }
    if (self->broken != NULL) {
        sstpy_result_abandon(result, self->broken);
    }
    else if (keep_limits(result, &limits) < 0) {
        PyObject *const error = sstpy_take_exception();
        sstpy_result_abandon(result, error);
        Py_DECREF(error);
    }
    else if (start_call(self, result, args[2], args[3], args[4], &limits) < 0) {
        Py_DECREF(result);
        return NULL;
    }
    return (PyObject *)result;
}

/* Withdraw one task that nobody has taken. 1: it will never run. */
static int
withdraw_task(EngineObject *self, uint32_t index)
{
    struct sstpy_task *const task = &self->tasks[index];
    const uint64_t id = (uint64_t)task->generation << 32 | index;

    if (sst_pool_cancel(self->pool, id) != 1) {
        return 0;
    }
    if (task->is_fed && task->result->feed != NULL) {
        task->result->feed->outstanding--;
    }
    sstpy_task_close(self, task);
    return 1;
}

/* Kill whoever has the task in hand. */
static void
kill_task(EngineObject *self, uint32_t index)
{
    const uint64_t id = (uint64_t)self->tasks[index].generation << 32 | index;
    int rc = 0;

    sstpy_engine_pin(self);
    Py_BEGIN_ALLOW_THREADS
    rc = sst_crew_kill(self->crew, id, SST_POOL_BY_CANCEL);
    Py_END_ALLOW_THREADS
    sstpy_engine_unpin(self);
    (void)rc; /* nobody has it any more: its result is on the way, and nobody's */
}

/* Whether there was anything to give up. */
static bool
give_up(EngineObject *self, ResultObject *result, bool kill)
{
    if (result->feed != NULL) {
        result->feed->length = result->feed->at; /* no more of it */
    }
    for (uint32_t i = 0; self->pool != NULL && i < self->task_used; i++) {
        if (self->tasks[i].result != result || withdraw_task(self, i) == 1) {
            continue;
        }
        if (kill) {
            kill_task(self, i);
        }
        else if (result->kind == SSTPY_RESULT_APPLY) {
            return false;
        }
    }
    return true;
}

static bool
is_pending(const EngineObject *self, const ResultObject *result)
{
    return result->jobs == &self->jobs && !result->finished && self->pool != NULL &&
           sstpy_engine_is_ours(self);
}

static bool
is_result(const EngineObject *self, PyObject *obj)
{
    return PyObject_TypeCheck(obj, self->jobs.state->pool_result_type) ||
           PyObject_TypeCheck(obj, self->jobs.state->pool_iterator_type);
}

PyObject *
sstpy_engine_cancel(PyObject *obj, PyObject *const *args, Py_ssize_t nargs)
{
    EngineObject *const self = (EngineObject *)obj;

    if (nargs != 3 || !is_result(self, args[0]) ||
        !PyExceptionInstance_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError,
                        "cancel() takes a result, an exception, and whether to kill");
        return NULL;
    }

    ResultObject *const result = (ResultObject *)args[0];
    if (!is_pending(self, result) || !give_up(self, result, args[2] == Py_True)) {
        Py_RETURN_FALSE;
    }
    sstpy_result_abandon(result, args[1]);
    if (self->pool != NULL) {
        sst_pool_nudge(self->pool);
        sstpy_engine_feed(self, false);
        sstpy_engine_shut_if_done(self);
    }
    Py_RETURN_TRUE;
}

PyObject *
sstpy_engine_is_running(PyObject *obj, PyObject *arg)
{
    EngineObject *const self = (EngineObject *)obj;
    ResultObject *const result = (ResultObject *)arg;
    struct sst_pool_seat seat;

    if (!is_result(self, arg) || !is_pending(self, result) ||
        result->kind != SSTPY_RESULT_APPLY || result->chunk >= self->task_used) {
        Py_RETURN_FALSE;
    }

    const uint32_t index = result->chunk;
    const uint64_t id = (uint64_t)self->tasks[index].generation << 32 | index;
    for (uint32_t i = 0; sst_pool_seat(self->pool, i, &seat) == 0; i++) {
        if (seat.id == id) {
            Py_RETURN_TRUE;
        }
    }
    Py_RETURN_FALSE;
}
