/* SPDX-License-Identifier: MIT */
#ifndef SIM_H
#define SIM_H

/* A deterministic world for the core's sources: processes with threads over one shared
 * buffer, a kernel that knows futexes, deaths and datagram sockets, and a seed that
 * decides who runs, what a store buffer lets out, who is killed, and when a sleeper
 * times out. docs/internals/proof.rst tells what is modelled and what is not. */

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <ucontext.h>

#include "base/atomic.h"
#include "os/os.h"
#include "os/self.h"

enum {
    SIM_THREADS = 24,   /* at a time */
    SIM_PROCESSES = 96, /* in a run, the dead included */
    SIM_STACK_SIZE = 65536,
    SIM_STORES = 12, /* depth of a store buffer */
    SIM_QUEUES = 8,  /* words one thread sleeps on */
    SIM_BUFFER_SIZE = 1 << 20,
    SIM_SOON_NS = 50000000, /* in which a death is to show */
};

enum sim_state {
    SIM_UNUSED,
    SIM_READY,
    SIM_BLOCKED,
    SIM_STOPPED, /* will run no more; the kernel has yet to clear up after it */
    SIM_GONE,
};

/* What the kernel does for a stopped thread, one step each. */
enum sim_exit {
    SIM_EXIT_UNQUEUE,
    SIM_EXIT_LIFE,
    SIM_EXIT_LIFE_WAKE,
    SIM_EXIT_PENDING,
    SIM_EXIT_PENDING_WAKE,
};

struct sim_store {
    uint8_t *address;
    uint64_t value;
    uint32_t size;
    bool release;
};

struct sim_queue {
    const void *word;
    uint64_t order;
    bool queued;
};

/* How badly a sleeper should be awake. */
enum sim_need {
    SIM_MAY_SLEEP,
    SIM_MUST_LEARN,      /* before the end of time: a time-out of its own may tell it */
    SIM_MUST_LEARN_SOON, /* within SIM_SOON_NS */
    SIM_MUST_WAKE,       /* at once */
};
typedef enum sim_need (*sim_predicate)(void *arg);

struct sim_thread {
    ucontext_t context;
    struct ssti_self self;
    enum sim_state state;
    enum sim_exit exit;
    int process;
    int number;  /* within its process; 0 is the main thread */
    bool doomed; /* killed, but still running for a moment */
    bool woken, expired, interrupted;
    uint64_t stalled_until;
    int64_t deadline_ns;
    void (*entry)(void *arg);
    void *arg;
    int64_t late_since_ns; /* has not learned of a death since then; 0 = need not */
    sim_predicate wants;
    void *wants_arg;
    struct sim_store stores[SIM_STORES];
    uint32_t store_count;
    struct sim_queue queues[SIM_QUEUES];
    uint32_t queue_count;
};

struct sim_process {
    int alive_threads;
    int threads; /* ever started */
    bool used, dead, killed, immortal;
    int role; /* the scenario's */
    int slot; /* in the registry; -1 when swept */
};

/* How this seed behaves; chosen from the seed, and by the scenario. */
struct sim_habits {
    uint32_t keep;      /* of 256: go on with the same thread */
    uint32_t drain;     /* of 1024, each step */
    uint32_t exit;      /* of 1024 */
    uint32_t stall;     /* of 4096 */
    uint32_t kill;      /* of 65536, while kills are left */
    uint32_t expire;    /* of 4096 */
    uint32_t interrupt; /* of 65536 */
    uint32_t hot_kill;  /* of 256: die where a wake is due, or was just received */
    uint32_t hot_stall; /* of 256: stop on the way to bed */
    bool weak;          /* plain stores may overtake each other, as on aarch64 */
    bool fifo;          /* wake in order of arrival; otherwise any */
    int kills_left;
    int signals_left;
};

struct sim_scenario {
    const char *name;
    void (*setup)(void);       /* memory and first processes */
    void (*settled)(void);     /* nobody can run: check; may start more */
    void (*died)(int process); /* cleared up by the kernel; may start another */
    void (*finish)(void);      /* everybody dead and swept: what is left? */
    int kills_max;
    bool signals;
    bool busy; /* many steps a run: fewer seeds do */
};

