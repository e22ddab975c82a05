/* SPDX-License-Identifier: MIT */

/* Starting processes by a zygote, the owner's side. serve.c has the other.
 *
 *   owner                                zygote
 *     request, tether (SCM_RIGHTS)  ->
 *                                          seat for the child, clone(CLONE_PARENT)
 *     pid, seat                     <-
 *     job down the tether           ->     (the child) reads it, runs it
 *
 * No address exists to which anybody else could connect: the zygote's socket is one of
 * a pair that it was born with. A forked child of the owner has inherited the owner's
 * end; the kernel tells the zygote who sent each packet, and it serves its owner only.
 *
 * A zygote keeps the identity it started with. When the owner's user, groups or
 * capabilities to change them are others now, it is of no use: a program that has
 * dropped its privileges must not get children that have them (SST_EPERM).
 *
 * Death table (the zygote dies after ...)
 *   reading the request     its copy of the tether closes: the owner reads end of file
 *                           there, and starts another zygote
 *   making the child        the child has written its pid up the tether, or will, or is
 *                           dead and the tether hangs up; the owner goes on with that
 *                           child
 *   replying                the child does not depend on it
 * (the owner dies after ...)
 *   sending the request     the child finds end of file instead of a job, and exits */

#include <stddef.h>
#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "os/local.h"
#include "os/os.h"
#include "proc/process.h"
#include "proc/zygote.h"
#include "shm/arena.h"

/* Request and reply belong together: held across the exchange, unlike other local
 * mutexes, and therefore not taken around forks. A forked child may find it taken by a
 * thread it does not have, and makes it anew; the zygotes that child inherited serve
 * its parent only. */
static struct ssti_local owner_lock = SSTI_LOCAL_INIT;

void
ssti_zygote_fork_child(void)
{
    ssti_local_init(&owner_lock);
}

/* The next packet of that size. SST_EPIPE when the zygote is dead. */
static int
receive(const struct sst_process *zygote, void *out, uint64_t size, uint32_t *magic)
{
    struct ssti_os_packet packet = {.data = out};
    int rc;

    do {
        packet.size = size;
        rc = ssti_os_packet_receive(zygote->tether, &packet);
    } while (rc == SST_EINTR);
    if (rc < 0) {
        return rc == SST_EOF ? SST_EPIPE : rc;
    }
    return packet.size == size && *magic == SSTI_ZYGOTE_MAGIC ? 0 : SST_EPIPE;
}

/* Wait until the zygote is ready, and learn how it makes children: if the probe it made
 * is our child, so will be the others. */
static int
greet(struct sst_process *zygote)
{
    struct ssti_zygote_hello hello = {0};
    int code = 0;

    if (zygote->way != SSTI_ZYGOTE_UNKNOWN) {
        return 0;
    }

    const int rc = receive(zygote, &hello, sizeof(hello), &hello.magic);

    if (rc < 0) {
        return rc;
    }
    zygote->way =
        hello.probe > 0 && ssti_os_reap_pid(hello.probe, &code) == 1 && code == 0
            ? SSTI_ZYGOTE_SIBLING
            : SSTI_ZYGOTE_CHILD;
    return 0;
}

int
ssti_zygote_remember_identity(struct sst_process *zygote)
{
    zygote->credentials = ssti_alloc(sizeof(*zygote->credentials));
    return zygote->credentials != NULL ? ssti_os_credentials(zygote->credentials)
                                       : SST_ENOMEM;
}

void
ssti_zygote_farewell(struct sst_process *zygote)
{
    if (zygote->way == SSTI_ZYGOTE_UNKNOWN && zygote->state == SSTI_CHILD_ENDED) {
        /* There is a hello, or end of file: it has nobody else to wait for. */
        (void)greet(zygote);
    }
}

static int
check_identity(const struct sst_process *zygote)
{
    struct ssti_os_credentials *now = ssti_alloc(sizeof(*now));
    int rc = now != NULL ? ssti_os_credentials(now) : SST_ENOMEM;

    if (rc == 0 && (zygote->credentials == NULL ||
                    memcmp(zygote->credentials, now, sizeof(*now)) != 0)) {
        rc = SST_EPERM;
    }
    (void)ssti_free(now);
    return rc;
}

static int
request(struct sst_process *zygote, const struct sst_process *process, const int *fds,
        uint32_t fd_count)
{
    struct ssti_zygote_request message = {
        .magic = SSTI_ZYGOTE_MAGIC,
        .way = zygote->way,
        .die_with_parent = process->die_with_parent,
    };
    int passed[SSTI_OS_PASS_MAX];
    const struct ssti_os_packet packet = {
        .data = &message,
        .size = sizeof(message),
        .fds = passed,
        .fd_count = fd_count + 1,
    };
    int rc;

    passed[0] = process->tether_child;
    for (uint32_t i = 0; i < fd_count; i++) {
        passed[i + 1] = fds[i];
    }
    do {
        rc = ssti_os_packet_send(zygote->tether, &packet);
    } while (rc == SST_EINTR);
    return rc;
}

/* The zygote has died before it replied. Did it make the child? Our copy of the child's
 * end is closed, so the answer is the child's own note, or end of file. */
static int
ask_child(struct sst_process *process, struct ssti_zygote_reply *reply)
{
    struct ssti_tether_note note = {0};
    struct ssti_os_packet packet = {.data = &note, .size = sizeof(note)};
    int rc;

    process->tether_child = ssti_os_close(process->tether_child);
    do {
        rc = ssti_os_packet_receive(process->tether, &packet);
    } while (rc == SST_EINTR);
    if (rc < 0 || packet.size != sizeof(note) || note.what != SSTI_TETHER_BORN) {
        /* A fresh one, for another zygote. */
        process->tether = ssti_os_close(process->tether);
        rc = ssti_os_tether(false, &process->tether, &process->tether_child);
        return rc < 0 ? rc : SST_EPIPE;
    }
    reply->pid = note.value;
    reply->seat = note.seat;
    return 0;
}

static int
exchange(struct sst_process *zygote, struct sst_process *process, const int *fds,
         uint32_t fd_count, struct ssti_zygote_reply *reply)
{
    int rc = greet(zygote);

    if (rc == 0) {
        rc = request(zygote, process, fds, fd_count);
    }
    if (rc < 0) {
        return rc;
    }
    rc = receive(zygote, reply, sizeof(*reply), &reply->magic);
    if (rc == SST_EPIPE) {
        rc = ask_child(process, reply);
    }
    return rc < 0 ? rc : reply->pid;
}

int
sst_zygote_start(struct sst_process *zygote, struct sst_process *process,
                 const int *fds, uint32_t fd_count, struct sst_error *err)
{
    struct ssti_zygote_reply reply = {0};
    int rc = ssti_process_check_unstarted(process, err);

    if (rc < 0) {
        return rc;
    }
    if (zygote->owner_pid != ssti_os_pid()) {
        return ssti_error_set(err, SST_ESRCH, "the zygote belongs to our parent");
    }
    if (fd_count > SST_JOB_FDS_MAX) {
        return ssti_error_set(err, SST_EINVAL, "too many fds");
    }
    ssti_local_lock(&owner_lock);
    rc = check_identity(zygote);
    if (rc == 0) {
        rc = exchange(zygote, process, fds, fd_count, &reply);
    }
    process->is_foreign = zygote->way == SSTI_ZYGOTE_CHILD;
    ssti_local_unlock(&owner_lock);
    if (rc < 0) {
        return ssti_error_set(err, rc, "the zygote cannot start the process");
    }
    process->seat = reply.seat;
    return ssti_process_adopt_pid(process, rc, err);
}
