/* SPDX-License-Identifier: MIT */

/* The spin policy: how many looks it grants. Counts looks, not time. */

#include <pthread.h>
#include <sched.h>

#include "os/os.h"
#include "runner.h"
#include "sidestep/sidestep.h"
#include "sync/spin.h"

/* Looks granted in one bout; `useful` tells how it ended. */
static int
bout(struct ssti_spin *spin, int64_t deadline_ns, bool useful)
{
    struct ssti_spin_run run;
    int looks = 0;

    ssti_spin_begin(&run, spin, deadline_ns);
    while (!(useful && looks > 0) && ssti_spin_next(&run)) {
        looks++;
    }
    ssti_spin_end(&run, useful);
    return looks;
}

static void
need_two_cpus(void)
{
    cpu_set_t set;

    check_int(sched_getaffinity(0, sizeof(set), &set), ==, 0);
    if (CPU_COUNT(&set) < 2) {
        test_skip("one CPU: nobody ever spins");
    }
}

TEST(useless_bouts_get_shorter)
{
    struct ssti_spin spin = {0};
    int64_t first_ns;
    int64_t begin_ns;

    need_two_cpus();
    begin_ns = test_now_ns();
    check_int(bout(&spin, SST_FOREVER, false), >, 0);
    first_ns = test_now_ns() - begin_ns;
    check_int(first_ns, >=, SSTI_SPIN_STARE_NS);
    for (int i = 0; i < 10; i++) {
        (void)bout(&spin, SST_FOREVER, false);
    }
    check_int(ssti_load_rlx(&spin.useless[0]), ==, 11);
    check_int(ssti_load_rlx(&spin.useless[1]), ==, 0);
}

TEST(a_useful_bout_restores_the_budget)
{
    struct ssti_spin spin = {0};

    need_two_cpus();
    for (int i = 0; i < 10; i++) {
        (void)bout(&spin, SST_FOREVER, false);
    }
    check_int(bout(&spin, SST_FOREVER, true), ==, 1);
    check_int(ssti_load_rlx(&spin.useless[0]), ==, 0);
}

TEST(a_glance_is_learned_apart)
{
    struct ssti_spin spin = {0};

    need_two_cpus();
    (void)bout(&spin, SST_NOW, false);
    check_int(ssti_load_rlx(&spin.useless[0]), ==, 0);
    check_int(ssti_load_rlx(&spin.useless[1]), ==, 1);
}

static _Atomic uint32_t bed;

static void *
sleep_in_thread(void *arg)
{
    while (ssti_load_acq(&bed) == 0) {
        /* Looks again whatever it says. */
        (void)ssti_os_futex_wait(&bed, 0, SST_FOREVER);
    }
    return arg;
}

TEST(who_woke_somebody_does_not_spin)
{
    struct ssti_spin spin = {0};
    pthread_t thread;

    need_two_cpus();
    check_int(pthread_create(&thread, NULL, sleep_in_thread, NULL), ==, 0);
    eventually(ssti_os_futex_wake(&bed, 1) == 1); /* it lies down again */
    check_int(bout(&spin, SST_FOREVER, false), ==, 0);
    check_int(bout(&spin, SST_FOREVER, false), >, 0);
    ssti_store_rel(&bed, 1);
    (void)ssti_os_futex_wake(&bed, 1); /* it may be up already */
    check_int(pthread_join(thread, NULL), ==, 0);
}

TEST(one_cpu_never_spins)
{
    struct ssti_spin spin = {0};
    cpu_set_t set;
    cpu_set_t one;
    int cpu = 0;

    check_int(sched_getaffinity(0, sizeof(set), &set), ==, 0);
    while (!CPU_ISSET(cpu, &set)) {
        cpu++;
    }
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    check_int(sched_setaffinity(0, sizeof(one), &one), ==, 0);
    check_int(bout(&spin, SST_FOREVER, false), ==, 0);
    check_int(bout(&spin, SST_NOW, false), ==, 0);
}
