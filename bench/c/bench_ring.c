/* SPDX-License-Identifier: MIT */

/* What messages cost in C: flow and round trips of queues and pipes, in nanoseconds for
 * a message, the best of several rounds. For comparison the kernel's socket pair.
 *
 *     bench_ring [rounds] */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sidestep/sidestep.h"

enum {
    ROUNDS = 5,
    PAUSE_NS = 300000, /* between sparse round trips */
};

/* A way there and one back. */
struct bench {
    struct sst_arena *arena;
    struct sst_queue *there, *back;
    struct sst_pipe *near, *far;
    int sockets[2];
    uint8_t *data;
    uint64_t size;
    int64_t count;
    int64_t pause_ns;
};

struct way {
    const char *name;
    void (*send)(struct bench *bench, bool is_near);
    void (*recv)(struct bench *bench, bool is_near);
};

static int64_t
now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void
must(int rc)
{
    if (rc < 0) {
        (void)fprintf(stderr, "failed: %s\n", sst_status_name(rc));
        exit(EXIT_FAILURE);
    }
}

/* ---- Ways ---- */

static void
queue_send(struct bench *bench, bool is_near)
{
    must(sst_queue_put(is_near ? bench->there : bench->back, bench->data, bench->size,
                       SST_FOREVER));
}

static void
queue_recv(struct bench *bench, bool is_near)
{
    struct sst_message message;

    must(sst_queue_get(is_near ? bench->back : bench->there, &message, SST_FOREVER));
    sst_message_free(&message);
}

static void
pipe_send(struct bench *bench, bool is_near)
{
    must(sst_pipe_send(is_near ? bench->near : bench->far, bench->data, bench->size,
                       SST_FOREVER));
}

static void
pipe_recv(struct bench *bench, bool is_near)
{
    struct sst_message message;

    must(sst_pipe_recv(is_near ? bench->near : bench->far, &message, SST_FOREVER));
    sst_message_free(&message);
}

static void
socket_send(struct bench *bench, bool is_near)
{
    uint64_t done = 0;

    while (done < bench->size) {
        const ssize_t moved = send(bench->sockets[is_near ? 0 : 1], bench->data + done,
                                   bench->size - done, 0);

        must(moved > 0 ? 0 : SST_EIO);
        done += (uint64_t)moved;
    }
}

static void
socket_recv(struct bench *bench, bool is_near)
{
    uint64_t done = 0;

    while (done < bench->size) {
        const ssize_t moved = recv(bench->sockets[is_near ? 0 : 1], bench->data + done,
                                   bench->size - done, 0);

        must(moved > 0 ? 0 : SST_EIO);
        done += (uint64_t)moved;
    }
}

/* ---- Runs: nanoseconds for a message, or a message there and one back ---- */

static double
flow(struct bench *bench, const struct way *way, int senders)
{
    const int64_t each = bench->count / senders;
    int64_t start;

    for (int i = 0; i < senders; i++) {
        const pid_t child = fork();

        must(child);
        if (child == 0) {
            for (int64_t n = 0; n < each; n++) {
                way->send(bench, true);
            }
            _exit(0);
        }
    }
    start = now_ns();
    for (int64_t n = 0; n < each * senders; n++) {
        way->recv(bench, false);
    }
    start = now_ns() - start;
    while (wait(NULL) > 0) {
        /* All senders. */
    }
    return (double)start / (double)(each * senders);
}

static double
round_trip(struct bench *bench, const struct way *way)
{
    const struct timespec pause = {.tv_nsec = bench->pause_ns};
    const pid_t child = fork();
    int64_t spent = 0;

    must(child);
    if (child == 0) {
        for (int64_t n = 0; n < bench->count; n++) {
            way->recv(bench, false);
            way->send(bench, false);
        }
        _exit(0);
    }
    for (int64_t n = 0; n < bench->count; n++) {
        if (bench->pause_ns != 0) {
            (void)nanosleep(&pause, NULL);
        }

        const int64_t start = now_ns();

        way->send(bench, true);
        way->recv(bench, true);
        spent += now_ns() - start;
    }
    (void)waitpid(child, NULL, 0);
    return (double)spent / (double)bench->count;
}

