/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_POOL_H
#define SSTPY_POOL_H

/* What the files of the pool share. docs/internals/pool_python.rst has the design.
 * Everything here is guarded by the GIL unless it says otherwise. */

#include <stdbool.h>

#include "codec.h"
#include "pool_items.h"
#include "state.h"

/* ---- Results (pool_result.c) ---- */

enum sstpy_result_kind {
    SSTPY_RESULT_APPLY,     /* one value */
    SSTPY_RESULT_MAP,       /* a list, complete or not at all */
    SSTPY_RESULT_IMAP,      /* an iterator, in order */
    SSTPY_RESULT_UNORDERED, /* an iterator, as they come */
};

struct sstpy_call;
struct sstpy_waiter;
struct sstpy_feed;
struct sstpy_jobs;

/* What results of many items have besides. */
struct sstpy_many {
    PyObject *value;          /* of a map: its list, or an exception */
    uint64_t left;            /* items without an outcome; of iterators: outcomes */
    struct sstpy_items items; /* of iterators */
};

/* A result to come. A million of them may wait, so it is packed: 96 bytes, and 16 of
 * the garbage collector's. */
typedef struct sstpy_result {
    PyObject_HEAD
    PyObject *dict;
    PyObject *weakrefs;
    struct sstpy_jobs *jobs;   /* owned; where it is listed until it is finished */
    struct sstpy_result *next; /* in jobs, which owns it meanwhile */
    struct sstpy_result *prev;
    PyObject *callbacks; /* (callback, error_callback, watchers...), or NULL */
    union {
        PyObject *value;         /* of a call: what it returned, or an exception */
        struct sstpy_many *many; /* of all others; owned; NULL: not made yet */
    };
    struct sstpy_feed *feed; /* owned: where more tasks come from */
    uint64_t number : 48;
    uint64_t kind : 4;
    uint64_t listed : 1;
    uint64_t finished : 1; /* every item has its outcome */
    uint64_t success : 1;
    uint32_t news;  /* 1: who waits has something to see; read without the GIL */
    uint32_t chunk; /* items of a task, for _number_left; of a call: its entry */
} ResultObject;

/* The unfinished results of one pool, and the threads that wait for one. */
typedef struct sstpy_jobs {
    PyObject_HEAD
    struct sstpy_state *state;
    PyObject *weakrefs;
    ResultObject *first;
    ResultObject *last;
    Py_ssize_t count;
    unsigned long epoch; /* sstpy_fork_epoch() when it was made */
    uint32_t empty;      /* 1: nothing is unfinished any more; read without the GIL */
    PyObject *pool;      /* owned while there are any: they keep their pool alive */
    struct sstpy_call *calls;     /* callbacks under way */
    struct sstpy_waiter *waiters; /* threads that sleep on locks of their own */
    /* Get results, in this thread, until *done is not 0. 1 look at it, 0 deadline, -1
     * exception. NULL: they come from other threads, by _deliver(). */
    int (*drive)(struct sstpy_jobs *self, const uint32_t *done, int64_t deadline_ns);
    /* Somebody took an item of an iterator. May be NULL. */
    void (*taken)(struct sstpy_jobs *self, ResultObject *result);
    /* Frees result->feed. May be NULL. */
    void (*unfeed)(ResultObject *result);
} JobsObject;

/* A callback under way. On the stack of the thread that runs it. */
struct sstpy_call {
    struct sstpy_call *next;
    const ResultObject *result;
    unsigned long thread;
};

/* A thread that sleeps until a result has news. On its stack. */
struct sstpy_waiter {
    struct sstpy_waiter *next;
    ResultObject *result;
    PyThread_type_lock lock;
    bool woken;
};

static inline bool
sstpy_result_is_iterator(const ResultObject *self)
{
    return self->kind >= SSTPY_RESULT_IMAP;
}

/* Is it finished, and has its callback ended? Who asks in the callback is told that it
 * has. */
bool sstpy_result_is_settled(const ResultObject *result);

/* The items without an outcome; of an iterator: with one. */
static inline uint64_t
sstpy_result_left(const ResultObject *self)
{
    return self->kind == SSTPY_RESULT_APPLY ? !self->finished : self->many->left;
}

/* Where its value is: value, list or exception; NULL in iterators. */
static inline PyObject **
sstpy_result_value(ResultObject *self)
{
    return self->kind == SSTPY_RESULT_APPLY ? &self->value : &self->many->value;
}

static inline void
sstpy_result_set_news(ResultObject *self, uint32_t news)
{
    /* Who waits without the GIL is made to look by what comes next: sst_pool_follow,
     * sst_pool_handed_out or sst_pool_nudge, which order this before it. */
    self->news = news;
}

/* A new result, in the list of `jobs`. Callbacks may be None or NULL. */
ResultObject *sstpy_result_new(PyObject *type, JobsObject *jobs, PyObject *pool,
                               enum sstpy_result_kind kind, uint64_t length,
                               PyObject *callback, PyObject *error_callback);

/* The outcome of the items from `first` on: a list of their values (bare false), the
 * value of one (bare), or an exception for all `count` of them. Steals `value`. When
 * memory is short, that is the outcome. A callback may have left an exception that is
 * no Exception: -1. */
int sstpy_result_deliver(ResultObject *result, uint64_t first, uint64_t count,
                         bool bare, bool ok, PyObject *value);

/* An iterator's length, now that its input has come to its end. */
void sstpy_result_set_length(ResultObject *result, uint64_t length);

/* What has no outcome will never get one: this exception, borrowed, instead. */
void sstpy_result_abandon(ResultObject *result, PyObject *error);

/* Every outcome is there: call back, wake, delist. -1 as sstpy_result_deliver. */
int sstpy_result_finish(ResultObject *result);

/* Put a result into the list, take it out again. */
void sstpy_jobs_enlist(JobsObject *jobs, ResultObject *result, PyObject *pool);
void sstpy_jobs_delist(ResultObject *result);

/* Give all results up, with this exception, borrowed. */
void sstpy_jobs_abandon(JobsObject *jobs, PyObject *error);

/* The base of the engine, for its type. */
int sstpy_jobs_traverse(PyObject *self, visitproc visit, void *arg);
int sstpy_jobs_clear(PyObject *self);

int sstpy_pool_result_exec(PyObject *module, struct sstpy_state *state);
int sstpy_pool_jobs_exec(PyObject *module, struct sstpy_state *state);
int sstpy_pool_engine_exec(PyObject *module, struct sstpy_state *state);
int sstpy_pool_worker_exec(PyObject *module, struct sstpy_state *state);

#endif
