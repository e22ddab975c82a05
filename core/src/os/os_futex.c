/* SPDX-License-Identifier: MIT */

/* Sleeping on shared words. Deadlines are absolute on CLOCK_MONOTONIC, which is what
 * FUTEX_WAIT_BITSET and futex_waitv take, so a sleep that was interrupted needs no
 * arithmetic. */

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "os/os.h"
#include "os/self.h"
#include "sidestep/sidestep.h"

enum {
    SLICE_NS = 20 * 1000 * 1000,
    WAITV_MAX = 8,
};

#ifndef SYS_futex_waitv
# define SYS_futex_waitv 449
#endif

/* struct futex_waitv of <linux/futex.h>, which older headers lack. */
struct waitv {
    uint64_t value;
    uint64_t address;
    uint32_t flags;
    uint32_t reserved;
};

enum {
    WAITV_32 = 2, /* FUTEX_32, and shared */
};

int64_t
ssti_os_now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail for this clock */
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t
ssti_os_slice(int64_t deadline_ns)
{
    if (ssti_os_kernel()->sees_deaths) {
        return deadline_ns;
    }

    const int64_t slice = ssti_os_now_ns() + SLICE_NS;

    return deadline_ns < slice ? deadline_ns : slice;
}

static const struct timespec *
to_timespec(int64_t deadline_ns, struct timespec *out)
{
    if (deadline_ns == SST_FOREVER) {
        return NULL;
    }
    if (deadline_ns < 0) {
        deadline_ns = 0;
    }
    out->tv_sec = deadline_ns / 1000000000;
    out->tv_nsec = deadline_ns % 1000000000;
    return out;
}

static int
status_of_sleep(void)
{
    switch (errno) {
    case EAGAIN:
        return SST_EAGAIN;
    case ETIMEDOUT:
        return SST_ETIMEDOUT;
    case EINTR:
        return SST_EINTR;
    default:
        return SST_EIO;
    }
}

int
ssti_os_futex_wait(_Atomic uint32_t *word, uint32_t value, int64_t deadline_ns)
{
    struct timespec until;

    if (syscall(SYS_futex, word, FUTEX_WAIT_BITSET, value,
                to_timespec(deadline_ns, &until), NULL, FUTEX_BITSET_MATCH_ANY) == 0) {
        return 0;
    }
    return status_of_sleep();
}

/* Without futex_waitv: sleep on the last word, where ordinary wakes come, and look at
 * the others now and then. */
static int
wait_in_slices(const struct ssti_os_wait *words, uint32_t count, int64_t deadline_ns)
{
    const struct ssti_os_wait *const last = &words[count - 1];

    for (;;) {
        for (uint32_t i = 0; i + 1 < count; i++) {
            if (ssti_load_acq(words[i].word) != words[i].value) {
                return SST_EAGAIN;
            }
        }

        const int64_t slice = ssti_os_now_ns() + SLICE_NS;
        const int64_t until = deadline_ns < slice ? deadline_ns : slice;
        const int rc = ssti_os_futex_wait(last->word, last->value, until);

        if (rc != SST_ETIMEDOUT || until == deadline_ns) {
            return rc;
        }
    }
}

int
ssti_os_futex_waitv(const struct ssti_os_wait *words, uint32_t count,
                    int64_t deadline_ns)
{
    struct waitv vector[WAITV_MAX];
    struct timespec until;

    sst_assert(count >= 1 && count <= WAITV_MAX);
    if (!ssti_os_kernel()->has_waitv) {
        return wait_in_slices(words, count, deadline_ns);
    }
    for (uint32_t i = 0; i < count; i++) {
        vector[i] = (struct waitv){
            .value = words[i].value,
            .address = (uint64_t)(uintptr_t)words[i].word,
            .flags = WAITV_32,
        };
    }
    if (syscall(SYS_futex_waitv, vector, count, 0, to_timespec(deadline_ns, &until),
                CLOCK_MONOTONIC) >= 0) {
        return 0;
    }
    return status_of_sleep();
}

int
ssti_os_futex_wake(_Atomic uint32_t *word, int count)
{
    const long woken = syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);

    if (woken > 0) {
        ssti_self()->just_woke = 1;
    }
    return woken > 0 ? (int)woken : 0;
}
