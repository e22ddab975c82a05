/* SPDX-License-Identifier: MIT */

/* Pipes under kills: every committed message arrives once, in its sender's order, at
 * the other end; nobody sleeps while there is a message, room, or the end of file for
 * it; and an end of file or a lost reader is reported only when it is true. Some
 * receivers poll the descriptor themselves. Processes have one end, or both. */

#include <sidestep/sidestep.h>
#include <string.h>

#include "objects_sim.h"
#include "os/os.h"
#include "ring/ring.h"
#include "shm/arena.h"
#include "shm/layout.h"
#include "sim_scenarios.h"
#include "sim_shm.h"

enum {
    SEND_0, /* the number of the end is the role's last bit */
    RECV_1,
    RECV_0, /* SEND_1 is role 3 */
    ROLES = 4,
    SENDERS_MAX = SIM_PROCESSES * OBJECT_THREADS,
    MESSAGES_MAX = 8, /* of one sender */
    BODY_MAX = 80,
};

enum fate {
    NOT_YET,
    TRIED,
    SENT,
    GOT,
};

struct head {
    uint32_t sender;
    uint32_t number;
};

/* A process's view: the ends it has. */
struct ends {
    struct sst_pipe *pipe[2];
};

/* Where a thread waits. */
struct wish {
    uint32_t end;
};

static struct {
    int fds[2];
    struct ends ends[SIM_PROCESSES];
    struct wish wishes[SIM_THREADS];
    enum fate fates[SENDERS_MAX][MESSAGES_MAX];
    uint32_t target[SENDERS_MAX]; /* the end that is to get them */
    uint32_t seen[SIM_THREADS][SENDERS_MAX];
    uint32_t senders;
    uint32_t tries_died;
    uint32_t takes_under_way[SIM_PROCESSES];
    int rounds;
    bool duplex;
} p;

/* ---- What sleepers are owed ---- */

static uint64_t
count_now(const struct sst_ring_shm *ring)
{
    return ssti_load_rlx(&ring->put_count) - ssti_load_rlx(&ring->got_count);
}

static enum sim_need
receiver_need(void *arg)
{
    const struct sst_pipe_shm *const shm = objects_shared();
    const struct wish *const wish = arg;

    if (sim_pair_has_hung_up(p.fds[wish->end])) {
        return SIM_MUST_WAKE;
    }
    return count_now(&shm->ring[wish->end]) != 0 ? SIM_MUST_WAKE : SIM_MAY_SLEEP;
}

static enum sim_need
sender_need(void *arg)
{
    const struct sst_pipe_shm *const shm = objects_shared();
    const struct wish *const wish = arg;
    const struct sst_ring_shm *const ring = &shm->ring[1 - wish->end];
    const uint64_t count = count_now(ring);
    const uint64_t bytes =
        ssti_load_rlx(&ring->put_bytes) - ssti_load_rlx(&ring->got_bytes) + 8 * count;

    if (bytes < SSTI_PIPE_BYTES) {
        return SIM_MUST_WAKE;
    }
    if (sim_pair_has_hung_up(p.fds[wish->end])) {
        return p.duplex ? SIM_MUST_LEARN_SOON : SIM_MUST_WAKE;
    }
    return SIM_MAY_SLEEP;
}

/* ---- Messages ---- */

static uint64_t
compose(uint8_t *body, uint32_t sender, uint32_t number)
{
    const struct head head = {sender, number};
    const uint64_t size = sizeof(head) + (sender * 7 + number * 13) % (BODY_MAX - 8);

    memcpy(body, &head, sizeof(head));
    for (uint64_t i = sizeof(head); i < size; i++) {
        body[i] = (uint8_t)(sender + number + i);
    }
    return size;
}

static void
receive(const struct sst_message *message, uint32_t end)
{
    uint32_t *const seen = p.seen[sim.current - sim.threads];
    uint8_t expected[BODY_MAX];
    uint8_t body[BODY_MAX];
    struct head head;
    uint64_t size;

    sim_check(message->size >= sizeof(head) && message->size <= BODY_MAX);
    ssti_copy_out(body, message->data, message->size);
    memcpy(&head, body, sizeof(head));
    sim_check(head.sender < p.senders && head.number < MESSAGES_MAX);
    size = compose(expected, head.sender, head.number);
    sim_check(message->size == size && memcmp(body, expected, size) == 0);
    sim_check(p.target[head.sender] == end);
    if (p.fates[head.sender][head.number] == GOT) {
        sim_fail("message %u of sender %u came twice", head.number, head.sender);
    }
    sim_check(p.fates[head.sender][head.number] != NOT_YET);
    if (head.number < seen[head.sender]) {
        sim_fail("message %u of sender %u came out of order", head.number, head.sender);
    }
    seen[head.sender] = head.number + 1;
    p.fates[head.sender][head.number] = GOT;
    sim_trace("got %u of sender %u", head.number, head.sender);
}

