/* SPDX-License-Identifier: MIT */

/* Pools under kills: each task has one result, or none if it was cancelled; what a
 * worker has begun nobody else begins; a death shows as a result; and nobody sleeps
 * while there is something for it to do.
 *
 * The first process owns the pool. Its main thread submits, then waits; a second thread
 * waits with it, a third buries the dead and starts others in their place, a fourth
 * cancels, condemns and dismisses. Ids are used again with another generation, and lie
 * in several blocks of marks. */

#include "pool_books.h"

#include <string.h>

#include "os/os.h"
#include "pool/kinds.h"
#include "pool/pool.h"
#include "shm/arena.h"
#include "sim_scenarios.h"
#include "sim_shm.h"

static void
await_change(_Atomic uint32_t *word, uint32_t seen)
{
    sim_wants(pool_no_need, NULL);
    (void)ssti_os_futex_wait(word, seen, SST_FOREVER);
    sim_wants(NULL, NULL);
}

static void
change(_Atomic uint32_t *word)
{
    ssti_fetch_add(word, 1);
    (void)ssti_os_futex_wake(word, INT32_MAX);
}

/* ---- Workers ---- */

static void
tell(struct sst_pool_worker *worker)
{
    const struct sst_slice slice = {"note", 4};

    if (p.notes < NOTES_MAX && sim_chance(1, 6)) {
        sim_check(sst_pool_tell(worker, p.notes++, &slice, 1) == 0);
    }
}

/* Finish what is in hand; *next, in most cases. */
static int
finish(struct sst_pool_worker *worker, uint32_t number, struct sst_pool_job *next)
{
    uint8_t body[BODY_MAX];
    struct sst_slice slice = {body, pool_compose(body, number, 3)};
    struct sst_pool_outcome outcome = {
        .code = (int32_t)number % 3,
        .slices = &slice,
        .slice_count = 1,
    };
    struct sst_parcel *parcel = NULL;
    int rc;

    if (sim_chance(1, 4) && slice.size != 0 &&
        sst_parcel_create(sim_arena(), slice.size, 0, &parcel, NULL) == 0) {
        ssti_copy_in(sst_parcel_data(parcel), body, slice.size);
        outcome.parcel = &parcel;
    }
    rc = sst_pool_finish(worker, &outcome, next,
                         sim_chance(1, 4) ? SST_NOW : SST_FOREVER);
    if (parcel != NULL) {
        sim_check(rc == SST_ECLOSED);
        (void)sst_parcel_close(parcel);
    }
    return rc;
}

/* The crew sleeps until the shortest deadline there is. */
static void
check_deadline(const struct task *task)
{
    const uint64_t shortest = ssti_load_rlx(&p.pool->shortest_ns);

    if (sim.processes[p.owner].killed) {
        return;
    }
    if (task->hard_ns != 0 && (shortest == 0 || shortest > task->hard_ns)) {
        sim_fail("a deadline is not known");
    }
}

static void
run(const struct sst_pool_job *job)
{
    struct task *const task = pool_task(job->id, job->tag);

    sim_trace("runs task %u", (unsigned)job->tag);
    if (task->runs++ != 0) {
        sim_fail("task %u is run twice", (unsigned)job->tag);
    }
    sim_check(pool_is_open(task) && job->function == FUNCTION);
    pool_check_body(&job->message, (uint32_t)job->tag, 0);
    check_deadline(task);
}

