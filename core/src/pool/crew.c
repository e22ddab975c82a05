/* SPDX-License-Identifier: MIT */

/* Crews: the owner's workers, how they are started, watched, killed and buried.
 *
 * One thread at a time has the role of the *stepper*; it alone starts, buries and
 * closes workers and calls the embedder back, without any lock. The list of hands is
 * changed by the stepper under the lock, so that others may signal a worker under the
 * lock and know that it is not closed meanwhile.
 *
 * A worker is killed for a task in two steps: the lease is condemned under the pool's
 * leaf, then the process that sits in that seat is signalled. It is ours and not reaped
 * before its burial, so the signal hits nobody else.
 *
 * Nothing of this is in shared memory but what seats.c writes: with the owner the crew
 * is gone, and the workers see that themselves. */

#include "pool/crew.h"

#include <signal.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/status.h"
#include "os/os.h"
#include "pool/worker.h"

enum {
    START_MAX = 3,
};

/* ---- The first back end: local processes ---- */

static int
local_fd(void *context, void *worker)
{
    (void)context;
    return sst_process_fd(worker);
}

static int
local_exit_code(void *context, void *worker, int *code)
{
    (void)context;
    return sst_process_exit_code(worker, code);
}

static int
local_signal(void *context, void *worker, int number)
{
    (void)context;
    return sst_process_signal(worker, number);
}

static void
local_close(void *context, void *worker)
{
    (void)context;
    (void)sst_process_close(worker);
}

static struct sst_crew_backend
complete(const struct sst_crew_backend *backend)
{
    struct sst_crew_backend out = *backend;

    out.fd = out.fd != NULL ? out.fd : local_fd;
    out.exit_code = out.exit_code != NULL ? out.exit_code : local_exit_code;
    out.signal = out.signal != NULL ? out.signal : local_signal;
    out.close = out.close != NULL ? out.close : local_close;
    return out;
}

/* ---- Hands ---- */

/* The hand in a seat; the lock is held, or we are the stepper. */
static struct ssti_hand *
hand_of(struct sst_crew *crew, uint64_t seat)
{
    for (uint32_t i = 0; i < crew->count; i++) {
        if (crew->hands[i].seat == seat) {
            return &crew->hands[i];
        }
    }
    return NULL;
}

static bool
make_room(struct sst_crew *crew)
{
    const uint32_t room = crew->room * 2 + 8;
    struct ssti_hand *grown = crew->hands;

    if (crew->count < crew->room) {
        return true;
    }
    ssti_local_lock(&crew->lock);
    grown = ssti_realloc(crew->hands, room * sizeof *grown);
    if (grown != NULL) {
        crew->hands = grown;
        crew->room = room;
    }
    ssti_local_unlock(&crew->lock);
    return grown != NULL;
}

static int
start_one(struct sst_crew *crew)
{
    struct ssti_hand hand = {0};
    int rc;

    if (!make_room(crew)) {
        return SST_ENOMEM;
    }
    rc = sst_pool_reserve(crew->pool, crew->options.task_max, &hand.seat);
    if (rc != 0) {
        return rc;
    }
    ssti_crew_hear(true);
    rc = crew->backend.start(crew->options.context, hand.seat, &hand.worker);
    ssti_crew_hear(false);
    if (rc != 0) {
        /* Nobody was there, so that there is nothing to lose. */
        return sst_pool_bury(crew->pool, hand.seat, 0) < 0 ? SST_ENOMEM : rc;
    }
    hand.fd = crew->backend.fd(crew->options.context, hand.worker);
    ssti_local_lock(&crew->lock);
    crew->hands[crew->count++] = hand;
    ssti_local_unlock(&crew->lock);
    return ssti_os_watch_add(crew->watch, hand.fd, hand.seat, false);
}

/* How many may be started after one has failed, so that no more fail than start_max:
 * those that have not shown yet whether they start well are counted as failures. */
static uint32_t
still_allowed(struct sst_crew *crew)
{
    const uint32_t start_max =
        crew->options.start_max != 0 ? crew->options.start_max : START_MAX;
    uint32_t spent;

    ssti_local_lock(&crew->lock);
    spent = crew->failed;
    ssti_local_unlock(&crew->lock);
    if (spent == 0) {
        return UINT32_MAX;
    }
    for (uint32_t i = 0; i < crew->count; i++) {
        spent += !ssti_seat_was_ready(crew->pool, crew->hands[i].seat);
    }
    return spent < start_max ? start_max - spent : 0;
}

/* How many are to be started now. */
static uint32_t
missing(struct sst_crew *crew)
{
    const uint32_t allowed = still_allowed(crew);
    uint32_t there = 0;
    uint32_t wanted;

    if ((ssti_load_acq(&crew->pool->shm->flags) & SSTI_POOL_SHUT) != 0 &&
        ssti_pool_queued(crew->pool) == 0) {
        return 0; /* one more would find that there is nothing for it, and leave */
    }
    ssti_local_lock(&crew->lock);
    for (uint32_t i = 0; i < crew->count; i++) {
        there += !crew->hands[i].is_dismissed;
    }
    wanted = crew->is_ending ? 0 : crew->wanted;
    ssti_local_unlock(&crew->lock);
    return wanted > there ? (uint32_t)ssti_min(wanted - there, allowed) : 0;
}

