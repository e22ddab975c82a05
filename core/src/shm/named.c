/* SPDX-License-Identifier: MIT */

/* Named memory: a file that any process can find by its name, and map.
 *
 * A view is a descriptor and a mapping. One that counts (all but `untracked`) holds a
 * shared lock on the file; mapping and forked children share it, and the kernel gives
 * it back with the last of them. What this tree made it has noted in its ledger, with
 * the file's number, before the name is given.
 *
 * A file is filled with pages before it has its name, so that a full file system is an
 * error here and not a SIGBUS somewhere later; and it is never made shorter, because
 * somebody may have mapped it.
 *
 * Who finds a name that nobody has a lock on looks first whether it was left by a tree
 * that is gone: then it does not exist.
 *
 * Death table (process dies after ...)
 *   making the file         it has no name: the kernel frees it. Where files cannot be
 *                           without, an empty or unlisted name stays
 *   noting it               a record of a file that no name leads to: passed over
 *   giving the name         all is noted
 *   removing the name       as after noting it
 *
 * docs/internals/names.rst. */

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "base/alloc.h"
#include "base/crashpoint.h"
#include "base/status.h"
#include "os/os.h"
#include "shm/ledger.h"
#include "shm/view.h"

enum {
    MODE_DEFAULT = 0600,
    UNASKED = 1 << 20, /* bytes for which the budget is not asked */
};

/* Earlier mappings, which views of them keep using. */
struct earlier {
    void *address;
    uint64_t size;
    struct earlier *next;
};

struct sst_named {
    struct sst_arena *arena;
    struct sst_named *next; /* in the ledger's list; guarded by its lock */
    int fd;
    struct ssti_os_file file;
    void *address; /* NULL once the process has left */
    uint64_t size;
    struct earlier *earlier;
};

/* ---- Views ---- */

static void
list(struct sst_named *named)
{
    struct ssti_ledger *const ledger = &named->arena->ledger;

    ssti_local_lock(&ledger->lock);
    named->next = ledger->open;
    ledger->open = named;
    ledger->has_used = true;
    ssti_local_unlock(&ledger->lock);
}

static void
unlist(struct sst_named *named)
{
    struct ssti_ledger *const ledger = &named->arena->ledger;
    struct sst_named **link;

    ssti_local_lock(&ledger->lock);
    for (link = &ledger->open; *link != NULL; link = &(*link)->next) {
        if (*link == named) {
            *link = named->next;
            break;
        }
    }
    ssti_local_unlock(&ledger->lock);
}

static bool
has_fd(const struct sst_named *named)
{
    struct ssti_os_file now;

    return named->fd >= 0 && ssti_os_file_look(named->fd, &now) == 0 &&
           now.device == named->file.device && now.number == named->file.number;
}

static void
unmap(struct sst_named *named)
{
    if (named->address != NULL) {
        ssti_os_memory_unmap(named->address, named->size);
        named->address = NULL;
    }
    while (named->earlier != NULL) {
        struct earlier *const first = named->earlier;

        ssti_os_memory_unmap(first->address, first->size);
        named->earlier = first->next;
        (void)ssti_free(first);
    }
    if (has_fd(named)) {
        ssti_os_close(named->fd);
    }
    named->fd = -1;
}

void
ssti_named_close_all(struct ssti_ledger *ledger)
{
    for (struct sst_named *named = ledger->open; named != NULL; named = named->next) {
        unmap(named);
    }
}

void
ssti_named_unlock_all(struct ssti_ledger *ledger)
{
    for (struct sst_named *named = ledger->open; named != NULL; named = named->next) {
        if (has_fd(named)) {
            (void)ssti_os_file_lock(named->fd, SSTI_OS_LOCK_NONE,
                                    true); /* cannot fail */
        }
    }
}

static int
named_new(struct sst_arena *arena, struct sst_named **out)
{
    struct sst_named *const named = ssti_alloc(sizeof *named);

    if (named == NULL) {
        return SST_ENOMEM;
    }
    named->arena = arena;
    named->fd = -1;
    *out = named;
    return 0;
}

