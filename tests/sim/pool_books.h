/* SPDX-License-Identifier: MIT */
#ifndef POOL_BOOKS_H
#define POOL_BOOKS_H

/* What is known of the pool and of its tasks in a run of pool_sim.c, and what follows
 * from that. */

#include <sidestep/sidestep.h>
#include <stdbool.h>
#include <stdint.h>

#include "shm/layout.h"
#include "sim.h"

enum {
    TASKS_MAX = 24,
    INDEXES = 8,  /* of ids, */
    STRIDE = 900, /* so far apart */
    SEATS = 4,
    STARTS_MAX = 60, /* workers in a run */
    BODY_MAX = 150,
    BATCH_MAX = 4,
    NOTES_MAX = 64,
    FUNCTION = 77,
};

enum fate {
    NOT_YET,
    TRIED, /* submit was called */
    SUBMITTED,
    CANCELLED,
    ANSWERED,
    DROPPED, /* by a shutdown at once */
};

struct task {
    uint64_t id;
    uint64_t hard_ns;
    enum fate fate;
    uint32_t runs;
    bool is_condemned;
};

/* A worker as the owner sees it. */
struct worker {
    uint64_t seat;
    int process;
    bool is_there;
};

struct pool_books {
    struct sst_pool *pool; /* the owner's */
    struct sst_pool_shm *shm;
    struct sst_pool_options options;
    struct sst_handle handle;
    int owner;
    struct task tasks[TASKS_MAX];
    uint32_t task_count; /* to be submitted */
    uint32_t begun;      /* handed to submit */
    uint32_t generation[INDEXES];
    uint32_t user[INDEXES]; /* task with this index, + 1 */
    struct worker workers[SEATS];
    uint64_t orders[SIM_PROCESSES]; /* a worker's seat */
    uint32_t wanted, starts;
    uint32_t worker_max; /* tasks of one worker */
    bool told[NOTES_MAX];
    uint32_t notes;
    bool all_in, is_shut, is_alone;
    uint32_t all_done;      /* no result is to come; what waiters give as their flag */
    _Atomic uint32_t ends;  /* changes when a worker dies, or was buried */
    _Atomic uint32_t stops; /* the undertaker and the canceller are to end */
};
extern struct pool_books p;

struct sst_pool_seat_shm *pool_seat_shm(uint32_t index);

/* ---- What sleepers are owed: for sim_wants ---- */

enum sim_need pool_worker_need(void *arg); /* a pointer to its seat */
enum sim_need pool_submitter_need(void *arg);
enum sim_need pool_waiter_need(void *arg);
enum sim_need pool_poller_need(void *arg);
/* Asleep on a word of the scenario's, whose changes cannot be missed. */
enum sim_need pool_no_need(void *arg);

/* ---- Tasks ---- */

/* The payload of a task (salt 0), or of its result: its size. */
uint64_t pool_compose(uint8_t *body, uint32_t number, uint32_t salt);
void pool_check_body(const struct sst_message *message, uint32_t number, uint32_t salt);

bool pool_is_open(const struct task *task);
struct task *pool_task(uint64_t id, uint64_t tag);
/* The last one that is settled sets p.all_done. */
void pool_settle(struct task *task, enum fate fate);
void pool_look_whether_done(void);

/* Nobody runs. Each task is in one place (L1), and the owner knows how many there
 * are. */
void pool_check_places(void);

#endif
