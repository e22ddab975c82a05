/* SPDX-License-Identifier: MIT */

/* The ledger: what a tree of processes has given a name, and has to see removed.
 *
 * A name outlives everybody, so somebody has to remove it when nobody is left, and
 * after a SIGKILL of all there is nobody of the tree. So the tree keeps a note of its
 * names, a file that this user's other processes can read, and each process of the tree
 * holds a shared lock on that file: the kernel gives it back however the process ends.
 * Who gets the lock alone knows that the tree has ended, and removes what is noted.
 * That is the last process that leaves in order, else the next process of the same user
 * that has an arena or a name to do with.
 *
 * A process that was in the tree before the ledger was made, and has not looked since,
 * does not hold the lock. It is noted by its pid and when it started.
 *
 * What is noted is removed only if it still is the same file, and no user in another
 * tree holds a lock on it: then the record stays, for the next one to look at.
 *
 * Changes are made under the file's guard, another lock, held for a few lines. Records
 * are of one size. A record's kind is written last; a record of kind FREE is room. The
 * list of free ones is a hint: what is found on it is looked at.
 *
 * Invariants
 *   I1  the magic is written when all members of before are noted; without it nobody
 *       removes anything but the file
 *   I2  a record with a name is complete before the name is given (named.c), and is
 *       freed after the name was removed
 *   I3  who holds the file's lock has seen that the file has its name still: nobody is
 *       left with a file that was removed
 *
 * Death table (process dies after ...)
 *   making the file, before the magic   the next one begins again
 *   writing a record, before its kind   it is room that no list leads to; lost
 *   taking a record off the free list   the same
 *   freeing a record                    the same
 *   noting a name that was not given    no file has that number: passed over
 *   removing a name, not its record     the same
 *   noting a folder, making it          it is empty: removed if it is there
 *   giving up its own lock to look      it held nothing else: the next one looks
 *   removing some of a dead tree's      the next one goes on
 *   removing all but the file           the next one finds nothing in it
 *
 * docs/internals/names.rst. */

#include "shm/ledger.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/atomic.h"
#include "base/crashpoint.h"
#include "base/status.h"
#include "shm/entry.h"
#include "shm/view.h"

enum {
    NOTE_LENGTH = 16, /* of the file's name */
    NOTE_SIZE = NOTE_LENGTH + 1,
};

/* ---- Members ---- */

static bool
is_member(struct sst_arena *arena, uint32_t index, struct sst_process_shm **out)
{
    struct sst_process_shm *const seat = ssti_proc_seat(arena, index);
    uint32_t state;

    *out = seat;
    if (seat == NULL || index == ssti_proc_index(arena->proc) ||
        ssti_load_acq(&seat->left_names) != 0) {
        return false;
    }
    state = ssti_load_acq(&seat->state);
    return state == SSTI_PROCESS_LIVE || state == SSTI_PROCESS_UNBORN;
}

/* Those who sat down before the ledger was there, and may not look. */
static int
note_members(struct sst_arena *arena, int fd)
{
    const uint32_t high = ssti_load_acq(&arena->control->registry.high);
    uint32_t next = 0;
    int rc = 0;

    for (uint32_t i = 0; i < high && i < arena->map.process_max && rc == 0; i++) {
        struct sst_process_shm *seat;
        struct ledger_record record = {.kind = LEDGER_MEMBER};
        struct ssti_os_process now;

        if (!is_member(arena, i, &seat)) {
            continue;
        }
        record.pid = ssti_load_acq(&seat->pid);
        if (record.pid == 0 || ssti_os_process_look((int)record.pid, &now) != 0) {
            continue; /* not born: it will look; or gone */
        }
        record.number = now.start_ticks;
        rc = ssti_entry_write(fd, next++, &record);
    }
    return rc;
}

static bool
others_live(struct sst_arena *arena)
{
    const uint32_t high = ssti_load_acq(&arena->control->registry.high);

    for (uint32_t i = 0; i < high && i < arena->map.process_max; i++) {
        struct sst_process_shm *seat;

        if (is_member(arena, i, &seat) &&
            ssti_proc_alive(arena, ssti_proc_id(ssti_load_acq(&seat->generation), i))) {
            return true;
        }
    }
    return false;
}

