/* SPDX-License-Identifier: MIT */
#ifndef SSTI_PROC_PROCESS_H
#define SSTI_PROC_PROCESS_H

/* What the files of proc/ share: the starter's view of a child, and the child's of its
 * origin. */

#include <stdbool.h>
#include <stdint.h>

#include "sidestep/sidestep.h"

enum ssti_child_state {
    SSTI_CHILD_NEW,
    SSTI_CHILD_RUNNING,
    SSTI_CHILD_ENDED, /* done or dead: the exit code is known */
};

/* How a zygote makes children. */
enum ssti_zygote_way {
    SSTI_ZYGOTE_UNKNOWN, /* it has not said hello */
    SSTI_ZYGOTE_SIBLING, /* its owner is their parent */
    SSTI_ZYGOTE_CHILD,   /* it is their parent, and reports how they end */
};

struct sst_process {
    /* set by new and start, then const */
    struct sst_arena *arena;
    uint64_t seat; /* the child's place in the registry; 0 before a fork */
    int owner_pid; /* who may join it */
    int pid;       /* 0 before the start */
    int pidfd;
    int tether;       /* our end */
    int tether_child; /* the child's end, until it is started */
    bool die_with_parent;
    bool packets;    /* a zygote's */
    bool is_foreign; /* a zygote is its parent, and reports up the tether */
    uint64_t gifts;  /* the seat in which objects are held for it; 0: none */

    /* guarded by the reaper's lock (reap.c) */
    struct sst_process *next;
    struct sst_process **link; /* what points at us; NULL: not listed */
    enum ssti_child_state state;
    int code;
    bool reaped;
    bool given_up;     /* closed, and freed once reaped */
    bool tether_spent; /* it hung up although the child is not done */

    /* of a zygote, guarded by the owner's lock (zygote.c) */
    struct ssti_nursery *nursery; /* NULL: it is none */
};

/* What travels up the tether of a child whose parent is the zygote. */
struct ssti_tether_note {
    uint32_t what; /* enum ssti_tether_what */
    int32_t value;
};
enum ssti_tether_what {
    SSTI_TETHER_ENDED = 2, /* its exit code */
};

/* The pid of the child is known: open its pidfd, list it for the reaper, close our copy
 * of its end of the tether. On failure the child is killed and reaped. */
int ssti_process_adopt_pid(struct sst_process *process, int pid, struct sst_error *err);
/* SST_EINVAL unless it can be started, by us. */
int ssti_process_check_unstarted(const struct sst_process *process,
                                 struct sst_error *err);

/* The child runs: list it, so that somebody reaps it. */
void ssti_process_started(struct sst_process *process);
/* Out of the list; frees it when it is reaped or was never started. */
void ssti_process_drop(struct sst_process *process);
/* Once per process, before the first child: the at-fork handlers. SST_ENOMEM. */
int ssti_process_prepare_forks(void);
/* In a child made by a raw clone: what the at-fork handler of a forked one does. */
void ssti_process_fork_child(void);

void ssti_zygote_fork_child(void);
/* What a zygote has besides other processes: made with it, and its unemployed children
 * end when it is closed. */
int ssti_zygote_new(struct sst_process *zygote,
                    const struct sst_process_options *options);
void ssti_zygote_free(struct sst_process *zygote);

/* In a child: remember where we come from, and close our starter's own tether. */
void ssti_origin_set(struct sst_arena *arena, uint64_t parent_seat, int parent_pid,
                     int tether);

#endif
