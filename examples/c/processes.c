/* SPDX-License-Identifier: MIT */

/* Processes that run a function or a program, and how their starter deals with them.
 *
 * A child computes, another is a program of the shell. One that does not end is waited
 * for until a deadline, beside a descriptor that tells of its end, and then killed with
 * everything it has started.
 *
 *     cc processes.c $(pkg-config --cflags --libs sidestep) -o processes
 *     ./processes */

#include <poll.h>
#include <sidestep/sidestep.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    MS = 1000000,
    PATIENCE_MS = 50,
};

static void
must(int status, const char *what)
{
    if (status < 0) {
        (void)fprintf(stderr, "%s: %s\n", what, sst_status_text(status));
        exit(1);
    }
}

static struct sst_process *
new_process(struct sst_arena *arena)
{
    /* None of them outlives us, whatever way we end. */
    const struct sst_process_options options = {
        .size_of = sizeof options,
        .die_with_parent = 1,
    };
    struct sst_process *process;
    struct sst_error err = {0};

    must(sst_process_new(arena, &options, &process, &err), err.text);
    return process;
}

/* Waits for it, gives it up, and returns its exit code. */
static int
finish(struct sst_process *process)
{
    int code;

    must(sst_process_join(process, SST_FOREVER), "join");
    must(sst_process_exit_code(process, &code), "exit code");
    process = sst_process_close(process);
    return code;
}

static int
add_up(void *context)
{
    const int *const numbers = context;
    int sum = 0;

    for (int i = 0; numbers[i] != 0; i++) {
        sum += numbers[i];
    }
    return sum;
}

static void
run_a_function(struct sst_arena *arena)
{
    struct sst_process *const process = new_process(arena);
    int numbers[] = {3, 4, 5, 0};
    struct sst_error err = {0};

    must(sst_process_run(process, add_up, numbers, &err), err.text);
    (void)printf("the function's sum: %d\n", finish(process));
}

static void
run_a_program(struct sst_arena *arena)
{
    struct sst_process *const process = new_process(arena);
    char *argv[] = {"sh", "-c", "exit 7", NULL};
    const struct sst_program program = {
        .size_of = sizeof program,
        .path = "/bin/sh",
        .argv = argv,
    };
    struct sst_error err = {0};

    must(sst_process_spawn(process, &program, &err), err.text);
    (void)printf("the program's exit code: %d\n", finish(process));
}

/* Has a child, and neither of them ever ends. */
static int
have_a_child(void *context)
{
    const int ready = *(const int *)context;
    const char byte = (char)fork();

    if (write(ready, &byte, 1) != 1) {
        return 1;
    }
    for (;;) {
        (void)pause();
    }
}

static void
kill_a_tree(struct sst_arena *arena)
{
    struct sst_process *const process = new_process(arena);
    struct sst_error err = {0};
    struct pollfd end;
    int ready[2];
    char byte;
    int rc;

    must(pipe(ready), "pipe");
    must(sst_process_run(process, have_a_child, &ready[1], &err), err.text);
    for (int i = 0; i < 2; i++) {
        must((int)read(ready[0], &byte, 1), "read");
    }
    rc = sst_process_join(process, sst_deadline_after(PATIENCE_MS * MS));
    (void)printf("after %d ms: %s\n", PATIENCE_MS, sst_status_text(rc));
    rc = sst_process_kill_tree(process);
    must(rc, "kill");
    (void)printf("killed: %d processes\n", rc);
    /* The descriptor may be waited for beside sockets and pipes. */
    end = (struct pollfd){.fd = sst_process_fd(process), .events = POLLIN};
    must(poll(&end, 1, -1), "poll");
    (void)printf("its exit code: %d\n", finish(process));
    (void)close(ready[0]);
    (void)close(ready[1]);
}

int
main(void)
{
    struct sst_arena *arena;
    struct sst_error err = {0};

    must(sst_arena_create(NULL, &arena, &err), err.text);
    run_a_function(arena);
    run_a_program(arena);
    kill_a_tree(arena);
    arena = sst_arena_detach(arena);
    return 0;
}