/* Stops at a member that lives. */
static bool
is_living_member(void *context, uint32_t index, const struct ledger_record *record)
{
    struct ssti_os_process now;
    int rc;

    (void)context;
    (void)index;
    if (record->kind != LEDGER_MEMBER) {
        return false;
    }
    rc = ssti_os_process_look((int)record->pid, &now);
    if (rc != 0) {
        return rc != SST_ESRCH;
    }
    return now.start_ticks == record->number && (!now.is_exiting || now.threads > 1);
}

/* ---- Taking part ---- */

static void
note_name(char *out, uint64_t id)
{
    (void)snprintf(out, NOTE_SIZE, "%016" PRIx64, id); /* fits */
}

static bool
has_fd(const struct ssti_ledger *ledger)
{
    struct ssti_os_file now;

    return ledger->fd >= 0 && ssti_os_file_look(ledger->fd, &now) == 0 &&
           now.device == ledger->file.device && now.number == ledger->file.number;
}

static void
close_fd(struct ssti_ledger *ledger)
{
    if (has_fd(ledger)) {
        ssti_os_close(ledger->fd);
    }
    ledger->fd = -1;
    if (ledger->mapped != NULL) {
        ssti_os_memory_unmap(ledger->mapped, ssti_os_page_size());
        ledger->mapped = NULL;
    }
}

/* Begin the file, unless that was done, and read its head. Under the guard. */
static int
begin(struct sst_arena *arena, int fd, struct ledger_head *head)
{
    int rc;

    if (ssti_ledger_read_head(fd, head) == 0) {
        return 0;
    }
    memset(head, 0, sizeof *head);
    rc = ssti_os_file_write(fd, 0, head, sizeof *head);
    /* Who sits down from now on sees it; whoever has before is seen by us. */
    (void)ssti_xchg(&arena->control->ledger, 1);
    SST_CRASHPOINT(ledger_begun);
    if (rc == 0) {
        rc = note_members(arena, fd);
    }
    head->magic = LEDGER_MAGIC;
    head->version = LEDGER_VERSION;
    head->arena = arena->id;
    head->pid_space = ssti_os_pid_space();
    SST_CRASHPOINT(ledger_unmarked);
    return rc == 0 ? ssti_os_file_write(fd, 0, head, sizeof *head) : rc;
}

/* The file, locked, and with its name still. */
static int
open_locked(const char *note, bool make)
{
    for (;;) {
        uint64_t size;
        bool has_name = false;
        const int fd = ssti_os_note_open(note, make);
        int rc;

        if (fd < 0) {
            return fd;
        }
        rc = ssti_os_file_lock(fd, SSTI_OS_LOCK_SHARED, true);
        if (rc == 0) {
            rc = ssti_os_file_size(fd, &size, &has_name);
        }
        if (rc == 0 && has_name) {
            return fd;
        }
        ssti_os_close(fd); /* somebody has removed it meanwhile */
        if (rc != 0) {
            return rc;
        }
    }
}

/* Have the file open and locked. The ledger's lock is held. SST_ENOENT. */
static int
take_part(struct sst_arena *arena, bool make)
{
    struct ssti_ledger *const ledger = &arena->ledger;
    void *mapped = NULL;
    char note[NOTE_SIZE];

    ledger->has_used |= make;
    if (has_fd(ledger)) {
        return 0;
    }
    note_name(note, arena->id);
    ledger->fd = open_locked(note, make);
    if (ledger->fd < 0) {
        const int rc = ledger->fd;

        ledger->fd = -1;
        return rc;
    }
    (void)ssti_os_file_look(ledger->fd, &ledger->file); /* was just opened */
    if (ledger->mapped == NULL &&
        ssti_os_memory_map(ledger->fd, 0, ssti_os_page_size(), &mapped) == 0) {
        ledger->mapped = mapped;
    }
    return 0;
}

/* The same, and the guard; and a file that is begun. */
static int
open_guarded(struct sst_arena *arena, bool make, struct ledger_head *head)
{
    int rc = take_part(arena, make);

    if (rc != 0) {
        return rc;
    }
    rc = ssti_os_file_guard(arena->ledger.fd, true, true);
    if (rc == 0) {
        rc = begin(arena, arena->ledger.fd, head);
        if (rc != 0) {
            (void)ssti_os_file_guard(arena->ledger.fd, false, true); /* cannot fail */
        }
    }
    return rc;
}

