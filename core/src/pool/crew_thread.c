/* SPDX-License-Identifier: MIT */

/* When a crew is looked after: by its thread while tasks are outstanding, or by whoever
 * calls sst_crew_step or sst_crew_join.
 *
 * The stepper sleeps in one poll: the ends of workers, the pool's bell, and a kick. The
 * next deadline bounds the sleep: of a task in hand it is known, and one that is taken
 * later cannot pass its deadline sooner than the shortest there is, so nothing is
 * looked at twice. While another thread leads (lead.c), the stepper does not arm the
 * bell, and the leader kicks it once when it stops.
 *
 * The thread ends when nothing is outstanding for a while; whether it does is decided
 * under the lock, so that a wake is never lost.
 *
 * Nothing here is shared between processes: the death table is empty. */

#include <limits.h>
#include <signal.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "os/os.h"
#include "pool/crew.h"

enum {
    LINGER_NS = 50000000, /* the thread stays that long without work */
    RETRY_NS = 20000000,  /* a start that failed is tried again after that */
    NAP_NS = 1000000,
};

#define KEY_BELL UINT64_MAX

/* ---- The role ---- */

static bool
try_enter(struct sst_crew *crew)
{
    uint32_t nobody = 0;

    return ssti_cas(&crew->role, &nobody, 1);
}

void
ssti_crew_enter(struct sst_crew *crew)
{
    ssti_fetch_add(&crew->wanting, 1);
    while (!try_enter(crew)) {
        ssti_os_kick(crew->kick);
        (void)ssti_os_futex_wait(&crew->role, 1, ssti_os_now_ns() + NAP_NS);
    }
    ssti_fetch_sub(&crew->wanting, 1);
}

void
ssti_crew_leave(struct sst_crew *crew)
{
    ssti_store_rel(&crew->role, 0);
    (void)ssti_os_futex_wake(&crew->role, 1);
}

/* ---- A step ---- */

/* Hand results out, if nobody else does. True when the stepper is to be told of more:
 * it has armed the bell. */
static bool
see_to_results(struct sst_crew *crew)
{
    struct sst_pool *const pool = crew->pool;

    if (crew->options.no_results != 0 || crew->options.on_results == NULL) {
        return false;
    }
    ssti_xchg(&crew->passive, 1); /* before the try: who leads now will kick */
    if (sst_pool_lead(pool, NULL, SST_NOW) != 1) {
        return false;
    }
    ssti_store_rel(&crew->passive, 0);
    /* The embedder takes all there are; its last look arms the bell. */
    crew->options.on_results(crew->options.context);
    sst_pool_follow(pool);
    return true;
}

/* Sleep, and bury those that have ended. */
static int
watch(struct sst_crew *crew, int64_t deadline_ns)
{
    uint64_t keys[16];
    const int found = ssti_os_watch_wait(crew->watch, keys, 16, deadline_ns);

    for (int i = 0; i < found; i++) {
        if (keys[i] == 0) {
            ssti_os_kick_drain(crew->kick);
        }
        else if (keys[i] != KEY_BELL && !ssti_crew_bury(crew, keys[i])) {
            (void)ssti_os_futex_wait(&crew->role, 1, ssti_os_now_ns() + NAP_NS);
        }
    }
    return found == 0 ? SST_ETIMEDOUT : found < 0 ? found : 0;
}

static int
step(struct sst_crew *crew, int64_t deadline_ns)
{
    uint64_t until = (uint64_t)deadline_ns;
    int rc;

    if (ssti_crew_start(crew, false) < 0) {
        until = ssti_min(until, (uint64_t)(ssti_os_now_ns() + RETRY_NS));
    }
    until = ssti_min(until, (uint64_t)ssti_crew_deadlines(crew));
    until = ssti_min(until, (uint64_t)ssti_crew_look(crew));
    if (ssti_load_acq(&crew->wanting) != 0) {
        until = 0;
    }
    rc = watch(crew, (int64_t)until);
    (void)ssti_crew_deadlines(crew);
    return rc == SST_ETIMEDOUT && until < (uint64_t)deadline_ns ? 0 : rc;
}

int
sst_crew_step(struct sst_crew *crew, int64_t deadline_ns)
{
    int rc;

    if (!try_enter(crew)) {
        return SST_EAGAIN;
    }
    rc = step(crew, deadline_ns);
    ssti_crew_leave(crew);
    return rc;
}

int
sst_crew_join(struct sst_crew *crew, int64_t deadline_ns)
{
    int rc = 0;

    ssti_local_lock(&crew->lock);
    crew->is_ending = true;
    ssti_local_unlock(&crew->lock);
    while (sst_crew_count(crew) != 0 && rc == 0) {
        ssti_crew_enter(crew);
        rc = sst_crew_count(crew) != 0 ? step(crew, deadline_ns) : 0;
        ssti_crew_leave(crew);
    }
    return sst_crew_count(crew) == 0 ? 0 : rc;
}

/* ---- The thread ---- */

static _Thread_local bool is_crews;

void
ssti_crew_hear(bool all)
{
    if (is_crews) {
        ssti_os_thread_signals(all);
    }
}

/* Whether there is something to wait for: results, or the ends of workers that were
 * sent away. The lock is held. */
static bool
expects_locked(const struct sst_crew *crew)
{
    for (uint32_t i = 0; i < crew->count; i++) {
        if (crew->hands[i].is_dismissed) {
            return true;
        }
    }
    return sst_pool_outstanding(crew->pool) != 0;
}

static bool
expects(struct sst_crew *crew)
{
    bool answer;

    ssti_local_lock(&crew->lock);
    answer = expects_locked(crew);
    ssti_local_unlock(&crew->lock);
    return answer;
}

