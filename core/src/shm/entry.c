/* SPDX-License-Identifier: MIT */

/* The records of a ledger's file, of one size. A record's kind is written last; one of
 * kind FREE is room. The list of free ones is a hint: what is found on it is looked at.
 * Who dies between two steps leaves room that no list leads to (ledger.c). */

#include "shm/entry.h"

#include <stddef.h>

#include "base/crashpoint.h"
#include "base/status.h"
#include "sidestep/sidestep.h"

enum {
    BATCH = 16, /* records read at a time */
};

uint64_t
ssti_entry_offset(uint32_t index)
{
    return sizeof(struct ledger_head) + (uint64_t)index * sizeof(struct ledger_record);
}

int
ssti_ledger_read_head(int fd, struct ledger_head *head)
{
    const int64_t size = ssti_os_file_read(fd, 0, head, sizeof *head);

    return size == (int64_t)sizeof *head && head->magic == LEDGER_MAGIC &&
                   head->version == LEDGER_VERSION
               ? 0
               : SST_ECORRUPT;
}

bool
ssti_entry_each(int fd,
                bool (*stops)(void *context, uint32_t index,
                              const struct ledger_record *record),
                void *context)
{
    struct ledger_record batch[BATCH];

    for (uint32_t first = 0;; first += BATCH) {
        const int64_t size =
            ssti_os_file_read(fd, ssti_entry_offset(first), batch, sizeof batch);
        const uint32_t count =
            size > 0 ? (uint32_t)((uint64_t)size / sizeof batch[0]) : 0;

        for (uint32_t i = 0; i < count; i++) {
            batch[i].name[SSTI_OS_NAME_MAX] = '\0';
            if (stops(context, first + i, &batch[i])) {
                return true;
            }
        }
        if (count < BATCH) {
            return false;
        }
    }
}

bool
ssti_entry_read(int fd, uint32_t index, struct ledger_record *out)
{
    const int64_t size =
        ssti_os_file_read(fd, ssti_entry_offset(index), out, sizeof *out);

    out->name[SSTI_OS_NAME_MAX] = '\0';
    return size == (int64_t)sizeof *out;
}

/* ---- Writing, under the guard ---- */

int
ssti_entry_write(int fd, uint32_t index, const struct ledger_record *record)
{
    struct ledger_record body = *record;
    int rc;

    body.kind = LEDGER_FREE;
    rc = ssti_os_file_write(fd, ssti_entry_offset(index), &body, sizeof body);
    SST_CRASHPOINT(ledger_written);
    if (rc == 0) {
        rc = ssti_os_file_write(fd, ssti_entry_offset(index), &record->kind,
                                sizeof record->kind);
    }
    SST_CRASHPOINT(ledger_noted);
    return rc;
}

int
ssti_entry_find_room(int fd, struct ledger_head *head, uint32_t *index)
{
    struct ledger_record record;
    uint64_t size = 0;
    bool has_name;
    int rc;

    if (head->free != 0 && ssti_entry_read(fd, head->free - 1, &record) &&
        record.kind == LEDGER_FREE) {
        *index = head->free - 1;
        head->free = record.next;
        rc = ssti_os_file_write(fd, offsetof(struct ledger_head, free), &head->free,
                                sizeof head->free);
        SST_CRASHPOINT(ledger_taken);
        return rc;
    }
    rc = ssti_os_file_size(fd, &size, &has_name);
    if (rc != 0) {
        return rc;
    }
    *index = (uint32_t)((size - sizeof *head) / sizeof record);
    return 0;
}

void
ssti_entry_free(int fd, struct ledger_head *head, uint32_t index)
{
    const struct ledger_record record = {.kind = LEDGER_FREE, .next = head->free};

    head->free = index + 1;
    /* Within the file: cannot want for room. A record that stays is passed over. */
    (void)ssti_os_file_write(fd, ssti_entry_offset(index), &record,
                             offsetof(struct ledger_record, number));
    SST_CRASHPOINT(ledger_freed);
    (void)ssti_os_file_write(fd, offsetof(struct ledger_head, free), &head->free,
                             sizeof head->free);
}
