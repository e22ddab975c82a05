/* SPDX-License-Identifier: MIT */
#ifndef OBJECTS_SIM_H
#define OBJECTS_SIM_H

/* What the scenarios of public objects have in common: the first process makes the
 * object and starts the others, which attach by its handle; each process has a view,
 * used by its threads. The dead may be replaced. */

#include <sidestep/sidestep.h>
#include <stdbool.h>

#include "sim.h"

enum {
    OBJECT_THREADS = 2, /* of a process, at most */
};

struct objects_family {
    enum sst_kind kind;
    /* In the first process: make the object. */
    void *(*create)(struct sst_arena *arena, struct sst_handle *handle);
    void *(*attach)(struct sst_arena *arena, const struct sst_handle *handle);
    void (*close)(void *view);
    /* What a thread of this role does with its process's view. */
    void (*work)(void *view, int role);
    int processes_max;
    int roles;
    int respawns_max;
    bool threads;
};

/* From a scenario's setup and died. */
void objects_setup(const struct objects_family *family);
void objects_died(int process);
/* From finish: nothing may be left of the object. */
void objects_finish(void);

/* The object in shared memory, NULL before it is made. */
void *objects_shared(void);
extern int objects_process_count;

/* A deadline for a blocking call: soon, or never. */
int64_t objects_deadline(void);

#endif