/* ---- Roles ---- */

/* Is it true that nobody has the other end open? */
static bool
other_is_gone(uint32_t end)
{
    const struct sst_pipe_shm *const shm = objects_shared();
    const struct sst_pipe_end_shm *const other = &shm->end[1 - end];
    const struct sst_slot_shm *const slot =
        (const struct sst_slot_shm *)(const void *)(sim_buffer +
                                                    ssti_load_rlx(&other->slot));

    return sim_pair_has_hung_up(p.fds[end]) ||
           ssti_load_rlx(&slot->generation) != ssti_load_rlx(&other->generation) ||
           ssti_load_rlx(&slot->state) != SSTI_SLOT_LIVE;
}

/* A sender of a duplex pipe looks for a hang-up now and then: it would never settle
 * down where nobody reads. */
static int64_t
sender_deadline(void)
{
    const int64_t deadline_ns = objects_deadline();

    return deadline_ns == SST_FOREVER && p.duplex ? sim.now_ns + 50000000 : deadline_ns;
}

static void
send_some(struct sst_pipe *pipe, uint32_t end)
{
    struct wish *const wish = &p.wishes[sim.current - sim.threads];
    const uint32_t sender = p.senders++;
    uint8_t body[BODY_MAX];

    sim_check(sender < SENDERS_MAX);
    p.target[sender] = 1 - end;
    for (uint32_t number = 0; (int)number < p.rounds && number < MESSAGES_MAX;
         number++) {
        enum fate *const fate = &p.fates[sender][number];
        const int64_t deadline_ns = sender_deadline();
        const uint64_t size = compose(body, sender, number);
        int rc;

        *wish = (struct wish){end};
        *fate = TRIED;
        do {
            sim_wants(sender_need, wish);
            rc = sst_pipe_send(pipe, body, size, deadline_ns);
            sim_wants(NULL, NULL);
        } while (rc == SST_EINTR);
        if (rc == 0) {
            *fate = *fate == TRIED ? SENT : *fate;
            continue;
        }
        sim_check(*fate == TRIED);
        *fate = NOT_YET;
        if (rc == SST_EPIPE) {
            sim_check(other_is_gone(end));
            return;
        }
        sim_check(rc == SST_ETIMEDOUT && deadline_ns != SST_FOREVER);
        if (p.duplex && deadline_ns != SST_NOW) {
            return; /* looking now and then takes long enough */
        }
    }
}

/* Wait in the way a program with an event loop does, or another. True to receive
 * then. */
static bool
await(struct sst_pipe *pipe, struct wish *wish, int64_t deadline_ns)
{
    uint32_t seen;
    int rc;

    sim_wants(receiver_need, wish);
    rc = sim_chance(1, 2)
             ? sst_pipe_poll(pipe, deadline_ns)
             : ssti_os_pair_poll(sst_pipe_fd(pipe), &seen, deadline_ns) == 0;
    sim_wants(NULL, NULL);
    return rc > 0;
}

static void
recv_some(struct sst_pipe *pipe, uint32_t end)
{
    struct wish *const wish = &p.wishes[sim.current - sim.threads];
    const bool polls = sim_chance(1, 3);

    *wish = (struct wish){end};
    for (int i = 0; i < p.rounds; i++) {
        int64_t deadline_ns = objects_deadline();
        struct sst_message message;
        int rc;

        if (polls) {
            if (!await(pipe, wish, deadline_ns)) {
                continue;
            }
            deadline_ns = SST_NOW;
        }
        p.takes_under_way[sim.current->process]++;
        do {
            sim_wants(receiver_need, wish);
            rc = sst_pipe_recv(pipe, &message, deadline_ns);
            sim_wants(NULL, NULL);
        } while (rc == SST_EINTR);
        if (rc == 0) {
            receive(&message, end);
        }
        p.takes_under_way[sim.current->process]--;
        if (rc == 0) {
            sst_message_free(&message);
        }
        else if (rc == SST_EOF) {
            sim_check(sim_pair_has_hung_up(p.fds[end]));
            return;
        }
        else {
            sim_check(rc == SST_ETIMEDOUT && deadline_ns != SST_FOREVER);
        }
    }
}

