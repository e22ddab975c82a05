/* SPDX-License-Identifier: MIT */
#ifndef SSTI_PROC_NURSERY_H
#define SSTI_PROC_NURSERY_H

/* What the owner of a zygote knows of children that have no job yet. */

#include <stdbool.h>
#include <stdint.h>

#include "base/atomic.h"
#include "os/os.h"
#include "proc/process.h"

enum {
    SSTI_NURSERY_MAX = 28, /* being made or ready at a time */
    SSTI_WARM_MAX = 16,    /* kept ready, unless told otherwise */
};

/* Being made: the zygote has said so, or the child was quicker and has said that it is
 * ready (pid 0). */
struct ssti_birth {
    uint64_t seat;
    uint32_t serial;
    int pid;
    int pidfd; /* -1 until somebody waits */
};

/* Ready for a job. */
struct ssti_warm {
    uint64_t seat;
    int pid;
    int pidfd;
    int tether;
    uint32_t setup_serial; /* of what it has prepared */
};

/* Guarded by the owner's lock (zygote.c). A forked child reads the warm ones without:
 * an entry is written before the count says so, and out of the count before its
 * descriptors go to somebody else. */
struct ssti_nursery {
    struct ssti_os_standing standing; /* ours when the zygote started */
    enum ssti_zygote_way way;
    uint32_t coming;   /* asked for, neither ready nor known to have failed */
    uint32_t wanted;   /* to be kept ready */
    uint32_t expected; /* starts that were announced and are to come */
    bool has_waited;   /* some are missing, and the zygote was not asked yet */
    uint32_t warm_max;
    uint32_t idle_ms;
    int failure; /* why the last child that failed did; 0 */
    uint32_t birth_count;
    struct ssti_birth births[SSTI_NURSERY_MAX + 1];
    _Atomic uint32_t warm_count;
    struct ssti_warm warm[SSTI_NURSERY_MAX];
    void *setup; /* of the last job, as the zygote is told it */
    uint64_t setup_size;
    uint32_t setup_serial; /* 0: none, or none that can be told */
    uint32_t setup_told;   /* the serial that the zygote knows */
    uint32_t setups;       /* serials given out */
    uint64_t started;
    uint64_t from_warm;
    uint64_t given_back;
};

/* Ask for so many more children. SST_EPIPE: the zygote is dead. */
int ssti_nursery_ask(struct sst_process *zygote, uint32_t count);
/* Take note of what zygote and children have said since. SST_EPIPE, as above. */
int ssti_nursery_collect(struct sst_process *zygote);
/* Wait until one is ready, asking for one if none is coming. SST_EINTR, SST_EPIPE, or
 * why children fail. */
int ssti_nursery_await(struct sst_process *zygote);
/* The one that became ready last; its descriptors are the caller's. False: none. */
bool ssti_nursery_take(struct ssti_nursery *nursery, struct ssti_warm *out);
/* End them all, and wait until they are gone. */
void ssti_nursery_clear(struct sst_process *zygote);
/* In a forked child: they are our parent's. */
void ssti_nursery_fork_child(struct ssti_nursery *nursery);

#endif
