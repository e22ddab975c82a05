/* SPDX-License-Identifier: MIT */

/* sim [--seeds N] [--first S] [--trace] [--find] [scenario ...]
 *
 * Runs N seeds of each scenario named, of all by default, and prints `N passed, N
 * failed`. A failure prints its seed; `--first S --seeds 1 --trace scenario` shows the
 * steps. With --find the first failure ends the run with success: a mutant must be
 * found. */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"
#include "sim_scenarios.h"

enum {
    FAILURES_SHOWN = 10,
};

static struct {
    uint64_t seeds, first;
    bool trace, find;
    int name_count;
    char **names;
} options = {.seeds = 10000, .first = 1};

static uint64_t passed, failed, steps, kills;

static int
usage(void)
{
    (void)fprintf(stderr, "usage: sim [--seeds N] [--first S] [--trace] [--find] "
                          "[scenario ...]\nscenarios:");
    for (int i = 0; sim_scenarios[i] != NULL; i++) {
        (void)fprintf(stderr, " %s", sim_scenarios[i]->name);
    }
    (void)fputc('\n', stderr);
    return 2;
}

static bool
parse(int argc, char **argv)
{
    int i = 1;

    for (; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
        if (strcmp(argv[i], "--trace") == 0) {
            options.trace = true;
        }
        else if (strcmp(argv[i], "--find") == 0) {
            options.find = true;
        }
        else if (strcmp(argv[i], "--seeds") == 0 && i + 1 < argc) {
            options.seeds = strtoull(argv[++i], NULL, 10);
        }
        else if (strcmp(argv[i], "--first") == 0 && i + 1 < argc) {
            options.first = strtoull(argv[++i], NULL, 10);
        }
        else {
            return false;
        }
    }
    options.names = argv + i;
    options.name_count = argc - i;
    return true;
}

static const struct sim_scenario *
scenario_named(const char *name)
{
    for (int i = 0; sim_scenarios[i] != NULL; i++) {
        if (strcmp(sim_scenarios[i]->name, name) == 0) {
            return sim_scenarios[i];
        }
    }
    return NULL;
}

/* False when a wanted failure was found. */
static bool
run_seeds(const struct sim_scenario *scenario)
{
    for (uint64_t seed = options.first; seed < options.first + options.seeds; seed++) {
        const bool good = sim_run(scenario, seed, options.trace);

        steps += sim.steps;
        kills += sim.kills;
        if (good) {
            passed++;
            continue;
        }
        failed++;
        if (options.find) {
            printf("found: %s, seed %" PRIu64 ": %s\n", scenario->name, seed,
                   sim.message);
            return false;
        }
        if (failed <= FAILURES_SHOWN) {
            printf("FAILED %s, seed %" PRIu64 ": %s\n", scenario->name, seed,
                   sim.message);
        }
    }
    return true;
}

int
main(int argc, char **argv)
{
    if (!parse(argc, argv)) {
        return usage();
    }
    /* Failures are to be seen when they happen, also in a file. */
    (void)setvbuf(stdout, NULL, options.trace ? _IOFBF : _IOLBF, 0);
    for (int i = 0; i < options.name_count; i++) {
        if (scenario_named(options.names[i]) == NULL) {
            return usage();
        }
    }
    for (int i = 0; sim_scenarios[i] != NULL; i++) {
        bool wanted = options.name_count == 0;

        for (int n = 0; n < options.name_count; n++) {
            wanted = wanted || scenario_named(options.names[n]) == sim_scenarios[i];
        }
        if (wanted && !run_seeds(sim_scenarios[i])) {
            return 0;
        }
    }
    printf("%" PRIu64 " steps, %" PRIu64 " kills\n", steps, kills);
    printf("%" PRIu64 " passed, %" PRIu64 " failed\n", passed, failed);
    return options.find ? 1 : failed != 0;
}
