/* SPDX-License-Identifier: MIT */

/* Copying large pieces of memory, without the GIL.
 *
 * One processor copies 7 to 10 GB a second, and the memory could do twice that. So a
 * copy of 8 MiB and more has a helper: a thread that lives as long as the copy. Both
 * take pieces of 1 MiB until none is left. A helper that gets no processor takes none,
 * and costs what it takes to make a thread; who comes to the end waits for one piece at
 * most. Where no thread can be made, or only one processor may be used, there is none.
 *
 * The helper calls nothing but memcpy: no Python, no allocation, no lock that a fork in
 * another thread could leave behind; and it has all signals blocked, so that handlers
 * run where they would have run. */

#include "copy.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>

#include "compat.h"

enum {
    COPY_PIECE = 1024 * 1024,
    COPY_CHECKED = 32 * COPY_PIECE, /* between two looks at signals */
    COPY_STACK = 64 * 1024,         /* of the helper */
};

struct copy {
    char *to;
    const char *from;
    uint64_t size;
    uint64_t next; /* atomic: the first byte of the piece that nobody has taken */
};

static void *
copy_pieces(void *context)
{
    struct copy *const copy = context;

    for (;;) {
        /* pieces are disjoint, and pthread_join orders what was written */
        const uint64_t at =
            __atomic_fetch_add(&copy->next, (uint64_t)COPY_PIECE, __ATOMIC_RELAXED);
        if (at >= copy->size) {
            return NULL;
        }

        const uint64_t left = copy->size - at;
        memcpy(copy->to + at, copy->from + at,
               (size_t)(left < COPY_PIECE ? left : COPY_PIECE));
    }
}

static bool
helper_start(struct copy *copy, pthread_t *helper)
{
    cpu_set_t cpus;
    pthread_attr_t attributes;
    sigset_t all;
    sigset_t before;

    if (sched_getaffinity(0, sizeof(cpus), &cpus) != 0 || CPU_COUNT(&cpus) < 2 ||
        pthread_attr_init(&attributes) != 0) {
        return false;
    }
    (void)pthread_attr_setstacksize(&attributes, COPY_STACK); /* else the usual one */
    sigfillset(&all);
    (void)pthread_sigmask(SIG_BLOCK, &all, &before);
    const bool started = pthread_create(helper, &attributes, copy_pieces, copy) == 0;
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)pthread_attr_destroy(&attributes);
    return started;
}

static void
copy_detached(char *to, const char *from, uint64_t size)
{
    struct copy copy = {.to = to, .from = from, .size = size};
    pthread_t helper;
    const bool helped = size >= SSTPY_HELPED_SIZE && helper_start(&copy, &helper);

    (void)copy_pieces(&copy);
    if (helped) {
        (void)pthread_join(helper, NULL);
    }
}

void
sstpy_copy(void *to, const void *from, uint64_t size)
{
    if (size < SSTPY_DETACH_SIZE) {
        memcpy(to, from, (size_t)size);
        return;
    }
    Py_BEGIN_ALLOW_THREADS
    copy_detached(to, from, size);
    Py_END_ALLOW_THREADS
}

int
sstpy_copy_checked(void *to, const void *from, uint64_t size)
{
    uint64_t done = 0;

    while (size - done > COPY_CHECKED) {
        sstpy_copy((char *)to + done, (const char *)from + done, COPY_CHECKED);
        done += COPY_CHECKED;
        if (PyErr_CheckSignals() < 0) {
            return -1;
        }
    }
    sstpy_copy((char *)to + done, (const char *)from + done, size - done);
    return size >= SSTPY_DETACH_SIZE ? PyErr_CheckSignals() : 0;
}
