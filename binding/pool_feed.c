/* SPDX-License-Identifier: MIT */

/* Maps: many tasks from one iterable, submitted a window at a time.
 *
 * A feed is what is left of a map's input. Whoever takes results tops it up, so the
 * workers always have some tasks ahead, and the parent holds no more than these in
 * encoded form. Feeds are served oldest first.
 *
 * Code of the user's, an iterator that is no built-in, is pulled by a thread of its
 * own, which is there as long as there is such a feed: it may wait for what the caller
 * does next, or for a result, so neither the caller nor who looks after the workers may
 * be the one who waits inside it.
 *
 * Without a chunk size we choose (pool_pace.h). */

#include "args.h"
#include "compat.h"
#include "errors.h"
#include "interrupt.h"
#include "pool_engine.h"

enum {
    WINDOW_TASKS = 128, /* ahead of each worker, when the caller chose the chunks */
    RANGE_MIN = 64, /* items of a range that travel as one: its pickle has a price */
};

/* ---- Feeds ---- */

static void
feed_unlist(EngineObject *self, struct sstpy_feed *feed)
{
    struct sstpy_feed **link = &self->feeds;

    if (!feed->listed) {
        return;
    }
    while (*link != feed) {
        link = &(*link)->next;
    }
    *link = feed->next;
    feed->listed = false;
}

static void
feed_list(EngineObject *self, struct sstpy_feed *feed)
{
    struct sstpy_feed **link = &self->feeds;

    while (*link != NULL) {
        link = &(*link)->next;
    }
    *link = feed;
    feed->next = NULL;
    feed->listed = true;
}

void
sstpy_feed_free(ResultObject *result)
{
    struct sstpy_feed *const feed = result->feed;
    EngineObject *const self = (EngineObject *)result->jobs;

    if (feed == NULL || feed->pulling) {
        return; /* whoever pulls frees it */
    }
    result->feed = NULL;
    feed_unlist(self, feed);
    sstpy_function_release(self, feed->function);
    Py_XDECREF(feed->items);
    Py_XDECREF(feed->iterator);
    Py_XDECREF(feed->held);
    PyMem_Free(feed);
}

static bool
feed_is_empty(const struct sstpy_feed *feed)
{
    return feed->held == NULL && feed->at >= feed->length;
}

void
sstpy_feed_done(EngineObject *self, const struct sstpy_task *task, int64_t duration_ns)
{
    struct sstpy_feed *const feed = task->result->feed;

    (void)self;
    if (feed == NULL || !task->is_fed) {
        return;
    }
    feed->outstanding--;
    if (duration_ns >= 0) {
        sstpy_pace_note(&feed->pace, duration_ns, task->count);
    }
}

static uint32_t
feed_chunk(const EngineObject *self, const struct sstpy_feed *feed)
{
    return feed->chunk > 0 ? feed->chunk
                           : sstpy_pace_chunk(&feed->pace, feed->length - feed->at,
                                              self->worker_count);
}

static bool
feed_has_room(const EngineObject *self, const struct sstpy_feed *feed)
{
    const uint64_t ahead = feed->chunk > 0 ? WINDOW_TASKS : SSTPY_PACE_WINDOW;

    if (feed->outstanding >= ahead * self->worker_count) {
        return false;
    }
    return feed->buffer_max == 0 ||
           feed->at - feed->result->many->items.head < feed->buffer_max;
}

/* ---- Pulling ---- */

/* A part of a range, as a range: it is a few bytes, however many items it has. */
static PyObject *
pull_range(const struct sstpy_feed *feed, Py_ssize_t first, Py_ssize_t size)
{
    PyObject *const start = PyLong_FromSsize_t(first);
    PyObject *const stop = PyLong_FromSsize_t(first + size);
    PyObject *const slice =
        start != NULL && stop != NULL ? PySlice_New(start, stop, NULL) : NULL;
    PyObject *const part = slice != NULL ? PyObject_GetItem(feed->items, slice) : NULL;

    Py_XDECREF(slice);
    Py_XDECREF(stop);
    Py_XDECREF(start);
    return part;
}

/* Up to `count` items as a list or a range, or the one. NULL at the end, or with an
 * exception. */
static PyObject *
pull_items(struct sstpy_feed *feed, uint32_t count)
{
    const Py_ssize_t first = (Py_ssize_t)feed->at;
    const uint64_t left = feed->length - feed->at;
    const bool is_range = PyRange_Check(feed->items);

    if (left == 0) {
        return NULL;
    }
    if (feed->bare) {
        return PySequence_GetItem(feed->items, first);
    }

    const Py_ssize_t size = (Py_ssize_t)(count < left ? count : left);
    if (is_range && size >= RANGE_MIN) {
        return pull_range(feed, first, size);
    }

    PyObject *const list = PyList_New(size);
    for (Py_ssize_t i = 0; list != NULL && i < size; i++) {
        PyObject *const item = PySequence_GetItem(feed->items, first + i);
        if (item == NULL) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, i, item);
    }
    return list;
}

