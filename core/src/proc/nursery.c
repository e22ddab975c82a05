/* SPDX-License-Identifier: MIT */

/* Children between the wish for them and their job, as their owner sees them.
 *
 *   asked for     `coming` counts them
 *   made          the zygote says a pid and a seat
 *   ready         the child says it itself, and sends our end of its tether and its
 *                 pidfd, so that nothing is left to be done when it is needed
 *
 * The two notes travel over one socket and may come in either order: a child has a
 * serial number by which they find each other. The zygote is not the children's parent
 * and cannot see them die, so whoever waits for a child to become ready waits for the
 * deaths of those that were made as well. A child that became ready holds the zygote's
 * end of the socket no longer; when the zygote is dead and the socket at its end, what
 * was made and is not ready has died.
 *
 * Death table (the zygote dies after ...)
 *   reading a request      end of file: the owner starts another zygote
 *   making a child         the child says that it is ready, over its own copy of the
 *                          socket, which is what keeps end of file away
 * (a child dies after ...)
 *   being made             its pidfd wakes who waits; else it is found when the zygote
 *                          is closed
 *   saying that it is      the job cannot be sent to it, and the next one is taken; it
 *   ready                  is reaped like any child that was given up
 * (the owner dies)         the sockets close: zygote and children read end of file, and
 *                          the kernel's signal comes sooner */

#include "proc/nursery.h"

#include <errno.h>
#include <stddef.h>

#include "base/crashpoint.h"
#include "base/status.h"
#include "proc/zygote.h"
#include "shm/arena.h"

enum {
    STRAGGLER_MS = 1000,
};

int
ssti_nursery_ask(struct sst_process *zygote, uint32_t count)
{
    struct ssti_nursery *const nursery = zygote->nursery;
    const uint32_t have = nursery->coming + ssti_load_rlx(&nursery->warm_count);
    const uint32_t room = have < SSTI_NURSERY_MAX ? SSTI_NURSERY_MAX - have : 0;
    struct ssti_zygote_request request = {
        .magic = SSTI_ZYGOTE_MAGIC,
        .way = nursery->way,
        .count = count < room ? count : room,
        .idle_ms = nursery->idle_ms,
    };
    struct ssti_os_packet packet = {.data = &request, .size = sizeof(request)};
    int rc;

    if (request.count == 0) {
        return 0;
    }
    if (nursery->setup_serial != nursery->setup_told && nursery->setup_serial != 0) {
        request.setup_serial = nursery->setup_serial;
        request.setup_size = (uint32_t)nursery->setup_size;
        packet.more = nursery->setup;
        packet.more_size = nursery->setup_size;
    }
    do {
        rc = ssti_os_packet_send(zygote->tether, &packet);
    } while (rc == SST_EINTR);
    if (rc == 0) {
        SST_CRASHPOINT(start_owner_asked);
        nursery->coming += request.count;
        nursery->setup_told = nursery->setup_serial;
    }
    return rc;
}

/* ---- What was said ---- */

static struct ssti_birth *
find_birth(struct ssti_nursery *nursery, uint32_t serial)
{
    for (uint32_t i = 0; i < nursery->birth_count; i++) {
        if (nursery->births[i].serial == serial) {
            return &nursery->births[i];
        }
    }
    return NULL;
}

static void
forget_birth(struct ssti_nursery *nursery, struct ssti_birth *birth)
{
    (void)ssti_os_close(birth->pidfd);
    *birth = nursery->births[--nursery->birth_count];
}

/* Each has been asked for, so there is room: one more for a child that was quicker than
 * the zygote's note. */
static void
add_birth(struct ssti_nursery *nursery, const struct ssti_zygote_note *note, int pid)
{
    if (nursery->birth_count <= SSTI_NURSERY_MAX) {
        nursery->births[nursery->birth_count++] = (struct ssti_birth){
            .seat = note->seat,
            .serial = note->serial,
            .pid = pid,
            .pidfd = -1,
        };
    }
}

static void
one_less(struct ssti_nursery *nursery, int failure)
{
    nursery->coming -= nursery->coming > 0;
    nursery->failure = failure;
}

static void
take_made(struct ssti_nursery *nursery, const struct ssti_zygote_note *note)
{
    struct ssti_birth *const early = find_birth(nursery, note->serial);

    if (note->pid < 0) {
        one_less(nursery, note->pid);
    }
    else if (early == NULL) {
        add_birth(nursery, note, note->pid);
    }
    else if (early->pid == 0) {
        forget_birth(nursery, early);
    }
}

