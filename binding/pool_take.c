/* SPDX-License-Identifier: MIT */

/* Results on their way back.
 *
 * One thread at a time leads: it takes what the core has, for everybody, hands it out,
 * and tops up the feeds. That is a thread that waits for a result, or, while nobody
 * does, the crew's. So the caller of apply() meets the answer himself: nobody has to be
 * woken to wake him. Callbacks run on the thread that leads; one that waits for a
 * result of the same pool takes results in its turn.
 *
 * On the main thread a signal handler may raise at any moment of this: it is held until
 * all is handed out (interrupt.h), and then raised by whoever waits there. */

#include "args.h"
#include "compat.h"
#include "errors.h"
#include "interrupt.h"
#include "pool_engine.h"
#include "wait.h"

/* ---- Outcomes ---- */

/* What hooks.method(*args) returns. Takes `args`. */
static PyObject *
call_hook(EngineObject *self, const char *method, PyObject *args)
{
    PyObject *const bound =
        args != NULL ? PyObject_GetAttrString(self->hooks, method) : NULL;
    struct sstpy_retry retry = {0};
    PyObject *result = NULL;

    if (bound != NULL) {
        do {
            result = PyObject_CallObject(bound, args);
        } while (result == NULL && sstpy_retry(&retry));
    }
    Py_XDECREF(bound);
    Py_XDECREF(args);
    return result;
}

/* The same for one that returns an exception; or that which it raised. */
static PyObject *
exception_from(EngineObject *self, const char *method, PyObject *args)
{
    PyObject *result = call_hook(self, method, args);

    if (result != NULL && !PyExceptionInstance_Check(result)) {
        PyErr_Format(PyExc_TypeError, "%R is no exception", result);
        Py_CLEAR(result);
    }
    return result != NULL ? result : sstpy_take_exception();
}

static PyObject *
value_of(EngineObject *self, struct sst_pool_result *core, bool *ok)
{
    PyObject *const value = sstpy_decode_whole(self->jobs.state, &core->message);

    *ok = value != NULL && core->code == SSTPY_CODE_VALUE;
    if (*ok || (value != NULL && PyExceptionInstance_Check(value))) {
        return value;
    }
    if (value != NULL) {
        PyErr_Format(PyExc_TypeError, "%R is no exception", value);
        Py_DECREF(value);
    }
    return exception_from(self, "not_rebuilt",
                          Py_BuildValue("(N)", sstpy_take_exception()));
}

static PyObject *
function_of(const struct sstpy_task *task)
{
    return task->function != NULL ? task->function->object : Py_None;
}

static PyObject *
loss_of(EngineObject *self, const struct sst_pool_result *core, struct sstpy_task *task)
{
    return exception_from(self, "lost",
                          Py_BuildValue("(iiiLOOi)", (int)core->pid, (int)core->code,
                                        (int)core->reason,
                                        (long long)(core->ended_ns - core->started_ns),
                                        function_of(task), task->args,
                                        (int)task->mode));
}

/* Whether a lost task is run again: its worker ended by itself, and it is allowed. */
static bool
try_again(EngineObject *self, const struct sst_pool_result *core,
          struct sstpy_task *task)
{
    const struct sstpy_feed *const feed = task->result->feed;
    struct sstpy_pool_limits limits = {.priority = 1};
    struct sstpy_task old = *task;

    if (task->retries == 0 || task->result->finished ||
        (core->reason != SST_POOL_BY_ITSELF && core->reason != SST_POOL_BY_MEMORY)) {
        return false;
    }
    if (feed != NULL) {
        limits = feed->limits;
    }

    struct sstpy_retry retry = {0};
    const uint64_t id = sstpy_task_open(self, old.result, old.args, old.function);
    struct sstpy_task *const again =
        id != UINT64_MAX ? sstpy_task_find(self, id) : NULL;
    if (again == NULL) {
        PyErr_Clear();
        return false;
    }
    again->first = old.first;
    again->count = old.count;
    again->mode = old.mode;
    again->is_fed = old.is_fed;
    again->retries = (uint16_t)(old.retries - 1);
    if (old.result->kind == SSTPY_RESULT_APPLY) {
        old.result->chunk = (uint32_t)id;
    }

    int rc = 0;
    do {
        rc = sstpy_task_submit(self, id, &limits);
    } while (rc == SSTPY_RAISED && sstpy_retry(&retry));
    if (rc < 0) {
        struct sstpy_task *const failed = sstpy_task_find(self, id);
        PyErr_Clear();
        if (failed != NULL) {
            sstpy_task_close(self, failed);
        }
        return false;
    }
    return true;
}

static int
take_task(EngineObject *self, struct sst_pool_result *core)
{
    struct sstpy_task *task = sstpy_task_find(self, core->id);
    const bool lost = core->kind == SST_POOL_LOST;
    bool ok = false;

    if (task == NULL) {
        sst_message_free(&core->message);
        return 0;
    }
    if (lost && try_again(self, core, task)) {
        sst_message_free(&core->message);
        sstpy_task_close(self, sstpy_task_find(self, core->id));
        return 0;
    }

    PyObject *const value =
        lost ? loss_of(self, core, task) : value_of(self, core, &ok);
    if (lost) {
        sst_message_free(&core->message);
    }
    task = sstpy_task_find(self, core->id); /* Python ran: the table may have moved */
    if (task == NULL) {
        Py_DECREF(value);
        return 0;
    }
    sstpy_feed_done(self, task, lost ? -1 : core->ended_ns - core->started_ns);

    ResultObject *const result = (ResultObject *)Py_NewRef(task->result);
    const uint64_t first = task->first;
    const uint32_t count = task->count;
    const uint8_t mode = (uint8_t)(task->mode & ~SSTPY_MODE_INLINE);
    sstpy_task_close(self, task);
    const int rc =
        sstpy_result_deliver(result, first, count, mode < SSTPY_MODE_CHUNK, ok, value);
    Py_DECREF(result);
    return rc;
}

