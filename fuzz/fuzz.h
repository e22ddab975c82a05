/* SPDX-License-Identifier: MIT */
#ifndef SST_FUZZ_FUZZ_H
#define SST_FUZZ_FUZZ_H

/* What every fuzz target has: libFuzzer's entry, and a reader of its input. */

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The input, read from its start; zeros follow its end. */
struct fuzz_input {
    const uint8_t *at;
    const uint8_t *end;
};

static inline uint8_t
fuzz_byte(struct fuzz_input *input)
{
    return input->at < input->end ? *input->at++ : 0;
}

static inline bool
fuzz_more(const struct fuzz_input *input)
{
    return input->at < input->end;
}

/* Not an assert: it stays in every build, and the fuzzer takes note. */
static inline void
fuzz_expect_at(bool good, const char *what, const char *file, int line)
{
    if (!good) {
        (void)fprintf(stderr, "%s:%d: not so: %s (errno %d)\n", file, line, what,
                      errno);
        abort();
    }
}

#define fuzz_expect(good) fuzz_expect_at((good), #good, __FILE__, __LINE__)

/* Any answer is right. */
static inline void
fuzz_any(int status)
{
    (void)status;
}

#endif