static PyObject *
pull_iterator(struct sstpy_feed *feed, uint32_t count)
{
    const iternextfunc next = Py_TYPE(feed->iterator)->tp_iternext;

    if (feed->bare) {
        return next(feed->iterator);
    }

    PyObject *const list = PyList_New(0);
    while (list != NULL && PyList_GET_SIZE(list) < (Py_ssize_t)count) {
        PyObject *const item = next(feed->iterator);
        if (item == NULL) {
            break;
        }
        const int rc = PyList_Append(list, item);
        Py_DECREF(item);
        if (rc < 0) {
            break;
        }
    }
    if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_StopIteration)) {
        PyErr_Clear();
    }
    if (list != NULL && (PyErr_Occurred() || PyList_GET_SIZE(list) == 0)) {
        Py_DECREF(list); /* a chunk that its iterator broke off is lost, as ever */
        return NULL;
    }
    return list;
}

static PyObject *
feed_pull(const EngineObject *self, struct sstpy_feed *feed)
{
    PyObject *const held = feed->held;

    if (held != NULL) {
        feed->held = NULL;
        return held;
    }

    const uint32_t chunk = feed_chunk(self, feed);
    feed->bare = chunk == 1 && feed->chunk <= 1 && !feed->star;
    return feed->items != NULL ? pull_items(feed, chunk) : pull_iterator(feed, chunk);
}

/* The input is at its end; or it raised, and that is the outcome of the item that it
 * was asked for. */
static void
feed_end(struct sstpy_feed *feed)
{
    ResultObject *const result = feed->result;

    feed->length = feed->at;
    if (PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_StopIteration)) {
            PyErr_Clear();
        }
        else {
            feed->length = ++feed->at;
            (void)sstpy_result_deliver(result, feed->at - 1, 1, true, false,
                                       sstpy_take_exception());
        }
    }
    if (sstpy_result_is_iterator(result) && !result->finished) {
        sstpy_result_set_length(result, feed->length);
    }
}

/* ---- Submitting ---- */

/* There was no memory for it. While others run it is tried again. */
static bool
keep(struct sstpy_feed *feed, PyObject *args, int rc)
{
    if ((rc != SST_ENOMEM && rc != SST_ELIMIT) || feed->outstanding == 0) {
        return false;
    }
    feed->held = Py_NewRef(args);
    return true;
}

/* The mode of a task of this feed, and its payload. */
static PyObject *
feed_pack(const struct sstpy_feed *feed, PyObject *args, uint8_t *mode)
{
    *mode = feed->bare   ? SSTPY_MODE_ITEM
            : feed->star ? SSTPY_MODE_STAR_CHUNK
                         : SSTPY_MODE_CHUNK;
    if (feed->function->number != 0) {
        return Py_NewRef(args);
    }
    *mode |= SSTPY_MODE_INLINE;
    return PyTuple_Pack(2, feed->function->object, args);
}

static int
feed_submit_task(EngineObject *self, struct sstpy_feed *feed, PyObject *args,
                 uint32_t count)
{
    uint8_t mode = 0;
    PyObject *const packed = feed_pack(feed, args, &mode);
    const uint64_t id =
        packed != NULL ? sstpy_task_open(self, feed->result, packed, feed->function)
                       : UINT64_MAX;
    Py_XDECREF(packed);
    if (id == UINT64_MAX) {
        return SSTPY_RAISED;
    }

    struct sstpy_task *task = sstpy_task_find(self, id);
    task->first = feed->at;
    task->count = count;
    task->is_fed = 1;
    task->retries = (uint16_t)feed->limits.retries;
    task->mode = mode;

    struct sstpy_retry retry = {0};
    int rc = 0;
    do {
        rc = sstpy_task_submit(self, id, &feed->limits);
    } while (rc == SSTPY_RAISED && sstpy_retry(&retry));
    task = sstpy_task_find(self, id);
    if (rc < 0 && task != NULL) {
        sstpy_task_close(self, task);
    }
    return rc;
}

/* Submit what was pulled. 0 and it is done with; 1: it is to be tried later. */
static int
feed_submit(EngineObject *self, struct sstpy_feed *feed, PyObject *args)
{
    const uint32_t count = feed->bare ? 1 : (uint32_t)PySequence_Size(args);
    const uint64_t first = feed->at;
    const int rc = feed_submit_task(self, feed, args, count);

    if (rc == 0) {
        feed->outstanding++;
        feed->at += count;
        return 0;
    }
    if (keep(feed, args, rc)) {
        return 1;
    }
    if (rc != SSTPY_RAISED) {
        (void)sstpy_raise(self->jobs.state, rc, NULL);
    }
    feed->at += count;
    if (sstpy_result_deliver(feed->result, first, count, feed->bare, false,
                             sstpy_take_exception()) < 0 &&
        !sstpy_interrupt_hold()) {
        PyErr_WriteUnraisable((PyObject *)feed->result);
    }
    return 0;
}