static void
work(struct sst_pool_worker *worker, uint64_t *seat)
{
    static struct sst_pool_job jobs[SIM_PROCESSES][2];
    struct sst_pool_job *job = jobs[sim.current->process];
    struct sst_pool_job *next = job + 1;
    bool has_job = false;
    int rc = SST_EAGAIN;

    sim_wants(pool_worker_need, seat);
    for (;;) {
        if (!has_job) {
            rc = sst_pool_take(worker, job, SST_FOREVER);
        }
        if (rc == SST_EINTR || rc == SST_EAGAIN || rc == SST_ETIMEDOUT) {
            has_job = false;
            continue;
        }
        if (rc != 0) {
            break;
        }
        run(job);
        tell(worker);
        rc = finish(worker, (uint32_t)job->tag, sim_chance(1, 4) ? NULL : next);
        sst_message_free(&job->message);
        if (rc == SST_ECLOSED) {
            sim_check(ssti_load_rlx(&pool_seat_shm((uint32_t)*seat - 1)->condemned) !=
                      0);
            return;
        }
        has_job = rc == 0;
        if (has_job) {
            struct sst_pool_job *const other = job;

            job = next;
            next = other;
        }
    }
    sim_check(rc == SST_ESHUTDOWN || rc == SST_EOF);
}

static void
worker_entry(void *arg)
{
    uint64_t *const seat = arg;
    struct sst_pool_worker *worker;
    struct sst_pool *pool;

    if (sst_pool_attach(sim_arena(), &p.handle, &pool, NULL) != 0) {
        sim_check(sim.processes[p.owner].killed);
        return;
    }
    if (sst_pool_enter(pool, *seat, &worker, NULL) == 0) {
        work(worker, seat);
        sim_wants(NULL, NULL);
        if (!sim_chance(1, 8)) { /* or it exits as it is */
            (void)sst_pool_leave(worker);
        }
    }
    if (!sim_chance(1, 8)) {
        (void)sst_pool_close(pool);
    }
}

static void
start_worker(struct worker *worker)
{
    uint64_t *order;

    if (p.starts == STARTS_MAX ||
        sst_pool_reserve(p.pool, p.worker_max, &worker->seat) != 0) {
        return;
    }
    order = &p.orders[sim.process_count];
    *order = worker->seat;
    worker->process = sim_process_start(1, worker_entry, order);
    worker->is_there = worker->process >= 0;
    sim_check(worker->is_there);
    p.starts++;
}

/* ---- The owner's threads ---- */

static void
bury_dead(void)
{
    for (uint32_t i = 0; i < SEATS; i++) {
        struct worker *const worker = &p.workers[i];

        if (worker->is_there && sim.processes[worker->process].dead) {
            sim_check(sst_pool_bury(p.pool, worker->seat, -9) >= 0);
            worker->is_there = false;
            (void)ssti_proc_sweep(sim_arena());
            change(&p.ends);
        }
        if (!worker->is_there && i < p.wanted && !p.is_shut) {
            start_worker(worker);
        }
    }
}

static void
undertake(void *arg)
{
    (void)arg;
    while (ssti_load_acq(&p.stops) == 0) {
        const uint32_t ends = ssti_load_acq(&p.ends);

        bury_dead();
        await_change(&p.ends, ends);
    }
}

static void
cancel(uint32_t number)
{
    struct task *const task = &p.tasks[number];
    const int rc = sst_pool_cancel(p.pool, task->id);

    if (rc == 1) {
        sim_trace("task %u is cancelled", number);
        sim_check(task->runs == 0);
        pool_settle(task, CANCELLED);
        if (p.all_done != 0) {
            sst_pool_nudge(p.pool);
        }
    }
}

static void
condemn(uint32_t number)
{
    struct task *const task = &p.tasks[number];
    uint64_t seat;

    if (sst_pool_condemn(p.pool, task->id, SST_POOL_BY_CANCEL, &seat) != 1) {
        return;
    }
    sim_trace("task %u is condemned", number);
    sim_check(pool_is_open(task));
    task->is_condemned = true;
    for (uint32_t i = 0; i < SEATS; i++) {
        if (p.workers[i].is_there && p.workers[i].seat == seat &&
            !sim.processes[p.workers[i].process].dead && sim_chance(2, 3)) {
            sim_kill(p.workers[i].process);
        }
    }
}