static void
take_ready(struct ssti_nursery *nursery, const struct ssti_zygote_note *note,
           struct ssti_os_packet *packet)
{
    struct ssti_birth *const birth = find_birth(nursery, note->serial);
    const uint32_t count = ssti_load_rlx(&nursery->warm_count);

    if (packet->fd_count != SSTI_READY_FDS || count == SSTI_NURSERY_MAX) {
        /* Our limit of descriptors kept them from us. The child reads end of file; it
         * has to be reaped still, so its birth stays. */
        if (birth == NULL) {
            add_birth(nursery, note, note->pid);
        }
        nursery->failure = SST_EMFILE;
        return;
    }
    if (birth != NULL) {
        forget_birth(nursery, birth);
    }
    else {
        add_birth(nursery, note, 0);
    }
    nursery->warm[count] = (struct ssti_warm){
        .seat = note->seat,
        .pid = note->pid,
        .pidfd = packet->fds[SSTI_READY_PIDFD],
        .tether = packet->fds[SSTI_READY_TETHER],
        .setup_serial = note->setup_serial,
    };
    packet->fd_count = 0;
    ssti_store_rel(&nursery->warm_count, count + 1);
    one_less(nursery, 0);
}

/* If the probe that the zygote made is our child, so will be the others. */
static void
take_hello(struct ssti_nursery *nursery, const struct ssti_zygote_note *note)
{
    int code = 0;

    nursery->way = note->pid > 0 && ssti_os_reap_pid(note->pid, &code) == 1 && code == 0
                       ? SSTI_ZYGOTE_SIBLING
                       : SSTI_ZYGOTE_CHILD;
}

static int
take_note(struct ssti_nursery *nursery, const struct ssti_zygote_note *note,
          struct ssti_os_packet *packet)
{
    if (packet->size != sizeof(*note) || note->magic != SSTI_ZYGOTE_MAGIC) {
        return SST_EPIPE;
    }
    switch (note->what) {
    case SSTI_ZYGOTE_HELLO:
        take_hello(nursery, note);
        break;
    case SSTI_ZYGOTE_MADE:
        take_made(nursery, note);
        break;
    case SSTI_ZYGOTE_READY:
        take_ready(nursery, note, packet);
        break;
    default:
        return SST_EPIPE;
    }
    for (uint32_t i = 0; i < packet->fd_count; i++) {
        (void)ssti_os_close(packet->fds[i]);
    }
    return 0;
}

static int
receive(struct sst_process *zygote, bool now)
{
    struct ssti_zygote_note note = {0};
    int fds[SSTI_OS_PASS_MAX];
    struct ssti_os_packet packet = {
        .data = &note,
        .size = sizeof(note),
        .fds = fds,
        .now = now,
    };
    const int rc = ssti_os_packet_receive(zygote->tether, &packet);

    if (rc < 0) {
        return rc == SST_EOF ? SST_EPIPE : rc;
    }
    return take_note(zygote->nursery, &note, &packet);
}

int
ssti_nursery_collect(struct sst_process *zygote)
{
    int rc;

    do {
        rc = receive(zygote, true);
    } while (rc == 0 || rc == SST_EINTR);
    return rc == SST_EAGAIN ? 0 : rc;
}

/* ---- Waiting ---- */

/* It died before it was ready, or could not tell us. */
static void
bury(const struct sst_process *zygote, struct ssti_birth *birth)
{
    struct ssti_nursery *const nursery = zygote->nursery;
    const int failure = nursery->failure != 0 ? nursery->failure : -ECHILD;
    int code = 0;

    (void)ssti_os_reap(birth->pidfd, &code); /* others may have been quicker */
    ssti_proc_abandon(zygote->arena, birth->seat);
    forget_birth(nursery, birth);
    one_less(nursery, failure);
}

/* The program has reaped it. What it may have said before comes first. */
static void
bury_reaped(struct sst_process *zygote, uint32_t serial)
{
    struct ssti_birth *birth;

    (void)ssti_nursery_collect(zygote); /* its end is found by who waits */
    birth = find_birth(zygote->nursery, serial);
    if (birth != NULL) {
        bury(zygote, birth);
    }
}

/* To see them die. Without a descriptor for that none could come from them either. */
static int
watch_births(struct sst_process *zygote)
{
    struct ssti_nursery *const nursery = zygote->nursery;

    for (uint32_t i = 0; i < nursery->birth_count; i++) {
        struct ssti_birth *const birth = &nursery->births[i];

        if (birth->pid != 0 && birth->pidfd < 0) {
            birth->pidfd = ssti_os_pidfd_open(birth->pid);
        }
        if (birth->pidfd == SST_ESRCH) {
            bury_reaped(zygote, birth->serial);
            i = UINT32_MAX; /* others have moved: from the first one */
        }
        else if (birth->pid != 0 && birth->pidfd < 0) {
            return birth->pidfd;
        }
    }
    return 0;
}

