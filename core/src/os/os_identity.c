/* SPDX-License-Identifier: MIT */

/* Who a process is and whether it still is. */

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/status.h"
#include "os/os.h"

enum {
    PF_EXITING = 0x4, /* in field 9 of /proc/PID/stat */
    FIELDS_FLAGS = 9, /* fields counted from 1, as proc(5) does */
    FIELDS_THREADS = 20,
    FIELDS_START = 22,
};

static bool
is_known(int pid)
{
    return kill(pid, 0) == 0 || errno != ESRCH;
}

static int
read_stat(int pid, char *text, size_t size)
{
    char path[32];

    (void)snprintf(path, sizeof path, "/proc/%d/stat", pid); /* fits */
    if (ssti_os_read_text(path, text, size) > 0) {
        return 0;
    }
    return is_known(pid) ? SST_ENOSYS : SST_ESRCH;
}

int
ssti_os_process_look(int pid, struct ssti_os_process *out)
{
    char text[1024];
    int rc = read_stat(pid, text, sizeof text);
    char *field;
    char *rest = NULL;

    if (rc != 0) {
        return rc;
    }
    /* The name is in parentheses and may contain anything, parentheses too. */
    field = strrchr(text, ')');
    if (field == NULL) {
        return SST_ENOSYS;
    }
    memset(out, 0, sizeof *out);
    field = strtok_r(field + 1, " ", &rest);
    for (int number = 3; field != NULL; number++, field = strtok_r(NULL, " ", &rest)) {
        if (number == 3) {
            out->is_exiting = *field == 'Z' || *field == 'X' || *field == 'x';
        }
        else if (number == FIELDS_FLAGS) {
            out->is_exiting |= (strtoul(field, NULL, 10) & PF_EXITING) != 0;
        }
        else if (number == FIELDS_THREADS) {
            out->threads = (uint32_t)strtoul(field, NULL, 10);
        }
        else if (number == FIELDS_START) {
            out->start_ticks = strtoull(field, NULL, 10);
            return 0;
        }
    }
    return SST_ENOSYS;
}

int
ssti_os_process_is_gone(int pid, int64_t deadline_ns)
{
    const int fd = ssti_os_pidfd_open(pid);
    int rc;

    if (fd < 0) {
        return fd == SST_ESRCH || !is_known(pid);
    }

    do {
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
        const int64_t left_ns = deadline_ns - ssti_os_now_ns();
        const int64_t left_ms = left_ns > 0 ? (left_ns + 999999) / 1000000 : 0;

        rc = poll(&poll_fd, 1, left_ms > INT32_MAX ? INT32_MAX : (int)left_ms);
    } while (rc < 0 && errno == EINTR);
    ssti_os_close(fd);
    return rc > 0;
}

bool
ssti_os_thread_is_gone(uint32_t tid)
{
    struct ssti_os_process now;
    const int rc = ssti_os_process_look((int)tid, &now);

    return rc == 0 ? now.is_exiting : rc == SST_ESRCH;
}

uint64_t
ssti_os_boot_ticks(void)
{
    const uint64_t ticks = (uint64_t)sysconf(_SC_CLK_TCK);
    struct timespec now;

    (void)clock_gettime(CLOCK_BOOTTIME, &now); /* cannot fail for this clock */
    return (uint64_t)now.tv_sec * ticks + (uint64_t)now.tv_nsec * ticks / 1000000000;
}

uint64_t
ssti_os_pid_space(void)
{
    struct stat status;

    return stat("/proc/self/ns/pid", &status) == 0 ? status.st_ino : 0;
}

int
ssti_os_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void))
{
    return pthread_atfork(prepare, parent, child) == 0 ? 0 : SST_ENOMEM;
}
