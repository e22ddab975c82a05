/* SPDX-License-Identifier: MIT */

/* Starting processes by a zygote, the owner's side. nursery.c has the children that
 * wait for a job, serve.c the zygote's side, job.c the child's.
 *
 *   owner                                zygote                 child
 *     so many children        ->
 *                                          seat, tether,
 *                                          clone(CLONE_PARENT)
 *     pid, seat               <-
 *     tether, pidfd           <-                        <-      is ready, and sleeps
 *     job and its descriptors ->           ->           ->      runs it
 *
 * No address exists to which anybody else could connect: the zygote's socket is one of
 * a pair that it was born with. A forked child of the owner has inherited the owner's
 * end; the kernel tells the zygote who sent each packet, and it serves its owner only.
 *
 * A zygote keeps the standing its owner had when it was started: user, groups,
 * capabilities, umask, limits, name spaces. When the owner's is another now, it is of
 * no use: a program that has dropped its privileges must not get children that have
 * them (SST_EPERM).
 *
 * How many children are kept warm. None for a program that starts one process. From the
 * second start on there is use for them: two, and twice as many whenever a start finds
 * none, up to the maximum. Whatever is not used ends after a while by itself, and half
 * as many are wanted from then on. The zygote is asked for more when the job is done,
 * or at the next start, so that it does not compete with it.
 *
 * Death table (the owner dies after ...)
 *   sending the job        the child runs it: as any child whose starter dies
 *   part of it             the child finds end of file in it, and exits
 * (the child dies after ...)
 *   part of the job        it was started, and its pidfd says how it ended
 *   being ready            the job cannot be sent: the next one gets it */

#include <stddef.h>
#include <string.h>

#include "base/alloc.h"
#include "base/crashpoint.h"
#include "base/status.h"
#include "os/local.h"
#include "os/os.h"
#include "proc/nursery.h"
#include "proc/process.h"
#include "proc/zygote.h"
#include "shm/arena.h"

enum {
    IDLE_MS = 10000,
    WARM_FIRST = 2,
};

/* Wish and child belong together: held while a child is waited for, unlike other local
 * mutexes, and therefore not taken around forks. A forked child may find it taken by a
 * thread it does not have, and makes it anew; the zygotes that child inherited serve
 * its parent only. */
static struct ssti_local owner_lock = SSTI_LOCAL_INIT;

void
ssti_zygote_fork_child(void)
{
    ssti_local_init(&owner_lock);
}

int
ssti_zygote_new(struct sst_process *zygote, const struct sst_process_options *options)
{
    struct ssti_nursery *const nursery = ssti_alloc(sizeof(*nursery));

    if (nursery == NULL) {
        return SST_ENOMEM;
    }
    zygote->nursery = nursery;
    nursery->idle_ms = options->warm_idle_ms != 0 ? options->warm_idle_ms : IDLE_MS;
    nursery->warm_max = options->warm_max != 0 ? options->warm_max : SSTI_WARM_MAX;
    if (nursery->warm_max > SSTI_WARM_MAX) {
        nursery->warm_max = options->warm_max == UINT32_MAX ? 0 : SSTI_WARM_MAX;
    }
    return ssti_os_standing(&nursery->standing);
}

void
ssti_zygote_free(struct sst_process *zygote)
{
    if (zygote->owner_pid == ssti_os_pid() && zygote->pid != 0) {
        /* Nobody will be there to hand them jobs. */
        ssti_nursery_clear(zygote);
    }
    zygote->nursery->setup = ssti_free(zygote->nursery->setup);
    zygote->nursery = ssti_free(zygote->nursery);
}

static int
check_standing(const struct ssti_nursery *nursery)
{
    struct ssti_os_standing now;
    const int rc = ssti_os_standing(&now);

    if (rc == 0 && memcmp(&nursery->standing, &now, sizeof(now)) != 0) {
        return SST_EPERM;
    }
    return rc;
}

/* Remember the setup of this job, which may be another than before. */
static int
note_setup(struct ssti_nursery *nursery, const struct sst_job *job)
{
    if (job->setup_size == 0 ||
        (job->setup_size == nursery->setup_size &&
         memcmp(job->setup, nursery->setup, job->setup_size) == 0)) {
        return 0;
    }
    nursery->setup_size = 0;
    nursery->setup_serial = 0;
    if (job->setup_size > SSTI_SETUP_MAX) {
        return 0;
    }

    void *const setup = ssti_realloc(nursery->setup, job->setup_size);

    if (setup == NULL) {
        return SST_ENOMEM;
    }
    memcpy(setup, job->setup, job->setup_size);
    nursery->setup = setup;
    nursery->setup_size = job->setup_size;
    nursery->setup_serial = ++nursery->setups;
    return 0;
}

static bool
has_setup(const struct ssti_nursery *nursery, const struct ssti_warm *warm)
{
    return nursery->setup_serial != 0 && warm->setup_serial == nursery->setup_serial;
}