static int
wait_for_news(struct sst_process *zygote)
{
    struct ssti_nursery *const nursery = zygote->nursery;
    int fds[SSTI_OS_HANGUPS_MAX] = {zygote->tether};
    uint32_t serials[SSTI_OS_HANGUPS_MAX] = {0};
    uint32_t count = 1;
    const int watched = watch_births(zygote);

    if (watched < 0) {
        return watched;
    }
    for (uint32_t i = 0; i < nursery->birth_count; i++) {
        struct ssti_birth *const birth = &nursery->births[i];

        serials[count] = birth->serial;
        fds[count++] = birth->pidfd;
    }

    const int mask = ssti_os_wait_hangup(fds, count, UINT32_MAX, SST_FOREVER);
    int rc = mask < 0 ? mask : ssti_nursery_collect(zygote);

    for (uint32_t i = 1; mask > 0 && i < count; i++) {
        struct ssti_birth *const birth = find_birth(nursery, serials[i]);

        if ((mask & (1 << i)) != 0 && birth != NULL) {
            bury(zygote, birth);
        }
    }
    return rc;
}

int
ssti_nursery_await(struct sst_process *zygote)
{
    struct ssti_nursery *const nursery = zygote->nursery;

    nursery->failure = 0;
    while (ssti_load_rlx(&nursery->warm_count) == 0) {
        int rc = 0;

        if (nursery->failure != 0) {
            return nursery->failure;
        }
        if (nursery->way == SSTI_ZYGOTE_UNKNOWN) {
            rc = wait_for_news(zygote);
        }
        else if (nursery->coming == 0) {
            rc =
                ssti_nursery_ask(zygote, nursery->expected > 1 ? nursery->expected : 1);
        }
        else {
            rc = wait_for_news(zygote);
        }
        if (rc < 0 && ssti_load_rlx(&nursery->warm_count) == 0) {
            return rc;
        }
    }
    return 0;
}

bool
ssti_nursery_take(struct ssti_nursery *nursery, struct ssti_warm *out)
{
    const uint32_t count = ssti_load_rlx(&nursery->warm_count);

    if (count == 0) {
        return false;
    }
    *out = nursery->warm[count - 1];
    ssti_store_rel(&nursery->warm_count, count - 1);
    return true;
}

/* ---- The end ---- */

static void
end_child(const struct sst_process *zygote, int pid, uint64_t seat)
{
    int code = 0;

    ssti_os_kill_pid(pid);
    if (zygote->nursery->way == SSTI_ZYGOTE_SIBLING) {
        (void)ssti_os_reap_pid(pid, &code); /* others may have been quicker */
    }
    ssti_proc_abandon(zygote->arena, seat);
}

/* Children that it made and that have not said so yet are about to; the socket is at
 * its end when all of them have. One that hangs on the way is not waited for. */
static void
end_zygote(struct sst_process *zygote)
{
    int rc = sst_process_signal(zygote, SSTI_OS_SIGNAL_KILL);

    if (rc == SST_EPERM) {
        /* We have given up the right to end what it is. It does that itself. */
        ssti_os_hang_up(zygote->tether);
        rc = 0;
    }
    if (rc == 0) {
        rc = sst_process_join_gone(zygote, SST_FOREVER);
    }
    if (rc == 0) {
        rc = ssti_os_receive_patience(zygote->tether, STRAGGLER_MS);
    }
    while (rc == 0 || rc == SST_EINTR) {
        rc = receive(zygote, false);
    }
}

void
ssti_nursery_clear(struct sst_process *zygote)
{
    struct ssti_nursery *const nursery = zygote->nursery;
    struct ssti_warm warm;

    end_zygote(zygote);
    while (ssti_nursery_take(nursery, &warm)) {
        warm.tether = ssti_os_close(warm.tether);
        end_child(zygote, warm.pid, warm.seat);
        (void)ssti_os_close(warm.pidfd);
    }
    while (nursery->birth_count > 0) {
        struct ssti_birth *const birth = &nursery->births[0];

        if (birth->pid != 0) {
            end_child(zygote, birth->pid, birth->seat);
        }
        forget_birth(nursery, birth);
    }
}

void
ssti_nursery_fork_child(struct ssti_nursery *nursery)
{
    const uint32_t count = ssti_load_acq(&nursery->warm_count);

    ssti_store_rlx(&nursery->warm_count, 0);
    for (uint32_t i = 0; i < count; i++) {
        (void)ssti_os_close(nursery->warm[i].tether);
        (void)ssti_os_close(nursery->warm[i].pidfd);
    }
}
