/* SPDX-License-Identifier: MIT */

/* The zygote's side: a loop that makes the children its owner asks for.
 *
 * A child is made by clone(CLONE_PARENT): the owner is its parent, sees its exit code
 * and does not need the zygote any more. A raw clone runs no at-fork handlers, so the
 * registry's and the reaper's are called by hand; it is safe because the zygote has one
 * thread, so that no lock of libc can be held. Whether the kernel (or a sandbox around
 * us) allows it is tried once, first: a child that says hello and exits, and that the
 * owner waits for. Where it is refused, or where a preloaded module keeps threads, the
 * zygote forks and is the parent: it keeps the child's end of the tether open until it
 * has reaped the child and written the exit code up the tether.
 *
 * Threads that a module has started need not stay: numerical libraries end theirs when
 * the process forks, and start them again when there is work. So a zygote with threads
 * forks once for nothing, and counts again.
 *
 * The zygote dies with its owner: by the signal that tells of a parent's death, and by
 * end of file on its tether, whichever comes first.
 *
 * Death table (the zygote dies after ...)
 *   reading a request      nobody was made: the owner reads end of file
 *   making a child         the child tells the owner itself, over its copy of the
 *                          socket, that it is ready
 *   its note               the child does not depend on it */

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
    SLICE_NS = 20000000,
    ROOM = 32 << 10, /* for a job: most are smaller */
    WARDS_WATCHED = 8,
};

static int
say_hello(int tether, int probe)
{
    struct ssti_zygote_note note = {
        .magic = SSTI_ZYGOTE_MAGIC,
        .what = SSTI_ZYGOTE_HELLO,
        .pid = probe,
    };
    struct ssti_os_packet packet = {.data = &note, .size = sizeof(note)};

    return ssti_os_packet_send(tether, &packet);
}

static uint32_t
count_threads(void)
{
    const uint32_t count = ssti_os_thread_count();
    int code = 0;

    if (count < 2) {
        return count;
    }

    const int pid = ssti_os_fork();

    if (pid == 0) {
        ssti_os_exit(0);
    }
    if (pid > 0) {
        (void)ssti_os_reap_pid(pid, &code);
    }
    return ssti_os_thread_count();
}

/* Make a child that says hello and exits; whatever becomes of us now, the owner learns
 * of it. When that way is closed to us, say so. */