int
ssti_crew_start(struct sst_crew *crew, bool is_idle_too)
{
    const bool is_idle = sst_pool_outstanding(crew->pool) == 0;
    int started = 0;
    int rc = 0;

    for (uint32_t left = is_idle && !is_idle_too ? 0 : missing(crew);
         left > 0 && rc == 0; left--) {
        rc = start_one(crew);
        started += rc == 0;
    }
    return started != 0 || rc == 0 ? started : rc;
}

static void
count_failure(struct sst_crew *crew, bool was_ready)
{
    const uint32_t start_max =
        crew->options.start_max != 0 ? crew->options.start_max : START_MAX;
    bool tell;

    ssti_local_lock(&crew->lock);
    crew->failed = was_ready ? 0 : crew->failed + 1;
    tell = crew->failed >= start_max && !crew->is_stuck;
    crew->is_stuck = crew->is_stuck || tell;
    ssti_local_unlock(&crew->lock);
    if (tell && crew->options.on_stuck != NULL) {
        crew->options.on_stuck(crew->options.context);
    }
}

bool
ssti_crew_bury(struct sst_crew *crew, uint64_t seat)
{
    struct ssti_hand *const found = hand_of(crew, seat);
    struct ssti_hand hand;
    int code = 0;
    bool was_ready;
    int rc;

    if (found == NULL || crew->backend.exit_code(crew->options.context, found->worker,
                                                 &code) == SST_EAGAIN) {
        return false;
    }
    hand = *found;
    was_ready = ssti_seat_was_ready(crew->pool, seat);
    rc = sst_pool_bury(crew->pool, seat, code);
    if (rc < 0) {
        return false; /* no memory for the result: tried again */
    }
    ssti_os_watch_remove(crew->watch, hand.fd);
    ssti_local_lock(&crew->lock);
    *found = crew->hands[--crew->count];
    ssti_local_unlock(&crew->lock);
    if (crew->options.on_end != NULL) {
        crew->options.on_end(crew->options.context, seat, hand.worker, code, rc == 1);
    }
    crew->backend.close(crew->options.context, hand.worker);
    if (!hand.is_dismissed) {
        count_failure(crew, was_ready);
    }
    return true;
}

/* ---- Deadlines ---- */

static int
signal_seat(struct sst_crew *crew, uint64_t seat, int number)
{
    struct ssti_hand *hand;
    int rc = 0;

    ssti_local_lock(&crew->lock);
    hand = hand_of(crew, seat);
    if (hand != NULL) {
        rc = crew->backend.signal(crew->options.context, hand->worker, number);
    }
    ssti_local_unlock(&crew->lock);
    return rc;
}

int
sst_crew_kill(struct sst_crew *crew, uint64_t id, enum sst_pool_reason reason)
{
    uint64_t seat;
    const int rc = sst_pool_condemn(crew->pool, id, reason, &seat);

    if (rc == 1) {
        (void)signal_seat(crew, seat, SIGKILL);
    }
    return rc;
}

int64_t
ssti_crew_deadlines(struct sst_crew *crew)
{
    const uint64_t shortest = ssti_load_acq(&crew->pool->shortest_ns);
    const int64_t now_ns = ssti_os_now_ns();
    uint64_t next = SST_FOREVER;

    if (shortest == 0) {
        return SST_FOREVER;
    }
    next = (uint64_t)now_ns + shortest; /* of what is taken from now on */
    for (uint32_t i = 0; i < crew->count; i++) {
        struct ssti_hand *const hand = &crew->hands[i];
        struct sst_pool_seat seat;

        if (sst_pool_seat(crew->pool, ssti_seat_index(hand->seat), &seat) != 0 ||
            seat.id == 0 || seat.seat != hand->seat) {
            continue;
        }
        if (seat.hard_ns != 0 && seat.condemned == 0) {
            const int64_t at = seat.started_ns + seat.hard_ns;

            if (at <= now_ns) {
                next =
                    sst_crew_kill(crew, seat.id, SST_POOL_BY_DEADLINE) < 0 ? 0 : next;
                continue;
            }
            next = ssti_min(next, (uint64_t)at);
        }
        if (seat.soft_ns != 0 && hand->told != seat.id) {
            const int64_t at = seat.started_ns + seat.soft_ns;

            if (at > now_ns) {
                next = ssti_min(next, (uint64_t)at);
            }
            else if (ssti_seat_soften(crew->pool, hand->seat, seat.id)) {
                hand->told = seat.id;
                (void)signal_seat(crew, hand->seat, crew->options.soft_signal);
            }
        }
    }
    return (int64_t)next;
}

/* ---- What workers use ---- */

