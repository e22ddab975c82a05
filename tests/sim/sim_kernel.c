/* SPDX-License-Identifier: MIT */

/* The simulated kernel: os.h as far as the core's algorithms use it, and deaths.
 *
 * Futexes follow kernel/futex/{waitwake,core}.c of Linux 6: futex_waitv queues word
 * after word, with others running in between, and a wake that arrives meanwhile on a
 * word already queued counts; a wake takes an entry off its queue at once, but a thread
 * that sleeps on several words stays in the other queues until it runs; a killed
 * sleeper stays in the queues, and swallows wakes, until it gets to exit. Then
 * exit_robust_list: the life word of a main thread (a robust mutex that it owns), and
 * list_op_pending by handle_futex_death, reading and waking being two steps. */

#include <linux/futex.h>
#include <sidestep/sidestep.h>
#include <string.h>

#include "sim.h"

int64_t
ssti_os_now_ns(void)
{
    return ++sim.now_ns;
}

static void reset_sockets(void);

void
sim_kernel_reset(void)
{
    reset_sockets();
    for (int i = 0; i < SIM_THREADS; i++) {
        sim.threads[i].queue_count = 0;
    }
}

static uint32_t
word_now(const _Atomic uint32_t *word)
{
    uint32_t value;

    memcpy(&value, word, sizeof(value));
    return value;
}

/* ---- Queues ---- */

static void
enqueue(struct sim_thread *thread, const void *word)
{
    thread->queues[thread->queue_count++] =
        (struct sim_queue){word, sim.queue_order++, true};
}

/* The entry that the next wake on `word` takes: the oldest, or any, which is what
 * real-time priorities amount to. */
static struct sim_queue *
next_queued(const void *word, struct sim_thread **owner)
{
    struct sim_queue *found = NULL;
    uint32_t count = 0;

    for (int i = 0; i < SIM_THREADS; i++) {
        struct sim_thread *const thread = &sim.threads[i];

        if (thread->state == SIM_UNUSED || thread->state == SIM_GONE) {
            continue;
        }
        for (uint32_t q = 0; q < thread->queue_count; q++) {
            struct sim_queue *const entry = &thread->queues[q];

            if (!entry->queued || entry->word != word) {
                continue;
            }
            count++;
            if (found == NULL || (sim.habits.fifo ? entry->order < found->order
                                                  : sim_below(count) == 0)) {
                found = entry;
                *owner = thread;
            }
        }
    }
    return found;
}

static int
wake(const void *word, int count)
{
    int woken = 0;
    struct sim_thread *thread;
    struct sim_queue *entry;

    while (woken < count && (entry = next_queued(word, &thread)) != NULL) {
        entry->queued = false;
        thread->woken = true;
        sim_trace("  wakes p%d.%d%s", thread->process, thread->number,
                  thread->state == SIM_STOPPED ? " (dying)" : "");
        if (thread->state == SIM_BLOCKED) {
            thread->state = SIM_READY;
        }
        sim_hot_kill(thread);
        woken++;
    }
    return woken;
}

int
sim_kernel_sleepers(const void *word)
{
    int count = 0;

    for (int i = 0; i < SIM_THREADS; i++) {
        const struct sim_thread *const thread = &sim.threads[i];

        for (uint32_t q = 0; thread->state == SIM_BLOCKED && q < thread->queue_count;
             q++) {
            count += thread->queues[q].queued && thread->queues[q].word == word;
        }
    }
    return count;
}

/* ---- System calls ---- */

/* Asleep on what was queued; woken wins over a time-out, and that over a signal. */
static int
sleep_queued(struct sim_thread *self, int64_t deadline_ns)
{
    int rc;

    self->deadline_ns = deadline_ns;
    self->expired = false;
    self->interrupted = false;
    if (!self->woken) {
        sim_trace("sleeps");
        sim_block();
    }
    rc = self->woken ? 0 : self->expired ? SST_ETIMEDOUT : SST_EINTR;
    self->queue_count = 0;
    sim_trace("awake: %d", rc);
    return rc;
}

