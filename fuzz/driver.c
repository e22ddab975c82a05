/* SPDX-License-Identifier: MIT */

/* Runs a fuzz target over files: what clang's libFuzzer does with arguments, for those
 * who have only gcc.
 *
 *     fuzz_ring corpus/ring ...     each file of these folders, and files by name
 *
 * The last line is `N passed, 0 failed`; an input that does harm ends the program, and
 * the line before it names the input. */

#include <dirent.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fuzz.h"

enum {
    INPUT_MAX = 1 << 20
};

static unsigned passed;

static int
run_file(const char *path)
{
    static uint8_t data[INPUT_MAX];
    FILE *const file = fopen(path, "rb");

    if (file == NULL) {
        perror(path);
        return -1;
    }

    const size_t size = fread(data, 1, sizeof(data), file);
    (void)fclose(file);
    (void)printf("%s\n", path);
    (void)fflush(stdout); /* before it may die */

    /* A copy of just that size, so that a sanitizer sees what is behind it. */
    uint8_t *const exact = malloc(size > 0 ? size : 1);
    if (exact == NULL) {
        return -1;
    }
    memcpy(exact, data, size);
    (void)LLVMFuzzerTestOneInput(exact, size);
    free(exact);
    passed++;
    return 0;
}

static int
run_folder(const char *path)
{
    struct dirent **names = NULL;
    char full[PATH_MAX];
    int rc = 0;

    const int count = scandir(path, &names, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        if (names[i]->d_name[0] != '.' && rc == 0) {
            (void)snprintf(full, sizeof(full), "%s/%s", path, names[i]->d_name);
            rc = run_file(full);
        }
        free(names[i]);
    }
    free(names);
    return count < 0 ? -1 : rc;
}

int
main(int argc, char **argv)
{
    int failed = 0;

    for (int i = 1; i < argc; i++) {
        struct stat status;
        if (stat(argv[i], &status) < 0) {
            perror(argv[i]);
            failed++;
            continue;
        }
        const bool folder = S_ISDIR(status.st_mode);
        failed += (folder ? run_folder(argv[i]) : run_file(argv[i])) < 0;
    }
    (void)printf("%u passed, %d failed\n", passed, failed);
    return failed > 0 || passed == 0;
}