int64_t
ssti_crew_look(struct sst_crew *crew)
{
    const struct sst_crew_options *const options = &crew->options;

    if (options->is_over == NULL || options->look_ns <= 0 ||
        sst_pool_outstanding(crew->pool) == 0) {
        return SST_FOREVER;
    }
    if (ssti_os_now_ns() < crew->look_ns) {
        return crew->look_ns;
    }
    for (uint32_t i = 0; i < crew->count; i++) {
        const struct ssti_hand *const hand = &crew->hands[i];
        struct sst_pool_seat seat;

        if (sst_pool_seat(crew->pool, ssti_seat_index(hand->seat), &seat) == 0 &&
            seat.id != 0 && seat.seat == hand->seat && seat.condemned == 0 &&
            options->is_over(options->context, hand->seat, hand->worker)) {
            /* Nobody has it any more: it was finished meanwhile, and it is too late. */
            (void)!sst_crew_kill(crew, seat.id, SST_POOL_BY_MEMORY);
        }
    }
    crew->look_ns = ssti_os_now_ns() + options->look_ns;
    return crew->look_ns;
}

/* ---- Life ---- */

int
sst_crew_create(struct sst_pool *pool, const struct sst_crew_options *options,
                struct sst_crew **out, struct sst_error *err)
{
    struct sst_crew *crew;

    if (options->size_of != sizeof *options || options->backend == NULL ||
        options->backend->size_of != sizeof *options->backend ||
        options->backend->start == NULL || pool->crew != NULL) {
        return ssti_error_set(err, SST_EINVAL, "a pool has one crew, with a start");
    }
    crew = ssti_alloc(sizeof *crew);
    if (crew == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "no memory for a crew");
    }
    *crew = (struct sst_crew){
        .pool = pool,
        .options = *options,
        .backend = complete(options->backend),
        .owner_pid = ssti_os_pid(),
        .watch = ssti_os_watch_open(),
        .kick = ssti_os_kick_open(),
        .wanted = options->worker_count,
    };
    ssti_local_init(&crew->lock);
    if (crew->options.soft_signal == 0) {
        crew->options.soft_signal = SIGUSR1;
    }
    if (crew->watch < 0 || crew->kick < 0 ||
        ssti_os_watch_add(crew->watch, crew->kick, 0, false) != 0) {
        crew->watch = ssti_os_close(crew->watch);
        crew->kick = ssti_os_close(crew->kick);
        ssti_free(crew);
        return ssti_error_set(err, SST_EMFILE, "no descriptors for a crew");
    }
    pool->crew = crew;
    pool->on_sleep = ssti_crew_on_sleep;
    *out = crew;
    return 0;
}

int
sst_crew_fill(struct sst_crew *crew)
{
    int rc;

    ssti_crew_enter(crew);
    ssti_local_lock(&crew->lock);
    crew->failed = 0;
    crew->is_stuck = false;
    ssti_local_unlock(&crew->lock);
    rc = ssti_crew_start(crew, true);
    ssti_crew_leave(crew);
    return rc;
}

int
sst_crew_resize(struct sst_crew *crew, uint32_t worker_count)
{
    uint32_t there = 0;

    ssti_crew_enter(crew);
    ssti_local_lock(&crew->lock);
    crew->wanted = worker_count;
    ssti_local_unlock(&crew->lock);
    for (uint32_t i = 0; i < crew->count; i++) {
        there += !crew->hands[i].is_dismissed;
    }
    /* The idle first. */
    for (uint32_t pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < crew->count && there > worker_count; i++) {
            struct ssti_hand *const hand = &crew->hands[i];
            struct sst_pool_seat seat;

            if (!hand->is_dismissed &&
                sst_pool_seat(crew->pool, ssti_seat_index(hand->seat), &seat) == 0 &&
                (seat.id == 0 || pass == 1)) {
                hand->is_dismissed = true;
                sst_pool_dismiss(crew->pool, hand->seat);
                there--;
            }
        }
    }
    ssti_crew_leave(crew);
    if (sst_crew_fill(crew) < 0) {
        return SST_EAGAIN;
    }
    /* A crew that nobody steps has its thread see the dismissed off. */
    return crew->options.on_thread != NULL ? sst_crew_wake(crew) : 0;
}

uint32_t
sst_crew_count(struct sst_crew *crew)
{
    uint32_t count;

    ssti_local_lock(&crew->lock);
    count = crew->count;
    ssti_local_unlock(&crew->lock);
    return count;
}

void
sst_crew_tidy(struct sst_crew *crew)
{
    ssti_crew_enter(crew);
    for (uint32_t i = crew->count; i > 0; i--) {
        (void)ssti_crew_bury(crew, crew->hands[i - 1].seat);
    }
    ssti_crew_leave(crew);
}

void
sst_crew_terminate(struct sst_crew *crew, int number)
{
    ssti_local_lock(&crew->lock);
    crew->is_ending = true;
    for (uint32_t i = 0; i < crew->count; i++) {
        (void)crew->backend.signal(crew->options.context, crew->hands[i].worker,
                                   number);
    }
    ssti_local_unlock(&crew->lock);
    ssti_os_kick(crew->kick);
}
