/* SPDX-License-Identifier: MIT */
#ifndef SST_TESTS_NAMES_H
#define SST_TESTS_NAMES_H

/* For tests of memory with names: a folder of names that is the test's own. */

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "os/os.h"
#include "runner.h"
#include "sidestep/sidestep.h"

/* Each test has a folder of names for itself. */
static char folder[64];

static inline void
own_folder(void)
{
    (void)snprintf(folder, sizeof folder, "/dev/shm/names-of-test-%d", (int)getpid());
    check_int(mkdir(folder, 0700), ==, 0);
    ssti_os_names_pretend(folder);
}

static inline int
entries(void)
{
    char command[128];
    int count = 0;
    FILE *out;

    (void)snprintf(command, sizeof command, "ls -A %s | wc -l", folder);
    out = popen(command, "r"); /* a handful of entries */
    check_ptr(out, !=, NULL);
    check_int(fscanf(out, "%d", &count), ==, 1);
    pclose(out);
    return count;
}

/* Nothing may be left. */
static inline void
drop_folder(void)
{
    check_int(entries(), ==, 0);
    check_int(rmdir(folder), ==, 0);
    ssti_os_names_pretend(NULL);
}

static inline bool
name_exists(const char *name)
{
    struct ssti_os_file file;

    return ssti_os_name_look(name, &file) == 0;
}

static inline struct sst_named *
create(struct sst_arena *arena, const char *name, uint64_t size)
{
    const struct sst_named_options options = {.size_of = sizeof options, .size = size};
    struct sst_named *named = NULL;
    struct sst_error err = {0};

    if (sst_named_create(arena, name, &options, &named, &err) != 0) {
        test_fail(__FILE__, __LINE__, "create: %s", err.text);
    }
    return named;
}

static inline struct sst_named *
attach(struct sst_arena *arena, const char *name)
{
    struct sst_named *named = NULL;

    check_ok(sst_named_attach(arena, name, NULL, &named, NULL));
    return named;
}

#endif
