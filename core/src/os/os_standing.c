/* SPDX-License-Identifier: MIT */

/* What a process hands down to its children without their doing: who it is, what it may
 * do, how much, and when and where it runs. A zygote has the standing its owner had
 * when it was started; one that differs now would make children that the owner would
 * not have made.
 *
 * Most of it is in one text of the kernel's, /proc/self/status, also the umask, which
 * cannot be asked for otherwise without changing it under other threads. Where /proc is
 * not mounted the user and group ids are still compared, and the limits. */

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/status.h"
#include "os/os.h"
#include "sidestep/sidestep.h"

enum {
    STATUS_SIZE = 8192, /* with more groups than fit, those that do */
    KIB = 1024,
};

static const uint64_t fnv_start = UINT64_C(14695981039346656037);

static uint64_t
mix(uint64_t hash, const void *data, size_t size)
{
    const unsigned char *const bytes = data;

    for (size_t i = 0; i < size; i++) {
        hash = (hash ^ bytes[i]) * UINT64_C(1099511628211);
    }
    return hash;
}

static bool
is_handed_down(const char *line)
{
    static const char *const names[] = {
        "Umask:",  "Groups:", "NSpgid:",  "NSsid:",        "Cap",
        "NoNewPr", "Seccomp", "CoreDump", "Cpus_allowed:", "Mems_allowed:",
    };

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strncmp(line, names[i], strlen(names[i])) == 0) {
            return true;
        }
    }
    return false;
}

static uint64_t
hash_status(void)
{
    char text[STATUS_SIZE];
    uint64_t hash = fnv_start;

    if (ssti_os_read_text("/proc/self/status", text, sizeof(text)) <= 0) {
        return 0;
    }
    for (const char *line = text, *end; *line != '\0'; line = end + 1) {
        end = strchr(line, '\n');
        if (end == NULL) {
            end = line + strlen(line) - 1;
        }
        if (is_handed_down(line)) {
            hash = mix(hash, line, (size_t)(end - line));
        }
    }
    return hash;
}

static uint64_t
hash_limits(void)
{
    uint64_t hash = fnv_start;

    for (int i = 0; i < SSTI_OS_LIMITS; i++) {
        struct rlimit limit;

        if (getrlimit((__typeof__(RLIMIT_CORE))i, &limit) == 0) {
            hash = mix(hash, &limit, sizeof(limit));
        }
    }
    return hash;
}

static uint64_t
hash_spaces(void)
{
    /* The two that a process forks into, and may have set for its children alone, are
     * named for these. */
    static const char *const paths[] = {
        "/proc/self/ns/user",
        "/proc/self/ns/mnt",
        "/proc/self/ns/net",
        "/proc/self/ns/ipc",
        "/proc/self/ns/uts",
        "/proc/self/ns/pid_for_children",
        "/proc/self/ns/time_for_children",
        "/proc/self/ns/cgroup",
    };
    uint64_t hash = fnv_start;

    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        char name[64];
        const ssize_t size = readlink(paths[i], name, sizeof(name));

        hash = mix(hash, name, size > 0 ? (size_t)size : 0);
    }
    return hash;
}

/* Of the main thread, as what /proc/self says. */
static uint64_t
hash_schedule(void)
{
    const int nice = getpriority(PRIO_PROCESS, (id_t)getpid());
    const int policy = sched_getscheduler(getpid());
    struct sched_param param = {0};
    uint64_t hash = mix(fnv_start, &nice, sizeof(nice));

    (void)sched_getparam(getpid(), &param); /* cannot fail for ourselves */
    hash = mix(hash, &policy, sizeof(policy));
    return mix(hash, &param.sched_priority, sizeof(param.sched_priority));
}

static uint64_t
hash_root(void)
{
    struct stat st;
    uint64_t hash = fnv_start;

    if (stat("/", &st) == 0) {
        hash = mix(hash, &st.st_dev, sizeof(st.st_dev));
        hash = mix(hash, &st.st_ino, sizeof(st.st_ino));
    }
    return hash;
}

int
ssti_os_standing(struct ssti_os_standing *out)
{
    memset(out, 0, sizeof(*out));
    if (getresuid(&out->uid[0], &out->uid[1], &out->uid[2]) != 0 ||
        getresgid(&out->gid[0], &out->gid[1], &out->gid[2]) != 0) {
        return -errno;
    }
    out->status = hash_status();
    out->limits = hash_limits();
    out->spaces = hash_spaces();
    out->schedule = hash_schedule();
    out->root = hash_root();
    out->secure = (uint32_t)prctl(PR_GET_SECUREBITS, 0, 0, 0, 0);
    return 0;
}

uint64_t
ssti_os_private_memory(int pid)
{
    char path[64];
    char text[4096];
    unsigned long long kib = 0;
    uint64_t sum = 0;

    (void)snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", pid); /* fits */
    if (ssti_os_read_text(path, text, sizeof(text)) <= 0) {
        return 0;
    }
    for (const char *line = text; line != NULL; line = strchr(line + 1, '\n')) {
        if (sscanf(line, "\nPrivate_Dirty: %llu", &kib) == 1 ||
            sscanf(line, "\nPrivate_Clean: %llu", &kib) == 1) {
            sum += kib * KIB;
        }
    }
    return sum;
}
