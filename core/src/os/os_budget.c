/* SPDX-License-Identifier: MIT */

/* How much memory may be used before the kernel kills for it. Nothing in the kernel
 * answers a page fault beyond a control group's limit with an error: it kills. So we
 * read what it would compare, before growing. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "os/os.h"

enum {
    PATH_SIZE = 4096,
    TEXT_SIZE = 8192,
};

/* The number after `name` at the start of a line; 0 when there is none. */
static uint64_t
number_after(const char *text, const char *name)
{
    const size_t size = strlen(name);

    for (const char *line = text; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, size) == 0) {
            return strtoull(line + size, NULL, 10);
        }
        if (*line == '\0') {
            break;
        }
    }
    return 0;
}

/* The two generations of control groups keep the same facts under other names. */
struct group_files {
    const char *root;
    const char *limit;
    const char *usage;
    const char *inactive; /* in memory.stat */
    const char *active;
};

static const struct group_files generation_2 = {
    "/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file ", "active_file ",
};
static const struct group_files generation_1 = {
    "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
    "total_inactive_file ",  "total_active_file ",
};

static bool
read_group(const struct group_files *files, const char *group, const char *name,
           char *text, size_t size)
{
    char path[PATH_SIZE];
    const int length = snprintf(path, sizeof path, "%s%s/%s", files->root, group, name);

    return length > 0 && (size_t)length < sizeof path &&
           ssti_os_read_text(path, text, size) >= 0;
}

/* What one group leaves. Pages of files count as used there, but give way. */
static uint64_t
left_in_group(const struct group_files *files, const char *group)
{
    char text[TEXT_SIZE];
    uint64_t limit;
    uint64_t used;

    if (!read_group(files, group, files->limit, text, sizeof text) ||
        strncmp(text, "max", 3) == 0) {
        return UINT64_MAX;
    }
    limit = strtoull(text, NULL, 10);
    if (!read_group(files, group, files->usage, text, sizeof text)) {
        return UINT64_MAX;
    }
    used = strtoull(text, NULL, 10);
    if (read_group(files, group, "memory.stat", text, sizeof text)) {
        const uint64_t files_only =
            number_after(text, files->inactive) + number_after(text, files->active) / 2;

        used = files_only < used ? used - files_only : 0;
    }
    return limit > used ? limit - used : 0;
}

/* The least that the groups from `group` up to the root leave. Cuts `group`. */
static uint64_t
left_in_groups(const struct group_files *files, char *group)
{
    uint64_t least = UINT64_MAX;

    for (;;) {
        const uint64_t left = left_in_group(files, group);
        char *const slash = strrchr(group, '/');

        least = left < least ? left : least;
        if (slash == NULL) {
            return least;
        }
        *slash = '\0';
    }
}

static uint64_t
left_by_groups(void)
{
    char text[TEXT_SIZE];
    uint64_t least = UINT64_MAX;
    char *rest = NULL;

    if (ssti_os_read_text("/proc/self/cgroup", text, sizeof text) < 0) {
        return UINT64_MAX;
    }
    for (char *line = strtok_r(text, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        char *const unified = strstr(line, "::");
        char *const memory = strstr(line, ":memory:");
        uint64_t left = UINT64_MAX;

        if (memory != NULL) {
            left = left_in_groups(&generation_1, memory + strlen(":memory:"));
        }
        else if (unified != NULL && strncmp(line, "0::", 3) == 0) {
            left = left_in_groups(&generation_2, unified + 2);
        }
        least = left < least ? left : least;
    }
    return least;
}

static uint64_t
left_in_machine(void)
{
    char text[TEXT_SIZE];
    uint64_t kib;

    if (ssti_os_read_text("/proc/meminfo", text, sizeof text) < 0) {
        return UINT64_MAX;
    }
    kib = number_after(text, "MemAvailable:");
    return kib != 0 ? kib * 1024 : UINT64_MAX;
}

static uint64_t
left_in_address_space(void)
{
    const uint64_t limit = ssti_os_address_space_max();
    char text[256];
    uint64_t used;

    if (limit == UINT64_MAX ||
        ssti_os_read_text("/proc/self/statm", text, sizeof text) < 0) {
        return limit;
    }
    used = strtoull(text, NULL, 10) * ssti_os_page_size();
    return limit > used ? limit - used : 0;
}

uint64_t
ssti_os_memory_available(const char **limiter)
{
    const uint64_t machine = left_in_machine();
    const uint64_t groups = left_by_groups();
    const uint64_t addresses = left_in_address_space();

    if (groups <= machine && groups <= addresses) {
        *limiter = "the memory limit of the control group";
        return groups;
    }
    if (addresses <= machine) {
        *limiter = "the limit on address space (ulimit -v)";
        return addresses;
    }
    *limiter = "the memory available on this machine";
    return machine;
}