int
ssti_os_futex_waitv(const struct ssti_os_wait *words, uint32_t count,
                    int64_t deadline_ns)
{
    struct sim_thread *const self = sim.current;

    if (count == 0 || count > SIM_QUEUES) {
        return SST_EINVAL;
    }
    self->woken = false;
    for (uint32_t i = 0; i < count; i++) {
        sim_hot_stall();
        sim_fence();
        if (word_now(words[i].word) != words[i].value) {
            self->queue_count = 0;
            sim_trace("waitv: value %u is another", i);
            return self->woken ? 0 : SST_EAGAIN;
        }
        enqueue(self, words[i].word);
    }
    return sleep_queued(self, deadline_ns);
}

int
ssti_os_futex_wait(_Atomic uint32_t *word, uint32_t value, int64_t deadline_ns)
{
    const struct ssti_os_wait one = {word, value};

    return ssti_os_futex_waitv(&one, 1, deadline_ns);
}

int
ssti_os_futex_wake(_Atomic uint32_t *word, int count)
{
    int woken;

    sim_hot_death();
    sim_fence();
    sim_trace("futex_wake %d", count);
    woken = wake(word, count);
    if (woken > 0 && sim.current != NULL) {
        sim.current->self.just_woke = 1;
    }
    return woken;
}

int
ssti_os_pid(void)
{
    return (int)sim_shm_pid(sim.current->process);
}

/* ---- Death ---- */

/* handle_futex_death. True when a sleeper has to be woken, in a step of its own. */
static bool
futex_death(const struct sim_thread *thread, _Atomic uint32_t *word, bool pending)
{
    const uint32_t value = word_now(word);
    const uint32_t owner = value & FUTEX_TID_MASK;

    if (pending && owner == 0) {
        return true;
    }
    if (owner != thread->self.tid) {
        return false;
    }

    const uint32_t died = (value & FUTEX_WAITERS) | FUTEX_OWNER_DIED;

    memcpy(word, &died, sizeof(died));
    sim.owner_deaths++;
    return (value & FUTEX_WAITERS) != 0;
}

/* The main thread owns its process's life word by tid. */
static _Atomic uint32_t *
life_of(const struct sim_thread *thread)
{
    return thread->number == 0 ? sim_shm_life(thread->process) : NULL;
}

void
sim_kernel_exit_step(struct sim_thread *thread)
{
    sim_trace("p%d.%d exits, stage %d", thread->process, thread->number, thread->exit);
    switch (thread->exit) {
    case SIM_EXIT_UNQUEUE:
        thread->queue_count = 0;
        thread->exit = SIM_EXIT_LIFE;
        return;
    case SIM_EXIT_LIFE:
        thread->exit =
            life_of(thread) != NULL && futex_death(thread, life_of(thread), false)
                ? SIM_EXIT_LIFE_WAKE
                : SIM_EXIT_PENDING;
        return;
    case SIM_EXIT_LIFE_WAKE:
        (void)wake(life_of(thread), 1);
        thread->exit = SIM_EXIT_PENDING;
        return;
    case SIM_EXIT_PENDING:
        if (thread->self.pending != NULL &&
            futex_death(thread, thread->self.pending, true)) {
            thread->exit = SIM_EXIT_PENDING_WAKE;
            return;
        }
        thread->state = SIM_GONE;
        return;
    case SIM_EXIT_PENDING_WAKE:
        (void)wake(thread->self.pending, 1);
        thread->state = SIM_GONE;
        return;
    }
}

/* ---- Datagram sockets ---- */

enum {
    SOCKETS = 64,
    SOCKET_ROOM = 3, /* datagrams a bell holds */
    FIRST_FD = 1000,
    PAIRS = 4,
    PAIR_FD = 2000, /* and one more for the other end, in any process */
};

