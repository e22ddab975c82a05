/* SPDX-License-Identifier: MIT */

/* Threads and scheduling of the simulation.
 *
 * Each simulated thread is a coroutine. Before every access to shared memory it calls
 * sim_step(), which usually hands control to the scheduler; the scheduler lets
 * something happen (a store leaves its buffer, a process is killed, the kernel clears
 * up a step further, a sleeper times out or gets a signal) and picks who goes on. All
 * of it follows from one seed. When nobody can run the world has settled: whoever is
 * asleep then is asleep for ever, and must have a reason. */

#include "sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "shm/arena.h"

enum {
    PASSES_MAX = 40,
};

struct sim sim;

static uint8_t stacks[SIM_THREADS][SIM_STACK_SIZE] __attribute__((aligned(64)));
/* ---- Chance ---- */

uint64_t
sim_random(void)
{
    uint64_t z = (sim.random += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint32_t
sim_below(uint32_t limit)
{
    return (uint32_t)(((sim_random() >> 32) * limit) >> 32);
}

bool
sim_chance(uint32_t part, uint32_t of)
{
    return part != 0 && sim_below(of) < part;
}

/* ---- Telling ---- */

void
sim_trace(const char *format, ...)
{
    va_list args;

    if (!sim.trace) {
        return;
    }
    printf("%6llu ", (unsigned long long)sim.steps);
    if (sim.current != NULL) {
        printf("p%d.%d t%u ", sim.current->process, sim.current->number,
               sim.current->self.tid);
    }
    else {
        printf("kernel ");
    }
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
}

void
sim_fail(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vsnprintf(sim.message, sizeof(sim.message), format, args);
    va_end(args);
    sim_trace("FAILED %s", sim.message);
    sim.failed = true;
    if (sim.current != NULL) {
        sim.current = NULL;
        setcontext(&sim.scheduler);
    }
    longjmp(sim.escape, 1);
}

void
ssti_assert_failed(const char *file, int line, const char *condition)
{
    sim_fail("%s:%d: assertion failed: %s", file, line, condition);
}

/* ---- Threads ---- */

struct ssti_self *
ssti_self(void)
{
    static struct ssti_self nobody;

    return sim.current != NULL ? &sim.current->self : &nobody;
}

void
sim_step(void)
{
    struct sim_thread *const self = sim.current;

    if (self == NULL) {
        return;
    }
    if (++sim.steps > sim.steps_max) {
        sim_fail("no end after %llu steps", (unsigned long long)sim.steps);
    }
    if (sim_below(256) >= sim.habits.keep) {
        swapcontext(&self->context, &sim.scheduler);
    }
}

/* The processor is better given to somebody else: who pauses spins. */
void
sim_pause(void)
{
    struct sim_thread *const self = sim.current;

    if (self != NULL) {
        sim.steps++;
        swapcontext(&self->context, &sim.scheduler);
    }
}

void
sim_block(void)
{
    struct sim_thread *const self = sim.current;

    self->state = SIM_BLOCKED;
    self->late_since_ns = 0;
    swapcontext(&self->context, &sim.scheduler);
}

void
sim_wants(sim_predicate predicate, void *arg)
{
    sim.current->wants = predicate;
    sim.current->wants_arg = arg;
}

/* The thread executes nothing any more. What it stored becomes visible. */
static void
stop(struct sim_thread *thread)
{
    sim_drain_all(thread);
    thread->state = SIM_STOPPED;
    thread->exit = SIM_EXIT_UNQUEUE;
    thread->doomed = false;
}

bool
sim_thread_runs(uint32_t tid)
{
    for (int i = 0; i < SIM_THREADS; i++) {
        const struct sim_thread *const thread = &sim.threads[i];

        if (thread->self.tid == tid) {
            return thread->state == SIM_READY || thread->state == SIM_BLOCKED;
        }
    }
    return false;
}

static struct sim_thread *
main_thread(int process)
{
    for (int i = 0; i < SIM_THREADS; i++) {
        struct sim_thread *const thread = &sim.threads[i];

        if (thread->process == process && thread->number == 0 &&
            thread->state != SIM_UNUSED && thread->state != SIM_GONE) {
            return thread;
        }
    }
    return NULL;
}

void
sim_join_others(void)
{
    const struct sim_thread *const self = sim.current;

    while (sim.processes[self->process].alive_threads > 1) {
        sim_block();
    }
}

static void
trampoline(void)
{
    struct sim_thread *const self = sim.current;

    self->entry(self->arg);
    if (self->self.pending != NULL) {
        sim_fail("a thread ended with a word still pending");
    }
    self->wants = NULL;
    if (self->number == 0) {
        sim_join_others(); /* a process ends with its main thread */
    }
    sim_trace("ends");
    stop(self);
    swapcontext(&self->context, &sim.scheduler);
}

static int
free_thread(void)
{
    int i = 0;

    while (i < SIM_THREADS && sim.threads[i].state != SIM_UNUSED &&
           sim.threads[i].state != SIM_GONE) {
        i++;
    }
    if (i == SIM_THREADS) {
        sim_fail("the simulation has too few threads");
    }
    return i;
}

int
sim_thread_start(int process, void (*entry)(void *arg), void *arg)
{
    const int index = free_thread();
    struct sim_thread *const thread = &sim.threads[index];

    memset(thread, 0, sizeof(*thread));
    getcontext(&thread->context);
    thread->context.uc_stack.ss_sp = stacks[index];
    thread->context.uc_stack.ss_size = SIM_STACK_SIZE;
    thread->context.uc_link = NULL;
    makecontext(&thread->context, trampoline, 0);
    thread->process = process;
    thread->number = sim.processes[process].alive_threads++;
    sim.processes[process].threads++;
    thread->self.tid = sim.next_tid++;
    thread->entry = entry;
    thread->arg = arg;
    thread->state = SIM_READY;
    thread->doomed = sim.processes[process].killed;
    return index;
}

int
sim_process_start(int role, void (*entry)(void *arg), void *arg)
{
    const int process = sim.process_count;

    if (process == SIM_PROCESSES) {
        return -1;
    }
    sim.process_count++;
    sim.processes[process] =
        (struct sim_process){.used = true, .role = role, .slot = -1};
    sim_trace("process p%d starts, role %d", process, role);
    (void)sim_thread_start(process, entry, arg);
    sim_shm_enter(process);
    return process;
}

void
sim_kill(int process)
{
    sim_trace("kill p%d", process);
    sim.kills++;
    sim.kills_of_many += sim.processes[process].threads > 1;
    sim.passes = 0;
    sim.processes[process].killed = true;
    for (int i = 0; i < SIM_THREADS; i++) {
        struct sim_thread *const thread = &sim.threads[i];

        if (thread->process == process &&
            (thread->state == SIM_READY || thread->state == SIM_BLOCKED)) {
            thread->doomed = true;
        }
    }
}

static bool
is_mortal(const struct sim_thread *thread)
{
    return (thread->state == SIM_READY || thread->state == SIM_BLOCKED) &&
           !sim.processes[thread->process].immortal &&
           !sim.processes[thread->process].killed;
}

void
sim_hot_kill(struct sim_thread *victim)
{
    if (sim.habits.kills_left > 0 && is_mortal(victim) &&
        sim_chance(sim.habits.hot_kill, 256)) {
        sim.habits.kills_left--;
        sim_kill(victim->process);
    }
}

void
sim_hot_death(void)
{
    struct sim_thread *const self = sim.current;

    if (self == NULL) {
        return;
    }
    sim_hot_kill(self);
    if (self->doomed && sim_chance(3, 4)) {
        stop(self);
        swapcontext(&self->context, &sim.scheduler);
    }
}

void
sim_hot_stall(void)
{
    struct sim_thread *const self = sim.current;

    if (self != NULL && sim_chance(sim.habits.hot_stall, 256)) {
        self->stalled_until = sim.steps + 10 + (UINT64_C(1) << sim_below(10));
        swapcontext(&self->context, &sim.scheduler);
    }
}

/* The kernel is done with a thread. */
static void
gone(struct sim_thread *thread)
{
    struct sim_process *const process = &sim.processes[thread->process];

    thread->state = SIM_GONE;
    process->alive_threads--;
    if (process->alive_threads == 1 && main_thread(thread->process) != NULL &&
        main_thread(thread->process)->state == SIM_BLOCKED &&
        main_thread(thread->process)->queue_count == 0) {
        main_thread(thread->process)->state = SIM_READY;
    }
    if (process->alive_threads == 0) {
        process->dead = true;
        sim_kernel_close_all(thread->process);
        sim_trace("p%d is dead", thread->process);
        if (!sim.checking && sim.scenario->died != NULL) {
            sim.scenario->died(thread->process);
        }
    }
}

/* ---- What may happen between two steps ---- */

typedef bool (*choice)(const struct sim_thread *thread);

static bool
has_stores(const struct sim_thread *thread)
{
    return thread->store_count != 0;
}

static bool
is_stopped(const struct sim_thread *thread)
{
    return thread->state == SIM_STOPPED;
}

static bool
is_doomed(const struct sim_thread *thread)
{
    return thread->doomed;
}

static bool
is_overdue(const struct sim_thread *thread)
{
    return thread->state == SIM_BLOCKED && thread->queue_count != 0 &&
           thread->deadline_ns <= sim.now_ns;
}

static bool
is_asleep(const struct sim_thread *thread)
{
    return thread->state == SIM_BLOCKED && thread->queue_count != 0;
}

static bool
is_ready(const struct sim_thread *thread)
{
    return thread->state == SIM_READY && thread->stalled_until <= sim.steps;
}

static bool
is_stalled(const struct sim_thread *thread)
{
    return thread->state == SIM_READY;
}

/* Any thread for which `wanted` is true; NULL when there is none. */
static struct sim_thread *
any(choice wanted)
{
    struct sim_thread *found = NULL;
    uint32_t count = 0;

    for (int i = 0; i < SIM_THREADS; i++) {
        if (sim.threads[i].state != SIM_UNUSED && sim.threads[i].state != SIM_GONE &&
            wanted(&sim.threads[i]) && sim_below(++count) == 0) {
            found = &sim.threads[i];
        }
    }
    return found;
}

static void
exit_step(struct sim_thread *thread)
{
    sim_kernel_exit_step(thread);
    if (thread->state == SIM_GONE) {
        gone(thread);
    }
}

static void
wake_overdue(struct sim_thread *thread)
{
    sim_trace("p%d.%d times out", thread->process, thread->number);
    thread->expired = true;
    thread->state = SIM_READY;
}

static void
interrupt(struct sim_thread *thread)
{
    sim_trace("p%d.%d gets a signal", thread->process, thread->number);
    sim.habits.signals_left--;
    thread->interrupted = true;
    thread->state = SIM_READY;
}

static void
kill_one(struct sim_thread *last)
{
    struct sim_thread *victim = last;

    if (victim == NULL || !is_mortal(victim) || sim_chance(1, 3)) {
        victim = any(is_mortal);
    }
    if (victim != NULL) {
        sim.habits.kills_left--;
        sim_kill(victim->process);
        if (sim_chance(3, 4)) {
            stop(victim);
        }
    }
}

static void
stall(struct sim_thread *thread)
{
    thread->stalled_until = sim.steps + 10 + (UINT64_C(1) << sim_below(10));
}

static void
let_happen(struct sim_thread *last)
{
    const struct sim_habits *const habits = &sim.habits;
    struct sim_thread *thread;

    if (sim_chance(habits->drain, 1024) && (thread = any(has_stores)) != NULL) {
        sim_drain_one(thread);
    }
    if (sim_chance(habits->exit, 1024)) {
        if ((thread = any(is_stopped)) != NULL) {
            exit_step(thread);
        }
        if ((thread = any(is_doomed)) != NULL) {
            stop(thread);
        }
    }
    if (habits->kills_left > 0 && sim_chance(habits->kill, 65536)) {
        kill_one(last);
    }
    if (sim_chance(habits->stall, 4096) && (thread = any(is_ready)) != NULL) {
        stall(thread);
    }
    if (sim_chance(habits->expire, 4096)) {
        sim.now_ns += sim_chance(1, 8) ? 1000 : 1;
        if ((thread = any(is_overdue)) != NULL) {
            wake_overdue(thread);
        }
    }
    if (sim.habits.signals_left > 0 && sim_chance(habits->interrupt, 65536) &&
        (thread = any(is_asleep)) != NULL) {
        interrupt(thread);
    }
}

/* ---- When nobody can run ---- */

static bool
goes_on_by_itself(const struct sim_thread *thread)
{
    return is_stalled(thread) || is_doomed(thread) || is_stopped(thread) ||
           has_stores(thread);
}

/* Things that happen by themselves in the end: stalls end, stores drain, the kernel
 * clears
 * up. In any order. */
static bool
go_on_without_threads(void)
{
    struct sim_thread *const thread = any(goes_on_by_itself);

    if (thread == NULL) {
        return false;
    }
    if (is_doomed(thread)) {
        stop(thread);
    }
    else if (is_stopped(thread)) {
        exit_step(thread);
    }
    else if (has_stores(thread)) {
        sim_drain_one(thread);
    }
    else if (sim_chance(1, 4)) {
        thread->stalled_until = 0;
    }
    return true;
}

/* Asleep on (word, turn) of a leaf; sections under a leaf never sleep, so nobody holds
 * it. */
static bool
wants_a_leaf(const struct sim_thread *thread)
{
    return thread->queue_count == 2 &&
           (const uint8_t *)thread->queues[1].word -
                   (const uint8_t *)thread->queues[0].word ==
               offsetof(struct sst_leaf_shm, turn);
}

static int64_t
earliest_deadline(void)
{
    int64_t earliest = SST_FOREVER;

    for (int i = 0; i < SIM_THREADS; i++) {
        if (is_asleep(&sim.threads[i]) && sim.threads[i].deadline_ns < earliest) {
            earliest = sim.threads[i].deadline_ns;
        }
    }
    return earliest;
}

/* A death must show soon: somebody's time-out may bring that about, if it comes in
 * time. */
static void
check_late(struct sim_thread *thread, enum sim_need need)
{
    if (need != SIM_MUST_LEARN_SOON) {
        thread->late_since_ns = 0;
        return;
    }
    if (thread->late_since_ns == 0) {
        thread->late_since_ns = sim.now_ns;
    }
    if (earliest_deadline() > thread->late_since_ns + SIM_SOON_NS) {
        sim_fail("p%d.%d sleeps on for long, not knowing of a death", thread->process,
                 thread->number);
    }
}

static void
check_sleepers(enum sim_need least)
{
    for (int i = 0; i < SIM_THREADS; i++) {
        struct sim_thread *const thread = &sim.threads[i];
        enum sim_need need;

        if (!is_asleep(thread)) {
            continue;
        }
        if (wants_a_leaf(thread)) {
            sim_fail("p%d.%d sleeps on a lock that nobody holds", thread->process,
                     thread->number);
        }
        if (thread->wants == NULL) {
            sim_fail("p%d.%d sleeps without a reason", thread->process, thread->number);
        }
        need = thread->wants(thread->wants_arg);
        check_late(thread, need);
        if (need >= least) {
            sim_fail("p%d.%d sleeps though what it waits for is there", thread->process,
                     thread->number);
        }
    }
}

/* Let the next sleeper time out. Some look at things now and then for as long as
 * nothing happens, so this ends some time. */
static bool
pass_time(void)
{
    const int64_t earliest = earliest_deadline();
    struct sim_thread *thread;

    if (++sim.passes > PASSES_MAX) {
        return false;
    }
    if (earliest == SST_FOREVER) {
        return false;
    }
    sim.now_ns = earliest > sim.now_ns ? earliest : sim.now_ns;
    while ((thread = any(is_overdue)) != NULL) {
        wake_overdue(thread);
    }
    return true;
}

static void
sweep_entry(void *arg)
{
    (void)arg;
    (void)ssti_proc_sweep(sim_arena());
}

/* Kill whoever is left; then one last process sweeps. False when that has been done. */
static bool
begin_end(void)
{
    if (sim.checking) {
        return false;
    }
    sim.checking = true;
    sim.habits.kills_left = 0;
    for (int p = 0; p < sim.process_count; p++) {
        if (!sim.processes[p].dead && !sim.processes[p].killed) {
            sim_kill(p);
        }
    }
    while (go_on_without_threads()) {
    }
    (void)sim_process_start(-1, sweep_entry, NULL);
    return true;
}

/* False when the run is over. */
static bool
settle(void)
{
    if (go_on_without_threads()) {
        return true;
    }
    check_sleepers(SIM_MUST_WAKE);
    if (!sim.checking && sim.scenario->settled != NULL) {
        sim.scenario->settled();
        if (any(is_ready) != NULL) {
            return true;
        }
    }
    if (pass_time()) {
        return true;
    }
    check_sleepers(SIM_MUST_LEARN);
    return begin_end();
}

static void
schedule(void)
{
    struct sim_thread *last = NULL;

    for (;;) {
        struct sim_thread *next;

        if (sim.failed) {
            longjmp(sim.escape, 1);
        }
        let_happen(last);
        next = any(is_ready);
        if (next == NULL) {
            if (!settle()) {
                return;
            }
            last = NULL;
            continue;
        }
        sim.current = next;
        swapcontext(&sim.scheduler, &next->context);
        sim.current = NULL;
        last = next;
    }
}

/* ---- A run ---- */

static uint32_t
pick(const uint32_t *of, uint32_t count)
{
    return of[sim_below(count)];
}

static void
choose_habits(void)
{
    static const uint32_t keep[] = {0, 128, 224, 248};
    static const uint32_t drains[] = {1000, 300, 60, 8};
    static const uint32_t exits[] = {600, 200, 50, 10};
    static const uint32_t stalls[] = {0, 4, 20, 100};
    static const uint32_t kills[] = {4000, 600, 200, 60};
    static const uint32_t expires[] = {200, 40, 4};
    static const uint32_t hot_kills[] = {0, 2, 12, 60};
    static const uint32_t hot_stalls[] = {0, 8, 64};
    static const uint32_t interrupts[] = {0, 60, 600};

    sim.habits = (struct sim_habits){
        .keep = pick(keep, 4),
        .drain = pick(drains, 4),
        .exit = pick(exits, 4),
        .stall = pick(stalls, 4),
        .kill = pick(kills, 4),
        .expire = pick(expires, 3),
        .interrupt = pick(interrupts, 3),
        .weak = sim_chance(1, 3),
        .fifo = sim_chance(3, 4),
        .signals_left = sim.scenario->signals ? 20 : 0,
        .hot_kill = pick(hot_kills, 4),
        .hot_stall = pick(hot_stalls, 3),
        .kills_left = (int)sim_below((uint32_t)sim.scenario->kills_max + 1),
    };
}

bool
sim_run(const struct sim_scenario *scenario, uint64_t seed, bool trace)
{
    sim_memory_reset();
    memset(&sim, 0, offsetof(struct sim, threads));
    for (int i = 0; i < SIM_THREADS; i++) {
        sim.threads[i].state = SIM_UNUSED;
        sim.threads[i].store_count = 0;
    }
    sim.scenario = scenario;
    sim.process_count = 0;
    sim.current = NULL;
    sim.random = seed * UINT64_C(0x2545f4914f6cdd1d) + 1;
    sim.steps = 0;
    sim.passes = 0;
    sim.kills = 0;
    sim.kills_of_many = 0;
    sim.owner_deaths = 0;
    sim.steps_max = 400000;
    sim.queue_order = 0;
    sim.now_ns = 1000;
    sim.next_tid = 101;
    sim.trace = trace;
    sim.failed = false;
    sim.checking = false;
    sim.message[0] = '\0';

    choose_habits();
    sim_kernel_reset();
    sim_alloc_reset();
    sim_shm_reset();
    if (setjmp(sim.escape) == 0) {
        scenario->setup();
        schedule();
        if (scenario->finish != NULL) {
            scenario->finish();
        }
    }
    return !sim.failed;
}