static int
map(struct sst_named *named, uint64_t size)
{
    void *address;
    const int rc = ssti_os_memory_map(named->fd, 0, size, &address);

    if (rc == 0) {
        named->address = address;
        named->size = size;
    }
    return rc;
}

struct sst_named *
sst_named_close(struct sst_named *named)
{
    if (named == NULL) {
        return NULL;
    }
    unlist(named);
    unmap(named);
    return ssti_free(named);
}

void *
sst_named_data(const struct sst_named *named)
{
    return named->address;
}

uint64_t
sst_named_size(const struct sst_named *named)
{
    return named->size;
}

int
sst_named_fd(const struct sst_named *named)
{
    return has_fd(named) ? named->fd : SST_EBADF;
}

/* ---- Making ---- */

/* Pages for all of it, if the machine has them. */
static int
fill(int fd, uint64_t size, uint64_t already, struct sst_error *err)
{
    const char *limiter = "";
    const uint64_t left =
        size - already > UNASKED ? ssti_os_memory_available(&limiter) : UINT64_MAX;
    int rc;

    if (size - already > left) {
        return ssti_error_set(err, SST_ENOSPC,
                              "%" PRIu64 " bytes of shared memory were asked, %" PRIu64
                              " are left (%s)",
                              size - already, left, limiter);
    }
    rc = ssti_os_file_grow(fd, size);
    return rc == 0
               ? 0
               : ssti_error_set(err, rc,
                                "no room for %" PRIu64 " bytes of shared memory", size);
}

/* A file with pages, a mapping, a lock and a record; `is_named` says whether it has
 * its name, too. */
static int
make(struct sst_named *named, const char *name, const struct sst_named_options *options,
     bool *is_named, struct sst_error *err)
{
    const uint32_t mode = options->mode != 0 ? options->mode : MODE_DEFAULT;
    int rc;

    named->fd = ssti_os_name_make(name, mode, is_named);
    if (named->fd < 0) {
        *is_named = false;
        return named->fd;
    }
    (void)ssti_os_file_look(named->fd, &named->file); /* was just opened */
    SST_CRASHPOINT(named_made);
    rc = fill(named->fd, options->size, 0, err);
    if (rc == 0) {
        rc = map(named, options->size);
    }
    if (rc == 0 && !options->untracked) {
        rc = ssti_os_file_lock(named->fd, SSTI_OS_LOCK_SHARED, false);
    }
    if (rc == 0 && !options->untracked) {
        rc = ssti_ledger_add(named->arena, name, named->file.number);
        SST_CRASHPOINT(named_noted);
    }
    return rc;
}

int
sst_named_create(struct sst_arena *arena, const char *name,
                 const struct sst_named_options *options, struct sst_named **out,
                 struct sst_error *err)
{
    struct sst_named *named;
    bool is_named = false;
    int rc = ssti_os_name_check(name);

    if (rc != 0 || options->size == 0) {
        return rc != 0 ? rc : SST_EINVAL;
    }
    rc = named_new(arena, &named);
    if (rc != 0) {
        return rc;
    }
    rc = make(named, name, options, &is_named, err);
    if (rc == 0 && !is_named) {
        rc = ssti_os_name_give(named->fd, name);
        if (rc != 0 && !options->untracked) {
            ssti_ledger_drop(arena, name, named->file.number, false);
        }
    }
    else if (rc != 0 && is_named) {
        (void)ssti_os_name_remove(name); /* it was ours */
    }
    SST_CRASHPOINT(named_given);
    if (rc != 0) {
        unmap(named);
        (void)ssti_free(named);
        return rc;
    }
    list(named);
    *out = named;
    return 0;
}

/* ---- Finding ---- */

