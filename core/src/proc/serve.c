/* SPDX-License-Identifier: MIT */

/* The zygote's side: a loop that makes a child for each request of its owner.
 *
 * A child is made by clone(CLONE_PARENT): the owner is its parent, sees its exit code
 * and does not need the zygote any more. A raw clone runs no at-fork handlers, so the
 * registry's and the reaper's are called by hand; it is safe because the zygote has one
 * thread, so that no lock of libc can be held. Whether the kernel (or a sandbox around
 * us) allows it is tried once, first: a child that says hello and exits, and that the
 * owner waits for. Where it is refused, or where a preloaded module has started
 * threads, the zygote forks and is the parent: it keeps the child's end of the tether
 * open until it has reaped the child and written the exit code up the tether.
 *
 * The zygote dies with its owner: by the signal that tells of a parent's death, and by
 * end of file on its tether, whichever comes first. */

#include <stddef.h>

#include "base/alloc.h"
#include "base/status.h"
#include "os/os.h"
#include "proc/process.h"
#include "proc/zygote.h"
#include "shm/arena.h"

enum {
    SLICE_NS = 20000000,
};

/* A child of ours, in the way in which we are the parents. */
struct ward {
    struct ward *next;
    int pidfd;
    int tether;
};

struct sst_zygote {
    struct sst_arena *arena;
    struct ward *wards;
    int tether;
    int owner_pid;
    enum ssti_zygote_way way; /* of the job under way */
};

static int
say_hello(int tether, int probe)
{
    struct ssti_zygote_hello hello = {.magic = SSTI_ZYGOTE_MAGIC, .probe = probe};
    const struct ssti_os_packet packet = {.data = &hello, .size = sizeof(hello)};

    return ssti_os_packet_send(tether, &packet);
}

/* Make a child that says hello and exits; whatever becomes of us now, the owner learns
 * of it. When that way is closed to us (the kernel refuses, or a module that was loaded
 * has started threads), say so. */
static int
greet(int tether)
{
    if (ssti_os_thread_count() == 1) {
        const int pid = ssti_os_clone_sibling();

        if (pid == 0) {
            /* The owner may be gone. */
            (void)say_hello(tether, ssti_os_pid());
            ssti_os_exit(0);
        }
        if (pid > 0) {
            return 0;
        }
    }
    return say_hello(tether, 0);
}

int
sst_zygote_open(struct sst_arena *arena, int tether, struct sst_zygote **out,
                struct sst_error *err)
{
    struct sst_zygote *zygote;
    int rc;

    *out = NULL;
    zygote = ssti_alloc(sizeof(*zygote));
    if (zygote == NULL) {
        return ssti_error_set(err, SST_ENOMEM, "no memory for a zygote");
    }
    zygote->arena = arena;
    zygote->tether = tether;
    zygote->owner_pid = ssti_os_parent_pid();
    rc = ssti_os_packet_ask_sender(tether);
    if (rc == 0) {
        rc = greet(tether);
    }
    if (rc < 0) {
        zygote = ssti_free(zygote);
        return ssti_error_set(err, rc, "cannot reach the owner");
    }
    *out = zygote;
    return 0;
}

struct sst_zygote *
sst_zygote_close(struct sst_zygote *zygote)
{
    if (zygote == NULL) {
        return NULL;
    }
    for (struct ward *ward = zygote->wards, *next; ward != NULL; ward = next) {
        next = ward->next;
        (void)ssti_os_close(ward->pidfd);
        (void)ssti_os_close(ward->tether);
        (void)ssti_free(ward);
    }
    return ssti_free(zygote);
}

/* Reap the wards that have ended, and tell. */
static void
report_ended(struct sst_zygote *zygote)
{
    for (struct ward **link = &zygote->wards; *link != NULL;) {
        struct ward *const ward = *link;
        struct ssti_tether_note note = {.what = SSTI_TETHER_ENDED};
        int code = 0;
        const int rc = ssti_os_reap(ward->pidfd, &code);

        if (rc == 0) {
            link = &ward->next;
            continue;
        }
        note.value = code;
        if (rc > 0) {
            /* The owner may have lost interest. */
            (void)ssti_os_send(ward->tether, &note, sizeof(note), SST_NOW);
        }
        *link = ward->next;
        (void)ssti_os_close(ward->pidfd);
        (void)ssti_os_close(ward->tether);
        (void)ssti_free(ward);
    }
}