/* Submit from one feed what there is room for. */
static bool
feed_serve(EngineObject *self, struct sstpy_feed *feed)
{
    ResultObject *const result = (ResultObject *)Py_NewRef(feed->result);
    bool submitted = false;

    feed->pulling = true;
    while (!result->finished && self->pool != NULL && !feed_is_empty(feed) &&
           feed_has_room(self, feed)) {
        PyObject *const args = feed_pull(self, feed);
        if (args == NULL) {
            feed_end(feed);
            break;
        }
        const int rc = feed_submit(self, feed, args);
        Py_DECREF(args);
        submitted = submitted || rc == 0;
        if (rc != 0) {
            break;
        }
    }
    if (!result->finished && feed_is_empty(feed)) {
        feed_unlist(self, feed);
        if (sstpy_result_is_iterator(result) &&
            result->many->items.length == UINT64_MAX) {
            sstpy_result_set_length(result, feed->length);
        }
    }
    feed->pulling = false;
    if (result->finished) {
        sstpy_feed_free(result);
    }
    Py_DECREF(result);
    return submitted;
}

/* A feed that can be served now, and was not in this round. */
static struct sstpy_feed *
next_feed(const EngineObject *self, bool foreign, uint32_t round)
{
    for (struct sstpy_feed *feed = self->feeds; feed != NULL; feed = feed->next) {
        if (feed->foreign == foreign && !feed->pulling && feed->round != round &&
            feed_has_room(self, feed)) {
            return feed;
        }
    }
    return NULL;
}

static void
call_feeder(EngineObject *self)
{
    if (self->feeder_runs && !self->feeder_called) {
        self->feeder_called = true;
        PyThread_release_lock(self->feeder);
    }
}