/* Things an owner may do at any time. */
static void
interfere(void *arg)
{
    const uint32_t rounds = sim_below(8);

    (void)arg;
    for (uint32_t i = 0; i < rounds && ssti_load_acq(&p.stops) == 0; i++) {
        const uint32_t number = sim_below(p.task_count);
        const uint32_t seat = sim_below(SEATS);

        for (uint32_t idle = sim_below(400); idle > 0; idle--) {
            sim_step();
        }
        if (sim_chance(1, 6) && p.workers[seat].is_there) {
            sst_pool_dismiss(p.pool, p.workers[seat].seat);
        }
        else if (number < p.begun && p.tasks[number].fate == SUBMITTED) {
            (sim_chance(1, 2) ? cancel : condemn)(number);
        }
    }
}

static void
receive(struct sst_pool_result *result)
{
    struct task *task;

    if (result->kind == SST_POOL_NOTE) {
        sim_check(result->tag < p.notes && result->message.size == 4);
        sim_check(!p.told[result->tag]);
        p.told[result->tag] = true;
        return;
    }
    task = pool_task(result->id, result->tag);
    sim_trace("task %u: result %u", (unsigned)result->tag, result->kind);
    if (!pool_is_open(task)) {
        sim_fail("task %u has a result, and was settled", (unsigned)result->tag);
    }
    sim_check(result->function == FUNCTION);
    if (result->kind == SST_POOL_DONE) {
        sim_check(task->runs == 1 && !task->is_condemned);
        sim_check(result->code == (int32_t)result->tag % 3);
        pool_check_body(&result->message, (uint32_t)result->tag, 3);
    }
    else {
        sim_check(result->kind == SST_POOL_LOST && result->code == -9);
        sim_check(!task->is_condemned || result->reason == SST_POOL_BY_CANCEL);
        sim_check(result->message.size == 0);
    }
    pool_settle(task, ANSWERED);
}

/* Take some; how many, or the status. */
static int
take_results(int64_t deadline_ns)
{
    static struct sst_pool_result results[SIM_THREADS][BATCH_MAX];
    struct sst_pool_result *const batch = results[sim.current - sim.threads];
    const int rc =
        sst_pool_results(p.pool, batch, 1 + sim_below(BATCH_MAX), deadline_ns);

    for (int i = 0; i < rc; i++) {
        receive(&batch[i]);
    }
    for (int i = 0; i < rc; i++) {
        sst_message_free(&batch[i].message);
    }
    sim_check(rc > 0 || rc == SST_EAGAIN || rc == SST_EINTR || rc == SST_ETIMEDOUT);
    return rc;
}

/* Take results if nobody else does. */
static void
lead_once(int64_t deadline_ns)
{
    sim_wants(pool_waiter_need, NULL);
    if (sst_pool_lead(p.pool, NULL, deadline_ns) == 1) {
        (void)take_results(deadline_ns);
        sst_pool_follow(p.pool);
    }
    sim_wants(NULL, NULL);
}

/* Wait until all is pool_check_places, as a thread among others. */
static void
wait_for_all(void *arg)
{
    int rc = 0;

    (void)arg;
    while (rc != 0 || ssti_load_acq((_Atomic uint32_t *)(void *)&p.all_done) == 0) {
        sim_wants(pool_waiter_need, NULL);
        rc = sst_pool_lead(p.pool, &p.all_done, SST_FOREVER);
        if (rc == 1) {
            (void)take_results(SST_FOREVER);
            sst_pool_follow(p.pool);
        }
        sim_wants(NULL, NULL);
    }
}

/* The same, asleep on the descriptor: alone, for a cancellation does not ring. */
static void
poll_for_all(void)
{
    const int fd = sst_pool_fd(p.pool, NULL);

    sim_check(fd >= 0);
    while (p.all_done == 0) {
        sim_wants(pool_poller_need, NULL);
        (void)sim_poll(fd, sim.now_ns + 100000);
        sim_wants(NULL, NULL);
        (void)take_results(SST_NOW);
    }
}

/* ---- Submitting ---- */

/* An index nobody uses; waits for a result if there is none. */
static bool
find_index(uint32_t *index)
{
    for (uint32_t i = 0; i < INDEXES; i++) {
        if (p.user[i] == 0 || !pool_is_open(&p.tasks[p.user[i] - 1])) {
            *index = i;
            return true;
        }
    }
    return false;
}