/* What has not been sent yet. A child that dies with the job in its hands has been
 * started: its exit code will tell. */
static void
send_rest(int tether, const void *data, uint64_t size, uint64_t sent)
{
    while (sent < size) {
        const int64_t rc =
            ssti_os_send(tether, (const char *)data + sent, size - sent, SST_FOREVER);

        if (rc < 0 && rc != SST_EINTR) {
            return;
        }
        sent += rc > 0 ? (uint64_t)rc : 0;
    }
}

/* The first part with the descriptors, the rest alone. SST_EPIPE: nobody took a byte of
 * it. */
static int
send_job(int tether, const struct ssti_job_header *header, const struct sst_job *job)
{
    const bool with_setup = header->setup_size > 0;
    int fds[SSTI_OS_PASS_MAX];
    struct ssti_os_packet packet = {
        .data = (void *)(uintptr_t)header,
        .size = sizeof(*header),
        .more = (void *)(uintptr_t)(with_setup ? job->setup : job->data),
        .more_size = with_setup ? job->setup_size : job->size,
        .fds = fds,
        .fd_count = job->fd_count,
    };
    int rc;

    for (uint32_t i = 0; i < job->fd_count; i++) {
        fds[i] = job->fds[i];
    }
    do {
        rc = ssti_os_packet_send(tether, &packet);
    } while (rc == SST_EINTR);
    if (rc < 0) {
        return rc;
    }
    SST_CRASHPOINT(start_owner_sent_some);
    send_rest(tether, packet.more, packet.more_size, packet.size - sizeof(*header));
    if (with_setup) {
        send_rest(tether, job->data, job->size, 0);
    }
    return 0;
}

/* The child is this process's now. */
static void
adopt(struct sst_process *process, const struct sst_process *zygote,
      const struct ssti_warm *warm)
{
    process->pid = warm->pid;
    process->pidfd = warm->pidfd;
    process->seat = warm->seat;
    process->is_foreign = zygote->nursery->way == SSTI_ZYGOTE_CHILD;
    (void)ssti_os_close(process->tether);
    (void)ssti_os_close(process->tether_child);
    process->tether = warm->tether;
    process->tether_child = -1;
    ssti_process_started(process);
}

/* A warm child that is dead, or about to be: somebody reaps it. */
static void
give_up(const struct sst_process *zygote, struct ssti_warm *warm)
{
    struct sst_process *const process = ssti_alloc(sizeof(*process));
    struct ssti_nursery *const nursery = zygote->nursery;

    nursery->given_back++;
    nursery->wanted = (nursery->wanted + 1) / 2;
    warm->tether = ssti_os_close(warm->tether);
    if (process == NULL) {
        int code = 0;

        ssti_os_kill_pid(warm->pid);
        (void)ssti_os_reap_pid(warm->pid, &code);
        warm->pidfd = ssti_os_close(warm->pidfd);
        return;
    }
    process->arena = zygote->arena;
    process->owner_pid = zygote->owner_pid;
    process->tether = -1;
    process->tether_child = -1;
    adopt(process, zygote, warm);
    (void)sst_process_close(process);
}

/* Take children until one takes the job. */
static int
hand_over(struct sst_process *zygote, struct sst_process *process,
          const struct sst_job *job)
{
    struct ssti_job_header header = {
        .magic = SSTI_ZYGOTE_MAGIC,
        .die_with_parent = process->die_with_parent,
        .size = job->size,
        .blocked = ssti_os_signal_mask(),
    };
    struct ssti_nursery *const nursery = zygote->nursery;
    struct ssti_warm warm;

    for (;;) {
        while (!ssti_nursery_take(nursery, &warm)) {
            const int rc = ssti_nursery_await(zygote);

            if (rc < 0) {
                return rc;
            }
        }

        SST_CRASHPOINT(start_owner_took);
        header.setup_size = has_setup(nursery, &warm) ? 0 : job->setup_size;

        const int rc = send_job(warm.tether, &header, job);

        if (rc == 0) {
            SST_CRASHPOINT(start_owner_sent);
            adopt(process, zygote, &warm);
            return 0;
        }
        give_up(zygote, &warm);
        if (rc != SST_EPIPE) {
            return rc;
        }
    }
}

/* Several at a time. Should the zygote be dead, the next start that needs it will say
 * so. */
static void
ask_for_missing(struct sst_process *zygote)
{
    struct ssti_nursery *const nursery = zygote->nursery;
    const uint32_t have = nursery->coming + ssti_load_rlx(&nursery->warm_count);

    nursery->has_waited = false;
    if (have <= nursery->wanted / 2) {
        (void)ssti_nursery_ask(zygote, nursery->wanted - have);
    }
}

/* More is wanted when a start had to wait. The zygote takes a processor from the child
 * that has just got its job, or from whoever waits for it; so while there is a child
 * for the next start it is asked only then, or when the owner has joined one. */
