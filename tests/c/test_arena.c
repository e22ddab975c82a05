/* SPDX-License-Identifier: MIT */

/* Arenas: making, joining, refusing, limits, windows and blocks. */

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runner.h"
#include "shm/view.h"
#include "sidestep/sidestep.h"

static struct sst_arena *
make(void)
{
    struct sst_arena *arena = NULL;

    check_ok(sst_arena_create(NULL, &arena, NULL));
    return arena;
}

TEST(create_and_detach)
{
    struct sst_arena_statistics now;
    struct sst_arena *arena = make();

    check(sst_arena_id(arena) != 0);
    check_ok(sst_arena_statistics(arena, &now));
    check_int(now.size, ==, INT64_C(1) << 40);
    check_int(now.processes, ==, 1);
    check_int(now.held, ==, 0);
    check_int(now.slots, ==, 0);
    check_ptr(sst_arena_detach(arena), ==, NULL);
    check_ptr(sst_arena_detach(NULL), ==, NULL);
}

TEST(descriptor_is_sealed_and_not_inherited_over_exec)
{
    struct sst_arena *arena = make();
    const int fd = sst_arena_fd(arena);

    check((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    check(ftruncate(fd, 4096) != 0);
    check((fcntl(fd, F_GET_SEALS) & F_SEAL_SHRINK) != 0);
    sst_arena_detach(arena);
}

TEST(attach_shares_memory)
{
    struct sst_arena *first = make();
    struct sst_arena *second = NULL;
    struct sst_block *block = NULL;
    struct sst_block *same = NULL;
    struct sst_handle handle;

    check_ok(sst_arena_attach(sst_arena_fd(first), &second, NULL));
    check_int(sst_arena_id(first), ==, sst_arena_id(second));
    check_ok(sst_block_create(first, 100, &block, NULL));
    sst_block_handle(block, &handle);
    check_ok(sst_block_attach(second, &handle, &same, NULL));
    check_ptr(sst_block_data(block), !=, sst_block_data(same));
    check_int(sst_block_size(same), ==, 100);
    strcpy(sst_block_data(block), "here");
    check_str((const char *)sst_block_data(same), "here");

    block = sst_block_close(block);
    check_str((const char *)sst_block_data(same), "here");
    same = sst_block_close(same);
    check_status(sst_block_attach(first, &handle, &same, NULL), SST_ESTALE);
    sst_arena_detach(second);
    sst_arena_detach(first);
}

/* A program that becomes a daemon closes whatever it finds, and opens other files in
 * its place. */
TEST(a_closed_descriptor_does_no_harm)
{
    struct sst_arena *first = make();
    struct sst_arena *second = NULL;
    struct sst_block *blocks[4] = {NULL};
    struct sst_block *same = NULL;
    struct sst_handle handle;
    const uint64_t sizes[4] = {100, 10000, 20 << 20, 150 << 20};
    int fd;

    check_ok(sst_arena_attach(sst_arena_fd(first), &second, NULL));
    fd = sst_arena_fd(second);
    check_int(close(fd), ==, 0);
    check_int(open("/dev/null", O_RDONLY | O_CLOEXEC), ==, fd);
    check_status(sst_arena_fd(second), SST_EBADF);
    for (int i = 0; i < 4; i++) {
        char *data;

        check_ok(sst_block_create(second, sizes[i], &blocks[i], NULL));
        data = sst_block_data(blocks[i]);
        data[0] = 'a';
        data[sizes[i] - 1] = 'z';
        sst_block_handle(blocks[i], &handle);
        check_ok(sst_block_attach(first, &handle, &same, NULL));
        data = sst_block_data(same);
        check(data[0] == 'a' && data[sizes[i] - 1] == 'z');
        same = sst_block_close(same);
    }
    for (int i = 0; i < 4; i++) {
        blocks[i] = sst_block_close(blocks[i]);
    }
    sst_arena_detach(second);
    check_int(fcntl(fd, F_GETFD), >=, 0); /* not ours to close */
    close(fd);
    sst_arena_detach(first);
}

static void
make_without_streams(void *arg)
{
    struct sst_arena *arena = NULL;

    (void)arg;
    close(STDIN_FILENO);
    close(STDOUT_FILENO);
    if (sst_arena_create(NULL, &arena, NULL) != 0 || sst_arena_fd(arena) <= 2) {
        _exit(1);
    }
    sst_arena_detach(arena);
}

TEST(the_descriptor_takes_no_streams_place)
{
    test_join(test_fork(make_without_streams, NULL));
}

/* ---- Refusing ---- */

static void
check_refused(int fd, int expected, const char *words)
{
    struct sst_arena *arena = NULL;
    struct sst_error err = {0};

    check_status(sst_arena_attach(fd, &arena, &err), expected);
    check_int(err.status, ==, expected);
    if (strstr(err.text, words) == NULL) {
        test_fail(__FILE__, __LINE__, "\"%s\" does not say \"%s\"", err.text, words);
    }
}

TEST(attach_refuses_what_is_no_sealed_memory)
{
    int fds[2];
    int fd;

    check_refused(-1, SST_EBADF, "");
    check(pipe(fds) == 0);
    check_refused(fds[0], SST_ECORRUPT, "no sealed");
    close(fds[0]);
    close(fds[1]);

    fd = memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    check(ftruncate(fd, 1 << 26) == 0);
    check_refused(fd, SST_ECORRUPT, "no sealed");
    check(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
    check_refused(fd, SST_ECORRUPT, "no arena");
    close(fd);

    fd = memfd_create("small", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    check(ftruncate(fd, 100) == 0);
    check(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
    check_refused(fd, SST_ECORRUPT, "100 bytes");
    close(fd);
}

/* A header that is right but for one field. */
static int
forge(struct sst_arena *arena, size_t offset, size_t size, uint64_t value)
{
    const int fd = memfd_create("forged", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    struct sst_header_shm header;

    memcpy(&header, arena->header, sizeof header);
    memcpy((char *)&header + offset, &value, size);
    check(ftruncate(fd, (off_t)arena->map.size) == 0);
    check(pwrite(fd, &header, sizeof header, 0) == (ssize_t)sizeof header);
    check(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
    return fd;
}

#define check_forged(field, value, status, words)                                     \
    do {                                                                              \
        const int forged = forge(arena, offsetof(struct sst_header_shm, field),       \
                                 sizeof((struct sst_header_shm *)0)->field, (value)); \
        check_refused(forged, (status), (words));                                     \
        close(forged);                                                                \
    } while (0)

TEST(attach_refuses_a_damaged_or_foreign_header)
{
    struct sst_arena *arena = make();

    check_forged(magic, 0, SST_ECORRUPT, "no arena");
    check_forged(version, 99, SST_ELAYOUT, "99/");
    check_forged(layout, 0x1234, SST_ELAYOUT, "00001234");
    check_forged(size, 4096, SST_ECORRUPT, "damaged");
    check_forged(size, UINT64_MAX, SST_ECORRUPT, "damaged");
    check_forged(id, 0, SST_ECORRUPT, "damaged");
    check_forged(process_max, 0, SST_ECORRUPT, "seats");
    check_forged(process_max, 5000, SST_ECORRUPT, "seats");
    check_forged(pid_space, 1, SST_EPERM, "name space");
    sst_arena_detach(arena);
}

/* Random bytes everywhere behind a valid header: attaching and using must end in a
 * status, never in a signal and never in a hang. */
static void
use_damaged(void *arg)
{
    struct sst_arena *damaged = NULL;
    struct sst_block *block = NULL;
    struct sst_arena_statistics now;

    (void)alarm(20);
    if (sst_arena_attach(*(int *)arg, &damaged, NULL) != 0) {
        return;
    }
    for (uint64_t size = 16; size < 1 << 20; size *= 4) {
        if (sst_block_create(damaged, size, &block, NULL) == 0) {
            memset(sst_block_data(block), 1, size);
            sst_block_close(block);
        }
    }
    (void)sst_arena_sweep(damaged);
    (void)sst_arena_statistics(damaged, &now);
    sst_arena_detach(damaged);
}

/* ---- Limits ---- */

static void
live_under_a_file_size_limit(void *arg)
{
    const struct rlimit limit = {.rlim_cur = *(rlim_t *)arg,
                                 .rlim_max = *(rlim_t *)arg};
    struct sst_arena_statistics now;
    struct sst_arena *arena;
    struct sst_block *block = NULL;

    check(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    arena = make();
    check_ok(sst_arena_statistics(arena, &now));
    check_int(now.size, <=, limit.rlim_cur);
    check_int(now.size, >, limit.rlim_cur / 4);
    check_ok(sst_block_create(arena, 1 << 20, &block, NULL));
    memset(sst_block_data(block), 1, 1 << 20);
    sst_block_close(block);
    sst_arena_detach(arena);
}

TEST(a_file_size_limit_shrinks_the_arena)
{
    for (rlim_t limit = (rlim_t)100 << 20; limit < (rlim_t)1 << 40; limit *= 16) {
        test_join(test_fork(live_under_a_file_size_limit, &limit));
    }
}

static void
fail_under_a_tiny_file_size_limit(void *arg)
{
    const struct rlimit limit = {.rlim_cur = 4096, .rlim_max = 4096};
    struct sst_arena *arena = NULL;
    struct sst_error err = {0};

    (void)arg;
    check(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    check_int(sst_arena_create(NULL, &arena, &err), <, 0);
    check(err.text[0] != '\0');
}

TEST(a_tiny_file_size_limit_is_an_error)
{
    test_join(test_fork(fail_under_a_tiny_file_size_limit, NULL));
}

/* Sanitizers map terabytes. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
static const bool can_limit_addresses = false;
#else
static const bool can_limit_addresses = true;
#endif

static void
live_under_an_address_space_limit(void *arg)
{
    const struct rlimit limit = {.rlim_cur = *(rlim_t *)arg,
                                 .rlim_max = *(rlim_t *)arg};
    struct sst_arena *arena;
    struct sst_block *blocks[64] = {NULL};
    int made = 0;

    check(setrlimit(RLIMIT_AS, &limit) == 0);
    arena = make();
    for (; made < 64; made++) {
        struct sst_error err = {0};
        const int rc = sst_block_create(arena, 16 << 20, &blocks[made], &err);

        if (rc != 0) {
            check(rc == SST_ELIMIT || rc == SST_ENOMEM);
            check(err.text[0] != '\0');
            break;
        }
        memset(sst_block_data(blocks[made]), 1, 16 << 20);
    }
    check_int(made, >, 0);
    for (int i = 0; i < made; i++) {
        sst_block_close(blocks[i]);
    }
    /* What is only kept mapped gives way. */
    check_ok(sst_block_create(arena, ((uint64_t)made + 1) / 2 << 24, &blocks[0], NULL));
    sst_block_close(blocks[0]);
    sst_arena_detach(arena);
}

TEST(an_address_space_limit_shrinks_windows)
{
    if (!can_limit_addresses) {
        test_skip("the sanitizer needs more addresses");
    }
    for (rlim_t limit = (rlim_t)128 << 20; limit <= (rlim_t)2 << 30; limit *= 4) {
        test_join(test_fork(live_under_an_address_space_limit, &limit));
    }
}

TEST(small_arenas_work)
{
    const struct sst_arena_options options = {.size_of = sizeof options,
                                              .size = 32 << 20,
                                              .process_max = 8};
    struct sst_arena *arena = NULL;
    struct sst_block *block = NULL;
    struct sst_error err = {0};

    check_ok(sst_arena_create(&options, &arena, NULL));
    check_int(arena->map.size, ==, 32 << 20);
    check_ok(sst_block_create(arena, 8 << 20, &block, NULL));
    memset(sst_block_data(block), 1, 8 << 20);
    sst_block_close(block);
    check_status(sst_block_create(arena, 40 << 20, &block, &err), SST_ELIMIT);
    check(strstr(err.text, "bytes are needed") != NULL);
    sst_arena_detach(arena);
}

TEST(a_user_limit_is_kept)
{
    const struct sst_arena_options options = {.size_of = sizeof options,
                                              .budget = 64 << 20};
    struct sst_arena *arena = NULL;
    struct sst_block *blocks[10] = {NULL};
    struct sst_error err = {0};
    int made = 0;

    check_ok(sst_arena_create(&options, &arena, NULL));
    while (made < 10 && sst_block_create(arena, 10 << 20, &blocks[made], &err) == 0) {
        made++; /* 16 MiB each, rounded */
    }
    check_int(made, ==, 4);
    check_int(err.status, ==, SST_ELIMIT);
    check(strstr(err.text, "67108864") != NULL);
    while (made-- > 0) {
        sst_block_close(blocks[made]);
    }
    /* What was given back can be had again in other sizes. */
    check_ok(sst_block_create(arena, 60 << 20, &blocks[0], NULL));
    sst_block_close(blocks[0]);
    sst_arena_detach(arena);
}

/* ---- A control group ---- */

static bool
write_file(const char *path, const char *text)
{
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    const bool is_written = fd >= 0 && write(fd, text, strlen(text)) > 0;

    if (fd >= 0) {
        close(fd);
    }
    return is_written;
}

/* A new group of ours with a limit on memory; false where we may not make one. */
static bool
make_group(char *path, size_t size, const char *limit)
{
    const char *limit_name = "memory.limit_in_bytes";
    char line[1024];
    char group[sizeof line + 8] = "";
    char file[4096];
    FILE *const groups = fopen("/proc/self/cgroup", "re");

    while (groups != NULL && fgets(line, sizeof line, groups) != NULL) {
        const char *const memory = strstr(line, ":memory:");

        if (memory != NULL) {
            (void)snprintf(group, sizeof group, "/memory%s", memory + 8);
        }
        else if (strncmp(line, "0::", 3) == 0 && group[0] == '\0') {
            (void)snprintf(group, sizeof group, "%s", line + 3);
        }
    }
    if (groups != NULL) {
        fclose(groups);
    }
    group[strcspn(group, "\n")] = '\0';
    if (strncmp(group, "/memory", 7) != 0) {
        limit_name = "memory.max";
    }
    (void)snprintf(path, size, "/sys/fs/cgroup%s/sidestep-%d", group, getpid());
    if (mkdir(path, 0755) != 0) {
        return false;
    }
    (void)snprintf(file, sizeof file, "%s/%s", path, limit_name);
    if (!write_file(file, limit)) {
        rmdir(path);
        return false;
    }
    return true;
}

static void
fill_a_group(void *arg)
{
    struct sst_arena *arena = NULL;
    struct sst_block *block = NULL;
    struct sst_error err = {0};
    char file[4096];
    char pid[32];
    int rc = 0;

    (void)snprintf(file, sizeof file, "%s/cgroup.procs", (const char *)arg);
    (void)snprintf(pid, sizeof pid, "%d", getpid());
    check(write_file(file, pid));
    check_ok(sst_arena_create(NULL, &arena, NULL));
    for (int i = 0; i < 1000 && rc == 0; i++) {
        const uint64_t size = i % 2 == 0 ? 5 << 20 : 200 << 10;

        rc = sst_block_create(arena, size, &block, &err);
        if (rc == 0) {
            memset(sst_block_data(block), 1, size);
        }
    }
    check_status(rc, SST_ELIMIT);
    check(strstr(err.text, "control group") != NULL);
}

TEST(a_memory_limit_is_an_error_before_it_is_a_death)
{
    char path[2048];

    if (test_slowness() != 1) {
        test_skip("a sanitizer's own memory counts against the limit");
    }
    if (!make_group(path, sizeof path, "134217728")) {
        test_skip("no control group can be made here");
    }
    test_join(test_fork(fill_a_group, path));
    eventually(rmdir(path) == 0);
}

/* ---- Blocks ---- */

TEST(blocks_of_all_sizes_are_zero_and_apart)
{
    struct sst_arena *arena = make();

    for (int round = 0; round < 3; round++) {
        for (uint64_t size = 1; size <= 300 << 20; size = size * 5 + 3) {
            struct sst_block *block = NULL;
            unsigned char *data;

            check_ok(sst_block_create(arena, size, &block, NULL));
            data = sst_block_data(block);
            check_int(sst_block_size(block), ==, size);
            check(((uintptr_t)data & 15) == 0);
            for (uint64_t i = 0; i < size; i += size < 5000 ? 1 : 4096) {
                check_int(data[i], ==, 0);
                data[i] = 0xff;
            }
            check_int(data[size - 1] | 0xff, ==, 0xff);
            data[size - 1] = 1;
            sst_block_close(block);
        }
    }
    sst_arena_detach(arena);
}

static void
read_and_answer(void *arg)
{
    struct sst_block *const block = arg;
    char *const data = sst_block_data(block);

    check_str(data, "from the parent");
    strcpy(data + 100, "from the child");
    sst_block_close(block);
}

TEST(a_forked_child_has_the_parents_blocks)
{
    struct sst_arena *arena = make();
    struct sst_block *block = NULL;
    struct sst_handle handle;
    pid_t pid;

    check_ok(sst_block_create(arena, 10000, &block, NULL));
    sst_block_handle(block, &handle);
    strcpy(sst_block_data(block), "from the parent");
    pid = test_fork(read_and_answer, block);
    test_join(pid);
    check_str((char *)sst_block_data(block) + 100, "from the child");
    sst_block_close(block);
    eventually(sst_arena_sweep(arena) >= 0 &&
               sst_block_attach(arena, &handle, &block, NULL) == SST_ESTALE);
    sst_arena_detach(arena);
}

TEST(a_handle_is_checked)
{
    struct sst_arena *arena = make();
    struct sst_block *block = NULL;
    struct sst_block *other = NULL;
    struct sst_handle good;
    struct sst_handle bad;

    check_ok(sst_block_create(arena, 10, &block, NULL));
    sst_block_handle(block, &good);
    for (uint64_t offset = 0; offset != good.offset + 128; offset += 64) {
        bad = good;
        bad.offset = offset % 3 == 0 ? offset : UINT64_MAX - offset;
        if (bad.offset != good.offset) {
            check_int(sst_block_attach(arena, &bad, &other, NULL), <, 0);
        }
        if (offset == 1 << 20) {
            offset = good.offset - 4096;
        }
    }
    bad = good;
    bad.arena++;
    check_status(sst_block_attach(arena, &bad, &other, NULL), SST_EINVAL);
    bad = good;
    bad.generation++;
    check_status(sst_block_attach(arena, &bad, &other, NULL), SST_ESTALE);
    bad = good;
    bad.kind = SST_KIND_QUEUE;
    check_status(sst_block_attach(arena, &bad, &other, NULL), SST_EINVAL);
    sst_block_close(block);
    sst_arena_detach(arena);
}

TEST(damage_ends_in_a_status)
{
    struct sst_arena *arena = make();
    unsigned seed = 1;

    for (int round = 0; round < 200; round++) {
        const int fd = memfd_create("damaged", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        unsigned char page[256];
        pid_t pid;
        int status;

        check(ftruncate(fd, (off_t)arena->map.size) == 0);
        check(pwrite(fd, arena->header, 4096 + sizeof(struct sst_control_shm), 0) > 0);
        for (size_t i = 0; i < sizeof page; i++) {
            page[i] = (unsigned char)rand_r(&seed);
        }
        /* Anywhere in the control pages but in lock words, which name living
         * threads. */
        check(pwrite(fd, page, 64, 4096 + 128 + 64 + (rand_r(&seed) % 7) * 8) > 0);
        check(pwrite(fd, page + 64, 128, 4096 + 768 + 56 + (rand_r(&seed) % 6) * 256) >
              0);
        check(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
        pid = test_fork(use_damaged, (void *)&(int){fd});
        check(waitpid(pid, &status, 0) == pid);
        if (WIFSIGNALED(status)) {
            test_fail(__FILE__, __LINE__, "round %d: signal %d", round,
                      WTERMSIG(status));
        }
        close(fd);
    }
    sst_arena_detach(arena);
}