static uint64_t
new_id(uint32_t index, uint32_t number)
{
    p.user[index] = number + 1;
    p.generation[index] += 1 + sim_below(2);
    return (uint64_t)p.generation[index] << 32 | index * STRIDE;
}

/* Submit from p.begun on, one or some: how many, or the status. */
static int
submit_some(void)
{
    static uint8_t bodies[BATCH_MAX][BODY_MAX];
    static struct sst_pool_task tasks[BATCH_MAX];
    static struct sst_slice slices[BATCH_MAX];
    const int64_t deadline_ns = sim_chance(1, 4) ? SST_NOW : SST_FOREVER;
    const uint32_t first = p.begun;
    struct sst_parcel *parcel = NULL;
    uint32_t count = 0;
    uint32_t index;
    int rc;

    while (count < BATCH_MAX && first + count < p.task_count && find_index(&index)) {
        const uint32_t number = first + count;

        slices[count] =
            (struct sst_slice){bodies[count], pool_compose(bodies[count], number, 0)};
        tasks[count] = (struct sst_pool_task){
            .id = new_id(index, number),
            .function = FUNCTION,
            .tag = number,
            .priority = sim_chance(1, 3) ? sim_below(SST_POOL_PRIORITIES) : 1,
            .hard_ns = sim_chance(1, 4) ? 1000 + sim_below(1000) : 0,
            .slices = &slices[count],
            .slice_count = 1,
        };
        p.tasks[number].id = tasks[count].id;
        p.tasks[number].hard_ns = (uint64_t)tasks[count].hard_ns;
        p.tasks[number].fate = TRIED;
        count++;
        p.begun = first + count;
        if (sim_chance(1, 2)) {
            break;
        }
    }
    if (count == 0) {
        return 0;
    }
    if (count == 1 && slices[0].size != 0 && sim_chance(1, 3)) {
        sim_check(sst_parcel_create(sim_arena(), slices[0].size, 0, &parcel, NULL) ==
                  0);
        ssti_copy_in(sst_parcel_data(parcel), bodies[0], slices[0].size);
        tasks[0].parcel = &parcel;
    }
    sim_wants(pool_submitter_need, NULL);
    if (count == 1) {
        rc = sst_pool_submit(p.pool, &tasks[0], deadline_ns);
        rc = rc == 0 ? 1 : rc;
    }
    else {
        rc = sst_pool_submit_many(p.pool, tasks, count, deadline_ns);
    }
    sim_wants(NULL, NULL);
    sim_check((parcel != NULL) == (tasks[0].parcel != NULL && rc < 0));
    if (parcel != NULL) {
        (void)sst_parcel_close(parcel);
    }
    for (uint32_t i = 0; i < count; i++) {
        struct task *const task = &p.tasks[first + i];

        if ((int)i >= rc) {
            sim_check(task->fate == TRIED && task->runs == 0);
            task->fate = NOT_YET; /* tried again, with another id */
        }
        else if (task->fate == TRIED) {
            task->fate = SUBMITTED;
        }
    }
    p.begun = first + (rc > 0 ? (uint32_t)rc : 0);
    sim_check(rc > 0 || rc == SST_EINTR ||
              (rc == SST_ETIMEDOUT && deadline_ns == SST_NOW));
    return rc;
}

static void
submit_all(void)
{
    while (p.begun < p.task_count) {
        if (submit_some() == 0 || sim_chance(1, 4)) {
            lead_once(sim.now_ns + 200);
        }
    }
    p.all_in = true;
    pool_look_whether_done();
    if (p.all_done != 0) {
        sst_pool_nudge(p.pool);
    }
}

/* ---- The end ---- */

static uint32_t
workers_there(void)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < SEATS; i++) {
        count += p.workers[i].is_there;
    }
    return count;
}