static struct sim_socket {
    int process; /* -1: closed */
    bool bell;
    _Atomic uint32_t waiting; /* datagrams; what a poll sleeps on */
    uint64_t name;
} sockets[SOCKETS];
static uint64_t last_name;

/* Joined stream sockets. What a poll sleeps on: bytes, and whether nobody has the other
 * end. */
static struct sim_pair_end {
    _Atomic uint32_t waiting;
    _Atomic uint32_t hung_up;
    uint32_t holders[SIM_PROCESSES];
} pairs[PAIRS][2];
static int pair_count;

static struct sim_pair_end *
pair_end_of(int fd, int other)
{
    const int at = fd - PAIR_FD;

    sim_check(at >= 0 && at < 2 * pair_count);
    return &pairs[at / 2][(at % 2) ^ other];
}

static bool
is_held(const struct sim_pair_end *end)
{
    for (int i = 0; i < SIM_PROCESSES; i++) {
        if (end->holders[i] != 0) {
            return true;
        }
    }
    return false;
}

/* Somebody has let go of `end`: does the other hang up? */
static void
let_go(const struct sim_pair_end *end, struct sim_pair_end *other)
{
    if (!is_held(end) && other->hung_up == 0) {
        other->hung_up = 1;
        sim_trace("an end hangs up");
        (void)wake(&other->hung_up, INT32_MAX);
    }
}

void
sim_kernel_close_all(int process)
{
    for (int i = 0; i < pair_count; i++) {
        for (int end = 0; end < 2; end++) {
            pairs[i][end].holders[process] = 0;
            let_go(&pairs[i][end], &pairs[i][1 - end]);
        }
    }
    for (int i = 0; i < SOCKETS; i++) {
        if (sockets[i].process == process) {
            sockets[i].process = -1;
        }
    }
}

static void
reset_sockets(void)
{
    for (int i = 0; i < SOCKETS; i++) {
        sockets[i].process = -1;
    }
    last_name = 0;
    memset(pairs, 0, sizeof(pairs));
    pair_count = 0;
}

static int
open_socket(bool bell)
{
    sim_fence();
    for (int i = 0; i < SOCKETS; i++) {
        if (sockets[i].process < 0) {
            sockets[i] = (struct sim_socket){
                .process = sim.current->process,
                .bell = bell,
                .name = bell ? ++last_name : 0,
            };
            return FIRST_FD + i;
        }
    }
    return SST_EMFILE;
}

static struct sim_socket *
socket_of(int fd)
{
    struct sim_socket *const at = &sockets[fd - FIRST_FD];

    sim_check(fd >= FIRST_FD && fd < FIRST_FD + SOCKETS && at->process >= 0);
    return at;
}

int
ssti_os_bell_open(uint64_t *name, uint32_t *name_size)
{
    const int fd = open_socket(true);

    if (fd >= 0) {
        *name = socket_of(fd)->name;
        *name_size = 5;
    }
    return fd;
}

int
ssti_os_ringer_open(void)
{
    return open_socket(false);
}

int
ssti_os_close(int fd)
{
    sim_fence();
    if (fd >= PAIR_FD) {
        sim_check(pair_end_of(fd, 0)->holders[sim.current->process] != 0);
        pair_end_of(fd, 0)->holders[sim.current->process]--;
        let_go(pair_end_of(fd, 0), pair_end_of(fd, 1));
        return -1;
    }
    socket_of(fd)->process = -1;
    return -1;
}

int
ssti_os_bell_ring(int ringer, uint64_t name, uint32_t name_size)
{
    (void)socket_of(ringer);
    (void)name_size;
    sim_hot_death();
    sim_fence();
    for (int i = 0; i < SOCKETS; i++) {
        if (sockets[i].process < 0 || !sockets[i].bell || sockets[i].name != name) {
            continue;
        }
        if (sockets[i].waiting == SOCKET_ROOM) {
            return SST_EAGAIN;
        }
        sim_trace("rings bell %llu", (unsigned long long)name);
        sockets[i].waiting++;
        (void)wake(&sockets[i].waiting, INT32_MAX);
        return 0;
    }
    return SST_ENOENT;
}

