/* SPDX-License-Identifier: MIT */

/* A child of a zygote, from its birth to its job.
 *
 *   ready   our end of the tether and our pidfd go to the owner; the zygote's socket is
 *           closed, for it is not ours
 *   job     a header, the setup unless it has prepared that one before it was ready,
 *           the data, and the descriptors with the first byte
 *
 * One that is not needed for long ends by itself. It must not take a job with it that
 * is being sent at that moment: first it shuts its end, so that the owner's next send
 * fails, then it looks once more for what was sent before.
 *
 * Death table (the child dies after ...)
 *   being made             the owner finds it by its pid, from the zygote's note
 *   saying that it is      nobody can send it a job; the owner takes the next child
 *   ready
 *   taking the job         it was started; its pidfd tells how it ended */

#include <stddef.h>
#include <string.h>

#include "base/alloc.h"
#include "base/crashpoint.h"
#include "base/status.h"
#include "os/os.h"
#include "proc/process.h"
#include "proc/zygote.h"
#include "shm/arena.h"
#include "shm/ledger.h"

enum {
    JOB_MAX = 1 << 30, /* bytes; more is not a job but a mistake */
};

static int
say_ready(struct sst_zygote *zygote)
{
    struct ssti_zygote_note note = {
        .magic = SSTI_ZYGOTE_MAGIC,
        .what = SSTI_ZYGOTE_READY,
        .pid = ssti_os_pid(),
        .serial = zygote->serial,
        .seat = ssti_proc_self(zygote->arena),
        .setup_serial = zygote->prepared,
    };
    int fds[SSTI_READY_FDS] = {
        [SSTI_READY_TETHER] = zygote->owner_end,
        [SSTI_READY_PIDFD] = ssti_os_pidfd_open(note.pid),
    };
    struct ssti_os_packet packet = {
        .data = &note,
        .size = sizeof(note),
        .fds = fds,
        .fd_count = SSTI_READY_FDS,
    };
    int rc = ssti_os_receive_patience(zygote->job_tether, zygote->idle_ms);

    SST_CRASHPOINT(start_child_prepared);
    if (fds[SSTI_READY_PIDFD] < 0) {
        rc = fds[SSTI_READY_PIDFD];
    }
    while (rc == 0 || rc == SST_EINTR) {
        rc = ssti_os_packet_send(zygote->tether, &packet);
        if (rc == 0) {
            break;
        }
    }
    SST_CRASHPOINT(start_child_ready);
    (void)ssti_os_close(fds[SSTI_READY_PIDFD]);
    zygote->owner_end = ssti_os_close(zygote->owner_end);
    zygote->tether = ssti_os_close(zygote->tether);
    return rc == SST_EPIPE ? SST_EOF : rc;
}

/* Of what follows the header, which is here. */
static uint64_t
body_size(const struct sst_zygote *zygote)
{
    return zygote->header.setup_size + zygote->header.size;
}

static uint64_t
size_known(const struct sst_zygote *zygote)
{
    return sizeof(zygote->header) +
           (zygote->got >= sizeof(zygote->header) ? body_size(zygote) : 0);
}

/* What came is counted; once the header is there, so must be the room. */
static int
account(struct sst_zygote *zygote, uint64_t size)
{
    zygote->got += size;
    if (zygote->got < sizeof(zygote->header)) {
        return 0;
    }
    if (zygote->header.magic != SSTI_ZYGOTE_MAGIC || zygote->header.size > JOB_MAX ||
        zygote->header.setup_size > JOB_MAX) {
        return SST_ECORRUPT;
    }
    if (body_size(zygote) > zygote->room) {
        void *const buffer = ssti_realloc(zygote->buffer, body_size(zygote));

        if (buffer == NULL) {
            return SST_ENOMEM;
        }
        zygote->buffer = buffer;
        zygote->room = body_size(zygote);
    }
    return 0;
}

/* The next bytes, wherever they belong. SST_EAGAIN: there were none for too long. */
static int
receive_some(struct sst_zygote *zygote, struct sst_zygote_job *job, bool now)
{
    const uint64_t header = sizeof(zygote->header);
    const uint64_t body = zygote->got > header ? zygote->got - header : 0;
    const uint64_t head = zygote->got < header ? zygote->got : header;
    int fds[SSTI_OS_PASS_MAX];
    struct ssti_os_packet packet = {
        .data = (char *)&zygote->header + head,
        .size = header - head,
        .fds = fds,
        .now = now,
    };

    /* Never more than the job: what follows is for the program. */
    if (head == header) {
        packet.data = (char *)zygote->buffer + body;
        packet.size = body_size(zygote) - body;
    }

    const int rc = ssti_os_packet_receive(zygote->job_tether, &packet);

    if (rc < 0) {
        return rc;
    }
    for (uint32_t i = 0; i < packet.fd_count; i++) {
        if (job->fd_count < SST_JOB_FDS_MAX) {
            job->fds[job->fd_count++] = fds[i];
        }
        else {
            (void)ssti_os_close(fds[i]);
        }
    }
    return account(zygote, packet.size);
}

static int
receive(struct sst_zygote *zygote, struct sst_zygote_job *job)
{
    int rc = 0;

    SST_CRASHPOINT(start_child_waiting);
    while (rc == 0 && zygote->got < size_known(zygote)) {
        rc = receive_some(zygote, job, false);
        SST_CRASHPOINT(start_child_took_some);
        if (rc == SST_EAGAIN && zygote->got == 0) {
            ssti_os_receive_no_more(zygote->job_tether);
            rc = receive_some(zygote, job, true);
            rc = rc == SST_EAGAIN ? SST_EOF : rc;
        }
        else if (rc == SST_EAGAIN) {
            rc = 0; /* of a large job: the owner is slow, and alive */
        }
    }
    return rc;
}

const void *
sst_zygote_setup(struct sst_zygote *zygote, uint64_t *size)
{
    const bool is_new = zygote->prepared != zygote->setup_serial;

    zygote->prepared = zygote->setup_serial;
    *size = zygote->setup_size;
    return is_new ? zygote->setup : NULL;
}

void
sst_zygote_setup_failed(struct sst_zygote *zygote)
{
    zygote->prepared = 0;
}

int
sst_zygote_ready(struct sst_zygote *zygote, struct sst_zygote_job *job)
{
    int rc = 0;

    if (zygote->owner_end >= 0) {
        job->fd_count = 0;
        rc = say_ready(zygote);
        ssti_origin_set(zygote->arena, 0, zygote->owner_pid, zygote->job_tether);
    }
    if (rc == 0) {
        rc = receive(zygote, job);
    }
    if (rc < 0) {
        return rc;
    }
    ssti_ledger_join(zygote->arena);
    SST_CRASHPOINT(start_child_took_all);
    /* For the program, which may read from it as it likes. */
    (void)ssti_os_receive_patience(zygote->job_tether, 0);
    if (zygote->header.die_with_parent == 0) {
        ssti_os_outlive_parent();
    }
    ssti_os_set_signal_mask(zygote->header.blocked);
    job->parent_pid = zygote->owner_pid;
    job->tether = zygote->job_tether;
    job->setup = zygote->header.setup_size > 0 ? zygote->buffer : NULL;
    job->setup_size = zygote->header.setup_size;
    job->data = (const char *)zygote->buffer + zygote->header.setup_size;
    job->size = zygote->header.size;
    return 0;
}