static void
unguard(struct sst_arena *arena)
{
    (void)ssti_os_file_guard(arena->ledger.fd, false, true); /* cannot fail */
}

void
ssti_ledger_init(struct sst_arena *arena)
{
    ssti_local_init(&arena->ledger.lock);
    arena->ledger.fd = -1;
}

void
ssti_ledger_fini(struct sst_arena *arena)
{
    close_fd(&arena->ledger);
}

void
ssti_ledger_join(struct sst_arena *arena)
{
    if (arena->proc == 0) {
        return;
    }
    ssti_store_rel(&arena->seat->left_names, 0);
    ssti_fence(); /* our seat, then their ledger; pairs with begin() */
    if (ssti_load_acq(&arena->control->ledger) == 0) {
        return;
    }
    ssti_local_lock(&arena->ledger.lock);
    (void)take_part(arena, false); /* there is none: there are no names */
    ssti_local_unlock(&arena->ledger.lock);
}

void
ssti_ledger_stand_aside(struct sst_arena *arena)
{
    if (arena->proc == 0) {
        return;
    }
    ssti_local_lock(&arena->ledger.lock);
    ssti_store_rel(&arena->seat->left_names, 1);
    close_fd(&arena->ledger);
    ssti_local_unlock(&arena->ledger.lock);
}

/* ---- Names ---- */

struct search {
    enum ledger_kind kind;
    const char *name;
    uint64_t number;
    uint32_t pid; /* 0 = anybody's */
    uint32_t index;
};

static bool
is_sought(void *context, uint32_t index, const struct ledger_record *record)
{
    struct search *const search = context;

    if (record->kind != (uint32_t)search->kind ||
        strcmp(record->name, search->name) != 0 ||
        (search->number != 0 && record->number != 0 &&
         record->number != search->number) ||
        (search->pid != 0 && record->pid != search->pid)) {
        return false;
    }
    search->index = index;
    return true;
}

static uint32_t *
hint_of(struct ssti_ledger *ledger, const char *name)
{
    uint32_t hash = 2166136261U; /* FNV-1a */

    for (; *name != '\0'; name++) {
        hash = (hash ^ (unsigned char)*name) * 16777619U;
    }
    return &ledger->hint[hash % SSTI_LEDGER_HINTS];
}

/* Where it was put last, else wherever it is. */
static bool
find(struct ssti_ledger *ledger, struct search *search)
{
    const uint32_t *const hint = hint_of(ledger, search->name);
    struct ledger_record record;

    if (*hint != 0 && ssti_entry_read(ledger->fd, *hint - 1, &record) &&
        is_sought(search, *hint - 1, &record)) {
        return true;
    }
    return ssti_entry_each(ledger->fd, is_sought, search);
}

static int
add_locked(struct sst_arena *arena, enum ledger_kind kind, const char *name,
           uint64_t number)
{
    struct ledger_record record = {.kind = (uint32_t)kind, .number = number};
    struct ledger_head head;
    uint32_t index = 0;
    int rc = open_guarded(arena, true, &head);

    if (rc != 0) {
        return rc;
    }
    record.pid = (uint32_t)ssti_os_pid();
    (void)snprintf(record.name, sizeof record.name, "%s", name); /* was checked */
    rc = ssti_entry_find_room(arena->ledger.fd, &head, &index);
    if (rc == 0) {
        rc = ssti_entry_write(arena->ledger.fd, index, &record);
    }
    if (rc == 0) {
        *hint_of(&arena->ledger, name) = index + 1;
    }
    unguard(arena);
    return rc;
}

static int
add(struct sst_arena *arena, enum ledger_kind kind, const char *name, uint64_t number)
{
    int rc;

    if (arena->proc == 0) {
        return SST_ELIMIT;
    }
    ssti_local_lock(&arena->ledger.lock);
    rc = add_locked(arena, kind, name, number);
    ssti_local_unlock(&arena->ledger.lock);
    return rc;
}