struct sim {
    const struct sim_scenario *scenario;
    struct sim_habits habits;
    struct sim_thread threads[SIM_THREADS];
    struct sim_process processes[SIM_PROCESSES];
    int process_count;
    struct sim_thread *current; /* NULL in the scheduler and in checkers */
    ucontext_t scheduler;
    uint64_t random;
    uint64_t steps, steps_max;
    int passes; /* times nobody could run and a sleeper's deadline was brought on */
    uint64_t queue_order;
    int64_t now_ns;
    uint32_t next_tid;
    bool trace, failed, checking;
    char message[512];
    jmp_buf escape;
    uint64_t kills, owner_deaths;
    uint64_t kills_of_many; /* of processes with several threads */
};

extern struct sim sim;
extern uint8_t sim_buffer[SIM_BUFFER_SIZE];

/* ---- sim.c: threads ---- */

/* Run one seed; true when it passed. */
bool sim_run(const struct sim_scenario *scenario, uint64_t seed, bool trace);

uint64_t sim_random(void);
uint32_t sim_below(uint32_t limit);
bool sim_chance(uint32_t part, uint32_t of);

/* Start a process with one thread, and more threads in it. Allowed in checkers and in
 * simulated threads alike; no step. -1 when the tables are full. */
int sim_process_start(int role, void (*entry)(void *arg), void *arg);
int sim_thread_start(int process, void (*entry)(void *arg), void *arg);

/* In a main thread: wait until the process's other threads have ended. */
void sim_join_others(void);

/* Whether the thread with this id may still execute something. */
bool sim_thread_runs(uint32_t tid);

/* Kill a process: its threads stop at some step from now on. */
void sim_kill(int process);

/* The calling thread is about to wait, and predicate(arg) says whether it may stay
 * asleep, asked whenever nobody can run. NULL: it has no reason to sleep for long. */
void sim_wants(sim_predicate predicate, void *arg);

/* The seed failed. Does not return. */
_Noreturn void sim_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
void sim_trace(const char *format, ...) __attribute__((format(printf, 1, 2)));

#define sim_check(cond)                                       \
    do {                                                      \
        if (!(cond)) {                                        \
            sim_fail("%s:%d: %s", __FILE__, __LINE__, #cond); \
        }                                                     \
    } while (0)

/* Places where trouble does most harm; a habit decides whether it happens. The calling
 * thread is killed, another is killed, the calling thread is held up. */
void sim_hot_death(void);
void sim_hot_kill(struct sim_thread *victim);
void sim_hot_stall(void);

/* One scheduling step of the calling thread. */
void sim_step(void);
/* Give the processor away until made ready again. */
void sim_block(void);

/* ---- sim_memory.c ---- */

void sim_memory_reset(void);
/* Let one store out of a buffer: the oldest, or in a weak world a plain one that
 * overtakes. */
void sim_drain_one(struct sim_thread *thread);
void sim_drain_all(struct sim_thread *thread);
/* Memory of the shared buffer, zeroed at the start of each seed. */
void *sim_memory(size_t size, size_t alignment);
/* A name for a range of the buffer, in traces. */
void sim_name(const void *address, size_t size, const char *name);

/* ---- sim_kernel.c ---- */

void sim_kernel_reset(void);
/* One more step of a stopped thread's clearing up. */
void sim_kernel_exit_step(struct sim_thread *thread);
/* A checker's view: the number of living threads asleep on this word. */
int sim_kernel_sleepers(const void *word);
/* The kernel has cleared up a process: its descriptors are closed. */
void sim_kernel_close_all(int process);
/* poll() for reading on one descriptor. 1, 0 past the deadline, SST_EINTR. */
int sim_poll(int fd, int64_t deadline_ns);
/* One more holder, in the calling process, of an end of a pair; the same number. -1
 * when nobody has that end any more. */
int sim_pair_dup(int fd);
/* Nobody has the other end. */
bool sim_pair_has_hung_up(int fd);

/* ---- sim_alloc.c ---- */

void sim_alloc_reset(void);

/* ---- sim_shm.c: a model of the arena's contract ---- */

void sim_shm_reset(void);
/* The arena as seen by the calling thread's process, or by `process`. */
struct sst_arena *sim_arena(void);
struct sst_arena *sim_arena_of(int process);
/* A process has started: give it a slot in the registry. */
void sim_shm_enter(int process);
/* The life word in the registry of a process; NULL when it has none. */
_Atomic uint32_t *sim_shm_life(int process);
uint32_t sim_shm_pid(int process);

#endif