static int
take_note(EngineObject *self, struct sst_pool_result *core)
{
    PyObject *const value = sstpy_decode_whole(self->jobs.state, &core->message);
    PyObject *const done =
        value != NULL ? call_hook(self, "note",
                                  Py_BuildValue("(KiN)", (unsigned long long)core->tag,
                                                (int)core->pid, value))
                      : NULL;

    if (done == NULL) {
        PyErr_WriteUnraisable((PyObject *)self);
        return 0;
    }
    Py_DECREF(done);
    return 0;
}

/* The crew gave up starting workers: nobody will take what waits. */
static void
settle_stuck(EngineObject *self)
{
    if (!self->stuck || self->broken != NULL) {
        return;
    }

    PyObject *const error = exception_from(self, "stuck", PyTuple_New(0));
    sstpy_engine_break(self, error);
    Py_DECREF(error);
}

/* Hand out what was taken: `batch_at` says how far we are, for a callback that waits
 * for a result takes over from there. SSTPY_RAISED: something interrupted the program;
 * what there was is handed out nevertheless. */
static int
hand_out(EngineObject *self)
{
    while (self->batch_at < self->batch_count) {
        struct sst_pool_result *const core = &self->results[self->batch_at++];
        const int rc =
            core->kind == SST_POOL_NOTE ? take_note(self, core) : take_task(self, core);
        if (rc < 0 && !sstpy_interrupt_hold()) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
    }
    sstpy_engine_feed(self, false);
    return sstpy_interrupt_raise() < 0 ? SSTPY_RAISED : 0;
}

/* ---- Leading ---- */

struct take_call {
    struct sst_pool *pool;
    const uint32_t *done;
    struct sst_pool_result *results;
    bool leads; /* already */
    int count;  /* taken; then we lead */
};

/* 0: look at `done`. Otherwise as the core's functions. Without the GIL. */
static int
take_call(void *context, int64_t deadline_ns)
{
    struct take_call *const call = context;

    if (!call->leads) {
        const int rc = sst_pool_lead(call->pool, call->done, deadline_ns);
        if (rc != 1) {
            return rc;
        }
    }

    const int rc =
        sst_pool_results(call->pool, call->results, SSTPY_POOL_BATCH, deadline_ns);
    if (rc > 0) {
        call->count = rc;
        return 0;
    }
    if (!call->leads) {
        sst_pool_follow(call->pool);
    }
    return rc == SST_EAGAIN ? 0 : rc;
}

/* A callback on this thread, which leads, waits for a result. */
static int
drive_nested(EngineObject *self, struct sst_pool *pool, const uint32_t *done,
             int64_t deadline_ns)
{
    struct take_call call = {pool, done, self->results, true, 0};
    int rc = 0;

    if (self->batch_at == self->batch_count) {
        rc = sstpy_wait_deadline(take_call, &call, deadline_ns);
        self->batch_at = 0;
        self->batch_count = (uint32_t)call.count;
    }
    if (self->batch_count > 0) {
        rc = hand_out(self);
        sst_pool_handed_out(pool);
    }
    return rc;
}

static int
drive_leading(EngineObject *self, struct sst_pool *pool, const uint32_t *done,
              int64_t deadline_ns)
{
    struct take_call call = {pool, done, self->results, false, 0};
    int rc = sstpy_wait_deadline(take_call, &call, deadline_ns);

    if (call.count > 0) {
        self->leader = PyThread_get_thread_ident();
        self->batch_at = 0;
        self->batch_count = (uint32_t)call.count;
        rc = hand_out(self);
        self->leader = 0;
        sst_pool_follow(pool);
    }
    return rc;
}

int
sstpy_engine_drive(JobsObject *jobs, const uint32_t *done, int64_t deadline_ns)
{
    EngineObject *const self = (EngineObject *)jobs;
    struct sst_pool *const pool = self->pool; /* on the crew's thread it may go */
    int rc = 0;

    if (pool == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the pool is gone, and so is the result");
        return -1;
    }
    sstpy_engine_pin(self);
    rc = self->leader == PyThread_get_thread_ident()
             ? drive_nested(self, pool, done, deadline_ns)
             : drive_leading(self, pool, done, deadline_ns);
    if (rc != SSTPY_RAISED) {
        settle_stuck(self);
        rc = sstpy_interrupt_raise() < 0 ? SSTPY_RAISED : rc;
    }
    sstpy_engine_unpin(self);
    if (rc == SST_ETIMEDOUT) {
        return 0;
    }
    return rc < 0 ? sstpy_fail(self->jobs.state, rc, NULL) : 1;
}

void
sstpy_engine_take_now(EngineObject *self)
{
    struct sst_pool *const pool = self->pool;
    int count = 0;

    sstpy_engine_pin(self);
    self->leader = PyThread_get_thread_ident();
    while ((count = sst_pool_results(pool, self->results, SSTPY_POOL_BATCH, SST_NOW)) >
           0) {
        self->batch_at = 0;
        self->batch_count = (uint32_t)count;
        if (hand_out(self) < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        sst_pool_handed_out(pool);
    }
    self->leader = 0;
    settle_stuck(self);
    if (sstpy_interrupt_raise() < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    sstpy_engine_unpin(self);
}

void
sstpy_engine_break(EngineObject *self, PyObject *error)
{
    Py_XSETREF(self->broken, Py_NewRef(error));
    sstpy_jobs_abandon(&self->jobs, error);
    if (self->pool != NULL) {
        sst_pool_nudge(self->pool);
    }
}