static void
work(void *view, int role)
{
    const struct ends *const ends = view;
    const uint32_t end = (uint32_t)role & 1;
    const bool sends = role == SEND_0 || role == ROLES - 1;
    struct sst_pipe *const pipe = ends->pipe[role == RECV_0 ? 0 : end];

    memset(p.seen[sim.current - sim.threads], 0, sizeof(p.seen[0]));
    if (pipe == NULL) {
        return;
    }
    if (sends && sst_pipe_is_writable(pipe)) {
        send_some(pipe, end);
    }
    else if (!sends && sst_pipe_is_readable(pipe)) {
        recv_some(pipe, role == RECV_0 ? 0 : end);
    }
}

/* ---- The run ---- */

static void *
create(struct sst_arena *arena, struct sst_handle *handle)
{
    struct ends *const ends = &p.ends[sim.current->process];
    int end;

    sim_check(sst_pipe_create(arena, p.duplex, &ends->pipe[0], &ends->pipe[1], NULL) ==
              0);
    sst_pipe_handle(ends->pipe[0], handle, &end);
    p.fds[0] = sst_pipe_socket(ends->pipe[0]);
    p.fds[1] = sst_pipe_socket(ends->pipe[1]);
    return ends;
}

static struct sst_pipe *
attach_end(struct sst_arena *arena, const struct sst_handle *handle, uint32_t end)
{
    const int fd = sim_pair_dup(p.fds[end]);
    struct sst_pipe *pipe;

    if (fd < 0) {
        return NULL;
    }
    if (sst_pipe_attach(arena, handle, (int)end, fd, &pipe, NULL) != 0) {
        (void)ssti_os_close(fd);
        return NULL;
    }
    return pipe;
}

static void *
attach(struct sst_arena *arena, const struct sst_handle *handle)
{
    struct ends *const ends = &p.ends[sim.current->process];
    const int role = sim.processes[sim.current->process].role;
    const uint32_t end = role == RECV_0 ? 0 : (uint32_t)role & 1;

    ends->pipe[end] = attach_end(arena, handle, end);
    ends->pipe[1 - end] = sim_chance(1, 4) ? attach_end(arena, handle, 1 - end) : NULL;
    return ends;
}

static void
close_view(void *view)
{
    const struct ends *const ends = view;

    (void)sst_pipe_close(ends->pipe[0]);
    (void)sst_pipe_close(ends->pipe[1]);
}

static void
setup(void)
{
    static const struct objects_family family = {
        .kind = SST_KIND_PIPE,
        .create = create,
        .attach = attach,
        .close = close_view,
        .work = work,
        .processes_max = 5,
        .roles = ROLES,
        .respawns_max = 3,
        .threads = true,
    };

    memset(&p, 0, sizeof(p));
    p.duplex = !sim_chance(1, 4);
    p.rounds = 1 + (int)sim_below(MESSAGES_MAX);
    objects_setup(&family);
}

static void
died(int process)
{
    p.tries_died += p.takes_under_way[process];
    p.takes_under_way[process] = 0;
    objects_died(process);
}

/* Nobody runs. What was sent and not received is there, but for what was on its way
 * into the hands of a receiver that was killed. */
static void
settled(void)
{
    const struct sst_pipe_shm *const shm = objects_shared();
    uint64_t least = 0;
    uint64_t most = 0;
    uint64_t count;

    if (shm == NULL || !sim_shm_is_live(shm) ||
        (ssti_load_rlx(&shm->leaf.word) & UINT32_C(0x40000000)) != 0) {
        return;
    }
    for (uint32_t s = 0; s < p.senders; s++) {
        for (int i = 0; i < MESSAGES_MAX; i++) {
            least += p.fates[s][i] == SENT;
            most += p.fates[s][i] == SENT || p.fates[s][i] == TRIED;
        }
    }
    count = count_now(&shm->ring[0]) + count_now(&shm->ring[1]);
    if (count > most || count + p.tries_died < least) {
        sim_fail("%llu messages, of which %llu to %llu were sent and not received",
                 (unsigned long long)count, (unsigned long long)least,
                 (unsigned long long)most);
    }
}

const struct sim_scenario sim_pipe = {
    .name = "pipe",
    .setup = setup,
    .settled = settled,
    .died = died,
    .finish = objects_finish,
    .kills_max = 4,
    .signals = true,
};
