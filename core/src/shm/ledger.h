/* SPDX-License-Identifier: MIT */
#ifndef SSTI_SHM_LEDGER_H
#define SSTI_SHM_LEDGER_H

/* The ledger: the names that a tree of processes has to see removed (ledger.c). */

#include <stdbool.h>
#include <stdint.h>

#include "os/local.h"
#include "os/os.h"

struct sst_arena;
struct sst_named;

enum {
    SSTI_LEDGER_HINTS = 64,
};

/* This process's part in it. */
struct ssti_ledger {
    /* Guards what follows, and is held over short locks of files. While it is held
     * map_lock may be taken, never the other way round. */
    struct ssti_local lock;
    int fd;                   /* has the lock that says that the tree lives; or -1 */
    struct ssti_os_file file; /* what fd stands for, unless the program has closed it */
    void *mapped; /* a page of it: has the lock, too, whatever the program closes */
    struct sst_named *open;           /* views of this process */
    bool has_used;                    /* this process has had to do with names */
    uint32_t hint[SSTI_LEDGER_HINTS]; /* by hash: 1 + number of the record, perhaps */
};

void ssti_ledger_init(struct sst_arena *arena);
void ssti_ledger_fini(struct sst_arena *arena);

/* This process has come to the tree, or takes part again. */
void ssti_ledger_join(struct sst_arena *arena);
/* It does not count among those for whom names are kept, until it joins. */
void ssti_ledger_stand_aside(struct sst_arena *arena);
/* It leaves the tree, and will use no name: the last one removes what is left. With
 * `is_alone` no thread will touch open views any more, and they are closed. */
void ssti_ledger_leave(struct sst_arena *arena, bool is_alone);

/* The name of that file (number 0: whatever has the name) goes with the tree.
 * SST_ENOSPC, SST_EPERM, SST_EACCES, SST_EMFILE. */
int ssti_ledger_add(struct sst_arena *arena, const char *name, uint64_t number);
/* It does not, after all. With `is_mine` only if this process has added it. */
void ssti_ledger_drop(struct sst_arena *arena, const char *name, uint64_t number,
                      bool is_mine);
/* Is there a record of that name and file, or of that name alone? */
bool ssti_ledger_has(struct sst_arena *arena, const char *name, uint64_t number);

/* A folder goes with the tree, in two steps: it may be made now; that is it.
 * SST_ENAMETOOLONG, and as ssti_ledger_add. */
int ssti_ledger_add_folder(struct sst_arena *arena, const char *path);
void ssti_ledger_set_folder(struct sst_arena *arena, const char *path,
                            const struct ssti_os_file *file);
/* It does not, or is gone. */
void ssti_ledger_drop_folder(struct sst_arena *arena, const char *path);

/* Remove what trees of this user's have left that are gone. */
void ssti_ledger_collect(void);

/* ---- named.c ---- */

/* Close all views, or give up their locks. The ledger's lock is held. */
void ssti_named_close_all(struct ssti_ledger *ledger);
void ssti_named_unlock_all(struct ssti_ledger *ledger);

/* ---- folder.c ---- */

/* Remove a folder that a tree has left, with all in it, if it is that one still; with
 * number 0 only if it is empty. False: that was not possible, for want of descriptors
 * perhaps. */
bool ssti_folder_clear(const char *path, uint64_t number, uint32_t device);

#endif
