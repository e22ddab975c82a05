/* SPDX-License-Identifier: MIT */
#ifndef SSTPY_POOL_ENGINE_H
#define SSTPY_POOL_ENGINE_H

/* The owner's side of a pool of processes: what the files about it share. Everything is
 * guarded by the GIL unless it says otherwise. */

#include "pool.h"
#include "pool_pace.h"

enum {
    SSTPY_POOL_FUNCTIONS = 16, /* kept posted without a task that names them */
    SSTPY_POOL_BATCH = 32,     /* results taken, tasks submitted, in one step */
};

/* What a task's payload is: the low byte of its tag. Above it: flags. */
enum sstpy_pool_mode {
    SSTPY_MODE_CALL,       /* args */
    SSTPY_MODE_KEYWORDS,   /* (args, kwds) */
    SSTPY_MODE_ITEM,       /* the argument */
    SSTPY_MODE_CHUNK,      /* a list or range of arguments; gives a list */
    SSTPY_MODE_STAR_CHUNK, /* a list of argument tuples; gives a list */
    SSTPY_MODE_INLINE = 8, /* a flag: (function, what the mode says): not posted */
};

/* What became of a task: the code of its outcome. */
enum {
    SSTPY_CODE_VALUE = 0,
    SSTPY_CODE_EXCEPTION = 1,
};

/* A function that workers can fetch by its number. */
struct sstpy_function {
    PyObject *object; /* owned */
    uint64_t number;  /* 0: none */
    uint64_t users;   /* tasks and feeds that name it */
    bool cached;      /* in engine->functions, for the next call */
};

/* A task that has a place in the core. There may be a million. */
struct sstpy_task {
    ResultObject *result; /* owned; NULL: the entry is free */
    PyObject *args;       /* what its payload was made of */
    struct sstpy_function *function;
    uint64_t first : 42;   /* item; of a free entry: the next free one */
    uint64_t retries : 16; /* left */
    uint64_t mode : 5;
    uint64_t is_fed : 1; /* counts in its feed */
    uint32_t generation; /* of the next task's id, or of this one's */
    uint32_t count;      /* items */
};

struct sstpy_pool_limits {
    int64_t soft_ns;
    int64_t hard_ns;
    uint32_t priority;
    uint32_t retries;
};

/* Where the tasks of a map come from. Owned by its result; in engine's list while there
 * may be more. */
struct sstpy_feed {
    struct sstpy_feed *next;
    ResultObject *result; /* borrowed: it owns us */
    PyObject *items;      /* tuple or range, or NULL */
    PyObject *iterator;   /* or NULL */
    PyObject *held;       /* pulled, and there was no memory to submit it */
    struct sstpy_function *function;
    uint64_t at;          /* first item that was not submitted */
    uint64_t length;      /* of items; UINT64_MAX while unknown */
    uint64_t outstanding; /* tasks */
    uint64_t buffer_max;  /* items beyond those taken from the iterator; 0 = any */
    struct sstpy_pace pace;
    struct sstpy_pool_limits limits;
    uint32_t chunk; /* 0: we choose */
    bool star;
    bool foreign; /* the iterator is code of the user's: for a thread of its own */
    bool bare;    /* what was pulled last is an item, not a list */
    bool listed;
    bool pulling; /* a thread serves it */
    uint32_t round;
};

typedef struct {
    JobsObject jobs;
    struct sst_pool *pool;
    struct sst_crew *crew;
    PyObject *hooks; /* owned: what a worker is, in Python */
    struct sstpy_task *tasks;
    uint32_t task_capacity;
    uint32_t task_free; /* first free entry, task_used if none */
    uint32_t task_used; /* entries from here on were never touched */
    uint32_t outstanding;
    uint32_t worker_count;
    struct sstpy_function *functions[SSTPY_POOL_FUNCTIONS]; /* newest first */
    struct sstpy_feed *feeds;                               /* oldest first */
    PyThread_type_lock feeder; /* on which the thread for foreign feeds sleeps */
    PyObject *broken;          /* the exception that every result gets, or NULL */
    PyObject *start_error;     /* what the last start of a worker raised */
    unsigned long leader;      /* thread that takes results, 0 = none */
    unsigned long crew_thread;
    unsigned long epoch;
    int pins;          /* calls that use pool or crew, perhaps without the GIL */
    uint32_t batch_at; /* of results: the next to be handed out */
    uint32_t batch_count;
    PyThreadState *crew_state; /* of the crew's thread, while it is detached */
    PyGILState_STATE crew_gil;
    bool closing; /* no more calls */
    bool shut;    /* and the core knows */
    bool stopped; /* terminated */
    bool stuck;   /* no more workers will be started */
    bool over;    /* pool and crew are closed, or will be by the last pin */
    bool feeder_runs;
    bool feeder_called;                               /* since it last looked */
    uint32_t round;                                   /* of feeding */
    struct sst_pool_result results[SSTPY_POOL_BATCH]; /* the leader's */
} EngineObject;