static void
refill(struct sst_process *zygote, bool was_warm)
{
    struct ssti_nursery *const nursery = zygote->nursery;

    nursery->started++;
    nursery->expected -= nursery->expected > 0;
    nursery->from_warm += was_warm;
    if (nursery->started == 1) {
        return;
    }
    if (!was_warm || nursery->wanted == 0) {
        nursery->wanted = nursery->wanted == 0 ? WARM_FIRST : nursery->wanted * 2;
    }
    if (nursery->wanted > nursery->warm_max) {
        nursery->wanted = nursery->warm_max;
    }
    if (nursery->has_waited || ssti_load_rlx(&nursery->warm_count) == 0) {
        ask_for_missing(zygote);
    }
    else {
        nursery->has_waited = true;
    }
}

static int
start_locked(struct sst_process *zygote, struct sst_process *process,
             const struct sst_job *job)
{
    struct ssti_nursery *const nursery = zygote->nursery;
    int rc = check_standing(nursery);
    bool was_warm;

    if (rc < 0) {
        return rc;
    }
    /* A zygote that is dead may have left children that are warm. */
    (void)ssti_nursery_collect(zygote);
    was_warm = ssti_load_rlx(&nursery->warm_count) > 0;
    rc = note_setup(nursery, job);
    if (rc == 0) {
        rc = hand_over(zygote, process, job);
    }
    if (rc == 0) {
        refill(zygote, was_warm);
    }
    return rc;
}

int
sst_zygote_start(struct sst_process *zygote, struct sst_process *process,
                 const struct sst_job *job, struct sst_error *err)
{
    int rc = ssti_process_check_unstarted(process, err);

    if (rc < 0) {
        return rc;
    }
    if (zygote->owner_pid != ssti_os_pid()) {
        return ssti_error_set(err, SST_ESRCH, "the zygote belongs to our parent");
    }
    if (zygote->nursery == NULL || zygote->pid == 0) {
        return ssti_error_set(err, SST_EINVAL, "it is no zygote that was started");
    }
    if (job->fd_count > SST_JOB_FDS_MAX) {
        return ssti_error_set(err, SST_EINVAL, "too many fds");
    }
    ssti_local_lock(&owner_lock);
    rc = start_locked(zygote, process, job);
    ssti_local_unlock(&owner_lock);
    return rc < 0 ? ssti_error_set(err, rc, "the zygote cannot start the process") : 0;
}

static int
check_zygote(const struct sst_process *zygote)
{
    if (zygote->nursery == NULL || zygote->pid == 0) {
        return SST_EINVAL;
    }
    return zygote->owner_pid == ssti_os_pid() ? 0 : SST_ESRCH;
}

int
sst_zygote_expect(struct sst_process *zygote, uint32_t count)
{
    int rc = check_zygote(zygote);

    if (rc < 0) {
        return rc;
    }
    ssti_local_lock(&owner_lock);
    (void)ssti_nursery_collect(zygote);

    struct ssti_nursery *const nursery = zygote->nursery;
    const uint32_t have = nursery->coming + ssti_load_rlx(&nursery->warm_count);

    nursery->expected = count;
    /* Before its hello nobody knows how to ask it. */
    if (nursery->way != SSTI_ZYGOTE_UNKNOWN && have < count) {
        rc = ssti_nursery_ask(zygote, count - have);
    }
    ssti_local_unlock(&owner_lock);
    return rc;
}

int
sst_zygote_refill(struct sst_process *zygote)
{
    const int rc = check_zygote(zygote);

    if (rc < 0) {
        return rc;
    }
    if (ssti_local_try_lock(&owner_lock)) {
        if (zygote->nursery->has_waited) {
            ask_for_missing(zygote);
        }
        ssti_local_unlock(&owner_lock);
    }
    return 0;
}

int
sst_zygote_statistics(struct sst_process *zygote, struct sst_zygote_statistics *out)
{
    const uint32_t size_of = out->size_of;
    const int rc = check_zygote(zygote);

    if (rc < 0) {
        return rc;
    }
    ssti_local_lock(&owner_lock);
    (void)ssti_nursery_collect(zygote);

    const struct ssti_nursery *const nursery = zygote->nursery;

    *out = (struct sst_zygote_statistics){
        .size_of = size_of,
        .pid = zygote->pid,
        .warm = ssti_load_rlx(&nursery->warm_count),
        .coming = nursery->coming,
        .wanted = nursery->wanted,
        .is_sibling = nursery->way == SSTI_ZYGOTE_SIBLING,
        .started = nursery->started,
        .from_warm = nursery->from_warm,
        .given_back = nursery->given_back,
        .memory = ssti_os_private_memory(zygote->pid),
    };
    for (uint32_t i = 0; i < out->warm; i++) {
        out->memory += ssti_os_private_memory(nursery->warm[i].pid);
    }
    ssti_local_unlock(&owner_lock);
    return 0;
}
