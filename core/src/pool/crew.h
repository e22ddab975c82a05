/* SPDX-License-Identifier: MIT */
#ifndef SSTI_POOL_CREW_H
#define SSTI_POOL_CREW_H

/* What crew.c (the workers) and crew_thread.c (when to look after them) share. */

#include "os/local.h"
#include "pool/pool.h"

/* A worker the crew has started. */
struct ssti_hand {
    uint64_t seat;
    uint64_t told; /* the task whose soft deadline it was told of */
    void *worker;
    int fd;
    bool is_dismissed;
};

struct sst_crew {
    struct sst_pool *pool;
    struct sst_crew_options options;
    struct sst_crew_backend backend;
    int owner_pid;
    int watch;
    int kick;

    struct ssti_local lock; /* guards what follows; none blocks under it but `signal` */
    struct ssti_hand *hands;
    uint32_t count;
    uint32_t room;
    uint32_t wanted;
    uint32_t failed; /* workers in a row that ended before their first take */
    bool is_ending;  /* no more starts */
    bool is_stuck;   /* told so */
    enum {
        CREW_NO_THREAD,
        CREW_STARTS, /* by whoever has set this, without the lock */
        CREW_RUNS,
        CREW_ENDED, /* to be joined */
    } state;
    uintptr_t thread;
    int64_t look_ns; /* when `is_over` is asked next; the stepper's */
    bool is_closing;
    bool listens; /* the pool's bell is watched */

    _Atomic uint32_t starting; /* 1: the state is CREW_STARTS */
    _Atomic uint32_t role;     /* 1: somebody steps */
    _Atomic uint32_t wanting;  /* and others would like to */
    _Atomic uint32_t passive;  /* the stepper sleeps and is not told of results */
};

/* Bury those that have ended; true when there was one. For the stepper. */
bool ssti_crew_bury(struct sst_crew *crew, uint64_t seat);
/* See to deadlines that have passed; when the next one may. */
int64_t ssti_crew_deadlines(struct sst_crew *crew);
/* Ask the embedder which workers use too much, if it is time; when it is next. */
int64_t ssti_crew_look(struct sst_crew *crew);
/* Start those that are missing, but without work only with `is_idle_too`; how many, or
 * why none. */
int ssti_crew_start(struct sst_crew *crew, bool is_idle_too);
/* The crew's thread hears signals while it forks, so that the child does. */
void ssti_crew_hear(bool all);

/* Somebody is about to sleep until there is a result. */
void ssti_crew_on_sleep(void *crew);

void ssti_crew_enter(struct sst_crew *crew);
void ssti_crew_leave(struct sst_crew *crew);

#endif