/* Take our lock. SST_ENOENT: it has no name any more, because it was left behind. */
static int
enter(struct sst_named *named, bool untracked, uint64_t *size)
{
    bool has_name = true;

    if (ssti_os_file_lock(named->fd, SSTI_OS_LOCK_ALONE, false) == 0) {
        /* Nobody is in there; so perhaps nobody will ever be. */
        (void)ssti_os_file_lock(named->fd, SSTI_OS_LOCK_NONE, true); /* cannot fail */
        ssti_ledger_collect();
    }
    if (!untracked) {
        const int rc = ssti_os_file_lock(named->fd, SSTI_OS_LOCK_SHARED, true);

        if (rc != 0) {
            return rc;
        }
    }

    const int rc = ssti_os_file_size(named->fd, size, &has_name);

    return rc != 0 || has_name ? rc : SST_ENOENT;
}

int
sst_named_attach(struct sst_arena *arena, const char *name,
                 const struct sst_named_options *options, struct sst_named **out,
                 struct sst_error *err)
{
    const bool untracked = options != NULL && options->untracked;
    struct sst_named *named;
    uint64_t size = 0;
    int rc = ssti_os_name_check(name);

    if (rc == 0) {
        rc = named_new(arena, &named);
    }
    if (rc != 0) {
        return rc;
    }
    named->fd = ssti_os_name_open(name);
    rc = named->fd < 0 ? named->fd : ssti_os_file_look(named->fd, &named->file);
    if (rc == 0) {
        rc = enter(named, untracked, &size);
    }
    if (rc == 0 && size == 0) {
        rc = ssti_error_set(err, SST_EINVAL, "the shared memory is empty");
    }
    if (rc == 0) {
        rc = map(named, size);
    }
    if (rc != 0) {
        unmap(named);
        (void)ssti_free(named);
        return rc;
    }
    list(named);
    *out = named;
    return 0;
}

int
sst_named_resize(struct sst_named *named, uint64_t size, struct sst_error *err)
{
    struct earlier *const earlier = ssti_alloc(sizeof *earlier);
    uint64_t now = 0;
    bool has_name;
    int rc = earlier != NULL ? 0 : SST_ENOMEM;

    if (rc == 0) {
        rc = has_fd(named) ? ssti_os_file_size(named->fd, &now, &has_name) : SST_EBADF;
    }
    if (rc == 0 && size != 0 && size < now) {
        rc = ssti_error_set(err, SST_EINVAL,
                            "shared memory of %" PRIu64
                            " bytes can only grow: others may have it mapped",
                            now);
    }
    if (rc == 0 && size > now) {
        rc = fill(named->fd, size, now, err);
        now = size;
    }
    if (rc == 0 && now != named->size) {
        earlier->address = named->address;
        earlier->size = named->size;
        rc = map(named, now);
        if (rc == 0) {
            earlier->next = named->earlier;
            named->earlier = earlier;
            return 0;
        }
    }
    (void)ssti_free(earlier);
    return rc;
}

/* ---- Names ---- */

int
sst_named_unlink(struct sst_arena *arena, const char *name)
{
    struct ssti_os_file file;
    int rc = ssti_os_name_check(name);

    if (rc == 0) {
        rc = ssti_os_name_look(name, &file);
    }
    if (rc == 0) {
        rc = ssti_os_name_remove(name);
    }
    SST_CRASHPOINT(named_removed);
    if (rc == 0) {
        ssti_ledger_drop(arena, name, file.number, false);
    }
    return rc;
}

int
sst_named_keep(struct sst_arena *arena, const char *name)
{
    struct ssti_os_file file = {0};
    const int rc = ssti_os_name_check(name);

    if (rc != 0) {
        return rc;
    }
    if (ssti_os_name_look(name, &file) == 0 &&
        ssti_ledger_has(arena, name, file.number)) {
        return 0;
    }
    return ssti_ledger_add(arena, name, file.number);
}

void
sst_named_forget(struct sst_arena *arena, const char *name)
{
    struct ssti_os_file file = {0};

    if (ssti_os_name_check(name) == 0) {
        (void)ssti_os_name_look(name, &file); /* none: then it is 0, any */
        ssti_ledger_drop(arena, name, file.number, true);
    }
}

void
sst_named_leave(struct sst_arena *arena)
{
    ssti_ledger_leave(arena, false);
}