/* Put and get in one process: what it costs when nobody else is there. */
static double
alone(struct bench *bench, const struct way *way)
{
    int64_t start = now_ns();

    for (int64_t n = 0; n < bench->count; n++) {
        way->send(bench, true);
        way->recv(bench, false);
    }
    start = now_ns() - start;
    return (double)start / (double)bench->count;
}

/* ---- The table ---- */

static const struct way ways[] = {
    {"queue", queue_send, queue_recv},
    {"pipe", pipe_send, pipe_recv},
    {"socket pair", socket_send, socket_recv},
};

enum run {
    ALONE,
    FLOW_1,
    FLOW_4,
    TRIP,
    SPARSE,
};

static const struct row {
    const char *name;
    enum run run;
    uint64_t size;
    int64_t count;
} rows[] = {
    {"put and get, alone, 8 B", ALONE, 8, 300000},
    {"put and get, alone, 1 KiB", ALONE, 1024, 200000},
    {"put and get, alone, 1 MiB", ALONE, 1 << 20, 500},
    {"flow 1 to 1, 8 B", FLOW_1, 8, 300000},
    {"flow 4 to 1, 8 B", FLOW_4, 8, 300000},
    {"flow 1 to 1, 4 KiB", FLOW_1, 4096, 50000},
    {"there and back, 8 B", TRIP, 8, 50000},
    {"there and back, 300 us apart", SPARSE, 8, 500},
};

static double
measure(struct bench *bench, const struct way *way, const struct row *row)
{
    bench->size = row->size;
    bench->count = row->count;
    bench->pause_ns = row->run == SPARSE ? PAUSE_NS : 0;
    switch (row->run) {
    case ALONE:
        /* A socket pair has no room for it. */
        return way->send == socket_send && row->size > 65536 ? -1 : alone(bench, way);
    case FLOW_1:
        return flow(bench, way, 1);
    case FLOW_4:
        return flow(bench, way, 4);
    case TRIP:
    case SPARSE:
        return round_trip(bench, way);
    }
    return -1;
}

int
main(int argc, char **argv)
{
    const int rounds = argc > 1 ? atoi(argv[1]) : ROUNDS;
    struct bench bench = {0};

    must(sst_arena_create(NULL, &bench.arena, NULL));
    must(sst_queue_create(bench.arena, NULL, &bench.there, NULL));
    must(sst_queue_create(bench.arena, NULL, &bench.back, NULL));
    must(sst_pipe_create(bench.arena, true, &bench.near, &bench.far, NULL));
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, bench.sockets));
    bench.data = calloc(1, 1 << 20);
    must(bench.data != NULL ? 0 : SST_ENOMEM);

    (void)printf("%-32s", "nanoseconds, best of rounds");
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        (void)printf("%14s", ways[w].name);
    }
    (void)printf("\n");
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        (void)printf("%-32s", rows[r].name);
        for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
            double best = -1;

            for (int i = 0; i < rounds; i++) {
                const double ns = measure(&bench, &ways[w], &rows[r]);

                best = best < 0 || ns < best ? ns : best;
            }
            if (best < 0) {
                (void)printf("%14s", "-");
            }
            else {
                (void)printf("%14.1f", best);
            }
            (void)fflush(stdout);
        }
        (void)printf("\n");
    }

    free(bench.data);
    (void)close(bench.sockets[0]);
    (void)close(bench.sockets[1]);
    bench.near = sst_pipe_close(bench.near);
    bench.far = sst_pipe_close(bench.far);
    bench.there = sst_queue_close(bench.there);
    bench.back = sst_queue_close(bench.back);
    bench.arena = sst_arena_detach(bench.arena);
    return 0;
}
