/* SPDX-License-Identifier: MIT */

/* The message is put together by hand: printf is not safe where asserts may fail. */

#include "base/assert.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    MESSAGE_SIZE = 512,
};

struct message {
    char text[MESSAGE_SIZE];
    size_t size;
};

static void
add(struct message *message, const char *text)
{
    size_t size = strlen(text);

    if (size > MESSAGE_SIZE - message->size) {
        size = MESSAGE_SIZE - message->size;
    }
    memcpy(message->text + message->size, text, size);
    message->size += size;
}

static void
add_number(struct message *message, int number)
{
    char digits[12];
    size_t at = sizeof digits - 1;
    unsigned rest = number < 0 ? 0U : (unsigned)number;

    digits[at] = '\0';
    do {
        digits[--at] = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest != 0);
    add(message, digits + at);
}

void
ssti_assert_failed(const char *file, int line, const char *condition)
{
    struct message message = {.size = 0};

    add(&message, "sidestep: ");
    add(&message, file);
    add(&message, ":");
    add_number(&message, line);
    add(&message, ": this must hold and does not: ");
    add(&message, condition);
    add(&message, "\n");
    /* Nobody is left to tell when this fails. */
    (void)!write(STDERR_FILENO, message.text, message.size);
    abort();
}