static int
greet(int tether)
{
    if (count_threads() == 1) {
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
    ssti_ledger_stand_aside(arena); /* it and its children, until they have a job */
    zygote->tether = tether;
    zygote->owner_pid = ssti_os_parent_pid();
    zygote->job_tether = -1;
    zygote->owner_end = -1;
    zygote->room = ROOM;
    zygote->buffer = ssti_alloc(ROOM);
    /* In one: so much is mapped, and a child that frees it writes to no page. */
    zygote->setup = ssti_alloc((size_t)2 * SSTI_SETUP_MAX);
    rc = zygote->buffer != NULL && zygote->setup != NULL
             ? ssti_os_packet_ask_sender(tether)
             : SST_ENOMEM;
    if (rc == 0) {
        zygote->setup_next = (char *)zygote->setup + SSTI_SETUP_MAX;
        rc = greet(tether);
    }
    if (rc < 0) {
        (void)sst_zygote_close(zygote);
        return ssti_error_set(err, rc, "cannot reach the owner");
    }
    *out = zygote;
    return 0;
}

static void
forget_wards(struct sst_zygote *zygote)
{
    for (struct ssti_ward *ward = zygote->wards, *next; ward != NULL; ward = next) {
        next = ward->next;
        (void)ssti_os_close(ward->pidfd);
        (void)ssti_os_close(ward->tether);
        (void)ssti_free(ward);
    }
    zygote->wards = NULL;
}

struct sst_zygote *
sst_zygote_close(struct sst_zygote *zygote)
{
    if (zygote == NULL) {
        return NULL;
    }
    forget_wards(zygote);
    (void)ssti_os_close(zygote->owner_end);
    zygote->setup = ssti_free(zygote->setup);
    zygote->buffer = ssti_free(zygote->buffer);
    return ssti_free(zygote);
}

/* Reap the wards that have ended, and tell. */
static void
report_ended(struct sst_zygote *zygote)
{
    for (struct ssti_ward **link = &zygote->wards; *link != NULL;) {
        struct ssti_ward *const ward = *link;
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
        int fds[WARDS_WATCHED] = {zygote->tether};
        uint32_t count = 1;
        int64_t until = deadline_ns;

        report_ended(zygote);
        for (const struct ssti_ward *ward = zygote->wards; ward != NULL;
             ward = ward->next) {
            if (count == WARDS_WATCHED) {
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

/* What a packet of the owner's asks for. One of nobody's sense is left alone. */
static void
take_request(struct sst_zygote *zygote, const struct ssti_zygote_request *request,
             uint64_t size)
{
    if (request->magic != SSTI_ZYGOTE_MAGIC || request->setup_size > SSTI_SETUP_MAX ||
        size != sizeof(*request) + request->setup_size) {
        return;
    }
    zygote->way = request->way;
    zygote->due = request->count;
    zygote->idle_ms = request->idle_ms;
    if (request->setup_serial != 0) {
        memcpy(zygote->setup, zygote->setup_next, request->setup_size);
        zygote->setup_size = request->setup_size;
        zygote->setup_serial = request->setup_serial;
    }
}

int
sst_zygote_next(struct sst_zygote *zygote, int64_t deadline_ns)
{
    while (zygote->due == 0) {
        struct ssti_zygote_request message = {0};
        int fds[SSTI_OS_PASS_MAX];
        struct ssti_os_packet packet = {.data = &message,
                                        .size = sizeof(message),
                                        .more = zygote->setup_next,
                                        .more_size = SSTI_SETUP_MAX,
                                        .fds = fds};
        int rc = wait_for_request(zygote, deadline_ns);

        if (rc == 0) {
            rc = ssti_os_packet_receive(zygote->tether, &packet);
        }
        if (rc < 0) {
            return rc;
        }
        close_all(fds, packet.fd_count); /* none were asked for */
        if (packet.sender_pid == zygote->owner_pid) {
            take_request(zygote, &message, packet.size);
            SST_CRASHPOINT(start_zygote_asked);
        }
    }
    return 0;
}

static int
make(const struct sst_zygote *zygote)
{
    int pid;

    ssti_proc_watch_next_fork();
    if (zygote->way != SSTI_ZYGOTE_SIBLING) {
        return ssti_os_fork();
    }
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
begin_child(struct sst_zygote *zygote)
{
    const bool is_sibling = zygote->way == SSTI_ZYGOTE_SIBLING;

    forget_wards(zygote);
    /* Until it has a job it has no reason to live without the owner. Where the kernel
     * refuses, it reads end of file. */
    (void)ssti_os_die_with_parent(is_sibling ? zygote->owner_pid
                                             : ssti_os_parent_pid());
    return SST_CHILD;
}

/* Keep the child's end of the tether for the report. */
static void
keep_ward(struct sst_zygote *zygote, int pid)
{
    struct ssti_ward *const ward = ssti_alloc(sizeof(*ward));

    if (ward == NULL) {
        return; /* its end will be seen, its exit code will not */
    }
    ward->pidfd = ssti_os_pidfd_open(pid);
    ward->tether = zygote->job_tether;
    ward->next = zygote->wards;
    zygote->wards = ward;
    zygote->job_tether = -1;
}

static int
say_made(struct sst_zygote *zygote, int pid)
{
    struct ssti_zygote_note note = {
        .magic = SSTI_ZYGOTE_MAGIC,
        .what = SSTI_ZYGOTE_MADE,
        .pid = pid,
        .serial = zygote->serial,
        .seat = pid > 0 ? ssti_proc_last_child(zygote->arena) : 0,
    };
    struct ssti_os_packet packet = {.data = &note, .size = sizeof(note)};
    int rc;

    do {
        rc = ssti_os_packet_send(zygote->tether, &packet);
    } while (rc == SST_EINTR);
    return rc == SST_EPIPE ? SST_EOF : rc;
}

int
sst_zygote_make(struct sst_zygote *zygote)
{
    int pid;

    zygote->due--;
    zygote->serial++;
    pid = ssti_os_tether(false, &zygote->owner_end, &zygote->job_tether);
    if (pid < 0) {
        return say_made(zygote, pid);
    }
    SST_CRASHPOINT(start_zygote_paired);
    pid = make(zygote);
    if (pid == 0) {
        SST_CRASHPOINT(start_child_born);
        return begin_child(zygote);
    }
    SST_CRASHPOINT(start_zygote_made);
    if (pid < 0) {
        ssti_proc_abandon(zygote->arena, ssti_proc_last_child(zygote->arena));
    }
    else if (zygote->way != SSTI_ZYGOTE_SIBLING) {
        keep_ward(zygote, pid);
    }
    zygote->owner_end = ssti_os_close(zygote->owner_end);
    zygote->job_tether = ssti_os_close(zygote->job_tether);
    pid = say_made(zygote, pid);
    SST_CRASHPOINT(start_zygote_told);
    return pid;
}
