/* SPDX-License-Identifier: MIT */

/* Private folders that go with the tree of processes that made them, as names do
 * (named.c), and by the same ledger: whoever clears up after a tree that is gone
 * removes them with all in them.
 *
 * A path may be in use by anybody of the tree, who has learned it from its parent; so
 * nothing is removed as long as one of them lives, but by sst_folder_remove().
 *
 * Death table (process dies after ...)
 *   noting the path         no folder has it: passed over
 *   making the folder       its number is not noted: it is removed, as it is empty
 *   noting its number       all is noted
 *   removing some in it     the next one goes on
 *   removing the folder     no folder has the path: passed over
 *
 * docs/internals/names.rst. */

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/crashpoint.h"
#include "base/status.h"
#include "os/os.h"
#include "shm/ledger.h"
#include "shm/view.h"

enum {
    RANDOM_SIZE = 10,
    TRIES = 100, /* when others have made a folder of that name */
};

/* Five bits each: nobody can guess a path, and two never have the same. */
static int
random_text(char *text)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz234567";
    unsigned char bytes[RANDOM_SIZE];
    const int rc = ssti_os_random(bytes, sizeof bytes);

    for (int i = 0; i < RANDOM_SIZE; i++) {
        text[i] = letters[bytes[i] % (sizeof letters - 1)];
    }
    text[RANDOM_SIZE] = '\0';
    return rc;
}

static int
make(struct sst_arena *arena, const char *path)
{
    struct ssti_os_file file;
    /* Where notes cannot be, the folder is made all the same: who made it removes it.
     */
    const bool is_noted = ssti_ledger_add_folder(arena, path) == 0;
    int rc;

    SST_CRASHPOINT(folder_noted);
    rc = ssti_os_folder_make(path, &file);
    SST_CRASHPOINT(folder_made);
    if (is_noted && rc == 0) {
        ssti_ledger_set_folder(arena, path, &file);
    }
    else if (is_noted) {
        ssti_ledger_drop_folder(arena, path);
    }
    return rc;
}

int
sst_folder_make(struct sst_arena *arena, const char *parent, const char *prefix,
                char *path, size_t size)
{
    char text[RANDOM_SIZE + 1];
    int rc = SST_EEXIST;

    if (parent[0] != '/' || strchr(prefix, '/') != NULL) {
        return SST_EINVAL;
    }
    for (int i = 0; i < TRIES && rc == SST_EEXIST; i++) {
        rc = random_text(text);
        if (rc == 0 &&
            snprintf(path, size, "%s/%s%s", strcmp(parent, "/") != 0 ? parent : "",
                     prefix, text) >= (int)size) {
            rc = SST_ENAMETOOLONG;
        }
        if (rc == 0) {
            rc = make(arena, path);
        }
    }
    return rc;
}

int
sst_folder_remove(struct sst_arena *arena, const char *path)
{
    struct ssti_os_file file;
    int rc = ssti_os_folder_look(path, &file);

    if (rc == 0) {
        rc = ssti_os_folder_remove(path, &file);
    }
    SST_CRASHPOINT(folder_removed);
    if (rc == 0 || rc == SST_ENOENT) {
        ssti_ledger_drop_folder(arena, path);
    }
    return rc;
}

bool
ssti_folder_clear(const char *path, uint64_t number, uint32_t device)
{
    struct ssti_os_file file;

    if (path[0] != '/' || ssti_os_folder_look(path, &file) != 0) {
        return true; /* nothing of ours has the path */
    }
    if (number == 0) {
        (void)ssti_os_folder_remove_empty(path); /* not empty: none of that tree's */
        return true;
    }
    return number != file.number || device != (uint32_t)file.device ||
           ssti_os_folder_remove(path, &file) == 0;
}