void
ssti_os_bell_drain(int fd)
{
    sim_fence();
    sim_trace("drains bell %llu", (unsigned long long)socket_of(fd)->name);
    socket_of(fd)->waiting = 0;
}

int
sim_poll(int fd, int64_t deadline_ns)
{
    struct sim_socket *const at = socket_of(fd);
    const struct ssti_os_wait one = {&at->waiting, 0};
    int rc;

    for (;;) {
        rc = ssti_os_futex_waitv(&one, 1, deadline_ns);
        if (at->waiting != 0) {
            return 1;
        }
        if (rc != 0 && rc != SST_EAGAIN) {
            return rc == SST_ETIMEDOUT ? 0 : rc;
        }
    }
}

/* ---- Pairs ---- */

int
ssti_os_pair_open(int fds[2])
{
    sim_check(pair_count < PAIRS);
    sim_fence();
    for (int end = 0; end < 2; end++) {
        pairs[pair_count][end].holders[sim.current->process] = 1;
        fds[end] = PAIR_FD + 2 * pair_count + end;
    }
    pair_count++;
    return 0;
}

int
sim_pair_dup(int fd)
{
    if (!is_held(pair_end_of(fd, 0))) {
        return -1;
    }
    pair_end_of(fd, 0)->holders[sim.current->process]++;
    return fd;
}

bool
sim_pair_has_hung_up(int fd)
{
    return pair_end_of(fd, 0)->hung_up != 0;
}

int
ssti_os_pair_ring(int fd)
{
    struct sim_pair_end *const other = pair_end_of(fd, 1);

    sim_hot_death();
    sim_fence();
    if (!is_held(other)) {
        return SST_EPIPE;
    }
    sim_trace("rings end %d", (fd - PAIR_FD) ^ 1);
    other->waiting++;
    (void)wake(&other->waiting, INT32_MAX);
    return 0;
}

void
ssti_os_pair_drain(int fd)
{
    sim_fence();
    sim_trace("drains end %d", fd - PAIR_FD);
    pair_end_of(fd, 0)->waiting = 0;
}

int
ssti_os_pair_poll(int fd, uint32_t *seen, int64_t deadline_ns)
{
    struct sim_pair_end *const end = pair_end_of(fd, 0);
    const struct ssti_os_wait words[2] = {{&end->waiting, 0}, {&end->hung_up, 0}};
    int rc = 0;

    for (;;) {
        sim_fence();
        *seen = (end->waiting != 0 ? SSTI_OS_PAIR_RUNG : 0U) |
                (end->hung_up != 0 ? SSTI_OS_PAIR_HUNG_UP : 0U);
        if (*seen != 0) {
            return 0;
        }
        if (rc != 0 && rc != SST_EAGAIN) {
            return rc;
        }
        rc = deadline_ns == SST_NOW ? SST_ETIMEDOUT
                                    : ssti_os_futex_waitv(words, 2, deadline_ns);
    }
}

int
ssti_os_wait_hangup(const int *fds, uint32_t count, uint32_t readable,
                    int64_t deadline_ns)
{
    struct sim_pair_end *const end = pair_end_of(fds[0], 0);
    const struct ssti_os_wait one = {&end->hung_up, 0};
    int rc = 0;

    sim_check(count == 1 && readable == 0);
    while (end->hung_up == 0) {
        if (rc != 0 && rc != SST_EAGAIN) {
            return rc;
        }
        rc = ssti_os_futex_waitv(&one, 1, deadline_ns);
    }
    return 1;
}

void
ssti_os_yield(void)
{
    sim_step();
}

int
ssti_os_cpu_affinity(void)
{
    return 2;
}