/* Is there nothing to do any more? Decides it. */
static bool
may_end(struct sst_crew *crew, bool has_lingered)
{
    bool ends;

    ssti_local_lock(&crew->lock);
    ends = crew->is_closing || (has_lingered && !expects_locked(crew));
    if (ends) {
        crew->state = CREW_ENDED;
    }
    ssti_local_unlock(&crew->lock);
    return ends;
}

static void *
run(void *context)
{
    struct sst_crew *const crew = context;
    int rc = 0;

    is_crews = true;
    if (crew->options.on_thread != NULL) {
        crew->options.on_thread(crew->options.context, true);
    }
    while (!may_end(crew, rc == SST_ETIMEDOUT)) {
        while (ssti_load_acq(&crew->wanting) != 0) {
            (void)ssti_os_futex_wait(&crew->wanting, ssti_load_acq(&crew->wanting),
                                     ssti_os_now_ns() + NAP_NS);
        }
        (void)see_to_results(crew);
        rc = sst_crew_step(crew,
                           expects(crew) ? SST_FOREVER : ssti_os_now_ns() + LINGER_NS);
        if (rc == SST_EAGAIN) {
            (void)ssti_os_futex_wait(&crew->role, 1, ssti_os_now_ns() + NAP_NS);
        }
    }
    if (crew->options.on_thread != NULL) {
        crew->options.on_thread(crew->options.context, false);
    }
    return NULL;
}

static void
on_follow(void *context)
{
    struct sst_crew *const crew = context;

    if (ssti_load_acq(&crew->passive) != 0 && ssti_xchg(&crew->passive, 0) != 0) {
        ssti_os_kick(crew->kick);
    }
}

void
ssti_crew_on_sleep(void *crew)
{
    /* Without a thread the sleeper sees no death; the next to sleep tries again. */
    const int rc = sst_crew_wake(crew);

    (void)rc;
}

/* The bell, watched by the stepper. */
static int
listen(struct sst_crew *crew)
{
    const bool wants =
        crew->options.no_results == 0 && crew->options.on_results != NULL;
    int fd;
    int rc;

    if (crew->listens) {
        return 0;
    }
    fd = wants ? sst_pool_fd(crew->pool, NULL) : 0;
    if (fd < 0) {
        return fd;
    }
    rc = wants ? ssti_os_watch_add(crew->watch, fd, KEY_BELL, true) : 0;
    if (rc == 0) {
        crew->pool->on_follow = on_follow;
        crew->listens = true;
    }
    return rc;
}

/* Take the lock when nobody is starting the thread. */
static void
lock_started(struct sst_crew *crew)
{
    ssti_local_lock(&crew->lock);
    while (crew->state == CREW_STARTS) {
        ssti_local_unlock(&crew->lock);
        (void)ssti_os_futex_wait(&crew->starting, 1, ssti_os_now_ns() + NAP_NS);
        ssti_local_lock(&crew->lock);
    }
}

/* The state is CREW_STARTS, by us. Joining, and the pool's leaf, may take a while. */
static int
start_thread(struct sst_crew *crew, bool had_one)
{
    int rc;

    if (had_one) {
        ssti_os_thread_join(crew->thread);
    }
    rc = listen(crew);
    ssti_local_lock(&crew->lock);
    if (rc == 0) {
        rc = ssti_os_thread_start(run, crew, &crew->thread);
    }
    crew->state = rc == 0 ? CREW_RUNS : CREW_NO_THREAD;
    ssti_store_rel(&crew->starting, 0);
    ssti_local_unlock(&crew->lock);
    (void)ssti_os_futex_wake(&crew->starting, INT_MAX);
    return rc;
}

int
sst_crew_wake(struct sst_crew *crew)
{
    bool lacks_workers;
    bool had_one;
    bool is_ours;
    int rc = 0;

    if (crew->owner_pid != ssti_os_pid()) {
        return SST_EINVAL;
    }
    lock_started(crew);
    had_one = crew->state == CREW_ENDED;
    is_ours = crew->state != CREW_RUNS && !crew->is_closing;
    if (is_ours) {
        crew->state = CREW_STARTS;
        ssti_store_rel(&crew->starting, 1);
    }
    lacks_workers = crew->count < crew->wanted;
    ssti_local_unlock(&crew->lock);
    if (is_ours) {
        rc = start_thread(crew, had_one);
    }
    if (ssti_load_acq(&crew->pool->shortest_ns) != 0 || crew->options.look_ns != 0 ||
        lacks_workers) {
        /* The next deadline may be nearer now, or somebody has to be started. */
        ssti_os_kick(crew->kick);
    }
    return rc;
}

struct sst_crew *
sst_crew_close(struct sst_crew *crew)
{
    bool has_thread;

    if (crew == NULL) {
        return NULL;
    }
    crew->pool->on_sleep = NULL;
    crew->pool->on_follow = NULL;
    if (crew->owner_pid == ssti_os_pid()) {
        lock_started(crew);
        crew->is_closing = true;
        has_thread = crew->state != CREW_NO_THREAD;
        ssti_local_unlock(&crew->lock);
        ssti_os_kick(crew->kick);
        if (has_thread) {
            ssti_os_thread_join(crew->thread);
        }
        sst_crew_terminate(crew, SIGKILL);
        while (sst_crew_join(crew, SST_FOREVER) != 0) {
        }
    }
    crew->pool->crew = NULL;
    (void)ssti_os_close(crew->watch);
    (void)ssti_os_close(crew->kick);
    ssti_free(crew->hands);
    return ssti_free(crew);
}
