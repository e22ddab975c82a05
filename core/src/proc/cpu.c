/* SPDX-License-Identifier: MIT */

/* How many CPUs this process may use at a time: the least of what the affinity mask
 * allows and what the control groups grant, from the process's own up to the root it
 * can see. Version 2 has `cpu.max` ("quota period", "max period"); version 1 has
 * cpu.cfs_quota_us (-1: none) and cpu.cfs_period_us. A quota of 1.5 CPUs counts as 2:
 * with one worker half of it would lie idle.
 *
 * /proc/self/cgroup has the path of our group in each hierarchy, /proc/self/mountinfo
 * where the hierarchies are mounted and which part of them. In a container the two may
 * not fit; then what is mounted is taken for our group. */

#include "proc/cpu.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "os/os.h"
#include "sidestep/sidestep.h"

enum {
    TEXT_MAX = 1 << 16,
    PATH_SIZE = 4096,
    VALUE_SIZE = 64,
};

/* One hierarchy: where it is mounted, which of its groups is there, which one is
 * ours. */
struct hierarchy {
    bool unified;
    char mount[PATH_SIZE];
    char root[PATH_SIZE];
    char group[PATH_SIZE];
};

static bool
has_word(const char *list, const char *word)
{
    const size_t size = strlen(word);

    for (const char *at = list; (at = strstr(at, word)) != NULL; at += size) {
        const bool starts = at == list || at[-1] == ',';

        if (starts && (at[size] == ',' || at[size] == '\0')) {
            return true;
        }
    }
    return false;
}

/* Lines of /proc/self/cgroup: "id:controllers:path". */
static bool
find_group(char *text, struct hierarchy *out)
{
    char *save = NULL;

    for (char *line = strtok_r(text, "\n", &save); line != NULL;
         line = strtok_r(NULL, "\n", &save)) {
        char *const controllers = strchr(line, ':');
        char *const path = controllers != NULL ? strchr(controllers + 1, ':') : NULL;

        if (path == NULL) {
            continue;
        }
        *path = '\0';

        const bool matches =
            out->unified ? controllers[1] == '\0' : has_word(controllers + 1, "cpu");

        if (matches) {
            (void)snprintf(out->group, sizeof(out->group), "%s", path + 1);
            return true;
        }
    }
    return false;
}

/* Lines of /proc/self/mountinfo: "id parent dev root mount options [tags] - type source
 * superoptions". */
static bool
find_mount(char *text, struct hierarchy *out)
{
    char *save = NULL;

    for (char *line = strtok_r(text, "\n", &save); line != NULL;
         line = strtok_r(NULL, "\n", &save)) {
        char type[VALUE_SIZE];
        char options[VALUE_SIZE * 4];
        const char *const rest = strstr(line, " - ");

        if (rest == NULL || sscanf(rest, " - %63s %*s %255s", type, options) != 2 ||
            sscanf(line, "%*s %*s %*s %4095s %4095s", out->root, out->mount) != 2) {
            continue;
        }
        if (out->unified ? strcmp(type, "cgroup2") == 0
                         : strcmp(type, "cgroup") == 0 && has_word(options, "cpu")) {
            return true;
        }
    }
    return false;
}

/* The first two numbers of a file, -1 for "max" or a file that is not there. */
static void
read_numbers(const char *directory, const char *name, int64_t out[2])
{
    char path[PATH_SIZE + VALUE_SIZE];
    char text[VALUE_SIZE];
    char *end = text;

    out[0] = out[1] = -1;
    (void)snprintf(path, sizeof(path), "%s/%s", directory, name);
    if (ssti_os_read_text(path, text, sizeof(text)) <= 0 ||
        strncmp(text, "max", 3) == 0) {
        return;
    }
    out[0] = strtoll(text, &end, 10);
    out[1] = strtoll(end, NULL, 10);
}

/* CPUs of one group, 0 when it has no quota. */
static int64_t
quota_of(const char *directory, bool unified)
{
    int64_t quota[2];
    int64_t period[2];

    if (unified) {
        read_numbers(directory, "cpu.max", quota);
        period[0] = quota[1];
    }
    else {
        read_numbers(directory, "cpu.cfs_quota_us", quota);
        read_numbers(directory, "cpu.cfs_period_us", period);
    }
    if (quota[0] <= 0 || period[0] <= 0) {
        return 0;
    }
    return (quota[0] + period[0] - 1) / period[0];
}

/* The least quota from the group up to what is mounted; 0 when there is none. */
static int64_t
least_quota(const struct hierarchy *hierarchy)
{
    char path[PATH_SIZE * 2];
    const size_t mounted = strlen(hierarchy->mount);
    const size_t root = strcmp(hierarchy->root, "/") == 0 ? 0 : strlen(hierarchy->root);
    const bool inside = strncmp(hierarchy->group, hierarchy->root, root) == 0;
    int64_t least = 0;

    (void)snprintf(path, sizeof(path), "%s%s", hierarchy->mount,
                   inside ? hierarchy->group + root : "");
    for (;;) {
        const int64_t quota = quota_of(path, hierarchy->unified);
        char *const slash = strrchr(path, '/');

        if (quota > 0 && (least == 0 || quota < least)) {
            least = quota;
        }
        if (slash == NULL || (size_t)(slash - path) < mounted) {
            return least;
        }
        *slash = '\0';
    }
}

static int64_t
quota_in(const char *cgroup_path, const char *mountinfo_path, bool unified)
{
    struct hierarchy *hierarchy = ssti_alloc(sizeof(*hierarchy));
    char *text = ssti_alloc(TEXT_MAX);
    int64_t quota = 0;

    if (hierarchy != NULL && text != NULL) {
        hierarchy->unified = unified;
        if (ssti_os_read_text(cgroup_path, text, TEXT_MAX) > 0 &&
            find_group(text, hierarchy) &&
            ssti_os_read_text(mountinfo_path, text, TEXT_MAX) > 0 &&
            find_mount(text, hierarchy)) {
            quota = least_quota(hierarchy);
        }
    }
    (void)ssti_free(text);
    (void)ssti_free(hierarchy);
    return quota;
}

int64_t
ssti_cpu_quota(const char *cgroup_path, const char *mountinfo_path)
{
    const int64_t newer = quota_in(cgroup_path, mountinfo_path, true);
    const int64_t older = quota_in(cgroup_path, mountinfo_path, false);

    if (newer == 0 || older == 0) {
        return newer + older;
    }
    return newer < older ? newer : older;
}

int
sst_cpu_count(void)
{
    const int affine = ssti_os_cpu_affinity();
    const int allowed = affine > 0 ? affine : ssti_os_cpu_online();
    const int64_t quota = ssti_cpu_quota("/proc/self/cgroup", "/proc/self/mountinfo");

    return quota > 0 && quota < allowed ? (int)quota : allowed;
}