static void
drop(struct sst_arena *arena, struct search *search)
{
    struct ledger_head head;

    if (ssti_load_acq(&arena->control->ledger) == 0) {
        return;
    }
    ssti_local_lock(&arena->ledger.lock);
    if (open_guarded(arena, false, &head) == 0) {
        if (find(&arena->ledger, search)) {
            ssti_entry_free(arena->ledger.fd, &head, search->index);
        }
        unguard(arena);
    }
    ssti_local_unlock(&arena->ledger.lock);
}

int
ssti_ledger_add(struct sst_arena *arena, const char *name, uint64_t number)
{
    return add(arena, LEDGER_NAME, name, number);
}

void
ssti_ledger_drop(struct sst_arena *arena, const char *name, uint64_t number,
                 bool is_mine)
{
    drop(arena, &(struct search){
                    .kind = LEDGER_NAME,
                    .name = name,
                    .number = number,
                    .pid = is_mine ? (uint32_t)ssti_os_pid() : 0,
                });
}

bool
ssti_ledger_has(struct sst_arena *arena, const char *name, uint64_t number)
{
    struct search search = {.kind = LEDGER_NAME, .name = name, .number = number};
    struct ledger_head head;
    bool has = false;

    if (ssti_load_acq(&arena->control->ledger) == 0) {
        return false;
    }
    ssti_local_lock(&arena->ledger.lock);
    if (open_guarded(arena, false, &head) == 0) {
        has = find(&arena->ledger, &search);
        unguard(arena);
    }
    ssti_local_unlock(&arena->ledger.lock);
    return has;
}

/* ---- Folders ---- */

int
ssti_ledger_add_folder(struct sst_arena *arena, const char *path)
{
    return strlen(path) <= SSTI_OS_NAME_MAX ? add(arena, LEDGER_FOLDER, path, 0)
                                            : SST_ENAMETOOLONG;
}

void
ssti_ledger_set_folder(struct sst_arena *arena, const char *path,
                       const struct ssti_os_file *file)
{
    struct search search = {.kind = LEDGER_FOLDER, .name = path};
    struct ledger_record record = {.number = file->number,
                                   .pid = (uint32_t)ssti_os_pid(),
                                   .device = (uint32_t)file->device};
    struct ledger_head head;

    ssti_local_lock(&arena->ledger.lock);
    if (open_guarded(arena, false, &head) == 0) {
        if (find(&arena->ledger, &search)) {
            /* Within the file: cannot want for room. */
            (void)ssti_os_file_write(arena->ledger.fd,
                                     ssti_entry_offset(search.index) +
                                         offsetof(struct ledger_record, number),
                                     &record.number,
                                     offsetof(struct ledger_record, name) -
                                         offsetof(struct ledger_record, number));
        }
        unguard(arena);
    }
    ssti_local_unlock(&arena->ledger.lock);
}

void
ssti_ledger_drop_folder(struct sst_arena *arena, const char *path)
{
    drop(arena, &(struct search){.kind = LEDGER_FOLDER, .name = path});
}

/* ---- The end of a tree ---- */

struct clearing {
    int fd;
    struct ledger_head head;
    uint32_t left; /* names that are in use */
};

/* True when there is nothing of it any more. */
static bool
remove_name(const struct ledger_record *record)
{
    struct ssti_os_file now;
    int fd;
    bool is_free;

    if (ssti_os_name_check(record->name) != 0 ||
        ssti_os_name_look(record->name, &now) != 0 ||
        (record->number != 0 && record->number != now.number)) {
        return true;
    }
    fd = ssti_os_name_open(record->name);
    if (fd < 0) {
        return true; /* not ours to open, so not ours to remove */
    }
    is_free = ssti_os_file_lock(fd, SSTI_OS_LOCK_ALONE, false) == 0;
    if (is_free) {
        /* Who comes now waits for our lock, and sees then that the name is gone. */
        (void)ssti_os_name_remove(record->name); /* somebody else did */
        SST_CRASHPOINT(ledger_name_removed);
    }
    ssti_os_close(fd);
    return is_free;
}

static bool
clear_record(void *context, uint32_t index, const struct ledger_record *record)
{
    struct clearing *const clearing = context;

    if (record->kind == LEDGER_FOLDER) {
        if (!ssti_folder_clear(record->name, record->number, record->device)) {
            clearing->left++;
            return false;
        }
        SST_CRASHPOINT(ledger_folder_cleared);
        ssti_entry_free(clearing->fd, &clearing->head, index);
    }
    else if (record->kind == LEDGER_NAME) {
        if (remove_name(record)) {
            ssti_entry_free(clearing->fd, &clearing->head, index);
        }
        else {
            clearing->left++;
        }
    }
    return false;
}