static inline bool
sstpy_engine_is_ours(const EngineObject *self)
{
    return self->epoch == sstpy_fork_epoch();
}

/* ---- pool_engine.c ---- */

/* Around a call that uses pool and crew, perhaps without the GIL. The crew's own thread
 * pins nothing: they are closed behind its back, but not before it has ended. */
void sstpy_engine_pin(EngineObject *self);
void sstpy_engine_unpin(EngineObject *self);

/* ---- pool_submit.c ---- */

/* A function for tasks to name; counts a user. For one task, NULL without an exception:
 * it is to travel inside; for many that is a number of 0. NULL with an exception. */
struct sstpy_function *sstpy_function_use(EngineObject *self, PyObject *object,
                                          bool many);
void sstpy_function_release(EngineObject *self, struct sstpy_function *function);
void sstpy_functions_fini(EngineObject *self);

/* An entry of the table, its id; UINT64_MAX with MemoryError. */
uint64_t sstpy_task_open(EngineObject *self, ResultObject *result, PyObject *args,
                         struct sstpy_function *function);
struct sstpy_task *sstpy_task_find(EngineObject *self, uint64_t id);
void sstpy_task_close(EngineObject *self, struct sstpy_task *task);
void sstpy_tasks_fini(EngineObject *self);

/* Submit the payload `args` for an open entry. 0, a status, or SSTPY_RAISED. */
int sstpy_task_submit(EngineObject *self, uint64_t id,
                      const struct sstpy_pool_limits *limits);

/* Have the crew's thread look, after tasks were submitted. -1 with an exception. */
int sstpy_engine_wake(EngineObject *self);

/* -1 with ValueError unless it takes calls. */
int sstpy_engine_check(EngineObject *self);
/* timeout, soft_timeout, priority, retries */
int sstpy_engine_limits(PyObject *const *given, struct sstpy_pool_limits *limits);

PyObject *sstpy_engine_apply(PyObject *obj, PyObject *const *args, Py_ssize_t nargs);
PyObject *sstpy_engine_cancel(PyObject *obj, PyObject *const *args, Py_ssize_t nargs);
PyObject *sstpy_engine_is_running(PyObject *obj, PyObject *result);

/* ---- pool_feed.c ---- */

/* Submit what there is room for, from feeds that are foreign or from the others. */
void sstpy_engine_feed(EngineObject *self, bool foreign);
/* What the thread for foreign feeds does, until there is none. */
PyObject *sstpy_engine_feed_foreign(PyObject *obj, PyObject *ignored);
/* A task of a feed is through: how long it took is what we learn. */
void sstpy_feed_done(EngineObject *self, const struct sstpy_task *task,
                     int64_t duration_ns);
void sstpy_feed_free(ResultObject *result);
void sstpy_feed_taken(JobsObject *jobs, ResultObject *result);
/* All tasks there will be are submitted, and no more will come: tell the core. */
void sstpy_engine_shut_if_done(EngineObject *self);

PyObject *sstpy_engine_map(PyObject *obj, PyObject *const *args, Py_ssize_t nargs);

/* ---- pool_take.c ---- */

int sstpy_engine_drive(JobsObject *jobs, const uint32_t *done, int64_t deadline_ns);
/* On the crew's thread, which leads: take what is there. */
void sstpy_engine_take_now(EngineObject *self);
/* Every result gets this exception, borrowed, now and from now on. */
void sstpy_engine_break(EngineObject *self, PyObject *error);

#endif