/* Until there is a request, or the owner is gone. */
static int
wait_for_request(struct sst_zygote *zygote, int64_t deadline_ns)
{
    for (;;) {
        int fds[SSTI_OS_HANGUPS_MAX] = {zygote->tether, -1, -1, -1};
        uint32_t count = 1;
        int64_t until = deadline_ns;

        report_ended(zygote);
        for (const struct ward *ward = zygote->wards; ward != NULL; ward = ward->next) {
            if (count == SSTI_OS_HANGUPS_MAX) {
                /* More than can be watched at once: this way is for sandboxes only. */
                until = ssti_os_now_ns() + SLICE_NS;
                break;
            }
            fds[count++] = ward->pidfd;
        }

        const int rc = ssti_os_wait_hangup(fds, count, UINT32_MAX, until);

        if (rc < 0 && (rc != SST_ETIMEDOUT || until == deadline_ns)) {
            return rc;
        }
        if (rc > 0 && (rc & 1) != 0) {
            return 0;
        }
    }
}

static void
close_all(const int *fds, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        (void)ssti_os_close(fds[i]);
    }
}

int
sst_zygote_next(struct sst_zygote *zygote, struct sst_zygote_job *job,
                int64_t deadline_ns)
{
    for (;;) {
        struct ssti_zygote_request message = {0};
        int fds[SSTI_OS_PASS_MAX];
        struct ssti_os_packet packet = {.data = &message,
                                        .size = sizeof(message),
                                        .fds = fds};
        int rc = wait_for_request(zygote, deadline_ns);

        if (rc == 0) {
            rc = ssti_os_packet_receive(zygote->tether, &packet);
        }
        if (rc < 0) {
            return rc;
        }
        if (packet.sender_pid != zygote->owner_pid || packet.size != sizeof(message) ||
            message.magic != SSTI_ZYGOTE_MAGIC || packet.fd_count < 1) {
            close_all(fds, packet.fd_count);
            continue;
        }
        zygote->way = message.way;
        job->die_with_parent = message.die_with_parent;
        job->parent_pid = zygote->owner_pid;
        job->tether = fds[0];
        job->fd_count = packet.fd_count - 1;
        for (uint32_t i = 0; i < job->fd_count; i++) {
            job->fds[i] = fds[i + 1];
        }
        return 0;
    }
}

static int
make(const struct sst_zygote *zygote)
{
    int pid;

    if (zygote->way != SSTI_ZYGOTE_SIBLING) {
        ssti_proc_watch_next_fork();
        return ssti_os_fork();
    }
    ssti_proc_watch_next_fork();
    ssti_fork_prepare();
    pid = ssti_os_clone_sibling();
    if (pid == 0) {
        ssti_fork_child();
        ssti_process_fork_child();
    }
    else {
        ssti_fork_parent();
    }
    return pid;
}

static int
begin_child(struct sst_zygote **zygote, const struct sst_zygote_job *job)
{
    struct sst_arena *const arena = (*zygote)->arena;
    const bool sibling = (*zygote)->way == SSTI_ZYGOTE_SIBLING;
    const struct ssti_tether_note note = {
        .what = SSTI_TETHER_BORN,
        .value = ssti_os_pid(),
        .seat = ssti_proc_self(arena),
    };

    (void)ssti_os_close((*zygote)->tether);
    *zygote = sst_zygote_close(*zygote);
    ssti_origin_set(arena, 0, job->parent_pid, job->tether);
    /* Read only if the zygote dies now; the owner may be gone as well. */
    (void)ssti_os_send(job->tether, &note, sizeof(note), SST_NOW);
    if (job->die_with_parent != 0) {
        (void)ssti_os_die_with_parent(sibling ? job->parent_pid : ssti_os_parent_pid());
    }
    return SST_CHILD;
}

/* Keep the child's end of the tether for the report. */
static void
keep_ward(struct sst_zygote *zygote, struct sst_zygote_job *job, int pid)
{
    struct ward *const ward = ssti_alloc(sizeof(*ward));

    if (ward == NULL) {
        return; /* its end will be seen, its exit code will not */
    }
    ward->pidfd = ssti_os_pidfd_open(pid);
    ward->tether = job->tether;
    ward->next = zygote->wards;
    zygote->wards = ward;
    job->tether = -1;
}

int
sst_zygote_make(struct sst_zygote **zygote, struct sst_zygote_job *job)
{
    struct sst_zygote *const self = *zygote;
    struct ssti_zygote_reply reply = {.magic = SSTI_ZYGOTE_MAGIC};
    const struct ssti_os_packet packet = {.data = &reply, .size = sizeof(reply)};
    int rc;

    reply.pid = make(self);
    if (reply.pid == 0) {
        return begin_child(zygote, job);
    }
    reply.seat = ssti_proc_last_child(self->arena);
    if (reply.pid < 0) {
        ssti_proc_abandon(self->arena, reply.seat);
    }
    else if (self->way != SSTI_ZYGOTE_SIBLING) {
        keep_ward(self, job, reply.pid);
    }
    job->tether = ssti_os_close(job->tether);
    close_all(job->fds, job->fd_count);
    do {
        rc = ssti_os_packet_send(self->tether, &packet);
    } while (rc == SST_EINTR);
    return rc == SST_EPIPE ? SST_EOF : rc;
}