/* The tree is gone: we hold guard and lock of its file. */
static void
clear(int fd, const struct ledger_head *head, const char *note)
{
    struct clearing clearing = {.fd = fd, .head = *head};

    (void)ssti_entry_each(fd, clear_record, &clearing);
    SST_CRASHPOINT(ledger_cleared);
    if (clearing.left == 0) {
        ssti_os_note_remove(note);
    }
}

/* Can we, in our name space of process ids, tell who lives? */
static bool
is_readable(int fd, struct ledger_head *head)
{
    return ssti_ledger_read_head(fd, head) == 0 &&
           (head->pid_space == ssti_os_pid_space() || head->pid_space == 0);
}

/* Of a tree that is none of ours: is it gone? */
static void
look_at(const char *note, void *context)
{
    struct ledger_head head;
    uint64_t size = 0;
    bool has_name = false;
    int fd;

    (void)context;
    if (strlen(note) != NOTE_LENGTH ||
        strspn(note, "0123456789abcdef") != NOTE_LENGTH) {
        return; /* none of ours */
    }
    fd = ssti_os_note_open(note, false);
    if (fd < 0) {
        return;
    }
    if (ssti_os_file_guard(fd, true, false) == 0 &&
        ssti_os_file_lock(fd, SSTI_OS_LOCK_ALONE, false) == 0 &&
        ssti_os_file_size(fd, &size, &has_name) == 0 && has_name) {
        if (is_readable(fd, &head)) {
            if (!ssti_entry_each(fd, is_living_member, NULL)) {
                clear(fd, &head, note);
            }
        }
        else if (size < sizeof head || head.magic == 0) {
            ssti_os_note_remove(note); /* its maker died before it wrote a name */
        }
    }
    ssti_os_close(fd);
}

void
ssti_ledger_collect(void)
{
    ssti_os_notes_each(look_at, NULL);
}

static bool
is_me(void *context, uint32_t index, const struct ledger_record *record)
{
    struct search *const search = context;

    search->index = index;
    return record->kind == LEDGER_MEMBER && record->pid == search->pid;
}

/* Whoever comes second here, of two that leave at a time, sees the first one's word. */
static void
leave_guarded(struct sst_arena *arena, int fd, const char *note, bool is_alone)
{
    struct search me = {.pid = (uint32_t)ssti_os_pid()};
    struct ledger_head head;

    ssti_store_rel(&arena->seat->left_names, 1);
    if (ssti_ledger_read_head(fd, &head) != 0) {
        return;
    }
    if (ssti_entry_each(fd, is_me, &me)) {
        ssti_entry_free(fd, &head, me.index);
    }
    SST_CRASHPOINT(ledger_leaving);
    if (others_live(arena) || ssti_os_file_lock(fd, SSTI_OS_LOCK_ALONE, false) != 0 ||
        ssti_entry_each(fd, is_living_member, NULL)) {
        return;
    }
    if (!is_alone) {
        /* Nobody shares these locks with us: all who could are gone. */
        ssti_named_unlock_all(&arena->ledger);
    }
    clear(fd, &head, note);
}

void
ssti_ledger_leave(struct sst_arena *arena, bool is_alone)
{
    struct ssti_ledger *const ledger = &arena->ledger;
    char note[NOTE_SIZE];
    int fd;

    if (arena->proc == 0 || ssti_load_acq(&arena->seat->left_names) != 0 ||
        (ssti_load_acq(&arena->control->ledger) == 0 && !ledger->has_used)) {
        return;
    }
    note_name(note, arena->id);
    ssti_local_lock(&ledger->lock);
    if (is_alone) {
        ssti_named_close_all(ledger);
    }
    close_fd(ledger);
    fd = ssti_os_note_open(note, false);
    if (fd >= 0) {
        if (ssti_os_file_guard(fd, true, true) == 0) {
            leave_guarded(arena, fd, note, is_alone);
        }
        ssti_os_close(fd);
    }
    ssti_local_unlock(&ledger->lock);
    if (ledger->has_used) {
        ssti_ledger_collect();
    }
}
