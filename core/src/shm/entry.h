/* SPDX-License-Identifier: MIT */
#ifndef SSTI_SHM_ENTRY_H
#define SSTI_SHM_ENTRY_H

/* What a ledger's file holds: a head and records (entry.c). */

#include <stdbool.h>
#include <stdint.h>

#include "os/os.h"

#define LEDGER_MAGIC UINT64_C(0x0a6c7365646973) /* "sidesl\n" */

enum {
    LEDGER_VERSION = 2,
};

struct ledger_head {
    uint64_t magic;
    uint32_t version;
    uint32_t free; /* 1 + number of a record that may be free; 0 = none */
    uint64_t arena;
    uint64_t pid_space;
    uint64_t reserved[4];
};

enum ledger_kind {
    LEDGER_FREE,
    LEDGER_NAME,
    LEDGER_MEMBER,
    LEDGER_FOLDER,
};

struct ledger_record {
    uint32_t kind;   /* enum ledger_kind */
    uint32_t next;   /* FREE: the next one, as in the head */
    uint64_t number; /* NAME: of the file, 0 = any; FOLDER: 0 = not made yet, perhaps;
                      * MEMBER: start in ticks */
    uint32_t pid;    /* NAME, FOLDER: who noted it; MEMBER: who it is */
    uint32_t device; /* FOLDER: where it is, the lower half */
    char name[SSTI_OS_NAME_MAX + 1];
};

_Static_assert(sizeof(struct ledger_head) == 64, "ledger layout");
_Static_assert(sizeof(struct ledger_record) == 280, "ledger layout");

uint64_t ssti_entry_offset(uint32_t index);
/* SST_ECORRUPT: it has not been begun, or is of another version. */
int ssti_ledger_read_head(int fd, struct ledger_head *head);
/* Calls for each record until one says to stop; true then. */
bool ssti_entry_each(int fd,
                     bool (*stops)(void *context, uint32_t index,
                                   const struct ledger_record *record),
                     void *context);
bool ssti_entry_read(int fd, uint32_t index, struct ledger_record *out);

/* ---- Writing, under the guard ---- */

/* SST_ENOSPC. */
int ssti_entry_write(int fd, uint32_t index, const struct ledger_record *record);
/* A record that is free: off the list, else behind the last one. */
int ssti_entry_find_room(int fd, struct ledger_head *head, uint32_t *index);
void ssti_entry_free(int fd, struct ledger_head *head, uint32_t index);

#endif
