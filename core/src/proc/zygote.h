/* SPDX-License-Identifier: MIT */
#ifndef SSTI_PROC_ZYGOTE_H
#define SSTI_PROC_ZYGOTE_H

/* What owner (zygote.c, nursery.c), zygote (serve.c) and child (job.c) say to each
 * other: packets over the zygote's tether, and one job over each child's. All run the
 * same build: the arena's layout hash has been compared before. */

#include <stdbool.h>
#include <stdint.h>

#include "proc/process.h"
#include "sidestep/sidestep.h"

enum {
    SSTI_ZYGOTE_MAGIC = 0x7a796704,
    SSTI_SETUP_MAX = 64 << 10, /* bytes; a longer one goes with each job */
};

/* Owner to zygote: make so many children. A setup that it does not know follows in the
 * same packet. */
struct ssti_zygote_request {
    uint32_t magic;
    uint32_t way; /* enum ssti_zygote_way */
    uint32_t count;
    uint32_t idle_ms;
    uint32_t setup_serial; /* of what follows; 0: nothing does */
    uint32_t setup_size;
};

enum ssti_zygote_what {
    SSTI_ZYGOTE_HELLO = 1, /* first: the pid of a child made as the owner's, or 0 */
    SSTI_ZYGOTE_MADE = 2,  /* a pid and its seat; or a status */
    SSTI_ZYGOTE_READY = 3, /* from the child, with our tether end and its pidfd */
};

/* To the owner. */
struct ssti_zygote_note {
    uint32_t magic;
    uint32_t what;
    int32_t pid;
    uint32_t serial; /* of the child, among those of its zygote */
    uint64_t seat;
    uint32_t setup_serial; /* of what it has prepared; 0: nothing */
    uint32_t reserved;
};

enum {
    SSTI_READY_TETHER, /* places among the descriptors of a READY */
    SSTI_READY_PIDFD,
    SSTI_READY_FDS,
};

/* Owner to child, in front of the setup (if it has not prepared that) and of the job's
 * data, with the job's descriptors. */
struct ssti_job_header {
    uint32_t magic;
    uint32_t die_with_parent;
    uint64_t setup_size;
    uint64_t size;
    uint64_t blocked; /* signals, as those of the thread that starts it */
};

/* A child of ours, in the way in which the zygote is the parent. */
struct ssti_ward {
    struct ssti_ward *next;
    int pidfd;
    int tether;
};

/* The zygote's own view; a child has a copy. */
struct sst_zygote {
    struct sst_arena *arena;
    struct ssti_ward *wards;
    int tether; /* to the owner */
    int owner_pid;
    enum ssti_zygote_way way; /* of the children asked for last */
    uint32_t due;             /* children to be made */
    uint32_t serial;          /* of the child made last */
    uint32_t idle_ms;
    uint32_t setup_serial; /* 0: it has been told none */
    uint32_t setup_size;
    void *setup;      /* room for one of any size that it is told */
    void *setup_next; /* behind it, for what a packet brings */

    /* of the child */
    int job_tether; /* its end; -1 in the zygote */
    int owner_end;  /* the owner's, until it is told */
    void *buffer;   /* of a job, with room for one of an ordinary size */
    uint64_t room;
    uint64_t got;      /* bytes of it, header included */
    uint32_t prepared; /* the setup that was asked for, by it or by the zygote */
    struct ssti_job_header header;
};

#endif