/* Shut, and wait until every worker is buried. */
static void
shut(bool at_once)
{
    p.is_shut = true;
    sst_pool_shutdown(p.pool, at_once);
    for (;;) {
        const uint32_t ends = ssti_load_acq(&p.ends);

        if (workers_there() == 0) {
            break;
        }
        await_change(&p.ends, ends);
    }
}

/* Shut at once: what nobody had in hand is gone without a result. */
static void
give_up(void)
{
    shut(true);
    sim_wants(pool_no_need, NULL);
    while (sst_pool_lead(p.pool, NULL, sim.now_ns + 50) != 1) {
        sst_pool_nudge(p.pool); /* another leads, and has not noted what it took */
    }
    sim_wants(NULL, NULL);
    while (take_results(SST_NOW) != SST_ETIMEDOUT) {
    }
    ssti_store_rel(&p.stops, 1);
    for (uint32_t i = 0; i < p.begun; i++) {
        if (pool_is_open(&p.tasks[i])) {
            sim_check(p.tasks[i].runs == 0 && !p.tasks[i].is_condemned);
            p.tasks[i].fate = DROPPED;
        }
    }
    p.all_done = 1;
    sst_pool_follow(p.pool);
    sst_pool_nudge(p.pool);
}

static void
owner_entry(void *arg)
{
    (void)arg;
    sim_check(sst_pool_create(sim_arena(), &p.options, &p.pool, NULL) == 0);
    sst_pool_handle(p.pool, &p.handle);
    p.shm = (struct sst_pool_shm *)(void *)(sim_buffer + p.handle.offset);
    sim_fence(); /* a handle travels by fork or message */
    sim.processes[p.owner].immortal = !sim_chance(1, 4);
    (void)sim_thread_start(p.owner, undertake, NULL);
    if (sim_chance(2, 3)) {
        (void)sim_thread_start(p.owner, interfere, NULL);
    }
    if (!p.is_alone) {
        (void)sim_thread_start(p.owner, wait_for_all, NULL);
    }
    submit_all();
    if (p.all_done == 0 && sim_chance(1, 6)) {
        give_up();
    }
    else if (p.is_alone) {
        poll_for_all();
    }
    else {
        wait_for_all(NULL);
    }
    shut(sim_chance(1, 2));
    ssti_store_rel(&p.stops, 1);
    change(&p.ends);
    sim_join_others();
    sim_check(sst_pool_outstanding(p.pool) == 0);
    (void)sst_pool_close(p.pool);
}

/* ---- The run ---- */

static void
setup(void)
{
    memset(&p, 0, sizeof(p));
    ssti_kind_register(SST_KIND_POOL, ssti_pool_kind());
    p.options = (struct sst_pool_options){
        .size_of = sizeof(p.options),
        .seat_max = SEATS,
        .task_max = sim_chance(1, 2) ? 0 : 1 + sim_below(4),
    };
    p.task_count = 1 + sim_below(TASKS_MAX);
    p.wanted = 1 + sim_below(SEATS - 1);
    p.worker_max = sim_chance(1, 2) ? 0 : 1 + sim_below(3);
    p.is_alone = sim_chance(1, 4);
    p.owner = sim_process_start(0, owner_entry, NULL);
    sim.processes[p.owner].immortal = true;
}

static void
died(int process)
{
    if (process != p.owner) {
        change(&p.ends);
    }
}

static void
finish_run(void)
{
    if (sim_shm_live_slots() != 0 || sim_shm_live_extents() != 0) {
        sim_fail("%d slots and %d extents are left over", sim_shm_live_slots(),
                 sim_shm_live_extents());
    }
    if (!sim.processes[p.owner].killed && p.all_done == 0) {
        sim_fail("the owner came to no end");
    }
}

const struct sim_scenario sim_pool = {
    .name = "pool",
    .setup = setup,
    .settled = pool_check_places,
    .died = died,
    .finish = finish_run,
    .kills_max = 6,
    .signals = true,
};

const struct sim_scenario *const sim_scenarios[] = {&sim_pool, NULL};
