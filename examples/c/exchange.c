/* SPDX-License-Identifier: MIT */

/* A C program that exchanges messages with a Python program through queues.
 *
 *     exchange ARENA_FD QUESTIONS ANSWERS
 *
 * ARENA_FD is the number of an inherited descriptor, the other two are handles of
 * queues, in hexadecimal. It answers every question with its letters reversed, until an
 * empty one. examples/python/exchange.py starts it. Run without arguments it plays both
 * parts, in two processes. */

#include <sidestep/sidestep.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void
must(int status, const char *what)
{
    if (status < 0) {
        (void)fprintf(stderr, "%s: %s\n", what, sst_status_text(status));
        exit(1);
    }
}

/* A handle is plain data: its bytes in hexadecimal are how it travels here. */
static void
handle_from_hex(const char *text, struct sst_handle *handle)
{
    unsigned char bytes[sizeof *handle];

    if (strlen(text) != 2 * sizeof bytes) {
        must(SST_EINVAL, text);
    }
    for (size_t i = 0; i < sizeof bytes; i++) {
        const char digits[3] = {text[2 * i], text[2 * i + 1], '\0'};
        char *end;

        bytes[i] = (unsigned char)strtoul(digits, &end, 16);
        if (*end != '\0') {
            must(SST_EINVAL, text);
        }
    }
    memcpy(handle, bytes, sizeof bytes);
}

static void
handle_to_hex(const struct sst_handle *handle, char *text)
{
    unsigned char bytes[sizeof *handle];

    memcpy(bytes, handle, sizeof bytes);
    for (size_t i = 0; i < sizeof bytes; i++) {
        (void)snprintf(text + 2 * i, 3, "%02x", (unsigned)bytes[i]);
    }
}

static void
answer(struct sst_queue *answers, const struct sst_message *question)
{
    const char *const letters = question->data;
    char reversed[256];
    const size_t size =
        question->size < sizeof reversed ? question->size : sizeof reversed;

    for (size_t i = 0; i < size; i++) {
        reversed[i] = letters[size - 1 - i];
    }
    must(sst_queue_put(answers, reversed, size, SST_FOREVER), "put an answer");
}

/* The program proper. */
static int
serve(int arena_fd, const char *questions_hex, const char *answers_hex)
{
    struct sst_queue *questions;
    struct sst_queue *answers;
    struct sst_arena *arena;
    struct sst_handle handle;
    struct sst_error err = {0};
    struct sst_message message;
    uint64_t size;

    must(sst_arena_attach(arena_fd, &arena, &err), err.text);
    handle_from_hex(questions_hex, &handle);
    must(sst_queue_attach(arena, &handle, &questions, &err), err.text);
    handle_from_hex(answers_hex, &handle);
    must(sst_queue_attach(arena, &handle, &answers, &err), err.text);

    do {
        must(sst_queue_get(questions, &message, SST_FOREVER), "get a question");
        size = message.size;
        if (size != 0) {
            answer(answers, &message);
        }
        sst_message_free(&message);
    } while (size != 0);

    answers = sst_queue_close(answers);
    questions = sst_queue_close(questions);
    arena = sst_arena_detach(arena);
    return 0;
}

/* The other side, for want of a Python program. */
static int
ask(const char *program)
{
    char arena_fd[16], questions_hex[64], answers_hex[64];
    struct sst_queue *questions;
    struct sst_queue *answers;
    struct sst_arena *arena;
    struct sst_handle handle;
    struct sst_message message;
    int status;

    must(sst_arena_create(NULL, &arena, NULL), "make an arena");
    must(sst_queue_create(arena, NULL, &questions, NULL), "make a queue");
    must(sst_queue_create(arena, NULL, &answers, NULL), "make a queue");
    sst_queue_handle(questions, &handle);
    handle_to_hex(&handle, questions_hex);
    sst_queue_handle(answers, &handle);
    handle_to_hex(&handle, answers_hex);
    /* A duplicate that survives exec: the arena's own descriptor does not. */
    (void)snprintf(arena_fd, sizeof arena_fd, "%d", dup(sst_arena_fd(arena)));

    const pid_t child = fork();

    must(child, "fork");
    if (child == 0) {
        (void)execl(program, program, arena_fd, questions_hex, answers_hex,
                    (char *)NULL);
        _exit(127);
    }
    must(sst_queue_put(questions, "stressed", 8, SST_FOREVER), "put a question");
    must(sst_queue_put(questions, "", 0, SST_FOREVER), "put the end");
    must(sst_queue_get(answers, &message, sst_deadline_after(10000000000)),
         "no answer");
    (void)printf("stressed, reversed: %.*s\n", (int)message.size,
                 (const char *)message.data);
    sst_message_free(&message);
    if (waitpid(child, &status, 0) != child || status != 0) {
        return 1;
    }
    answers = sst_queue_close(answers);
    questions = sst_queue_close(questions);
    arena = sst_arena_detach(arena);
    return 0;
}

int
main(int argc, char **argv)
{
    if (argc == 1) {
        return ask("/proc/self/exe");
    }
    if (argc != 4) {
        (void)fprintf(stderr, "usage: %s ARENA_FD QUESTIONS ANSWERS\n", argv[0]);
        return 2;
    }
    return serve((int)strtol(argv[1], NULL, 10), argv[2], argv[3]);
}