void
sstpy_engine_feed(EngineObject *self, bool foreign)
{
    const uint32_t round = ++self->round;
    struct sstpy_feed *feed = self->feeds;
    bool submitted = false;

    if (feed == NULL) {
        return;
    }
    while (self->pool != NULL && (feed = next_feed(self, foreign, round)) != NULL) {
        feed->round = round;
        submitted = feed_serve(self, feed) || submitted;
    }
    if (!foreign && self->feeder_runs && next_feed(self, true, round) != NULL) {
        call_feeder(self);
    }
    if (submitted && sstpy_engine_wake(self) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    if (foreign && self->pool != NULL) {
        sst_pool_nudge(self->pool); /* an end, or an error, that no result says */
    }
    sstpy_engine_shut_if_done(self);
}

void
sstpy_feed_taken(JobsObject *jobs, ResultObject *result)
{
    const struct sstpy_feed *const feed = result->feed;

    if (feed != NULL && feed->listed && feed->buffer_max > 0) {
        sstpy_engine_feed((EngineObject *)jobs, false);
        sstpy_interrupt_raise_later();
    }
}

void
sstpy_engine_shut_if_done(EngineObject *self)
{
    if (self->closing && !self->shut && self->feeds == NULL && self->pool != NULL) {
        self->shut = true;
        sst_pool_shutdown(self->pool, false);
    }
}

/* ---- The thread for foreign feeds ---- */

static bool
has_foreign(const EngineObject *self)
{
    for (const struct sstpy_feed *feed = self->feeds; feed != NULL; feed = feed->next) {
        if (feed->foreign) {
            return true;
        }
    }
    return false;
}

PyObject *
sstpy_engine_feed_foreign(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    EngineObject *const self = (EngineObject *)obj;

    while (self->pool != NULL && has_foreign(self)) {
        sstpy_engine_feed(self, true);
        if (!has_foreign(self) || self->pool == NULL) {
            break;
        }
        if (!self->feeder_called) {
            Py_BEGIN_ALLOW_THREADS(void)
            PyThread_acquire_lock(self->feeder, WAIT_LOCK);
            Py_END_ALLOW_THREADS
        }
        else {
            (void)PyThread_acquire_lock(self->feeder, NOWAIT_LOCK);
        }
        self->feeder_called = false;
    }
    self->feeder_runs = false;
    if (sstpy_interrupt_raise() < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static int
start_feeder(EngineObject *self)
{
    if (self->feeder_runs) {
        call_feeder(self);
        return 0;
    }
    if (self->feeder == NULL) {
        self->feeder = PyThread_allocate_lock();
        if (self->feeder == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        (void)PyThread_acquire_lock(self->feeder, WAIT_LOCK);
    }
    self->feeder_runs = true;

    PyObject *const done = PyObject_CallMethod(self->hooks, "start_feeder", NULL);
    if (done == NULL) {
        self->feeder_runs = false;
        return -1;
    }
    Py_DECREF(done);
    return 0;
}

/* ---- The method ---- */

/* Iterating over these runs no code of the user's. */
static bool
is_harmless(PyObject *iterable)
{
    return PyList_CheckExact(iterable) || PyTuple_CheckExact(iterable) ||
           PyRange_Check(iterable) || PyUnicode_CheckExact(iterable) ||
           PyBytes_CheckExact(iterable) || PyDict_CheckExact(iterable) ||
           PyAnySet_CheckExact(iterable);
}

static struct sstpy_feed *
feed_new(PyObject *iterable, bool iterate)
{
    struct sstpy_feed *const feed = PyMem_Calloc(1, sizeof(*feed));
    Py_ssize_t length = 0;

    if (feed == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    feed->length = UINT64_MAX;
    if (iterate) {
        feed->foreign = !is_harmless(iterable);
        feed->iterator = PyObject_GetIter(iterable);
    }
    else {
        feed->items =
            PyRange_Check(iterable) ? Py_NewRef(iterable) : PySequence_Tuple(iterable);
        length = feed->items != NULL ? PySequence_Size(feed->items) : 0;
        feed->length = (uint64_t)length;
    }
    if ((feed->items == NULL && feed->iterator == NULL) || length < 0) {
        Py_XDECREF(feed->items);
        PyMem_Free(feed);
        return NULL;
    }
    return feed;
}

/* Begin: the function first, whose failure is everybody's outcome. */
static void
feed_start(EngineObject *self, struct sstpy_feed *feed, PyObject *func)
{
    ResultObject *const result = feed->result;
    PyObject *error = self->broken != NULL ? Py_NewRef(self->broken) : NULL;

    if (error == NULL && feed->length != 0) {
        feed->function = sstpy_function_use(self, func, true);
        error = feed->function == NULL ? sstpy_take_exception() : NULL;
    }
    if (error == NULL && feed->length != 0) {
        feed_list(self, feed);
        error = feed->foreign && start_feeder(self) < 0 ? sstpy_take_exception() : NULL;
    }
    if (error != NULL) {
        sstpy_result_abandon(result, error);
        Py_DECREF(error);
    }
    else if (feed->length == 0) {
        (void)sstpy_result_finish(result);
    }
    else {
        sstpy_engine_feed(self, false);
    }
}

/* type, pool, kind, func, iterable, star, chunk, buffer, callback, error_callback,
 * timeout, soft_timeout, priority, retries */
PyObject *
sstpy_engine_map(PyObject *obj, PyObject *const *args, Py_ssize_t nargs)
{
    EngineObject *const self = (EngineObject *)obj;
    struct sstpy_pool_limits limits = {0};
    Py_ssize_t chunk = 0;
    Py_ssize_t buffer = 0;
    bool star = false;
    int kind = 0;

    if (nargs != 14) {
        PyErr_SetString(PyExc_TypeError, "map() takes 14 arguments");
        return NULL;
    }
    if (sstpy_engine_check(self) < 0 || sstpy_to_int(args[2], 0, &kind) < 0 ||
        sstpy_to_bool(args[5], false, &star) < 0 ||
        sstpy_to_ssize(args[6], 0, &chunk) < 0 ||
        sstpy_to_ssize(args[7], 0, &buffer) < 0 ||
        sstpy_engine_limits(args + 10, &limits) < 0) {
        return NULL;
    }

    struct sstpy_feed *const feed = feed_new(args[4], kind >= SSTPY_RESULT_IMAP);
    if (feed == NULL) {
        return NULL;
    }
    feed->star = star;
    feed->chunk = chunk < 0 ? 0 : chunk > UINT32_MAX ? UINT32_MAX : (uint32_t)chunk;
    feed->buffer_max = buffer > 0 ? (uint64_t)buffer : 0;
    feed->limits = limits;
    if (limits.hard_ns != 0 || limits.soft_ns != 0 || limits.retries != 0) {
        feed->chunk = 1; /* of each item, so that its neighbours have nothing of it */
    }

    ResultObject *const result =
        sstpy_result_new(args[0], &self->jobs, args[1], (enum sstpy_result_kind)kind,
                         kind == SSTPY_RESULT_MAP ? feed->length : 0, args[8], args[9]);
    if (result == NULL) {
        Py_XDECREF(feed->items);
        Py_XDECREF(feed->iterator);
        PyMem_Free(feed);
        return NULL;
    }
    result->chunk = feed->chunk > 0 ? feed->chunk : 1;
    result->feed = feed;
    feed->result = result;
    feed_start(self, feed, args[3]);
    sstpy_interrupt_raise_later();
    return (PyObject *)result;
}
