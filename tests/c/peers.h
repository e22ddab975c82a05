/* SPDX-License-Identifier: MIT */
#ifndef SST_TESTS_PEERS_H
#define SST_TESTS_PEERS_H

/* For tests with several processes: an arena, a page of words that all of them see, and
 * the start and end of peers. */

#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <unistd.h>

#include "runner.h"
#include "sidestep/sidestep.h"

enum {
    PEER_WORDS = 64,
    DEATH_SHOWS_NS = 50000000, /* the limit for a death to show */
};

/* Words shared by a test and its children; each test gives them their meaning. */
static _Atomic int64_t *words;
static void *words_page;

static inline struct sst_arena *
arena_open(void)
{
    struct sst_arena *arena = NULL;
    struct sst_error err = {0};

    words_page = mmap(NULL, PEER_WORDS * sizeof(*words), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    check_ptr(words_page, !=, MAP_FAILED);
    words = words_page;
    if (sst_arena_create(NULL, &arena, &err) < 0) {
        test_fail(__FILE__, __LINE__, "sst_arena_create: %s", err.text);
    }
    return arena;
}

static inline void
arena_close(struct sst_arena *arena)
{
    check_ptr(sst_arena_detach(arena), ==, NULL);
    (void)munmap(words_page, PEER_WORDS * sizeof(*words));
}

static inline int64_t
word(int index)
{
    return atomic_load(&words[index]);
}

static inline void
word_set(int index, int64_t value)
{
    atomic_store(&words[index], value);
}

static inline void
word_add(int index, int64_t value)
{
    (void)atomic_fetch_add(&words[index], value);
}

/* A peer that has done what it was there for: it waits to be killed. */
static inline _Noreturn void
linger(void)
{
    for (;;) {
        (void)pause();
    }
}

/* A deadline that tests reach only when something is broken. */
static inline int64_t
soon(void)
{
    return sst_deadline_after(INT64_C(20000000000));
}

static inline int64_t
in_ms(int64_t milliseconds)
{
    return sst_deadline_after(milliseconds * 1000000);
}

/* Bytes that tell where they belong, for messages of any size. */
static inline void
bytes_fill(void *data, uint64_t size)
{
    uint8_t *const bytes = data;

    for (uint64_t i = 0; i < size; i++) {
        bytes[i] = (uint8_t)(size * 31 + i * 7 + (i >> 8));
    }
}

static inline void
bytes_check(const void *data, uint64_t size)
{
    const uint8_t *const bytes = data;

    for (uint64_t i = 0; i < size; i++) {
        if (bytes[i] != (uint8_t)(size * 31 + i * 7 + (i >> 8))) {
            test_fail(__FILE__, __LINE__, "byte %llu of %llu", (unsigned long long)i,
                      (unsigned long long)size);
        }
    }
}

/* Leave that many descriptors. */
static inline void
leave_descriptors(int count)
{
    struct rlimit limit;
    const int next = dup(0);

    check_int(getrlimit(RLIMIT_NOFILE, &limit), ==, 0);
    (void)close(next);
    limit.rlim_cur = (rlim_t)(next + count);
    check_int(setrlimit(RLIMIT_NOFILE, &limit), ==, 0);
}

#endif
